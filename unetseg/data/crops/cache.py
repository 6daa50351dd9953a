"""Decoded pairs kept between epochs: in memory, in one file on disk, or nowhere.

A crop is the same wherever its pair is kept; only the time it takes differs.
"""

import os
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from shutil import disk_usage
from threading import Lock
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unetseg.data.crops.reader import DecodedPair, PairReader
from unetseg.data.facts.survey import Survey
from unetseg.errors import ConfigError, MachineError, OutOfMemoryError
from unetseg.progress import SILENT, Progress
from unetseg.resources import host_memory
from unetseg.storage import writing

KEPT_SHARE = 0.3
"""Share of the free memory that the decoded pairs of all splits together may take."""
MOST_SHARE = 0.8
"""The same where memory was asked for: the network needs some too."""
ROOM = 2
"""Free room on the disk before the file is written, relative to the file."""
READING_SPEED = 500e6
"""Bytes per second that a disk gives; files that are decoded faster are not worth a copy."""
SAMPLE_PAIRS = 4
"""Pairs that are decoded to learn how fast that is."""
FORKS = sys.platform == "linux"
"""Whether the processes that load crops are forked: they then share what this one has open."""

_ALIGNMENT = 64  # bytes; where an array begins in the file

Place = Literal["memory", "disk", "none"]


@dataclass(frozen=True)
class CacheChoice:
    """Where decoded pairs are kept, and why."""

    place: Place
    reason: str


def read_split(
    known: Survey,
    split: str,
    bands: int,
    place: str,
    folder: Path | None = None,
    progress: Progress = SILENT,
) -> PairReader:
    """The reader of a split, with its pairs decoded and kept in a place.

    Large TIFFs stay as they are.

    Args:
        known: The pairs and their facts.
        split: train, val or test.
        bands: Bands that every image must have.
        place: memory, disk or none, see `choose_cache`.
        folder: Where the file on the disk is written, with no other training writing there.
        progress: Hears of each decoded pair.

    Raises:
        MachineError: the disk cannot be written.
        DataError: a file cannot be read.
    """
    limit, facts = known.config.max_pixels, known.facts_of(split)
    large = [fact.image.is_large or fact.has_large_mask for fact in facts]
    small = (index for index, is_large in enumerate(large) if not is_large)
    reader = PairReader(known.select(split), known.class_map, bands, limit, small)
    if place == "memory":
        reader.keep(progress=progress)
    elif place == "disk" and folder is not None:
        reader.keep(decoded_file(folder, split), progress)
    return reader


def choose_cache(
    known: Survey,
    bands: int,
    cache: str = "auto",
    folder: Path | None = None,
    splits: Sequence[str] = ("train", "val"),
    copies: int = 1,
) -> CacheChoice:
    """Where the decoded pairs of all `splits` together are kept, by so many processes each.

    Without a wish: in memory while they take a small part of what is free; else on the disk of
    `folder` when it has twice the room and the files take longer to decode than to read raw.

    Raises:
        OutOfMemoryError: memory was asked for, and does not hold them.
        MachineError: the disk was asked for, and does not hold them.
        ConfigError: the disk was asked for without a folder.
    """
    if cache == "none":
        return CacheChoice("none", "as set")
    pairs = chain.from_iterable(map(known.select, splits))
    wholes = [pair for pair in pairs if not known.facts[pair.name].is_windowed]
    pixels = sum(known.facts[pair.name].image.pixels for pair in wholes)
    size = copies * pixels * pixel_bytes(known, bands)
    if cache != "auto":
        return _as_asked(cache, size, folder)
    share = size / host_memory()
    if share < KEPT_SHARE:
        return CacheChoice("memory", f"decoded they take {_bytes(size)}, {share:.1%} of the free")
    too_much = f"decoded they take {_bytes(size)}, {share:.0%} of the free memory"
    room = 0 if folder is None else disk_usage(folder).free
    if room < ROOM * size:
        return CacheChoice("none", f"{too_much}; the disk has {_bytes(room)} free")
    speed = decoding_speed(PairReader(wholes, known.class_map, bands, known.config.max_pixels))
    told = f"{too_much}; they are decoded at {_bytes(speed)}/s"
    return CacheChoice("disk" if speed < READING_SPEED else "none", told)


def pixel_bytes(known: Survey, bands: int) -> int:
    """Bytes of a decoded pixel and its class."""
    with_gaps = any(fact.image.nodata_share for fact in known.facts.values())
    return (bands + with_gaps) * np.dtype(known.dtype).itemsize + 1


def decoding_speed(reader: PairReader) -> float:
    """Decoded bytes per second of a few pairs, in one thread; inf where there are none."""
    some = range(len(reader))[:: max(1, len(reader) // SAMPLE_PAIRS)][:SAMPLE_PAIRS]
    began = time.perf_counter()
    size = sum(array.nbytes for index in some for array in reader.decode(index))
    return size / (time.perf_counter() - began) if size else float("inf")


Spot = tuple[int, tuple[int, ...], str]
"""Where an array begins in the file, bytes; its shape and its number type."""


class DecodedFile:
    """Decoded pairs in one file of raw arrays, mapped into memory; a `PairStore`.

    What is where in the file is known to this object alone, so that nobody else can take the file
    for whole. Create it with `decoded_file`.

    Args:
        path: The file.
        spots: Where image and mask of each pair are, when the file is written already.
    """

    def __init__(self, path: Path, spots: Mapping[int, tuple[Spot, Spot]] | None = None) -> None:
        self.path = path
        self._file = path.open("r+b", buffering=0)
        self._spots = dict(spots or {})
        self._map: NDArray[np.uint8] | None = None
        self._end = 0
        self._lock = Lock()
        self._release = weakref.finalize(self, self._file.close)

    def __setitem__(self, index: int, pair: DecodedPair) -> None:
        spots: list[Spot] = []
        # Written, not assigned to a map: a full disk is an error then, and no end of the process.
        with self._lock, writing(self.path):
            for array in pair:
                spots.append((self._end, array.shape, array.dtype.str))
                self._file.seek(self._end)
                rest = np.ascontiguousarray(array).data.cast("B")
                while rest:
                    rest = rest[self._file.write(rest) :]
                self._end += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
            self._map = None
        self._spots[index] = spots[0], spots[1]

    def get(self, index: int) -> DecodedPair | None:
        """The pair as arrays that lie in the file, if it is kept; read when they are looked at."""
        if index not in self._spots:
            return None
        with self._lock:
            if self._map is None:
                self._map = np.memmap(self._file, np.uint8, "r+")
        image, mask = (
            np.ndarray(shape, dtype, self._map, begin) for begin, shape, dtype in self._spots[index]
        )
        return image, mask

    def clear(self) -> None:
        """Forget all pairs; the file goes as soon as no array of it is in use."""
        self._spots = {}
        self._map = None
        self._release()
        _remove(self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        """For a process that is not forked from this one: it opens the file by its name."""
        return DecodedFile, (self.path, self._spots)


def decoded_file(folder: Path, split: str) -> DecodedFile:
    """An empty file for the decoded pairs of a split, which leaves no trace.

    Where the processes that load crops are forked, the file loses its name at once: the system
    gives the room back when the last process that has it open ends, however that comes. Elsewhere
    it has a hidden name until it is cleared or this process ends; what a crash leaves is removed
    by the next training in that folder.

    Args:
        folder: Where the file is written, with no other training writing there.
        split: Part of its name.

    Raises:
        MachineError: the folder cannot be written.
    """
    prefix = f".decoded-{split}-"
    with writing(folder / f"{prefix}*"):
        for leftover in folder.glob(f"{prefix}*"):
            _remove(leftover)
        handle, name = tempfile.mkstemp(prefix=prefix, dir=folder)
        os.close(handle)
        file = DecodedFile(Path(name))
        if FORKS:
            file.path.unlink()
        else:
            weakref.finalize(file, _remove, file.path)
    return file


def _remove(path: Path) -> None:
    # Windows keeps a file that is mapped somewhere; then the next training removes it.
    with suppress(PermissionError):
        path.unlink(missing_ok=True)


def _as_asked(cache: str, size: int, folder: Path | None) -> CacheChoice:
    """Memory or disk, as it was asked for, or a refusal where it does not hold so many bytes."""
    told = f"decoded the images take {_bytes(size)}, and"
    if cache == "memory":
        free = host_memory()
        if size > MOST_SHARE * free:
            fix = "Choose --cache disk, or --cache none."
            raise OutOfMemoryError(f"{told} {_bytes(free)} of memory are free", fix=fix)
        share = f"{size / free:.0%} of the free memory"
        return CacheChoice("memory", f"as set: {_bytes(size)}, {share}")
    if folder is None:
        told = "--cache disk needs a run folder, and one process alone"
        raise ConfigError(told, fix="Choose --cache memory or none.")
    free = disk_usage(folder).free
    if size > free:
        fix = "Choose --cache none, or --out on another disk."
        raise MachineError(f"{told} {_bytes(free)} are free on the disk of {folder}", fix=fix)
    return CacheChoice("disk", f"as set: {_bytes(size)}, {_bytes(free)} are free")


def _bytes(size: float) -> str:
    """A number of bytes for people: 512 MB, 3.2 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
