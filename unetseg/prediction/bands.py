"""Finished bands of a large image, on disk until its mask is written.

They lie in a hidden folder beside the mask, `.NAME.bands/`: one compressed file for each band, and
job.json, which says what they belong to. A prediction that was killed goes on from the first band
that is not there; bands of another image, model or setting are thrown away. The mask is written
there too, and moved to its place when it is whole.
"""

import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetseg.bundle import BundleInfo
from unetseg.errors import MachineError
from unetseg.locks import locked
from unetseg.prediction.postprocess import steps
from unetseg.prediction.stream import Band
from unetseg.storage import (
    atomic_path,
    json_value,
    parse_json,
    write_bytes,
    write_json,
    writing,
)

FORMAT = 1
"""Version of these folders; another one is not gone on with."""
LEVEL = 1
"""Of zlib: classes are small at any level, and probabilities at none."""


class BandStore:
    """The bands of one image that are done.

    Args:
        mask: The file that the bands are for.
        job: Everything that the result depends on, as JSON.
        spans: First row of each band, and the first below it.
        width: Pixels of the image.
        classes: K, where probabilities are kept too; 1: those of the classes that pixels have; else
            0.

    Raises:
        MachineError: the folder cannot be written.
    """

    def __init__(
        self,
        mask: Path,
        job: Mapping[str, Any],
        spans: Sequence[tuple[int, int]],
        width: int,
        classes: int = 0,
    ) -> None:
        self.folder = bands_folder(mask)
        self.spans = spans
        self.width = width
        self.classes = classes
        self._kind = "classes"
        self._recent = lru_cache(2)(self._load)  # neighbours share rows of outlines
        self._keep(json_value({"format": FORMAT, "spans": spans, "probabilities": classes, **job}))

    def _keep(self, job: Any) -> None:
        """Keep the bands of the same job, and no others."""
        file = self.folder / "job.json"
        try:
            before = parse_json(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = None
        kept = {".lock", ".owner"}
        if before == job:
            bands = product(range(len(self.spans)), ("classes", "probabilities"))
            kept |= {"job.json", *(self._file(*band).name for band in bands)}
        with writing(self.folder):  # what a killed process left half written goes, too
            for entry in self.folder.glob("*"):
                if entry.name not in kept:
                    entry.unlink()
        if before != job:
            write_json(file, job)

    @property
    def finished(self) -> int:
        """How many bands are there, from the top on without a gap."""
        gaps = (at for at in range(len(self.spans)) if not self._file(at, "classes").is_file())
        return next(gaps, len(self.spans))

    def save(self, band: Band) -> None:
        """Keep a band, with its probabilities if those are kept.

        Raises:
            MachineError: the disk is full.
        """
        if self.classes:
            packer = zlib.compressobj(LEVEL)
            path = self._file(band.number, "probabilities")
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                top = 0
                for piece in band.probabilities:
                    if self.classes == 1:
                        piece = certainty(band.index[top : top + len(piece)], piece)
                        top += len(piece)
                    file.write(packer.compress(np.ascontiguousarray(piece).data))
                file.write(packer.flush())
        # The classes come last: a band is there when they are.
        content = zlib.compress(np.ascontiguousarray(band.index).data, LEVEL)
        write_bytes(self._file(band.number, "classes"), content)

    def clean(self, info: BundleInfo) -> None:
        """Apply the rules of a bundle, once all bands are done.

        Raises:
            MachineError: the disk is full.
        """
        for done, step in enumerate(steps(info)):
            rows = step(self.index, self.spans)
            for number, span in enumerate(self.spans):
                content = zlib.compress(np.ascontiguousarray(rows(*span)).data, LEVEL)
                write_bytes(self._file(number, f"cleaned{done}"), content)
            for number in range(len(self.spans) if done else 0):
                self._file(number, self._kind).unlink()
            self._kind = f"cleaned{done}"

    def index(self, top: int, bottom: int) -> NDArray[np.uint8]:
        """Class indexes rows×W of the rows `top` … `bottom`, those outside the image left out."""
        return self._rows(self._kind, top, bottom)

    def probabilities(self, top: int, bottom: int) -> NDArray[np.float32]:
        """Probabilities of these rows, rows×W×K."""
        return self._rows("probabilities", top, bottom)

    def certainty(self, top: int, bottom: int) -> NDArray[np.float32]:
        """How likely the classes are that the pixels of these rows have, rows×W."""
        return certainty(self.index(top, bottom), self.probabilities(top, bottom))

    def _rows(self, kind: str, top: int, bottom: int) -> NDArray[Any]:
        parts = [
            self._recent(kind, number)[max(0, top - first) : bottom - first]
            for number, (first, end) in enumerate(self.spans)
            if first < bottom and end > top
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _load(self, kind: str, number: int) -> NDArray[Any]:
        first, end = self.spans[number]
        path = self._file(number, kind)
        try:
            content = zlib.decompress(path.read_bytes())
        except (OSError, zlib.error) as error:
            fix = f"Remove the folder {self.folder} and predict again."
            raise MachineError(f"the band {path} cannot be read: {error}", fix=fix) from error
        if kind != "probabilities":
            return np.frombuffer(content, np.uint8).reshape(end - first, self.width)
        return np.frombuffer(content, np.float32).reshape(end - first, self.width, self.classes)

    def _file(self, number: int, kind: str) -> Path:
        return self.folder / f"{number:06d}.{kind}"

    def remove(self) -> None:
        """Throw all bands away."""
        self._recent.cache_clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def written(self, path: Path) -> Iterator[Path]:
        """Where a file is written before it is moved, whole, to its place beside the folder."""
        inside = self.folder / path.name
        yield inside
        with writing(path):
            inside.replace(path)


@dataclass(frozen=True)
class OneBand:
    """The band of a small image, in memory: what a `BandStore` answers, without a disk."""

    band: Band

    def index(self, top: int, bottom: int) -> NDArray[np.uint8]:
        """Class indexes of the rows `top` … `bottom`, rows×W."""
        return self.band.index[top:bottom]

    def probabilities(self, top: int, bottom: int) -> NDArray[np.float32]:
        """Probabilities of these rows, rows×W×K."""
        (whole,) = self.band.probabilities
        return whole[top:bottom]

    def certainty(self, top: int, bottom: int) -> NDArray[np.float32]:
        """How likely the classes are that the pixels of these rows have, rows×W."""
        return certainty(self.index(top, bottom), self.probabilities(top, bottom))

    def written(self, path: Path) -> AbstractContextManager[Path]:
        """Where a file is written: in its place."""
        return nullcontext(path)


def certainty(index: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """How likely the class of each pixel is, rows×W, of class indexes and rows×W×K, or ×1 of that.

    NaN without data.
    """
    known = np.minimum(index, probabilities.shape[2] - 1).astype(np.intp)
    return np.take_along_axis(probabilities, known[..., None], axis=2)[..., 0]


def bands_folder(mask: Path) -> Path:
    """Where the bands of a mask lie until it is written."""
    return mask.with_name(f".{mask.name}.bands")


@contextmanager
def held_bands(mask: Path) -> Iterator[None]:
    """Hold the bands of a mask for this process alone.

    Raises:
        MachineError: another process predicts the same mask, or the folder cannot be written.
    """
    folder = bands_folder(mask)
    with ExitStack() as stack:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(locked(folder))
            except MachineError as error:
                if isinstance(error.__cause__, OSError):  # the folder cannot be written
                    raise
                fix = "Wait for it, stop it, or choose another folder with -o."
                raise MachineError(f"another process predicts {mask} now", fix=fix) from error
        yield
