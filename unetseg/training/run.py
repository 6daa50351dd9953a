"""A run is a folder: opened fresh or resumed, with everything that says how it was made."""

import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
import yaml

from unetseg.checks.check import refuse_errors
from unetseg.checks.finding import Finding, given_words
from unetseg.config import TrainConfig
from unetseg.data.facts.survey import Survey, survey, with_splits
from unetseg.data.pairs.naming import SPLIT_NAMES
from unetseg.data.pairs.splits import read_splits, write_splits
from unetseg.errors import BundleError, ConfigError
from unetseg.group import ALONE, Group
from unetseg.locks import locked
from unetseg.progress import Progress
from unetseg.resources import MEBIBYTE, host_memory
from unetseg.runtime import Machine, start, versions
from unetseg.storage import (
    has_begun,
    latest_run,
    new_run_folder,
    read_json,
    remove_leftovers,
    write_json,
    write_text,
)
from unetseg.text import plural
from unetseg.training.checkpoint import STATE, load_state
from unetseg.training.plan import Plan, make_plan, read_plan
from unetseg.training.run_log import LOG
from unetseg.training.tuning import tried_plan

CHANGEABLE = {
    *("epochs", "budget", "patience", "max_pixels"),
    *("device", "compile", "engine", "checkpointing", "cache", "workers", "save_every"),
}
"""Settings that a resumed run may be given anew.

Checkpointing, cache, workers and save_every change no number. Another device and compiled code
round otherwise: the training goes on from the same state, but not bit for bit as it would have.
"""
SCARCE = 512 * MEBIBYTE
"""Free memory that small trainings were seen to take."""


@dataclass(frozen=True)
class TrainingRun:
    """Everything that a training starts from."""

    folder: Path
    data: Path
    config: TrainConfig
    machine: Machine
    known: Survey
    plan: Plan
    data_hash: str
    state: dict[str, Any] | None = None
    """What `checkpoint.load_state` gave, when the run is resumed."""

    @property
    def identity(self) -> dict[str, str]:
        """What a resumed run must have in common with the one before, as JSON texts."""
        classes = self.known.class_map.model_dump_json()
        return {"config": self.config.model_dump_json(), "data": self.data_hash, "classes": classes}


@contextmanager
def joint_run(opening: AbstractContextManager[TrainingRun], group: Group) -> Iterator[TrainingRun]:
    """The run that `opening` gives in the first process of `group`, in all of them.

    Raises:
        ConfigError: there are more processes than crops in a batch.
        MachineError: a process has not got the device that it needs.
    """
    with ExitStack() as stack:

        def opened() -> TrainingRun:
            run = stack.enter_context(opening)
            if run.plan.batch < group.size:
                told = f"a batch of {run.plan.batch} is too small for {group.size} processes"
                raise ConfigError(told, fix=f"Choose --batch {group.size} or more.")
            if run.config.training.sync_batchnorm and run.machine.is_cpu and group.size > 1:
                told = "--sync-batchnorm needs GPUs"
                raise ConfigError(told, fix="Choose --norm group or instance, which need no batch.")
            return run

        run = group.first(opened)
        config = run.config.runtime
        machine = group.together(lambda: run.machine if group.is_first else start(config, group))
        yield replace(run, machine=machine)


def begins_anew(out: Path, name: str | None) -> bool:
    """Whether torchrun has started this process anew, and the run called `name` can go on.

    Raises:
        ConfigError: it may do so, but nobody could tell which run that is.
    """
    refuse_nameless(name, int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)))
    is_restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    return is_restarted and (out / str(name) / STATE).exists()


def refuse_nameless(name: str | None, restarts: int) -> None:
    """Let no run begin anew by itself that nobody could find again.

    Raises:
        ConfigError: it has no name.
    """
    if name is None and restarts > 0:
        fix = "Give the run a --name, or leave --max-restarts away."
        raise ConfigError("a run that begins anew by itself needs a name", fix=fix)


@contextmanager
def open_run(
    data: Path,
    config: TrainConfig,
    out: Path,
    name: str | None,
    progress: Progress,
    group: Group = ALONE,
) -> Iterator[TrainingRun]:
    """A fresh run folder; it is removed again when the data or settings are refused."""
    folder = new_run_folder(out, name)
    with locked(folder):
        remove_leftovers(folder)
        (folder / LOG).unlink(missing_ok=True)  # of a training that never began
        try:
            machine = start(config.runtime, group)
            _warn_of_little_memory(progress)
            torch.manual_seed(config.runtime.seed)
            known = survey(data, config.data, progress)
            findings = refuse_errors(known, progress, given_words(data, config.data))
            plan = make_plan(known, config, machine, progress)
            plan = tried_plan(plan, known, config, machine)
            run = TrainingRun(folder, data, config, machine, known, plan, data_hash(known))
            _describe(run)
            write_json(folder / "data.json", described_data(known, findings))
            yield run
        except BaseException:
            if not has_begun(folder):  # nothing was learned: leave no trace
                shutil.rmtree(folder, ignore_errors=True)  # it may be the mount of a container
            raise


@contextmanager
def resume_run(
    data: Path,
    config: TrainConfig,
    out: Path,
    name: str | None,
    progress: Progress,
    group: Group = ALONE,
) -> Iterator[TrainingRun]:
    """The run called `name`, or the last one in `out`, as it was saved.

    Raises:
        BundleError: there is no run to go on with, or it is of another version.
        ConfigError: the data or the settings differ from those of the run.
    """
    folder = out / name if name else latest_run(out)
    if folder is None or not folder.is_dir():
        what = f"there is no run {folder}" if folder else f"there is no run in {out}"
        raise BundleError(f"{what} to go on with", fix="Train without --resume first.")
    with locked(folder):
        remove_leftovers(folder)
        state = load_state(folder, progress)
        identity = state["identity"]
        try:
            saved = TrainConfig.model_validate_json(identity["config"])
        except ValueError as error:
            fix = "Train anew, or start from its weights: unetseg train DATA --from RUN"
            raise BundleError(f"{folder} has settings of another version", [error], fix) from error
        plan = read_plan(folder)
        config = merged_settings(saved, config)
        machine = start(config.runtime, group)
        _warn_of_little_memory(progress)
        known = survey(data, config.data, progress)
        classes = known.class_map.model_dump_json()
        same = {
            "images and masks": data_hash(known) == identity["data"],
            "classes": classes == identity.get("classes", classes),
        }
        if changed := [name for name, is_same in same.items() if not is_same]:
            fix = "Give the folder it was trained on, or train anew without --resume."
            raise ConfigError(f"{data} has changed since {folder.name} was started", changed, fix)
        known = with_splits(known, read_splits(folder / "splits.json", "name"))
        plan = _continued(plan, config, machine)
        write_settings(folder, config)
        tell_place(folder, data)
        progress.say(f"going on with {folder} at step {state['step']}")
        yield TrainingRun(folder, data, config, machine, known, plan, data_hash(known), state)


def tell_place(folder: Path, data: Path) -> None:
    """Note in a run folder where the images are now: they may have been moved."""
    environment = read_json(folder / "env.json") | {"data": str(data.resolve())}
    write_json(folder / "env.json", environment)


def _warn_of_little_memory(progress: Progress) -> None:
    """The system ends a process that takes too much, without a word: this one is before."""
    free = host_memory()
    if free < SCARCE:
        progress.say(
            f"warning: only {free // MEBIBYTE} MiB of memory are free here; if the training ends "
            "without a word, the system has ended it: give more memory, or a smaller --width"
        )


def _continued(plan: Plan, config: TrainConfig, machine: Machine) -> Plan:
    """The plan of the run, with what may change on the way: its length and the machine's part."""
    epochs = config.training.epochs
    if epochs is None and config.training.budget is None:
        epochs = plan.epochs
    asked = config.runtime.compile
    pays = machine.device.type == "cuda" and not config.runtime.checkpointing
    compiled = plan.compile and pays if asked == "auto" else asked == "yes"
    return plan.model_copy(update={"epochs": epochs, "compile": compiled})


def flat_settings(config: TrainConfig) -> dict[str, Any]:
    """All settings by their flag's name, in the types of JSON, as a --config file holds them."""
    flat: dict[str, Any] = {}
    for group in config.model_dump(mode="json").values():
        flat |= {name.removesuffix("_"): value for name, value in group.items()}
    return flat


def write_settings(folder: Path, config: TrainConfig) -> None:
    """Write config.yaml, which a --config takes, into `folder`."""
    default = flat_settings(TrainConfig())
    settings = {
        name: value
        for name, value in flat_settings(config).items()
        if value not in (None, []) and (value, default[name]) != ("auto", "auto")
    }
    write_text(folder / "config.yaml", yaml.safe_dump(settings, sort_keys=False))


def _describe(run: TrainingRun) -> None:
    """Write what the run was made of: settings, machine, plan and splits."""
    write_settings(run.folder, run.config)
    data = str(run.data.resolve())
    environment = {"machine": str(run.machine), "versions": versions(), "data": data}
    write_json(run.folder / "env.json", environment)
    write_json(run.folder / "plan.json", run.plan.model_dump(mode="json"))
    hashes = [run.known.facts[pair.name].hash for pair in run.known.pairs.pairs]
    write_splits(run.folder / "splits.json", run.known.pairs, hashes)


def described_data(known: Survey, findings: Sequence[Finding]) -> dict[str, Any]:
    """The content of data.json: what the folder holds, and what was found wrong with it."""
    sizes = sorted({fact.image.shape for fact in known.facts.values()}, key=math.prod)
    low, high = (f"{width}×{height}" for height, width in (sizes[0], sizes[-1]))
    splits = [split for split in SPLIT_NAMES if known.select(split)]
    pixels = {split: known.class_pixels(split) for split in splits}
    shares = [
        {"class": name} | {s: counts[row] / max(1, sum(counts)) for s, counts in pixels.items()}
        for row, name in enumerate(known.class_map.names)
    ]
    return {
        "images": f"{known.dtype}, {plural(known.bands, 'band')}, "
        + (low if low == high else f"{low} to {high}"),
        "rules": known.rules,
        "class_shares": shares,
        "findings": [
            {"check": one.check, "severity": one.severity, "summary": one.summary, "fix": one.fix}
            for one in findings
        ],
    }


def merged_settings(saved: TrainConfig, given: TrainConfig) -> TrainConfig:
    """The saved settings with those of CHANGEABLE that were given; any other change is refused.

    Epochs that are given take the place of a budget that was saved alone, and a budget that of
    epochs, which would end the training where it ended before.
    """
    before, now, default = (flat_settings(c) for c in (saved, given, TrainConfig()))
    asked = {name for _, group in given for name in group.model_fields_set} & CHANGEABLE
    changes = {
        n: v
        for n, v in now.items()
        if v != before[n] and (v != default[n] or (n in asked and v is not None))
    }
    for end, other in (("epochs", "budget"), ("budget", "epochs")):
        if now[end] is not None and now[other] is None and before[end] is None:
            changes[other] = None
    refused = sorted(changes.keys() - CHANGEABLE)
    if refused:
        fix = "Leave these settings as they were, or train anew without --resume."
        differences = [f"--{n.replace('_', '-')}: {before[n]} → {now[n]}" for n in refused]
        raise ConfigError("a resumed run keeps its settings; these differ", differences, fix)
    groups = {
        group: {**dict(settings), **{n: v for n, v in changes.items() if n in dict(settings)}}
        for group, settings in saved
    }
    return TrainConfig.model_validate(groups)


def data_hash(known: Survey) -> str:
    """A hash over the names and contents of all pairs."""
    rows = sorted(f"{name}\0{fact.hash}" for name, fact in known.facts.items())
    return blake2b("\n".join(rows).encode(errors="surrogateescape"), digest_size=16).hexdigest()
