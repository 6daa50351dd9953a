"""A loaded model in threads, in forked and spawned processes, and pickled."""

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.builders import blotches, bundle_info, save_run
from unetseg import runtime
from unetseg.config import DeviceConfig, TilingConfig
from unetseg.errors import BundleError, ConfigError, ImageError, MachineError
from unetseg.prediction.predict import predict_folder
from unetseg.prediction.predictor import Predictor

CPU = DeviceConfig(device="cpu")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save_run(tmp_path / "run")


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads take turns as often as can be, and have no threads of their own."""
    usual, cores = sys.getswitchinterval(), torch.get_num_threads()
    sys.setswitchinterval(1e-6)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(cores)
    sys.setswitchinterval(usual)


@pytest.mark.long
def test_first_calls_from_several_threads_give_the_masks_of_one(
    tmp_path: Path, switching: None
) -> None:
    run = save_run(tmp_path / "run", bundle_info({"depth": 4, "width": 8}))
    sizes = [(64, 64), (48, 80), (100, 32), (65, 77), (140, 150)]
    images = [blotches(*size, seed=seed) for seed, size in enumerate(sizes)]
    alone = Predictor(run, device=CPU)
    expected = [alone.predict(image) for image in images]
    wrong: list[object] = []

    def serve(model: Predictor, gate: threading.Barrier, start: int) -> None:
        gate.wait()
        for number in [*range(start, 5), *range(start)]:  # each thread begins with another size
            try:
                if not np.array_equal(model.predict(images[number]), expected[number]):
                    wrong.append(number)
            except Exception as error:  # noqa: BLE001 (whatever comes of it)
                wrong.append(error)

    for _ in range(20):
        shared = Predictor(run, device=CPU), threading.Barrier(4)
        threads = [threading.Thread(target=serve, args=(*shared, start)) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are of Unix")
@pytest.mark.parametrize(
    ("way", "right"), [("fork", 3), ("forkserver", 2), ("spawn", 2), ("preload", 10)]
)
def test_other_processes_predict_what_this_one_does(run: Path, way: str, right: int) -> None:
    words = [sys.executable, "-m", "tests.prediction.in_processes", str(run), way]
    threads = {"OMP_NUM_THREADS": "2"}  # with one there is nothing that a fork could leave behind
    done = subprocess.run(
        words, env=os.environ | threads, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.split() == ["right", str(right)], done.stderr


@pytest.mark.parametrize("engine", ["openvino", "compile"])
def test_engines_with_threads_of_their_own_are_refused_in_a_forked_process(
    run: Path, engine: str
) -> None:
    model = Predictor(run, device=CPU)
    model.engine._choice = replace(model.engine.choice, name=engine)
    model.engine._process -= 1
    with pytest.raises(MachineError, match=rf"engine {engine} cannot be used .* forked\nStart"):
        model.predict(blotches(40, 40))


def test_a_gpu_that_the_parent_used_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(MachineError, match=r"^a GPU that the parent has used cannot be used in"):
        runtime.choose_device("auto")


def test_a_model_is_pickled_by_its_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = Predictor(Path("run"), TilingConfig(tile=64, tta=True), CPU)
    content = pickle.dumps(model)
    assert len(content) < 2000
    monkeypatch.chdir("/")  # a worker stands elsewhere, perhaps
    copy, image = pickle.loads(content), blotches(100, 90)
    np.testing.assert_array_equal(copy.predict(image), model.predict(image))
    assert (copy.engine.tile, len(copy.engine.mirrors)) == (64, 4)
    save_run(run, bundle_info({"width": 8}))
    with pytest.raises(BundleError, match="run holds another model than was pickled"):
        pickle.loads(content)


def test_many_images_have_the_masks_of_each(run: Path, tmp_path: Path) -> None:
    images: list[Any] = [blotches(40, 50, seed=seed) for seed in range(3)]
    images += [images[0].transpose(2, 0, 1), blotches(130, 150)]
    Image.fromarray(images[1]).save(tmp_path / "x.png")
    images.append(tmp_path / "x.png")
    model = Predictor(run, device=DeviceConfig(device="cpu", precision="float32"))
    masks = model.predict_many(image for image in images)
    for mask, image in zip(masks, images, strict=True):
        np.testing.assert_array_equal(mask, model.predict(image))
    answers = model.predict_many([images[0], "nothing.png", images[1][None]])
    with pytest.raises(ImageError, match=r"^nothing.png does not exist|^nothing.png cannot be"):
        list(answers)
    with pytest.raises(ImageError, match=r"^image 1 is 1×40×50×3"):
        list(model.predict_many([images[0], images[1][None]]))


@pytest.mark.parametrize("given", ["x", [0, 0, 0], (1,), True, 1 + 2j])
def test_nodata_is_one_number(run: Path, given: Any) -> None:
    model = Predictor(run, device=CPU)
    with pytest.raises(ConfigError, match=r"^nodata is .*, expected one real number\n"):
        model.predict(blotches(40, 50), nodata=given)
    assert model.predict(blotches(40, 50), nodata=np.float64(7)).shape == (40, 50)


def test_one_image_is_not_several(run: Path) -> None:
    model = Predictor(run, device=CPU)
    image = blotches(40, 50)
    for one in (image, image[..., 0], Image.fromarray(image), "x.png", Path("x.png")):
        with pytest.raises(ImageError, match=r"^predict_many got one image, expected several\n"):
            list(model.predict_many(one))  # type: ignore[arg-type]
    assert len(list(model.predict_many(image[None]))) == 1


@pytest.mark.parametrize("inputs", [[blotches(40, 50)], blotches(40, 50), None])
def test_files_are_predicted_by_their_paths(run: Path, tmp_path: Path, inputs: Any) -> None:
    with pytest.raises(ConfigError, match=r"unetseg\.load\(run\)\.predict\(array\)"):
        predict_folder(run, inputs, tmp_path / "out")


def test_an_image_that_cannot_be_read_is_told_when_it_is_its_turn(run: Path) -> None:
    images = [blotches(40, 50, seed=seed) for seed in range(3)]
    model = Predictor(run, device=DeviceConfig(device="cpu", precision="float32"))
    answers = model.predict_many([*images, "nothing.png", images[0]])
    for image in images:
        np.testing.assert_array_equal(next(answers), model.predict(image))
    with pytest.raises(ImageError, match=r"^nothing.png"):
        next(answers)
