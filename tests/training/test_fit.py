"""Laws of training: resume is exact, a run folder is complete, a refused run leaves nothing."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.builders import Heard
from unetseg import runtime
from unetseg.config import NetworkConfig, RuntimeConfig, TrainConfig, TrainingConfig
from unetseg.data.crops.dataset import Crops, Sample
from unetseg.data.files.image import read_image
from unetseg.data.files.pngs import write_png
from unetseg.data.sample import draw_sample
from unetseg.errors import (
    BundleError,
    ConfigError,
    DataError,
    DivergedError,
    MachineError,
    StoppedError,
)
from unetseg.evaluation.confusion import Scores, score
from unetseg.evaluation.counting import score_split
from unetseg.prediction.engine import Engine
from unetseg.progress import Silent
from unetseg.training.checkpoint import load_state
from unetseg.training.fit import train
from unetseg.training.learner import Learner
from unetseg.training.schedule import learning_rate_factor


def tiny(**training: object) -> TrainConfig:
    """Settings under which a training takes a second or two."""
    settings: dict[str, object] = {"epochs": 3, "batch": 2, "patch": 32} | training
    return TrainConfig(
        network=NetworkConfig(depth=2, width=4),
        training=TrainingConfig.model_validate(settings),
        runtime=RuntimeConfig(device="cpu", workers=0),
    )


class StopAt(Silent):
    """Sends a signal to this process when a training step is reached."""

    def __init__(self, step: int, number: signal.Signals) -> None:
        self.step, self.number = step, number

    def advance(self, task: str, steps: int = 1, **facts: object) -> None:
        if task == "training" and facts.get("step") == self.step:
            os.kill(os.getpid(), self.number)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sample(tmp_path_factory.mktemp("data") / "cells", count=6, size=64)


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_state(run)["weights"]
    return state


def metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.long
def test_a_run_folder_is_complete(data: Path, tmp_path: Path) -> None:
    run = train(data, tiny(), out=tmp_path, name="a")
    names = ("config.yaml", "env.json", "plan.json", "splits.json", "metrics.csv", "log.jsonl")
    for name in (*names, "data.json", "report.html"):
        assert (run / name).stat().st_size > 0, name
    found = json.loads((run / "data.json").read_text())
    shares = [row[split] for row in found["class_shares"] for split in ("train", "val")]
    assert sum(shares) == pytest.approx(2)
    assert found["rules"][0].startswith("images/NAME.png")
    bundle = {"README.md", "model.json", "model.safetensors"}
    assert {p.name for p in (run / "model").iterdir()} == bundle
    assert (run / "previews" / "augmented.png").is_file()
    assert len(list((run / "previews").glob("step_*.png"))) == len(metrics(run))
    assert list((run / "tensorboard").iterdir())
    calibration = json.loads((run / "model" / "model.json").read_text())["calibration"]
    assert calibration["temperature"] > 0
    assert calibration["dice_at_threshold"] >= calibration["dice"]
    plan = json.loads((run / "plan.json").read_text())
    assert plan["patch"] == 32
    assert plan["reasons"]["patch"] == "as set"


@pytest.mark.row(21)
@pytest.mark.long
def test_a_validation_without_objects_has_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = draw_sample(tmp_path / "cells", count=5, size=64)
    for i, mask in enumerate(sorted((folder / "masks").iterdir())):
        for kind, file in (("masks", mask), ("images", folder / "images" / mask.name)):
            place = folder / ("val" if i < 2 else "train") / kind / file.name
            place.parent.mkdir(parents=True, exist_ok=True)
            file.rename(place)
        if i < 2:
            write_png(place.parents[1] / "masks" / mask.name, np.zeros((64, 64), np.uint8))
    (folder / "images").rmdir()
    (folder / "masks").rmdir()
    nothing = score(np.array([[[64, 0], [0, 0]]]), ["background", "cell"], [1])
    monkeypatch.setattr("unetseg.training.fit.score_split", lambda *_: nothing)
    heard = Heard()
    run = train(folder, tiny(epochs=2), out=tmp_path, name="a", progress=heard)
    assert any("in no mask of val, so that there is no score" in line for line in heard.said)
    assert any("best validation Dice nan" in line for line in heard.said)
    model = json.loads((run / "model" / "model.json").read_text())
    assert not any(row["val_dice"] == "1.0" for row in metrics(run))
    assert model["scores"]["foreground_dice"] is None


@pytest.mark.long
def test_equal_seeds_give_equal_weights(data: Path, tmp_path: Path) -> None:
    runs = [train(data, tiny(), out=tmp_path, name=name) for name in "ab"]
    first, second = (load_file(run / "model" / "model.safetensors") for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.long
def test_workers_do_not_change_the_weights(data: Path, tmp_path: Path) -> None:
    alone = train(data, tiny(epochs=2), out=tmp_path, name="alone")
    config = tiny(epochs=2)
    config = config.model_copy(update={"runtime": RuntimeConfig(device="cpu", workers=2)})
    helped = train(data, config, out=tmp_path, name="helped")
    assert all(torch.equal(weights(alone)[k], weights(helped)[k]) for k in weights(alone))


@pytest.mark.row(2, 3, 4, 7)
@pytest.mark.long
@pytest.mark.parametrize("number", runtime.SIGNALS)
def test_a_stopped_run_goes_on_bit_for_bit(
    data: Path, tmp_path: Path, number: signal.Signals
) -> None:
    whole = train(data, tiny(), out=tmp_path, name="whole")
    with pytest.raises(StoppedError, match="stopped at step 4;") as stopped:
        train(data, tiny(), out=tmp_path, name="cut", progress=StopAt(4, number))
    assert stopped.value.exit_code == 128 + number
    cut = train(data, tiny(), out=tmp_path, name="cut", resume=True)
    assert all(torch.equal(weights(whole)[k], weights(cut)[k]) for k in weights(whole))
    untimed = [[{**row, "seconds": ""} for row in metrics(run)] for run in (whole, cut)]
    assert untimed[0] == untimed[1]


@pytest.mark.long
def test_a_training_starts_from_a_trained_network_and_goes_on_without_it(
    data: Path, tmp_path: Path
) -> None:
    old = train(data, tiny(epochs=1), out=tmp_path, name="old")
    start = tiny(from_=old).model_copy(update={"network": NetworkConfig()})
    heard = Heard()
    whole = train(data, start, out=tmp_path, name="whole", progress=heard)
    told = f"starting from the weights of {old} (classes as trained: background, foreground)"
    assert told in heard.said
    assert json.loads((whole / "plan.json").read_text())["network"]["width"] == 4
    assert f"from: {old}" in (whole / "config.yaml").read_text()
    with pytest.raises(StoppedError):
        train(data, start, out=tmp_path, name="cut", progress=StopAt(4, signal.SIGINT))
    shutil.rmtree(old)
    with pytest.raises(ConfigError, match="keeps its settings") as error:
        train(data, tiny(from_=whole), out=tmp_path, name="cut", resume=True)
    assert any(line.startswith("--from: ") for line in error.value.offenders)
    cut = train(data, start, out=tmp_path, name="cut", resume=True)
    assert all(torch.equal(weights(whole)[k], weights(cut)[k]) for k in weights(whole))


def drawing(**training: object) -> TrainConfig:
    """A network that draws numbers in every training step: switches and dropped branches."""
    network = NetworkConfig(
        depth=2, width=4, skip=("switch",), block="residual", shortcut="deactivable", survival=0.5
    )
    return tiny(**training).model_copy(update={"network": network})


@pytest.mark.row(7)
@pytest.mark.long
def test_a_network_that_draws_numbers_goes_on_bit_for_bit(data: Path, tmp_path: Path) -> None:
    whole = train(data, drawing(), out=tmp_path, name="whole")
    with pytest.raises(StoppedError):
        train(data, drawing(), out=tmp_path, name="cut", progress=StopAt(4, signal.SIGINT))
    cut = train(data, drawing(), out=tmp_path, name="cut", resume=True)
    assert all(torch.equal(weights(whole)[k], weights(cut)[k]) for k in weights(whole))


@pytest.mark.long
def test_a_penalty_closes_switches_and_the_log_tells_how_far(data: Path, tmp_path: Path) -> None:
    free, dear = (
        train(data, drawing(epochs=8, switch_penalty=penalty), out=tmp_path, name=f"{penalty:g}")
        for penalty in (0.0, 100.0)
    )
    name = "network.decoder.steps.1.skip.slow_log_odds"
    assert weights(dear)[name] < 0.1 - 0.005  # log-odds 2 at first, 20 times the weight
    assert weights(dear)[name] < weights(free)[name]
    lines = [json.loads(line) for line in (dear / "log.jsonl").read_text().splitlines()]
    skips = [line for line in lines if line["event"] == "skips"]
    assert [line["step"] for line in skips] == [int(row["step"]) for row in metrics(dear)]
    odds = [line["factors"][name.removeprefix("network.")] for line in skips]
    assert odds == sorted(odds, reverse=True)
    assert skips[-1]["openings"] == [1.0, 1.0]  # on average still open


@pytest.mark.long
def test_the_log_is_silent_about_skips_that_learn_nothing(data: Path, tmp_path: Path) -> None:
    run = train(data, tiny(epochs=1), out=tmp_path, name="plain")
    assert '"skips"' not in (run / "log.jsonl").read_text()


@pytest.mark.long
def test_resume_with_more_epochs(data: Path, tmp_path: Path) -> None:
    run = train(data, tiny(epochs=1), out=tmp_path, name="a")
    plan = json.loads((tmp_path / "a" / "plan.json").read_text())
    earlier = json.dumps(plan | {"workers": 2})  # as earlier versions wrote it
    (tmp_path / "a" / "plan.json").write_text(earlier)
    before = yaml.safe_load((run / "config.yaml").read_text())
    train(data, tiny(epochs=2), out=tmp_path, name="a", resume=True)
    assert [float(row["epoch"]) for row in metrics(run)] == [1, 2]
    assert yaml.safe_load((run / "config.yaml").read_text()) == before | {"epochs": 2}


@pytest.mark.row(12)
@pytest.mark.long
def test_resume_refuses_other_settings(data: Path, tmp_path: Path) -> None:
    train(data, tiny(epochs=1), out=tmp_path, name="a")
    with pytest.raises(ConfigError, match=r"--batch: 2 → 3"):
        train(data, tiny(epochs=1, batch=3), out=tmp_path, name="a", resume=True)


@pytest.mark.row(12)
@pytest.mark.long
def test_resume_refuses_other_data(data: Path, tmp_path: Path) -> None:
    train(data, tiny(epochs=1), out=tmp_path, name="a")
    other = draw_sample(tmp_path / "other", count=6, size=64, seed=1)
    with pytest.raises(ConfigError, match="has changed since a was started"):
        train(other, tiny(epochs=1), out=tmp_path, name="a", resume=True)


@pytest.mark.row(12)
@pytest.mark.long
def test_resume_with_other_names_of_classes_is_refused(data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "cells"))
    train(folder, tiny(epochs=1), out=tmp_path, name="a")
    (folder / "dataset.yaml").write_text("classes: {background: 0, nucleus: 255}\n")
    with pytest.raises(ConfigError, match="has changed since a was started") as error:
        train(folder, tiny(epochs=2), out=tmp_path, name="a", resume=True)
    assert error.value.offenders == ["classes"]


@pytest.mark.row(33)
@pytest.mark.long
def test_an_image_on_both_sides_of_a_split_is_said(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cells"
    for number, path in enumerate(sorted((data / "images").iterdir())):
        split = "val" if number > 4 else "train"
        for side in ("images", "masks"):
            (folder / side / split).mkdir(parents=True, exist_ok=True)
            shutil.copy(data / side / path.name, folder / side / split)
    copy = folder / "images" / "val" / "cells_005.png"
    shutil.copy(folder / "images" / "train" / "cells_000.png", copy)
    heard = Heard()
    train(folder, tiny(epochs=1), out=tmp_path, name="a", progress=heard, unpaired="skip")
    assert any(line.startswith("warning: ") and "split" in line for line in heard.said)
    command = f"`unetseg check {folder} --unpaired skip`"
    assert f"{command} lists the files and the fixes." in heard.said


@pytest.mark.row(13)
def test_resume_of_nothing_is_an_error(data: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no run"):
        train(data, tiny(), out=tmp_path, resume=True)
    with pytest.raises(BundleError, match="there is no run"):
        train(data, tiny(), out=tmp_path, name="x", resume=True)


@pytest.mark.long
@pytest.mark.parametrize("plan", [None, "{}"], ids=["gone", "of another version"])
def test_resume_without_a_plan_is_an_error(data: Path, tmp_path: Path, plan: str | None) -> None:
    run = train(data, tiny(epochs=1), out=tmp_path, name="a")
    (run / "plan.json").unlink()
    if plan is not None:
        (run / "plan.json").write_text(plan)
    with pytest.raises(BundleError, match=r"has no plan\.json that can be read"):
        train(data, tiny(epochs=2), out=tmp_path, name="a", resume=True)


@pytest.mark.long
def test_a_name_is_not_used_twice(data: Path, tmp_path: Path) -> None:
    train(data, tiny(epochs=1), out=tmp_path, name="a")
    with pytest.raises(MachineError, match="holds a run already"):
        train(data, tiny(epochs=1), out=tmp_path, name="a")


def test_refused_data_leave_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        train(tmp_path / "empty", tiny(), out=tmp_path / "runs", name="a")
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.long
def test_a_budget_is_kept_and_ends_with_a_validated_model(data: Path, tmp_path: Path) -> None:
    run = train(data, tiny(epochs=None, budget="6s"), out=tmp_path, name="a")
    rows = metrics(run)
    last = rows[-1]
    assert float(last["seconds"]) < 9
    assert int(last["step"]) == load_state(run)["step"]
    assert float(last["lr"]) < 2e-4  # the schedule came down to its end
    assert (run / "model" / "model.json").is_file()
    state = load_state(run)
    assert state["elapsed"] > float(last["seconds"])  # by that of the last validation
    train(data, tiny(epochs=None, budget="6s"), out=tmp_path, name="a", resume=True)
    assert metrics(run) == rows  # nothing is left of it


@pytest.mark.long
@pytest.mark.parametrize(
    "change",
    [
        {"loss": "ce", "optimizer": "adamw"},
        {"loss": "dice", "optimizer": "sgd"},
        {"schedule": "cosine", "accumulate": 2, "ema": False},
        {"patience": 1, "augment": "none"},
        {"oversample": 1.0, "augment": "light"},
    ],
)
def test_every_setting_trains(data: Path, tmp_path: Path, change: dict[str, object]) -> None:
    run = train(data, tiny(epochs=2, **change), out=tmp_path)
    assert metrics(run)


@pytest.mark.long
@pytest.mark.parametrize(
    "network",
    [
        NetworkConfig(depth=2, width=4, deep_supervision=True),
        NetworkConfig(depth=2, width=4, scale=0.5),
        NetworkConfig(depth=2, width=4, skip=("add",), block="residual", norm="group"),
    ],
)
def test_every_network_trains(data: Path, tmp_path: Path, network: NetworkConfig) -> None:
    config = tiny(epochs=1).model_copy(update={"network": network})
    run = train(data, config, out=tmp_path)
    assert metrics(run)


@pytest.mark.long
def test_training_in_a_thread_catches_no_signals(data: Path, tmp_path: Path) -> None:
    done: list[Path] = []
    thread = threading.Thread(
        target=lambda: done.append(train(data, tiny(epochs=1), out=tmp_path, name="a"))
    )
    thread.start()
    thread.join()
    assert done == [tmp_path / "a"]


@pytest.mark.parametrize("schedule", ["poly", "cosine"])
def test_the_learning_rate_rises_then_falls_to_zero(schedule: str) -> None:
    rates = [learning_rate_factor(step / 200, schedule, 0.1) for step in range(201)]
    peak = rates.index(max(rates))
    assert rates[peak] == pytest.approx(1)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] == pytest.approx(0)


def test_settings_that_contradict_leave_no_run_folder(data: Path, tmp_path: Path) -> None:
    config = tiny().model_copy(update={"network": NetworkConfig(depth=2, widths=(4, 8))})
    with pytest.raises(ConfigError):
        train(data, config, out=tmp_path, name="a")
    assert not list(tmp_path.iterdir())


@pytest.mark.row(7)
@pytest.mark.long
@pytest.mark.parametrize("validation", [0, -1])
def test_a_signal_at_a_step_that_is_validated_does_not_cost_the_validation(
    data: Path, tmp_path: Path, validation: int
) -> None:
    whole = train(data, drawing(epochs=2), out=tmp_path, name="whole")
    stop = StopAt(int(metrics(whole)[validation]["step"]), signal.SIGTERM)
    with pytest.raises(StoppedError):
        train(data, drawing(epochs=2), out=tmp_path, name="cut", progress=stop)
    cut = train(data, drawing(epochs=2), out=tmp_path, name="cut", resume=True)
    untimed = [[{**row, "seconds": ""} for row in metrics(run)] for run in (whole, cut)]
    assert len(untimed[0]) == 2
    assert untimed[0] == untimed[1]
    assert all(torch.equal(weights(whole)[k], weights(cut)[k]) for k in weights(whole))
    kept = [load_file(run / "model" / "model.safetensors") for run in (whole, cut)]
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])


@pytest.mark.long
def test_a_training_whose_patience_is_used_up_learns_no_more_when_it_is_resumed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never_better = score(np.array([[[50, 10], [5, 35]]]), ["background", "cell"], [1])
    monkeypatch.setattr("unetseg.training.fit.score_split", lambda *_: never_better)
    run = train(data, tiny(epochs=20, patience=1), out=tmp_path, name="a")
    rows, learned = metrics(run), weights(run)
    assert len(rows) == 2
    train(data, tiny(epochs=20, patience=1), out=tmp_path, name="a", resume=True)
    assert metrics(run) == rows
    assert all(torch.equal(weights(run)[name], value) for name, value in learned.items())


@pytest.mark.long
def test_validation_takes_the_engine_that_is_asked_for_or_nothing_is_trained(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asking(engine: str) -> TrainConfig:
        machine = RuntimeConfig.model_validate({"device": "cpu", "workers": 0, "engine": engine})
        return tiny(epochs=1).model_copy(update={"runtime": machine})

    taken: list[str] = []

    def noted(engine: Engine, *more: Any) -> Scores:
        taken.append(engine.choice.name)
        return score_split(engine, *more)

    monkeypatch.setattr("unetseg.training.fit.score_split", noted)
    train(data, asking("eager"), out=tmp_path, name="a")
    assert taken == ["eager"]

    def refuse(*_: object) -> None:
        raise NotImplementedError("it draws numbers")

    monkeypatch.setattr("unetseg.prediction.backends._openvino", refuse)
    with pytest.raises(MachineError, match="--engine openvino cannot run this network: it draws"):
        train(data, asking("openvino"), out=tmp_path, name="b")
    assert not (tmp_path / "b").exists()


@pytest.mark.long
def test_the_log_of_skips_is_kept_where_pixels_are_transparent(data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "cells"))
    alpha = np.full((64, 64, 1), 255, np.uint8)
    alpha[:40, :40] = 0
    for path in (folder / "images").iterdir():
        write_png(path, np.concatenate([read_image(path), alpha], axis=2))
    run = train(folder, drawing(epochs=1), out=tmp_path, name="a")
    assert '"skips"' in (run / "log.jsonl").read_text()


@pytest.mark.row(15)
@pytest.mark.long
def test_a_step_that_is_no_number_leaves_no_trace(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Learner.step

    def poisoned(self: Learner, batch: Sample, number: int, factor: float) -> torch.Tensor:
        if number == 1:
            batch = batch._replace(image=batch.image.float() * torch.inf)
        return step(self, batch, number, factor)

    monkeypatch.setattr(Learner, "step", poisoned)
    run = train(data, tiny(), out=tmp_path, name="a")
    assert all(torch.isfinite(value).all() for value in weights(run).values())
    assert '"skipped"' in (run / "log.jsonl").read_text()


@pytest.mark.row(15)
@pytest.mark.long
def test_only_such_steps_end_the_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Learner.step

    def poisoned(self: Learner, batch: Sample, number: int, factor: float) -> torch.Tensor:
        return step(self, batch._replace(image=batch.image.float() * torch.inf), number, factor)

    monkeypatch.setattr(Learner, "step", poisoned)
    with pytest.raises(DivergedError, match="not a number in 10 steps in a row"):
        train(data, tiny(epochs=20), out=tmp_path, name="a")


@pytest.mark.row(2, 4)
@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_group_signal_does_not_kill_the_workers(
    data: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """They reach the whole process group under timeout, Slurm and systemd."""
    command = [sys.executable, "-m", "unetseg", "train", str(data), "--out", str(tmp_path)]
    settings = "--name a --depth 2 --width 4 --patch 32 -b 2 --workers 2 --budget 60s"
    process = subprocess.Popen([*command, *settings.split(" ")], start_new_session=True)
    while not (tmp_path / "a" / "last.pt").exists() and process.poll() is None:
        time.sleep(0.2)
    os.killpg(process.pid, number)
    assert process.wait(60) == 128 + number
    assert load_state(tmp_path / "a")["step"] > 0


@pytest.mark.row(15)
@pytest.mark.long
def test_images_that_make_steps_no_numbers_are_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Crops.__getitem__

    def poisoned(self: Crops, key: tuple[int, int]) -> Sample:
        sample = honest(self, key)
        return sample._replace(image=sample.image.float() * torch.inf) if key[0] == 2 else sample

    monkeypatch.setattr(Crops, "__getitem__", poisoned)
    with pytest.raises(DivergedError, match="a crop whose loss is no number") as error:
        train(data, tiny(epochs=20, batch=40), out=tmp_path, name="a")
    assert error.value.exit_code == 6
    [offender] = error.value.offenders
    assert ".png" in offender


@pytest.mark.row(21)
@pytest.mark.long
def test_one_image_and_batches_of_one_train(data: Path, tmp_path: Path) -> None:
    """Down to a bottom of one pixel, which a batch norm cannot normalise by itself."""
    folder = tmp_path / "one"
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
        shutil.copy(next((data / kind).iterdir()), folder / kind / "a.png")
    config = tiny(epochs=1, batch=1).model_copy(
        update={"network": NetworkConfig(depth=5, width=4, norm="batch")}
    )
    heard = Heard()
    run = train(folder, config, out=tmp_path, name="a", progress=heard)
    assert all(torch.isfinite(value).all() for value in weights(run).values())
    assert any("validat" in line for line in heard.said)


@pytest.mark.row(21)
@pytest.mark.long
def test_an_empty_folder_for_validation_is_none(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    shutil.copytree(data, folder / "train")
    for kind in ("images", "masks"):
        (folder / "val" / kind).mkdir(parents=True)
    heard = Heard()
    train(folder, tiny(epochs=1), out=tmp_path, name="a", progress=heard)
    assert any("5 train, 1 val" in line for line in heard.said)


@pytest.mark.long
def test_what_was_compiled_on_a_gpu_is_not_compiled_on_a_cpu(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(data, tiny(epochs=1), out=tmp_path, name="a")
    plan = json.loads((run / "plan.json").read_text())
    (run / "plan.json").write_text(json.dumps(plan | {"compile": True}))
    compiled: list[object] = []
    monkeypatch.setattr("unetseg.training.fit.compile_step", lambda *of: compiled.append(of))
    train(data, tiny(epochs=2), out=tmp_path, name="a", resume=True)
    assert not compiled


@pytest.mark.long
def test_a_run_that_goes_on_tells_where_its_images_are_now(data: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(data, tmp_path / "here"))
    run = train(moved, tiny(), out=tmp_path, name="a")
    before = json.loads((run / "env.json").read_text())
    there = Path(shutil.move(moved, tmp_path / "there"))
    train(there, tiny(), out=tmp_path, name="a", resume=True)
    after = json.loads((run / "env.json").read_text())
    assert after == before | {"data": str(there.resolve())}
    assert str(there) in (run / "report.html").read_text(encoding="utf-8")
