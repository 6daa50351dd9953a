"""nnU-Net, and the Medical Segmentation Decathlon: dataset.json, imagesTr/ and labelsTr/.

`labelsTr/x.png` has `imagesTr/x_0000.png`, and `x_0001.png` for a second channel, which are joined
as the bands of one TIFF; a file alone is copied. Volumes (NIfTI, by the package nibabel) become a
pair for each slice across the last axis, as TIFF. The numbers of classes stand in dataset.json, in
either order; where a class is a region of several numbers, a number is called after the smallest
region that holds it. `ignore` becomes 255. imagesTs/ is the test split where labelsTs/ is there.
Format: https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray
from pydantic import BaseModel

from unetseg.data.files.image import read_image
from unetseg.data.masks.class_map import IGNORED
from unetseg.errors import DataError, MaskError, imported
from unetseg.importers.annotations import (
    AnnotatedImage,
    Classes,
    Entry,
    Note,
    Problem,
    class_codes,
    mask_pixels,
    recode,
)
from unetseg.importers.source_files import holding, name_in, only_one, read_json, visible_files

JSON = "dataset.json"
IGNORE_LABEL = "ignore"
_VOLUMES = (".nii", ".nii.gz")
_CHANNEL = re.compile(r"_\d{4}$")
_LOADING = Lock()  # one thread at a time, else each loads the volume of all


class _Json(BaseModel):
    labels: dict[str, int | str | list[int]]
    file_ending: str = ""


def recognises(source: Path) -> bool:
    """Whether there is a dataset.json beside labelsTr."""
    jsons = holding(source, JSON, b'"labels"')
    return any((path.parent / "labelsTr").is_dir() for path in jsons)


def read(source: Path, images: Path | None = None) -> Iterator[Entry]:
    """Read a folder with dataset.json, one that holds such a folder, or the file itself.

    Raises:
        DataError: there is none, or its dataset.json is something else.
        MachineError: there are volumes, and nibabel is not installed.
    """
    jsons = holding(source, JSON, first=None)
    path = only_one([one for one in jsons if (one.parent / "labelsTr").is_dir()], source)
    if path is None:
        raise DataError(f"there is no {JSON} beside labelsTr", fix="Give the folder that has them.")
    json = read_json(path, _Json, source)
    names = _names(json.labels)
    classes, codes = class_codes(name for name in names.values() if name != IGNORE_LABEL)
    yield Classes(classes, coded=True)
    by_number = {number: codes.get(name, IGNORED) for number, name in names.items()}
    ending = json.file_ending or _ending(path.parent / "labelsTr")
    has_test = (path.parent / "labelsTs").is_dir()
    for end, split in [("Tr", "train"), ("Ts", "test")] if has_test else [("Tr", None)]:
        channels = _channels(images or path.parent / f"images{end}", ending)
        for label in visible_files(path.parent / f"labels{end}", f"*{ending}"):
            name = label.name.removesuffix(ending)
            case = _Case(name, channels.get(name, []), label, by_number)
            if not case.channels:
                yield Problem("no such image", f"{name}, for {name_in(source, label)}")
            elif ending in _VOLUMES:
                yield from _slices(case, split)
            else:
                join = partial(_joined, case) if len(case.channels) > 1 else None
                image, draw = case.channels[0], partial(_draw, case)
                yield AnnotatedImage(image, name, draw, split, embedded=join)


class _Case(NamedTuple):
    """A label and the channels of its image; `codes` has the code of each number."""

    name: str
    channels: Sequence[Path]
    label: Path
    codes: Mapping[int, int]

    def recode(self, numbers: NDArray[np.integer]) -> NDArray[np.uint8]:
        return recode(numbers, self.codes, f"{self.label.name} has numbers not in {JSON}")


def _ending(folder: Path) -> str:
    """What the names of files end with, where dataset.json of older versions does not tell."""
    names = [path.name for path in visible_files(folder, "*")]
    return next((end for end in _VOLUMES if names and names[0].endswith(end)), ".png")


def _names(labels: Mapping[str, int | str | list[int]]) -> dict[int, str]:
    """The name of each number, of `{name: number}`, `{name: [numbers]}` or `{number: name}`."""
    names: dict[int, str] = {}
    try:
        if all(key.isdigit() for key in labels):
            names = {int(key): str(name) for key, name in labels.items()}
        else:
            regions = {name: np.atleast_1d(value).astype(int) for name, value in labels.items()}
            for name in sorted(regions, key=lambda name: -len(regions[name])):
                names |= dict.fromkeys(regions[name].tolist(), name)
    except (ValueError, OverflowError) as error:
        raise DataError(f"the labels in {JSON} have no numbers: {labels}") from error
    return dict(sorted(names.items()))


def _channels(folder: Path, ending: str) -> dict[str, list[Path]]:
    """The files of each case in a folder of images, in the order of their channels."""
    channels: dict[str, list[Path]] = defaultdict(list)
    paths = visible_files(folder, f"*{ending}")
    for path in paths:
        channels[_CHANNEL.sub("", path.name.removesuffix(ending))].append(path)
    alone = {path.name.removesuffix(ending): [path] for path in paths}  # amos_0001 is a case too
    return alone | channels


# Flat images


def _draw(case: _Case, height: int, width: int) -> NDArray[np.uint8]:
    return case.recode(mask_pixels(case.label, height, width))


def _joined(case: _Case, depth: int | None = None) -> bytes:
    """A TIFF whose bands are the channels of an image, or of a slice of a volume.

    Raises:
        DataError: one cannot be read, or has another size.
    """
    bands = [  # H×W×C each
        read_image(path) if depth is None else _slice(path, depth) for path in case.channels
    ]
    if len({band.shape[:2] for band in bands}) > 1:
        raise MaskError("its channels have several sizes")
    memory, pixels = BytesIO(), np.concatenate(bands, axis=-1)
    config = "contig" if pixels.shape[-1] > 1 else None
    tifffile.imwrite(memory, pixels, photometric="minisblack", planarconfig=config)
    return memory.getvalue()


# Volumes


def _slices(case: _Case, split: str | None) -> Iterator[Entry]:
    """A pair for each slice of a case."""
    try:
        shapes = [_header(path).shape for path in (case.label, *case.channels)]
    except DataError as error:
        yield Problem("no volume", error.summary)
        return
    if len({shape[:3] for shape in shapes}) > 1:
        came = "; ".join("×".join(map(str, shape)) for shape in shapes)
        yield Problem("label and channels have several sizes", f"{case.name}: {came}")
        return
    for depth in range(shapes[0][2] if len(shapes[0]) > 2 else 1):
        draw, content = partial(_draw_slice, case, depth), partial(_joined, case, depth)
        name = f"{case.name}/{case.name}_{depth:03}"
        yield AnnotatedImage(case.channels[0], name, draw, split, embedded=content)
    yield Note(1, "volume", "cut into slices across the last axis")


def _draw_slice(case: _Case, depth: int, _height: int, _width: int) -> NDArray[np.uint8]:
    numbers = _slice(case.label, depth)[..., 0]
    if (numbers % 1).any():
        raise MaskError(f"{case.label.name} has fractions, expected numbers of classes")
    return case.recode(numbers.astype(np.int32))


def _slice(path: Path, depth: int) -> NDArray[Any]:
    """One slice of a volume, its first axis to the right and the second down: H×W×C."""
    with _explained_volume(path):
        state = path.stat()
    with _LOADING:
        values = _volume(path, state.st_mtime_ns, state.st_size)  # X, Y, Z, C
    pixels = np.atleast_3d(values[:, :, depth] if values.ndim > 2 else values)  # X, Y, C
    if pixels.dtype not in (np.uint8, np.uint16, np.int16):
        pixels = pixels.astype(np.float32)
    return np.ascontiguousarray(pixels.swapaxes(0, 1))


@lru_cache(maxsize=8)  # label and channels of a case or two
def _volume(path: Path, _changed: int, _bytes: int) -> NDArray[Any]:
    """All values of a volume in this state of its file, scaled as its header says."""
    header = _header(path)
    with _explained_volume(path):
        return np.asarray(header.dataobj)


def _header(path: Path) -> Any:
    """A volume, of which the header is read.

    Raises:
        DataError: it is no volume.
        MachineError: nibabel is not installed.
    """
    nibabel = imported("nibabel", "medical")
    with _explained_volume(path):
        return nibabel.load(path)


@contextmanager
def _explained_volume(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # nibabel lets out whatever unpacking, parsing and numpy raise
        raise DataError(f"{path.name} cannot be read: {error}") from error
