"""The resume state: everything that a bit-exact continuation needs, and nothing executable.

`last.pt` is written beside `last.pt.sha256`, which names the sums of the new and of the old state,
so that a crash between the two renames leaves a pair that matches. The state before is kept as
`previous.pt`, for the case that `last.pt` is damaged afterwards.
"""

import io
import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from unetseg.errors import BundleError
from unetseg.progress import SILENT, Progress
from unetseg.storage import atomic_path, write_text
from unetseg.unet.weights import DAMAGE

STATE = "last.pt"
PREVIOUS = "previous.pt"


def save_state(run: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists and dicts) as the run's last one."""
    file, previous = run / STATE, run / PREVIOUS
    buffer = io.BytesIO()
    torch.save(state, buffer)
    before = sha256(file.read_bytes()).hexdigest() if file.exists() else ""
    before = before if before in _recorded_sums(file) else ""  # a damaged one is not kept
    with atomic_path(file) as temporary:
        temporary.write_bytes(buffer.getbuffer())
        if before:
            previous.unlink(missing_ok=True)
            try:
                os.link(file, previous)
            except OSError:  # not every file system has links
                shutil.copy2(file, previous)
            write_text(_sum_file(previous), f"{before}\n")
        write_text(_sum_file(file), f"{sha256(buffer.getbuffer()).hexdigest()}\n{before}\n")


def load_state(run: Path, progress: Progress = SILENT) -> dict[str, Any]:
    """The run's last state; the one before, with a warning, where the last is damaged.

    Raises:
        BundleError: there is none, or both are damaged.
    """
    if not (run / STATE).is_file():
        raise BundleError(
            f"{run} has no state to go on from ({STATE})",
            fix="It ended before its first state was saved: train again without --resume, "
            "or name another run with --name.",
        )
    problems = []
    for name in (STATE, PREVIOUS):
        try:
            state = _load(run / name)
        except BundleError as error:
            problems.append(error.summary)
            continue
        if problems:
            progress.say(f"{problems[0]}; going on from the state before")
        return state
    raise BundleError(f"no state of {run} can be read", problems, "Train anew.")


def _load(file: Path) -> dict[str, Any]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror}") from error
    if sha256(content).hexdigest() not in _recorded_sums(file):
        raise BundleError(f"{file} is damaged: its bytes differ from {_sum_file(file).name}")
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        raise BundleError(f"{file} is no resume state: {error}") from error
    return state


def _sum_file(file: Path) -> Path:
    return file.with_name(file.name + ".sha256")


def _recorded_sums(file: Path) -> list[str]:
    try:
        return _sum_file(file).read_text().split()
    except OSError:
        return []
