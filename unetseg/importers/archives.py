"""Archives of annotations, unpacked so that none can do harm.

Everything is judged by the headers before one byte is written: members that would leave the folder
(`..`, absolute paths, drive letters), links, devices, names that are there twice or that some file
systems take for the same, encryption, and archives that swell beyond all measure. What is written
is counted once more, since headers may lie.
"""

import bz2
import gzip
import lzma
import re
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from unetseg.errors import DataError, MachineError
from unetseg.text import plural, printable

MOST_FILES = 1_000_000
"""Files that an archive may hold."""
MOST_BYTES = 2**40
"""Bytes that its files may have together."""
HARMLESS_BYTES = 2**30
"""Up to so many bytes an archive may hold whatever its own size is; beyond that …"""
MOST_EXPANSION = 100
"""… at most this many times its own size."""
LONGEST_NAME = 1000
"""Characters of a member's name with its folders; systems take 4096 bytes for a whole path."""

_OPENERS: dict[str, Callable[[Path], Any]] = {
    ".tar": lambda path: path.open("rb"),
    ".tar.gz": gzip.GzipFile,
    ".tgz": gzip.GzipFile,
    ".tar.bz2": bz2.BZ2File,
    ".tar.xz": lzma.LZMAFile,
}
SUFFIXES = (".zip", *_OPENERS)
_CHUNK = 2**20  # bytes copied at once, and the most that a tar header may be long
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
_ENCRYPTED = 0x1  # the flag in a zip's header
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    IndexError,
    KeyError,
    RuntimeError,
    NotImplementedError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
)
_FIX = "If you trust it, unpack it yourself, and give the folder instead."


@dataclass(frozen=True)
class _Member:
    """One entry of an archive: its name as it stands there, and what it is."""

    name: str
    size: int
    kind: str
    """file, folder, or in words what it is instead."""
    header: Any
    """By which the archive opens it."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the name; backslashes count as slashes, as some programs write them."""
        return tuple(part for part in re.split(r"[/\\]", self.name) if part not in {"", "."})

    @property
    def is_shadow(self) -> bool:
        """Whether it is one of the shadows that macOS packs beside files."""
        return "__MACOSX" in self.parts[:1] or any(p.startswith("._") for p in self.parts)


_Opened = tuple[Iterable[_Member], Callable[[_Member], IO[bytes]]]
"""The members of an archive, and what opens one of them."""


@contextmanager
def unpacked(source: Path, beside: Path) -> Iterator[Path]:
    """Yield `source`, or, if it is an archive, a temporary folder with its files.

    Args:
        source: A folder, a file, or a .zip, .tar, .tar.gz, .tgz, .tar.bz2 or .tar.xz.
        beside: The temporary folder stands in the folder of this path.

    Raises:
        DataError: the archive is damaged, encrypted, or holds what is refused; all members listed.
        MachineError: there is no room for the files.
    """
    suffix = archive_suffix(source)
    if suffix is None:
        yield source
        return
    with ExitStack() as stack:
        yield _unpack(source, suffix, beside, stack)


def archive_suffix(path: Path) -> str | None:
    """The suffix by which a file is an archive, in lower case; None for anything else."""
    name = path.name.lower()
    found = [suffix for suffix in SUFFIXES if name.endswith(suffix)]
    return found[0] if found and path.is_file() else None


def _unpack(source: Path, suffix: str, beside: Path, stack: ExitStack) -> Path:
    """Write the files of an archive to a folder that `stack` removes."""
    opened = _opened_zip(source) if suffix == ".zip" else _opened_tar(source, suffix)
    with _explained(source), opened as (members, read):
        wanted = _judged(source, members)
        folder = stack.enter_context(_temporary(beside, sum(member.size for member in wanted)))
        for member in wanted:
            if member.kind == "folder":
                _make(folder.joinpath(*member.parts))
                continue
            with read(member) as stream:
                _write(stream, folder.joinpath(*member.parts), member.size)
    return folder


# What archives say they hold


@contextmanager
def _opened_zip(source: Path) -> Iterator[_Opened]:
    with zipfile.ZipFile(source) as archive:
        members = (_zip_member(info) for info in archive.infolist())
        yield members, lambda member: archive.open(member.header)


def _zip_member(info: zipfile.ZipInfo) -> _Member:
    mode = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was not made under Unix
    kind = "folder" if info.is_dir() else "file"
    if info.flag_bits & _ENCRYPTED:
        kind = "is encrypted"
    elif mode not in {0, stat.S_IFREG, stat.S_IFDIR}:
        kind = "is a link" if mode == stat.S_IFLNK else "is no ordinary file"
    elif info.compress_type not in _METHODS:
        kind = f"is packed by the unknown method {info.compress_type}"
    return _Member(info.orig_filename, info.file_size, kind, info)


@contextmanager
def _opened_tar(source: Path, suffix: str) -> Iterator[_Opened]:
    with _OPENERS[suffix](source) as packed:
        guarded: Any = _Guarded(packed)
        with tarfile.TarFile.taropen(str(source), "r", guarded) as archive:
            yield _tar_members(archive, packed), lambda member: _tar_stream(archive, member)


def _tar_members(archive: tarfile.TarFile, packed: IO[bytes]) -> Iterator[_Member]:
    """The members, one by one, so that a bomb is noticed before it is unpacked to its end."""
    while (info := archive.next()) is not None:
        yield _tar_member(info)
    packed.seek(archive.offset)
    if packed.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"there is no header at byte {archive.offset}")


def _tar_member(info: tarfile.TarInfo) -> _Member:
    kind = "folder" if info.isdir() else "file"
    if info.issym() or info.islnk():
        kind = "is a link"
    elif not (info.isdir() or info.isreg()) or info.issparse():
        kind = "is no ordinary file"
    return _Member(info.name, info.size, kind, info)


def _tar_stream(archive: tarfile.TarFile, member: _Member) -> IO[bytes]:
    stream = archive.extractfile(member.header)
    if stream is None:
        raise tarfile.ReadError(f"{member.name} is no file")
    return stream


class _Guarded:
    """The bytes of a tar, of which none may be asked for by the million at once.

    tarfile reads long headers whole; a header of gigabytes would fill the memory.
    """

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed = packed
        self.seek = packed.seek
        self.tell = packed.tell

    def read(self, size: int) -> bytes:
        """The next `size` bytes.

        Raises:
            ReadError: they are more than any header needs.
        """
        if size > _CHUNK:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._packed.read(size)


# What is refused


def _judged(source: Path, members: Iterable[_Member]) -> list[_Member]:
    """The files and folders to write.

    Raises:
        DataError: any member is refused, or all together are too much.
    """
    allowed = min(MOST_BYTES, max(HARMLESS_BYTES, MOST_EXPANSION * source.stat().st_size))
    kept: list[_Member] = []
    total = 0
    for member in members:
        kept.append(member)
        total += max(member.size, 0)
        if total > allowed or len(kept) > MOST_FILES:
            raise _bomb(source, len(kept), total)
    faults = [f"{m.name[:LONGEST_NAME]}: {fault}" for m in kept for fault in _faults(m)]
    wanted = [m for m in kept if not m.is_shadow and len(m.name) <= LONGEST_NAME]
    faults += _clashes(wanted)
    if faults:
        summary = f"{printable(source)} is refused: {plural(len(faults), 'member')} could do harm"
        raise DataError(summary, [printable(fault) for fault in faults], _FIX)
    return wanted


def _bomb(source: Path, files: int, total: int) -> DataError:
    size = source.stat().st_size
    return DataError(
        f"{printable(source)} is refused as a decompression bomb: it has {size} bytes, and the "
        f"first {plural(files, 'member')} of it {total} bytes when unpacked",
        fix=_FIX,
    )


def _faults(member: _Member) -> Iterator[str]:
    """Why a member is refused."""
    if re.match(r"[/\\]", member.name):
        yield "has an absolute path"
    if re.match(r"[A-Za-z]:", member.name):
        yield "has a drive letter"
    if ".." in member.parts:
        yield "leads out of the folder"
    if "\0" in member.name or (member.kind == "file" and not member.parts):
        yield "has no proper name"
    if len(member.name) > LONGEST_NAME:
        yield f"has a name of {len(member.name)} characters"
    if member.size < 0:
        yield "has a negative size"
    if member.kind not in {"file", "folder"}:
        yield member.kind


def _clashes(members: Sequence[_Member]) -> Iterator[str]:
    """Files that would be written over one another, here or where case does not count."""
    names: dict[str, str] = {}
    for member in members:
        if member.kind == "folder":
            continue
        name = "/".join(member.parts)
        other = names.setdefault(_folded(name), name)
        if other is not name:
            alike = "is there twice" if other == name else f"differs only in case from {other}"
            yield f"{name}: {alike}"
    for member in members:
        name = "/".join(member.parts)
        above = (parent.as_posix() for parent in Path(name).parents)
        folders = chain(above, [name] if member.kind == "folder" else [])
        yield from (f"{name}: {names[p]} is a file" for p in map(_folded, folders) if p in names)


def _folded(name: str) -> str:
    """The name as file systems see it that ignore case and Unicode form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


# Writing


@contextmanager
def _temporary(beside: Path, size: int) -> Iterator[Path]:
    """A folder beside `beside` that is removed afterwards, with room for `size` bytes."""
    above = beside.absolute().parent
    try:
        above.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(above).free
        folder = TemporaryDirectory(prefix=".unpacked-", dir=above)
    except OSError as error:
        raise _cannot_write(above, error) from error
    with folder as name:
        if size > free:
            fix = "Free space, or name a folder OUT on another disk."
            raise MachineError(
                f"{printable(above)} has {free} bytes left; {size} are needed", fix=fix
            )
        yield Path(name)


def _write(stream: IO[bytes], path: Path, size: int) -> None:
    """Write what `stream` holds, which is `size` bytes and no more."""
    left = size
    _make(path.parent)
    try:
        file = path.open("xb")
    except OSError as error:
        raise _cannot_write(path, error) from error
    with file:
        while chunk := stream.read(_CHUNK):
            left -= len(chunk)
            if left < 0:
                raise ValueError(f"{path.name} holds more than the {size} bytes it announces")
            try:
                file.write(chunk)
            except OSError as error:
                raise _cannot_write(path, error) from error
    if left:
        raise ValueError(f"{path.name} holds {left} bytes less than it announces")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _cannot_write(path: Path, error: OSError) -> MachineError:
    reason = error.strerror or str(error)
    return MachineError(
        f"cannot write {printable(path)}: {reason}", fix="Free space, or name another OUT."
    )


@contextmanager
def _explained(source: Path) -> Iterator[None]:
    """Turn what the libraries say about a broken archive into an answer."""
    try:
        yield
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{printable(source)} cannot be unpacked: {printable(reason)}",
            fix="Download or copy it again.",
        ) from error
