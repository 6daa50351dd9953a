"""predictions.jsonl: what lies in a folder of masks, and what it was made with and from.

Lines are appended while images are predicted and never changed, so that a process that is killed
loses none; a line that it left half written is passed over. Of one mask the last line counts:

    {"by": KEY, "run": …, "flags": {…}, "settings": {…}}    what masks of this KEY were made with
    {"begun": MASK, "alone": false}                         its image is about to be read
    {"stopped": true}                                       those begun until here killed nobody
    {"done": MASK, "by": KEY, "image": …, "bytes": …, "modified": …, "files": […]}
    … with "doubt": [SCORE, WHY]                            where --review asked for it
    {"failed": MASK, "image": …, "code": …, "message": …, "offenders": […], "fix": …}
    … with "bytes" and "modified"                           and is not tried again as it is

Where a folder is predicted in blocks (scaling/blocks.py), each has a file of such lines.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any
from xml.etree import ElementTree

from unetseg.data.files.georeference import LARGEST_BESIDE, companions
from unetseg.data.files.pages import file_of
from unetseg.data.files.rasters import read_with
from unetseg.errors import ImageError, MachineError, UnetsegError
from unetseg.locks import lock
from unetseg.prediction.outputs import Job
from unetseg.prediction.review import Doubt
from unetseg.storage import is_file, json_value, parse_json, writing

NAME = "predictions.jsonl"
BLOCKS = "predictions"
"""The folder, beside the masks, with a file for each block."""


@dataclass(frozen=True)
class Record:
    """What is known of a mask that is done."""

    by: str
    """Key of what it was made with."""
    image: str
    identity: tuple[int, int]
    """Bytes of the image's files, and when the last was changed."""
    files: frozenset[str]
    """The mask and what was written beside it, relative to the folder."""
    doubt: Doubt | None = None
    """How much it needs a look, where that was asked."""


@dataclass(frozen=True)
class Journal:
    """Where the lines of a manifest are, relative to its folder."""

    file: str
    """The one that lines are appended to."""
    others: tuple[str, ...] = ()
    """Those that are read too."""
    names: frozenset[str] | None = None
    """Images asked about, by the names of their masks without suffix, so that others take no
    memory; None: all."""

    @classmethod
    def of(cls, folder: Path) -> "Journal":
        """Where a prediction that is not in blocks writes, and everything it reads."""
        return cls(NAME, tuple(f"{BLOCKS}/{name}" for name in blocks_of(folder)))

    def is_about(self, mask: str) -> bool:
        """Whether a mask, or the one of a page, is of an image asked about."""
        stem = mask.rpartition(".")[0]
        return self.names is None or not self.names.isdisjoint((stem, stem.rpartition("_")[0]))


def blocks_of(folder: Path) -> list[str]:
    """The names of the files of the blocks that a folder was predicted in."""
    with suppress(PermissionError):  # of a folder that may be listed and not entered
        return [path.name for path in (folder / BLOCKS).glob("*.jsonl")]
    return []


def is_predicted(folder: Path) -> bool:
    """Whether masks were written to a folder before."""
    return is_file(folder / NAME) or bool(blocks_of(folder))


class Manifest:
    """The predictions.jsonl of a folder.

    Args:
        folder: The folder of the masks; nothing is written before the first image.
        settings: Everything that shapes a mask, as JSON.
        run: The trained U-Net, and
        flags: how it was told `settings`: for ready commands.
        journal: Where its lines are, if not in predictions.jsonl.

    Raises:
        MachineError: they cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any] | None = None,
        run: str = "",
        flags: Mapping[str, Any] | None = None,
        journal: Journal | None = None,
    ) -> None:
        journal = journal or Journal.of(folder)
        self.folder, self.file, self.journal = folder, folder / journal.file, journal
        made_with = json_value(settings or {})
        self.key = sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()[:12]
        self.header = {"by": self.key, "run": run, "flags": flags or {}, "settings": made_with}
        self.headers: dict[str, dict[str, Any]] = {}
        """By key, the one that was started last at the end."""
        self.done: dict[str, Record] = {}
        self.begun: dict[str, list[bool]] = {}
        """Masks that were begun and never ended: of each time, whether it was alone."""
        self.failed: dict[str, dict[str, Any]] = {}
        self.stale: set[str] = set()
        """Masks that were done, then begun anew and not ended: what lies there is of before."""
        self.is_alone = True
        """Whether no other process was at work in the folder when this one began to hold it."""
        self._identities: dict[str, tuple[int, int]] = {}
        self._lock = Lock()
        self._read = 0
        files = {self.file, *(folder / other for other in journal.others)}
        there = [file for file in files if file.is_file()]
        for file in sorted(there, key=lambda file: file.stat().st_mtime_ns):
            end = self._take_all(file)
            self._read = end if file == self.file else self._read

    def read(self) -> bool:
        """Take in what has been written since; whether that is anything."""
        before = self._read
        self._read = self._take_all(self.file, before)
        return self._read > before

    def _take_all(self, file: Path, begin: int = 0) -> int:
        """Take in the whole lines of a file from byte `begin` on; where they end.

        Raises:
            MachineError: it cannot be read.
        """
        if not file.is_file():
            return begin
        try:
            with file.open("rb") as lines:
                lines.seek(begin)
                for line in lines:
                    if not line.endswith(b"\n"):  # being written, or was when a process ended
                        break
                    begin += len(line)
                    with suppress(ValueError):  # of a process that was killed, or a full disk
                        self._take(parse_json(line))
        except OSError as error:
            told = f"cannot read {file}, which tells what each mask was made with: {error.strerror}"
            raise MachineError(told, fix="Make it readable, or choose another folder.") from error
        return begin

    def _take(self, line: Any) -> None:
        match line:
            case {"begun": mask} | {"done": mask} | {"failed": mask} if not (
                self.journal.is_about(str(mask))
            ):
                pass
            case {"begun": str(mask), "alone": bool(alone)}:
                self.stale |= {mask} & self.done.keys()
                self.done.pop(mask, None)
                self.failed.pop(mask, None)
                self.begun.setdefault(mask, []).append(alone)
            case {"stopped": True}:
                for tries in self.begun.values():
                    tries.clear()
            case {"done": str(mask), "by": str(by), "image": str(image), "files": list(files)}:
                identity = line.get("bytes", 0), line.get("modified", 0)
                told = line.get("doubt")
                doubt = Doubt(*told) if isinstance(told, list) and len(told) == 2 else None
                self.done[mask] = Record(by, image, identity, frozenset(map(str, files)), doubt)
                self.begun.pop(mask, None)
                self.stale.discard(mask)
            case {"failed": str(mask), "message": str()}:
                self.begun.pop(mask, None)
                self.failed[mask] = line
            case {"by": str(by), "run": str(), "flags": dict(), "settings": dict()}:
                self.headers.pop(by, None)
                self.headers[by] = line

    @cached_property
    def owners(self) -> dict[str, str]:
        """The mask that each file belongs to, itself or what is beside it."""
        return {file: mask for mask, record in self.done.items() for file in record.files}

    def name(self, path: Path) -> str:
        """A file of the folder as lines name it."""
        return path.relative_to(self.folder).as_posix()

    def differences(self, by: str) -> list[str]:
        """What masks of this key were made with, where that is something else than now."""
        there = self.headers.get(by, {"run": "?", "settings": {}})
        here = self.header["settings"]
        pairs = {
            name: (there["settings"].get(name, "unknown"), here.get(name, "the default"))
            for name in {**here, **there["settings"]}
        }
        differ = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
        if "model" in differ:
            runs = there["run"], self.header["run"]
            old, new = (f"{r} ({key})" for r, key in zip(runs, differ["model"], strict=True))
            differ["model"] = old, new
        return [f"{name}: {old} there, {new} here" for name, (old, new) in differ.items()]

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Start, and keep out whoever would make masks here with something else, until the end.

        Several processes may work here with the same model and settings. Where the file system
        knows no locks, nobody is kept out.

        Yields:
            Whether others wrote since the manifest was read.

        Raises:
            MachineError: another process works here with something else, or the folder cannot be
                written.
        """
        with writing(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            file = self.file.open("ab+", buffering=0)
        with file:
            self.is_alone = lock(file) is not False
            if not self.is_alone:
                lock(file, shared=True)
            has_changed = self.read()
            if not self.is_alone:
                self._refuse_others()
            with writing(self.file):
                file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
                if file.read() not in {b"", b"\n"}:  # a line was left half written
                    file.write(b"\n")
            self._append(self.header)
            lock(file, shared=True)
            self.read()
            self._refuse_others()  # between the two locks another one may have come
            try:
                yield has_changed
            except BaseException:  # not killed: no image is to blame
                with suppress(MachineError):  # the disk may be full
                    self._append({"stopped": True})
                raise

    def _refuse_others(self) -> None:
        """Refuse to work beside those that were started last, if they make other masks."""
        if self.key != (last := next(reversed(self.headers), self.key)):
            raise MachineError(
                f"another prediction is at work in {self.folder}, with something else",
                self.differences(last),
                "Wait for it, stop it, or choose another folder with -o.",
            )

    def begin(self, job: Job, *, alone: bool = False) -> None:
        """Note that the image of a job is about to be read.

        Raises:
            MachineError: the folder cannot be written.
        """
        mask = self.name(job.mask)
        self._identities[mask] = identity_of(job.image)
        self._append({"begun": mask, "alone": alone})

    def tries(self, job: Job) -> int:
        """How often a process ended while it was at this image alone."""
        return self.begun.get(self.name(job.mask), []).count(True)

    def is_suspect(self, job: Job) -> bool:
        """Whether an image was begun and never ended; large ones may be stopped once in hours."""
        return len(self.begun.get(self.name(job.mask), ())) > job.is_large

    def end(self, job: Job, files: Sequence[Path], doubt: Doubt | None = None) -> None:
        """Note that all files of a job are written, and how much it needs a look, if known."""
        mask = self.name(job.mask)
        size, modified = self._identities.pop(mask)
        self._append(
            {"done": mask, "by": self.key, "image": str(job.image.absolute())}
            | {"bytes": size, "modified": modified, "files": [self.name(file) for file in files]}
            | ({"doubt": doubt} if doubt else {})
        )

    def fail(self, job: Job, error: UnetsegError, *, aside: bool = False) -> None:
        """Note why a job has no mask; put aside, it is not tried again before its image changes."""
        mask = self.name(job.mask)
        size, modified = self._identities.pop(mask, identity_of(job.image))
        identity = {"bytes": size, "modified": modified} if aside else {}
        self._append({"failed": mask} | failure_row(job.image, error) | identity)

    def put_aside(self, job: Job) -> ImageError | None:
        """Why a job is put aside, if it is and its image has not changed since."""
        row = self.failed.get(self.name(job.mask))
        if not row or (row.get("bytes"), row.get("modified")) != identity_of(job.image):
            return None
        parts = row["message"], row.get("offenders", ()), row.get("fix", "")
        return ImageError(*parts, code=row.get("code", ""), commands=row.get("commands", ()))

    def _append(self, line: Mapping[str, Any]) -> None:
        with self._lock:
            append_lines(self.file, [line])


def append_lines(file: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Add lines of JSON to a file, in one call: they are whole, but where the disk is full.

    Raises:
        MachineError: the file cannot be written.
    """
    if content := "".join(f"{json.dumps(line)}\n" for line in lines).encode():
        with writing(file), file.open("ab", buffering=0) as opened:
            opened.write(content)


def identity_of(image: Path) -> tuple[int, int]:
    """Bytes of an image's files, see `states_of`, and when the last was changed; zeros of none."""
    try:
        states = states_of(image)
    except OSError:
        return 0, 0
    return sum(one.st_size for one in states), max(one.st_mtime_ns for one in states)


def states_of(image: Path) -> list[os.stat_result]:
    """Of the file of an image, and of all that its pixels, gaps and place depend on too.

    Raises:
        OSError: there is no such image.
    """
    file = file_of(image)
    states = [file.stat()]
    for path in dict.fromkeys([*read_with(file), *companions(file).values()]):
        with suppress(OSError):  # it may be gone by now
            if not _is_of_viewers(path):
                states.append(path.stat())
    return states


def _is_of_viewers(path: Path) -> bool:
    """Whether an .aux.xml holds what viewers such as QGIS note, and nothing that an image is.

    That is histograms and statistics of bands.
    """
    if not path.name.lower().endswith(".aux.xml") or path.stat().st_size > LARGEST_BESIDE:
        return False
    content = path.read_bytes()
    try:
        root = ElementTree.fromstring(b"" if b"<!DOCTYPE" in content else content)
    except (ElementTree.ParseError, ValueError, LookupError):
        return False
    parts = [part for top in root for part in (top if top.tag == "PAMRasterBand" else [top])]
    keys = [entry.get("key", "") for part in parts if part.tag == "Metadata" for entry in part]
    return (
        root.tag == "PAMDataset"
        and {part.tag for part in parts} <= {"Histograms", "Metadata"}
        and all(key.startswith("STATISTICS_") for key in keys)
    )


def failure_row(image: Path, error: UnetsegError) -> dict[str, Any]:
    """A failure as JSON."""
    return {
        "image": str(image),
        "code": error.code,
        "message": error.summary,
        "offenders": error.offenders,
        "fix": error.fix,
        "commands": list(error.commands),
    }
