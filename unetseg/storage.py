"""Files that are whole or not there: atomic writes and run folders."""

import csv
import errno
import json
import math
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from hashlib import blake2b, file_digest
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from unetseg.errors import ConfigError, MachineError

NAME = re.compile(r"[\w.+\udc80-\udcff][\w.+\udc80-\udcff -]*")
"""A name for a run folder; the last range are bytes that are no characters here."""
TEMPORARY = re.compile(r"\..*-[0-9a-f]{16}(\.\w+)?")
"""What `atomic_path` calls its files."""
UNBEGUN = re.compile(
    r"config\.yaml|(data|env|plan|splits)\.json|log\.jsonl|previews"
    rf"|\.(lock|owner|decoded|model-new).*|{TEMPORARY.pattern}"
)
"""What a training writes before it has learned something."""
FORMULA = re.compile(r"'*[-+=@\t\r]")
"""How text begins that a spreadsheet computes, also where ' already stands before it."""
NUMBER = re.compile(r"[-+]?([\d.]+(e[-+]?\d+)?|inf)")
"""A number begins so too, and may be computed."""

_is_kept = ContextVar("_is_kept", default=True)


@contextmanager
def not_kept() -> Iterator[None]:
    """What is written within need not outlast a loss of power: nobody waits for the disk."""
    before = _is_kept.set(False)
    try:
        yield
    finally:
        _is_kept.reset(before)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`.

    The temporary file keeps the suffix, so that writers which look at it still work. On any error
    it is removed and `path` keeps what it held.

    Raises:
        MachineError: the folder cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{path.stem[:40]}-{os.urandom(8).hex()}{path.suffix}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)  # with the rights that the user gives to new files
    try:
        with writing(path):
            yield temporary
            if not _is_kept.get():
                temporary.replace(path)
                return
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Let what was renamed in `folder` outlast a loss of power, where the system can."""
    if os.name == "nt":  # keeps its folders by itself, and opens none
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # not every file system can
            raise
    finally:
        os.close(handle)


def remove_leftovers(folder: Path, of: Collection[Path] | None = None) -> None:
    """Clear away what `atomic_path` and `replace_folder` left in `folder` when they were killed.

    Nobody else may write there. With `of`, that of these files alone.
    """
    begins = None if of is None else {f".{path.stem[:40]}" for path in of}
    for path in folder.iterdir():
        if TEMPORARY.fullmatch(path.name):
            if begins is None or path.name.rpartition("-")[0] in begins:
                path.unlink(missing_ok=True)
        elif of is None and path.name.startswith(".") and path.name.endswith("-old"):
            _bring_back(path, folder / path.name[1:].removesuffix("-old"))


def _bring_back(old: Path, folder: Path) -> None:
    """Undo the first of the two renames of `replace_folder`, where the second did not come."""
    if old.exists() and not folder.exists():
        old.replace(folder)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says against writing `path` into an answer.

    Raises:
        MachineError: the folder cannot be written, or the disk is full.
    """
    try:
        yield
    except OSError as error:
        raise _cannot_write(path, error) from error


def refuse_read_only(folder: Path) -> None:
    """Write something in `folder`, or where it would be made, and take it away again.

    Raises:
        MachineError: that is not possible.
    """
    with writing(folder):
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with TemporaryFile(dir=there):
            pass


def is_file(path: Path | str) -> bool:
    """Whether a file is there; False too where its name is too long, or hidden."""
    return os.path.isfile(path)  # noqa: PTH113 (which raises)


def is_folder(path: Path | str) -> bool:
    """Whether a folder is there; False too where its name is too long, or hidden."""
    return os.path.isdir(path)  # noqa: PTH112 (which raises)


def nearest_folder(path: Path) -> Path:
    """`path`, or the nearest above it that is a folder."""
    above = (path, *path.absolute().parents)
    return next(one for one in above if is_folder(one))


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; on success it takes the place of `folder`.

    Raises:
        MachineError: `folder` is a mount, or cannot be written.
    """
    if os.path.ismount(folder):
        fix = f"Name a folder in it, such as {folder / 'new'}."
        raise MachineError(f"{folder} is a mount, in whose place no folder can be put", fix=fix)
    fresh, old = (folder.with_name(f".{folder.name}-{state}") for state in ("new", "old"))
    _bring_back(old, folder)
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with writing(folder):
            fresh.mkdir(parents=True)
            yield fresh
            if folder.exists():
                folder.replace(old)
            fresh.replace(folder)
            sync_folder(folder.parent)
    finally:
        _bring_back(old, folder)
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all; bytes in names of files stay bytes."""
    write_bytes(path, text.encode(errors="surrogateescape"))


def write_json(path: Path, value: object) -> None:
    """Write `value` to `path` as indented JSON, whole or not at all; see `json_value`."""
    text = json.dumps(json_value(value), indent=2, ensure_ascii=False, default=str)
    write_bytes(path, (text + "\n").encode(errors="backslashreplace"))  # "\udcfc" is JSON too


def write_csv(
    path: Path, rows: Iterable[Mapping[str, object]], columns: Sequence[str] = ()
) -> None:
    """Write `rows` under the names of `columns`, or the first one's, whole or not at all.

    Text that a spreadsheet would compute, such as the name of a file `=1+1.png`, has a ' before it,
    which `read_csv` takes away.
    """
    rows = iter(rows)
    head = [] if columns else [next(rows)]
    columns = columns or list(head[0])
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as text,
    ):
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writerow({name: _not_computed(name) for name in columns})
        for row in chain(head, rows):
            writer.writerow({name: _not_computed(cell) for name, cell in row.items()})


def read_csv(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a table that `write_csv` wrote, one after the other."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as text:
        for row in csv.DictReader(text):
            yield {_as_given(str(name)): _as_given(str(cell)) for name, cell in row.items()}


def _not_computed(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and _is_formula(cell) else cell


def _as_given(text: str) -> str:
    return text[1:] if text.startswith("'") and _is_formula(text[1:]) else text


def _is_formula(text: str) -> bool:
    return bool(FORMULA.match(text)) and not NUMBER.fullmatch(text)


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none."""
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def json_object(content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` with each entry as JSON can hold it, see `json_value`."""
    return {name: json_value(entry) for name, entry in content.items()}


def json_value(value: Any) -> Any:
    """`value` as JSON can hold it: null for numbers that are not finite, lists for tuples.

    >>> json_value({"dice": (0.5, float("nan"))})
    {'dice': [0.5, None]}
    """
    if isinstance(value, Mapping):
        return json_object(value)
    if isinstance(value, list | tuple):
        return [json_value(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def content_hash(*paths: Path) -> str:
    """BLAKE2b-128 of the bytes of `paths` in order, as 32 hexadecimal digits."""
    digest = blake2b(digest_size=16)
    for path in paths:
        with path.open("rb") as file:
            file_digest(file, lambda: digest)
    return digest.hexdigest()


def new_run_folder(out: Path, name: str | None) -> Path:
    """Create and return `out/name`; without a name, `out/<date-time>`, unique even in one second.

    A folder in which a training ended before it had learned something is taken again.

    Raises:
        ConfigError: `name` is no name for a folder.
        MachineError: `out/name` holds a run already, or `out` cannot be written.
    """
    stem = name or datetime.now().strftime("%Y%m%d-%H%M%S")
    if not NAME.fullmatch(stem) or stem in {".", ".."}:
        raise ConfigError(f"--name {stem!r} is no name for a folder: use letters, digits, - and _")
    for attempt in range(1000):
        folder = out / (stem if not attempt else f"{stem}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not name:
                continue
            with writing(folder):  # it may be another user's
                is_taken = not folder.is_dir() or has_begun(folder) or _is_of_others(folder)
            if is_taken:
                goes_on = any(is_file(folder / state) for state in ("last.pt", "started.json"))
                fix = f"Give another --name{', or go on with it by --resume' if goes_on else ''}."
                raise MachineError(f"{folder} holds a run already", fix=fix) from None
            return folder
        except OSError as error:
            raise _cannot_write(folder, error) from error
        else:
            return folder
    raise MachineError(f"{out} holds a thousand runs called {stem}")


def has_begun(folder: Path) -> bool:
    """Whether `folder` holds more than a training leaves that has learned nothing."""
    return any(not UNBEGUN.fullmatch(path.name) for path in folder.iterdir())


def _is_of_others(folder: Path) -> bool:
    """Whether it holds something, and no training was ever there: each leaves its lock."""
    names = {path.name for path in folder.iterdir()}
    return bool(names) and ".lock" not in names


def latest_run(out: Path, *, of_folds: bool = False) -> Path | None:
    """The run folder in `out` whose resume state was written last, or None.

    One of a single training, or `of_folds`, whose states lie a level deeper.
    """
    pattern, level = ("*/fold_*/last.pt", 1) if of_folds else ("*/last.pt", 0)
    states = sorted(out.glob(pattern), key=lambda state: state.stat().st_mtime)
    return states[-1].parents[level] if states else None


def _cannot_write(path: Path, error: OSError) -> MachineError:
    reason = error.strerror or str(error)
    return MachineError(
        f"cannot write {path}: {reason}", fix="Free space or choose another folder."
    )
