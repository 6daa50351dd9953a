"""What a GPU is asked for, and in which order, on one that is none (`tests/card.py`)."""

import json
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import unetseg
from tests.builders import (
    CPU,
    Heard,
    blotches,
    bundle_info,
    noisy_crops,
    random_segmenter,
    save_run,
)
from tests.card import fake_card
from unetseg import runtime
from unetseg.bench import bench
from unetseg.cli import app
from unetseg.config import BenchConfig, DeviceConfig, RuntimeConfig, TrainingConfig
from unetseg.data.crops.dataset import CropRule, Order
from unetseg.data.sample import draw_sample
from unetseg.errors import MachineError, OutOfMemoryError
from unetseg.prediction import backends
from unetseg.prediction.engine import PIXELS_ON_GPU, Engine
from unetseg.prediction.pipeline import Opened, predict_each
from unetseg.training.learner import Learner
from unetseg.training.losses import SegmentationLoss
from unetseg.training.optimizer import build_optimizer
from unetseg.training.workers import TIMED, WARM_UP, training_batches
from unetseg.unet.segmenter import to_machine

CUDA = torch.device("cuda")
SENT = ["pin", "to card, late", "to host, late", "record"]
"""What one group of images is on its way, until its classes are waited for."""
WAITS = {"wait for event", "wait for cpu", "wait for to", "wait for copy_", "to card, wait"}


def card_machine(precision: str = "float32") -> runtime.Machine:
    return runtime.start(DeviceConfig.model_validate({"device": "cuda", "precision": precision}))


def engine_on(machine: runtime.Machine, name: str = "eager", **settings: Any) -> Engine:
    given: dict[str, Any] = {"tile": 64, "overlap": 0.5, "engine": name} | settings
    kind = given.pop("kind", "dataset")
    return Engine(random_segmenter(bundle_info(kind=kind)), machine, **given)


# ------------------------------------------------------------------ the card that is none


def test_it_refuses_what_a_gpu_refuses() -> None:
    with fake_card() as card:
        there = torch.ones(3).to(CUDA)
        assert there.device.type == "cuda"
        assert (there * 2).device.type == "cuda"
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(TypeError, match="can't convert"):
            there.numpy()
        assert there.cpu().numpy().sum() == 3
        assert card.take() == ["to card, wait", "wait for cpu"]
    assert there.device.type == "cpu"


def test_a_late_copy_is_rubbish_until_it_is_waited_for() -> None:
    with fake_card() as card:
        host = torch.empty(3, pin_memory=True)
        host.copy_(torch.ones(3, device=CUDA), non_blocking=True)
        assert host[0] != 1
        done: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(CUDA))
        done.synchronize()
        assert host.sum() == 3
        assert card.take()[:3] == ["to host, late", "record", "wait for event"]


# ------------------------------------------------------------------ the machine


@pytest.mark.parametrize(
    ("capability", "dtype"), [((9, 0), torch.bfloat16), ((7, 5), torch.float16)]
)
def test_auto_takes_the_gpu_and_its_arithmetic(
    capability: tuple[int, int], dtype: torch.dtype
) -> None:
    before = torch.backends.cudnn.benchmark
    with fake_card(capability, free=12345):
        machine = runtime.start(DeviceConfig())
        assert (machine.device.type, machine.dtype, machine.name) == ("cuda", dtype, "Card")
        assert torch.backends.cudnn.benchmark
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
        assert machine.free_memory() == 12345
        with pytest.raises(MachineError, match="--device cuda:1: this machine"):
            runtime.choose_device("cuda:1")
    assert torch.backends.cudnn.benchmark == before


def test_waiting_is_left_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_card() as card:
        runtime.synchronise(CUDA)
        runtime.synchronise(torch.device("cpu"))
        assert card.take() == ["synchronize"]
    waited: list[bool] = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append(True))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    runtime.synchronise(torch.device("mps"))
    assert waited == [True]
    machine = runtime.start(DeviceConfig(device="mps"))
    assert str(machine) == "Apple MPS, float32"
    choice = backends.choose_backend(random_segmenter(bundle_info()), machine, "auto")
    assert str(choice) == "engine eager (nothing else is known to work on MPS)"


# ------------------------------------------------------------------ prediction


@pytest.mark.parametrize("kind", ["dataset", "image"])
@pytest.mark.parametrize("name", ["eager", "fused", "compile", "auto"])
def test_images_go_there_pinned_and_classes_come_back_late(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph: graph)
    settings: dict[str, Any] = {"kind": kind, "tile": 128}
    images = [blotches(128, 128, seed=seed) for seed in range(3)]
    expected = engine_on(CPU, **settings).classes_of(images)
    with fake_card() as card:
        engine = engine_on(card_machine(), name, **settings)
        assert engine.choice.name == {"auto": "fused"}.get(name, name)
        engine.classes_of(images)  # the first makes ready
        card.take()
        wait = engine.begin(images)
        statistics = ["to card, wait"] if kind == "image" else []
        assert card.take() == [*SENT[:2], *statistics, *SENT[2:]]
        found = wait()
        assert card.take() == ["wait for event"]
    np.testing.assert_array_equal(found, expected)


def test_a_group_is_sent_before_the_one_before_it_is_waited_for() -> None:
    sides = (40, 50, 60, 30)
    images = [blotches(side, side, seed=side) for side in sides for _ in range(2)]
    on_cpu = engine_on(CPU)
    with fake_card() as card:
        engine = engine_on(card_machine())
        assert engine.ahead == 1
        card.take()
        done = list(predict_each(engine, [Opened(n, image) for n, image in enumerate(images)]))
        ahead = [*SENT, "wait for event"] * (len(sides) - 1)
        assert card.take() == [*SENT, *ahead, "wait for event"]
    for each, image in zip(done, images, strict=True):
        (band,) = each.bands()
        np.testing.assert_array_equal(band.index, on_cpu.classes(image))


@pytest.mark.parametrize("tta", [False, True])
def test_tiles_of_an_image_are_those_of_a_cpu(tta: bool) -> None:
    image = blotches(130, 150)
    expected = engine_on(CPU, tta=tta).logits(image)
    with fake_card():
        engine = engine_on(card_machine(), tta=tta)
        assert engine.images_at_once(64, 64) == PIXELS_ON_GPU // 64**2
        found = engine.logits(image)
        assert found.device.type == "cpu"
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_group_that_does_not_fit_is_halved_after_memory_is_given_back() -> None:
    images = [blotches(40, 50, seed=seed) for seed in range(6)]
    expected = engine_on(CPU).classes_of(images)
    with fake_card() as card:
        engine = engine_on(card_machine())
        backend = engine.choice.backend

        def little(batch: torch.Tensor) -> torch.Tensor:
            if len(batch) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return backend(batch)

        engine._choice = backends.Choice("little", "", little)
        card.take()
        found = engine.classes_of(images)
        asked = card.take()
    assert asked == [*SENT[:2], "empty_cache", *SENT[:2], *SENT, "wait for event"]
    np.testing.assert_array_equal(found, expected)


def test_a_long_job_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(graph: object) -> backends.Backend:
        def fails(image: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("Cannot find a working triton installation")

        return fails

    image = blotches(128, 128)
    expected = engine_on(CPU, tile=128).classes(image)
    for compiler in (lambda graph: graph, no_compiler):  # where it fails, it is fused
        monkeypatch.setattr(torch, "compile", compiler)
        with fake_card():
            engine = engine_on(card_machine(), "auto", tile=128)
            engine.pixels = backends.COMPILED_PIXELS
            assert str(engine.choice) == "engine compile (the job is long)"
            np.testing.assert_array_equal(engine.classes(image), expected)


def test_what_no_gpu_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_card():
        with pytest.raises(MachineError, match="--engine openvino runs on the CPU"):
            engine_on(card_machine(), "openvino").choice  # noqa: B018
        engine = engine_on(card_machine())
        monkeypatch.setattr("os.getpid", lambda: 0)
        with pytest.raises(MachineError, match="a network on cuda cannot be used in a process"):
            engine.choice  # noqa: B018


# ------------------------------------------------------------------ training


def learner_on(machine: runtime.Machine, optimizer: str) -> Learner:
    segmenter = to_machine(random_segmenter(bundle_info({"skip": ("switch",)})), machine).train()
    rules = build_optimizer(segmenter, optimizer, 0.01, 0.01)
    return Learner(segmenter, SegmentationLoss(), rules, TrainingConfig(accumulate=2), machine)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_a_step_waits_for_nothing(tmp_path: Path, optimizer: str, precision: str) -> None:
    crops = noisy_crops(tmp_path, 6, CropRule(32, "none", 0.0))
    with fake_card() as card, ExitStack() as stack:
        learner = learner_on(card_machine(precision), optimizer)
        batches = training_batches(crops, Order((1,) * 6, 4, 0), learner.machine, 0)
        stack.callback(batches.close)
        losses = []
        for number in range(3):
            batch = next(batches)
            assert all(part.is_pinned() for part in batch)
            card.take()
            losses.append(learner.step(batch, number, 1.0))
            asked = card.take()
            assert asked.count("to card, late") == 3 * 2  # image, mask, statistics of two parts
            assert not [each for each in asked if "wait" in each], number
        assert learner.skipped_steps.read() == (0, 0)
        assert learner.scaler.is_enabled() == (precision == "fp16")
        assert bool(torch.stack(losses).isfinite().all())


def test_what_loads_is_measured_beside_steps_that_are_done(tmp_path: Path) -> None:
    crops, heard = noisy_crops(tmp_path, 6, CropRule(32, "none", 0.0)), Heard()
    with fake_card() as card:
        batches = training_batches(crops, Order((1,) * 6, 4, 0), card_machine(), None, heard)
        for _ in range(WARM_UP + TIMED):
            next(batches)
        asked = Counter(card.take())
        next(batches)
        batches.close()
    assert asked["synchronize"] == 2 * TIMED - 1  # the last step is not yet done
    assert asked["pin"] == 3 * (WARM_UP + TIMED)
    assert heard.said[0].startswith("crops are loaded by ")


FLAGS: dict[str, Any] = {"depth": 2, "width": 4, "patch": 32, "workers": 0, "augment": "light"}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu") / "cells"
    return draw_sample(folder, count=8, size=48)


@pytest.mark.long
def test_a_training_is_that_of_a_cpu_digit_for_digit(cells: Path, tmp_path: Path) -> None:
    """Its end, too, after a stop and a resume, and what is scored and predicted with it."""
    exact: dict[str, Any] = {"precision": "float32"}
    flags = FLAGS | exact | {"batch": 4}
    there, here = tmp_path / "there", tmp_path / "here"
    with fake_card():
        for epochs in (1, 2):
            again = {"resume": True, "name": "run"} if epochs > 1 else {"name": "run"}
            unetseg.train(cells, out=there, device="cuda", epochs=epochs, **again, **flags)
        scored = unetseg.evaluate(there / "run", cells, device="cuda", **exact)
        unetseg.predict(there / "run", [cells / "images"], there / "masks", device="cuda", **exact)
    for epochs in (1, 2):
        again = {"resume": True, "name": "run"} if epochs > 1 else {"name": "run"}
        unetseg.train(cells, out=here, device="cpu", epochs=epochs, **again, **flags)
    weights = [load_file(each / "run/model/model.safetensors") for each in (there, here)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert scored.scores == unetseg.evaluate(there / "run", cells, device="cpu", **exact).scores
    unetseg.predict(there / "run", [cells / "images"], here / "masks", device="cpu", **exact)
    for mask in (there / "masks").glob("*.png"):
        assert mask.read_bytes() == (here / "masks" / mask.name).read_bytes()


@pytest.mark.long
def test_the_batch_is_tried_and_the_arithmetic_judged(cells: Path, tmp_path: Path) -> None:
    with fake_card() as card:
        run = unetseg.train(cells, out=tmp_path, name="run", device="cuda", epochs=1, **FLAGS)
        asked = Counter(card.take())
    assert asked["synchronize"] == 5  # 1, 2, 4, 8, 16 crops, all of which fit
    assert asked["empty_cache"] >= 10
    assert json.loads((run / "plan.json").read_bytes())["batch"] == 16
    precision = unetseg.load(run, device="cpu").info.precision
    assert precision is not None
    assert precision.dtype == "bfloat16"


@pytest.mark.long
def test_a_bench_measures_it(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run")
    config = BenchConfig(seconds=0.1, count=4, size=32, batch=2)
    with fake_card() as card, pytest.MonkeyPatch.context() as patch:
        patch.setattr("unetseg.bench.LARGEST_PRODUCT", {"cuda": 512})
        rows = bench(run, config, runtime=RuntimeConfig(device="cuda")).rows
        assert card.take().count("synchronize") > 2  # every product is waited for
    engines = [row.what for row in rows if row.stage.startswith("network")]
    assert engines == ["eager float32", "eager bfloat16", "fused bfloat16"]


@pytest.mark.long
def test_the_lab_breaks_skips_there_as_on_a_cpu(cells: Path, tmp_path: Path) -> None:
    trained = save_run(tmp_path / "run", bundle_info({"skip": ("switch",)}))
    words = ["lab", "ablate", str(trained), str(cells), "--quick", "--precision", "float32"]
    tables = []
    for device in ("cuda", "cpu"):
        out = tmp_path / device
        with fake_card():
            assert app.run([*words, "--device", device, "--output", str(out)]) == 0
        tables.append((out / "ablate.csv").read_text())
    assert tables[0] == tables[1]


def test_weights_that_do_not_fit_are_answered() -> None:
    with fake_card() as card:
        machine = card_machine()
        card.limit = 0
        with pytest.raises(OutOfMemoryError, match="does not fit in memory") as caught:
            engine_on(machine)
    assert "--device cpu" in caught.value.fix


@pytest.mark.long
def test_a_resume_goes_on_with_the_random_numbers_of_the_gpu(cells: Path, tmp_path: Path) -> None:
    """Encoders that drop branches, such as efficientnet-b0, draw them there."""
    flags = FLAGS | {"device": "cuda", "batch": 4, "out": tmp_path, "name": "run"}
    given: list[list[int]] = []
    with fake_card(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "get_rng_state", lambda device: torch.tensor([7, 7]))
        unetseg.train(cells, epochs=1, **flags)
        patch.setattr(
            torch.cuda, "set_rng_state", lambda state, device: given.append(state.tolist())
        )
        unetseg.train(cells, epochs=2, resume=True, **flags)
    assert given == [[7, 7]]


def test_an_engine_for_which_there_is_no_memory_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("unetseg.prediction.engine.choose_backend", full)
    with fake_card():
        engine = engine_on(card_machine())
        with pytest.raises(OutOfMemoryError, match="does not fit in memory") as caught:
            engine.choice  # noqa: B018
    assert "--device cpu" in caught.value.fix
