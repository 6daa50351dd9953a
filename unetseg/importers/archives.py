"""Archives of annotations, unpacked so that none can do harm.

All members are judged by their headers before one byte is written. `tarfile` (with its filter
"data") and `zipfile` then unpack: neither writes more bytes than a header announces, so the sum of
the headers is the one check of sizes.
"""

import bz2
import gzip
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import IO, Any, NamedTuple

from unetseg.data.pairs.naming import fold
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
LONGEST_HEADER = 2**20
"""Bytes that a tar's header may have; tarfile would read one of gigabytes into the memory."""

_OPENERS: dict[str, Callable[[Path], Any]] = {
    ".tar": lambda path: path.open("rb"),
    ".tar.gz": gzip.GzipFile,
    ".tgz": gzip.GzipFile,
    ".tar.bz2": bz2.BZ2File,
    ".tar.xz": lzma.LZMAFile,
}
SUFFIXES = (".zip", *_OPENERS)
_DAMAGE = (
    *(OSError, EOFError, ValueError, IndexError, KeyError, RuntimeError, NotImplementedError),
    *(struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError),
)
_FIX = "Download or copy it again; if you trust it, unpack it yourself, and give the folder."


class _Member(NamedTuple):
    """One entry of an archive: what its header says, and what writes it below a folder."""

    name: str
    size: int
    is_folder: bool
    is_ordinary: bool
    extract: Callable[[Path, str], object]
    """Takes the folder, and the name that the member gets below it."""

    @property
    def path(self) -> PureWindowsPath:
        """The name taken apart; backslashes count as slashes, as some programs write them."""
        return PureWindowsPath(self.name)


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
    above = beside.absolute().parent
    with _explained(source):
        above.mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(prefix=".unpacked-", dir=above)
    with folder as name:
        opened = _opened_zip(source) if suffix == ".zip" else _opened_tar(source, suffix)
        with _explained(source), opened as members:
            accepted = _accepted(source, members)
            needed, free = sum(one.size for one in accepted), shutil.disk_usage(name).free
            if needed > free:
                came = f"{printable(above)} has {free} bytes left; {needed} are needed"
                raise MachineError(came, fix="Free space, or name a folder OUT on another disk.")
            for member in accepted:
                with _explained(source, member.name):
                    member.extract(Path(name), "/".join(member.path.parts))
        yield Path(name)


def archive_suffix(path: Path) -> str | None:
    """The suffix by which a file is an archive, in lower case; None for anything else."""
    suffixes = (suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix))
    return next(suffixes, None) if path.is_file() else None


# What is refused


def _accepted(source: Path, members: Iterable[_Member]) -> list[_Member]:
    """The members but for the shadows that macOS packs beside files, and for the folder of all.

    Raises:
        DataError: any member is refused, or all together are too much.
    """
    packed = source.stat().st_size
    allowed = min(MOST_BYTES, max(HARMLESS_BYTES, MOST_EXPANSION * packed))
    kept: list[_Member] = []
    total = 0
    for member in members:
        kept.append(member)
        total += max(member.size, 0)
        if total > allowed or len(kept) > MOST_FILES:
            raise DataError(
                f"{printable(source)} is refused as a decompression bomb: it has {packed} bytes, "
                f"and the first {plural(len(kept), 'member')} of it {total} bytes when unpacked",
                fix=_FIX,
            )
    faults = [f"{m.name[:LONGEST_NAME]}: {fault}" for m in kept for fault in _faults(m)]
    kept = [
        member
        for member in kept
        if (parts := member.path.parts)
        and parts[0] != "__MACOSX"
        and not any(part.startswith("._") for part in parts)
    ]
    faults += _clashes([member for member in kept if len(member.name) <= LONGEST_NAME])
    if faults:
        summary = f"{printable(source)} is refused: {plural(len(faults), 'member')} could do harm"
        raise DataError(summary, [printable(fault) for fault in faults], _FIX)
    return kept


def _faults(member: _Member) -> Iterator[str]:
    """Why a member is refused."""
    if member.path.anchor or ".." in member.path.parts:
        yield "leads out of the folder"
    if "\0" in member.name or not (member.is_folder or member.path.parts):
        yield "has no proper name"
    if len(member.name) > LONGEST_NAME:
        yield f"has a name of {len(member.name)} characters"
    if member.size < 0:
        yield "has a negative size"
    if not member.is_ordinary:
        yield "is a link or no ordinary file"


def _clashes(members: Iterable[_Member]) -> Iterator[str]:
    """Files that would be written over one another, here or where case does not count."""
    paths = [(member.is_folder, PurePosixPath(*member.path.parts)) for member in members]
    files: dict[str, PurePosixPath] = {}
    for path in (path for is_folder, path in paths if not is_folder):
        other = files.setdefault(fold(str(path)), path)
        if other is not path:
            alike = "is there twice" if other == path else f"differs only in case from {other}"
            yield f"{path}: {alike}"
    for is_folder, path in paths:
        folders = [*path.parents, *([path] if is_folder else [])]
        names = (fold(str(folder)) for folder in folders)
        yield from (f"{path}: {files[name]} is a file" for name in names if name in files)


# What archives say they hold


def _name(info: zipfile.ZipInfo) -> str:
    """The name of a member; of UTF-8 also where, as macOS packs, nothing says so."""
    if info.flag_bits & 0x800:
        return info.orig_filename
    try:
        return info.orig_filename.encode("cp437").decode()
    except UnicodeError:
        return info.orig_filename


@contextmanager
def _opened_zip(source: Path) -> Iterator[Iterable[_Member]]:
    with zipfile.ZipFile(source) as archive:

        def extract(info: zipfile.ZipInfo, folder: Path, name: str) -> None:
            info.filename = f"{name}/" if info.is_dir() else name
            archive.extract(info, folder)

        ordinary = {0, stat.S_IFREG, stat.S_IFDIR}  # 0 where it was not made under Unix
        yield [
            _Member(
                _name(info),
                info.file_size,
                info.is_dir(),
                stat.S_IFMT(info.external_attr >> 16) in ordinary,
                partial(extract, info),
            )
            for info in archive.infolist()
        ]


@contextmanager
def _opened_tar(source: Path, suffix: str) -> Iterator[Iterable[_Member]]:
    with _OPENERS[suffix](source) as packed:
        guarded: Any = _Guarded(packed)
        with tarfile.TarFile.taropen(str(source), "r", guarded) as archive:
            yield _tar_members(archive, packed)


def _tar_members(archive: tarfile.TarFile, packed: IO[bytes]) -> Iterator[_Member]:
    """The members, one by one, so that a bomb is noticed before it is unpacked to its end."""

    def extract(info: tarfile.TarInfo, folder: Path, name: str) -> None:
        info.name = name
        archive.extract(info, folder, filter="data")

    while (info := archive.next()) is not None:
        is_ordinary = info.isdir() or info.isreg()
        yield _Member(info.name, info.size, info.isdir(), is_ordinary, partial(extract, info))
    packed.seek(archive.offset)  # tarfile takes a damaged header for the end
    if packed.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"there is no header at byte {archive.offset}")


class _Guarded:
    """The bytes of a tar, of which none may be asked for by the million at once."""

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed = packed
        self.seek = packed.seek
        self.tell = packed.tell

    def read(self, size: int) -> bytes:
        if size > LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._packed.read(size)


@contextmanager
def _explained(source: Path, member: str = "") -> Iterator[None]:
    """Turn what the system and the libraries say about a broken archive into an answer."""
    what = printable(f"{source}: {member}" if member else source)
    try:
        yield
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.strerror:
            fix = "Free space, or name another OUT."
            raise MachineError(f"cannot unpack {what}: {error.strerror}", fix=fix) from error
        reason = printable(" ".join(str(error).split())) or type(error).__name__
        raise DataError(f"{what} cannot be unpacked: {reason}", fix=_FIX) from error
