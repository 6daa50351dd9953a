"""Several trainings in one folder: they share its budget and the shape that the first has chosen.

They go on only as they were begun.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unetseg.config import DeviceConfig, EvalConfig, GroupsConfig, TrainConfig
from unetseg.data.facts.survey import Survey
from unetseg.errors import ConfigError, StoppedError
from unetseg.locks import locked
from unetseg.progress import Progress
from unetseg.storage import parse_json, write_json
from unetseg.training.checkpoint import STATE
from unetseg.training.fit import train
from unetseg.training.plan import read_plan
from unetseg.training.run import data_hash, merged_settings
from unetseg.training.run_log import LOG

STARTED = "started.json"
"""In the folder of several trainings: what they were begun with."""


def one_of(config: TrainConfig, trainings: int) -> TrainConfig:
    """The settings of one of several trainings that share a budget."""
    budget = config.training.budget
    share = {"budget": budget / trainings} if budget else {}
    return config.model_copy(update={"training": config.training.model_copy(update=share)})


def of_shape(config: TrainConfig, run: Path) -> TrainConfig:
    """`config` with what a network's shape and its crops are in the plan of `run`.

    A batch that was left open stays so: it may be halved where memory runs out.
    """
    plan = read_plan(run)
    kind = plan.normalisation.kind
    chosen = {"patch": plan.patch, "augment": plan.augment, "normalisation": kind}
    training = config.training.model_copy(update=chosen)
    return config.model_copy(update={"network": plan.network, "training": training})


def evaluation_of(config: TrainConfig) -> EvalConfig:
    """How a training with these settings is scored: on the same pairs and the same device."""
    groups = {name: getattr(config.data, name) for name in GroupsConfig.model_fields}
    device = {name: getattr(config.runtime, name) for name in DeviceConfig.model_fields}
    return EvalConfig(data=GroupsConfig(**groups), device=DeviceConfig(**device))


@contextmanager
def told_how_to_go_on(way: str) -> Iterator[None]:
    """Let a training that is stopped tell how all of them go on, not it alone."""
    try:
        yield
    except StoppedError as error:
        error.fix = way
        raise


@contextmanager
def in_one_folder(home: Path, way_on: str) -> Iterator[None]:
    """Hold the folder of several trainings; it is removed where none of them has begun.

    A training that is stopped tells how all of them go on, the `way_on`.
    """
    with locked(home), told_how_to_go_on(way_on):
        try:
            yield
        except BaseException:
            ours = {home / name for name in (STARTED, ".lock", ".owner")}
            if set(home.iterdir()) <= ours:
                shutil.rmtree(home, ignore_errors=True)
            raise


def as_begun(home: Path, config: TrainConfig) -> TrainConfig:
    """`config`, or what the trainings in `home` were begun with, changed where it may be.

    Raises:
        ConfigError: settings differ that may not, or the folder holds a run that is one training.
    """
    file = home / STARTED
    if not file.exists():
        if any((home / name).exists() for name in (STATE, "model")):
            fix = "Choose another folder: its model would be replaced."
            raise ConfigError(f"{home} holds a run already, of one training", fix=fix)
        return config
    try:
        saved = TrainConfig.model_validate(parse_json(file.read_bytes())["config"])
    except (ValueError, KeyError, TypeError) as error:
        fix = "Choose another folder."
        raise ConfigError(f"{file} is damaged, or of another version", [error], fix) from error
    return merged_settings(saved, config)


def claim(home: Path, known: Survey, config: TrainConfig, trainings: int) -> None:
    """Let several trainings begin in `home`, or go on as they were begun.

    Args:
        home: Their folder.
        known: What they learn from.
        config: What `as_begun` gave.
        trainings: How many they are.

    Raises:
        ConfigError: their images, their number or their length were others before.
    """
    file = home / STARTED
    length = config.training.model_dump(mode="json", include={"epochs", "budget"})
    now = {"data": data_hash(known), "trainings": trainings, **length}
    if not file.exists():
        write_json(file, {**now, "config": config.model_dump(mode="json")})
        return
    before = parse_json(file.read_bytes())
    pairs = [(name, before.get(name), value) for name, value in now.items()]
    if changed := [f"{name}: {old} → {new}" for name, old, new in pairs if old != new]:
        fix = "Give what it was begun with, or choose another folder."
        raise ConfigError(f"{home} holds trainings that were begun otherwise", changed, fix)


def train_in(run: Path, data: Path, config: TrainConfig, progress: Progress) -> None:
    """Train in the folder `run`, or go on with what an interruption left there."""
    goes_on = (run / STATE).is_file()
    if not goes_on and (run / LOG).is_file():  # killed before there was anything to go on from
        shutil.rmtree(run, ignore_errors=True)
    train(data, config, out=run.parent, name=run.name, resume=goes_on, progress=progress)
