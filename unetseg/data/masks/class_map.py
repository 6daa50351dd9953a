"""What a mask value means: classes, their codes in files, and the ignored codes.

A mask inside the program is an index: uint8 H×W, class 0, 1, … and `IGNORED`. `ClassMap.encode`
makes it from the values of a file, `ClassMap.decode` turns it back; they are exact inverses. A mask
is written in the coding that the training masks had.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from unetseg.data.files.pngs import write_png
from unetseg.data.files.tiffs import write_tiff
from unetseg.errors import MaskError
from unetseg.text import some_of

Colour = tuple[int, int, int]  # red, green, blue, 0–255
Code = int | Colour
Coding = Literal["integer", "palette", "rgb"]

BLACK: Colour = (0, 0, 0)
IGNORED = 255  # the index of pixels that no loss and no score counts
MAX_CLASSES = 254  # the indexes 0–253
_UNKNOWN = 254  # the index of codes that are no class, while encode runs
_SHOWN = 20  # codes that a message lists


def coding_name(coding: Coding) -> str:
    """A coding in the words of messages."""
    return {"integer": "grey", "palette": "palette", "rgb": "RGB"}[coding]


class ClassInfo(BaseModel):
    """One class: its name, its code in mask files, and its RGB colour (0–255) in pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    code: Code
    colour: Colour


class ClassMap(BaseModel):
    """What mask values mean; frozen, hashable, and complete in JSON.

    Attributes:
        classes: At most 254, in the order of their indexes.
        ignore: Codes of pixels without a truth.
        coding: Whether codes are integers, palette indexes or RGB triples.
        dtype: Number type of written masks.
        palette: 768 numbers, 256 times RGB, with the coding "palette".
        background: Index of the class that is not foreground, if there is one.
        snap: Whether `encode` takes the nearest code for an unknown one.
        objects: Whether masks number objects: each unknown code is one, of the last class.
        united: Further codes of classes, each with the index of its class.
        numbers: Codes hold a class and the number of an object, `class_code` tells the class: class
            × 256 + number, or class × 1000 + number with lower codes for classes as a whole.
        suffix: Suffix of written masks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[ClassInfo, ...] = Field(min_length=1, max_length=MAX_CLASSES)
    ignore: tuple[Code, ...] = ()
    coding: Coding = "integer"
    dtype: Literal["uint8", "uint16", "int16", "int32"] = "uint8"
    palette: tuple[int, ...] | None = None
    background: int | None = None
    snap: bool = False
    objects: bool = False
    united: tuple[tuple[Code, int], ...] = ()
    numbers: Literal[256, 1000] | None = None
    suffix: Literal[".png", ".tif"] = ".png"

    @model_validator(mode="after")
    def _is_consistent(self) -> "ClassMap":
        codes = self._codes
        if len(set(codes)) != len(codes):
            raise ValueError("two classes or ignored values have one code")
        if not all(self._holds(code) for code in codes):
            raise ValueError(f"a code is no {self.dtype} value of the coding {self.coding}")
        if (self.coding == "palette") != (self.palette is not None):
            raise ValueError("a palette belongs to the coding palette, and only there")
        if self.palette is not None and (len(self.palette), self.dtype) != (768, "uint8"):
            raise ValueError("a palette has 768 numbers and uint8 indexes")
        if self.background is not None and not 0 <= self.background < len(self.classes):
            raise ValueError("the background is none of the classes")
        if not all(0 <= index < len(self.classes) for _, index in self.united):
            raise ValueError("a code is united with none of the classes")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes."""
        return tuple(item.name for item in self.classes)

    @property
    def colours(self) -> NDArray[np.uint8]:
        """K×3, RGB 0–255: the colour of each class in pictures."""
        return np.array([info.colour for info in self.classes], np.uint8)

    @property
    def foreground(self) -> tuple[int, ...]:
        """The indexes of all classes but the background."""
        return tuple(i for i in range(len(self.classes)) if i != self.background)

    @property
    def _codes(self) -> tuple[Code, ...]:
        united = (code for code, _ in self.united)
        return (*(item.code for item in self.classes), *self.ignore, *united)

    def _holds(self, code: Code) -> bool:
        if isinstance(code, tuple):
            return (
                self.coding == "rgb" and self.dtype == "uint8" and 0 <= min(code) <= max(code) < 256
            )
        limits = np.iinfo(self.dtype)
        return self.coding != "rgb" and int(limits.min) <= code <= int(limits.max)

    def ignoring(self, nodata: int | None) -> "ClassMap":
        """The same, to `encode` masks that declare such a no-data value: ignored if no class."""
        if nodata is None or self.coding == "rgb" or nodata in self._codes:
            return self
        return self.model_copy(update={"ignore": (*self.ignore, nodata)})

    def encode(
        self,
        pixels: NDArray[Any],
        path: object = None,
        palette: tuple[int, ...] | None = None,
    ) -> NDArray[np.uint8]:
        """Turn mask pixels (integers H×W, or uint8 H×W×3 for RGB) into indexes (uint8 H×W).

        Three equal bands are as good as one where the classes are numbers, and where they are
        colours so are the indexes of a `palette` (768 numbers).

        Ignored codes become `IGNORED`. With `snap`, an unknown code becomes the nearest known one
        (of colours, the largest difference of the three bands counts).

        Raises:
            MaskError: the pixels have another coding, or a code is no class; `path` is named.
        """
        if palette is not None and self.coding == "rgb":
            pixels = np.array(palette, np.uint8).reshape(256, 3)[pixels]
        elif palette is not None and self.palette not in (None, palette):
            self._refuse_moved(pixels, palette, path)
        codes = self._flat(pixels, path)
        index: NDArray[np.uint8]
        if codes.dtype.itemsize == 1:
            index = _look_up(_table(self, codes.dtype.name), codes.view(np.uint8))
        elif codes.dtype.itemsize == 2:
            index = _table(self, codes.dtype.name).take(codes.view(np.uint16))
        else:
            values, inverse, lengths = runs(codes.ravel())
            index = np.repeat(_match(values, self)[inverse], lengths).reshape(codes.shape)
        if not self.snap and bool((index == _UNKNOWN).any()):
            raise self._unknown(codes[index == _UNKNOWN], path)
        return index

    def decode(self, index: NDArray[np.uint8]) -> NDArray[Any]:
        """Turn indexes (uint8 H×W) into mask pixels: H×W of `dtype`, or uint8 H×W×3 for RGB.

        `IGNORED` becomes the first ignored code, or the background where there is none.

        Raises:
            MaskError: an index is no class, or `IGNORED` has no code.
        """
        blank = list(self.ignore[:1])
        if not blank and self.background is not None:
            blank = [self.classes[self.background].code]
        is_strange = index >= len(self.classes)
        if blank:
            is_strange &= index != IGNORED
        if is_strange.any():
            strange = np.unique(index[is_strange]).tolist()
            raise MaskError(f"the indexes {strange} are none of the {len(self.classes)} classes")
        table = np.zeros((256, 3) if self.coding == "rgb" else 256, self.dtype)
        table[: len(self.classes)] = [item.code for item in self.classes]
        if blank:
            table[IGNORED] = blank[0]
        return _look_up(table, index)

    def index_of(self, code: Code) -> int:
        """The index of one code, or `IGNORED`.

        Raises:
            MaskError: the code is no class.
        """
        return self.indexes_of([code])[0]

    def indexes_of(self, codes: Sequence[Code]) -> list[int]:
        """The same of many codes, all of them numbers or all colours."""
        if not codes:
            return []
        wide = np.uint8 if isinstance(codes[0], tuple) else np.int64
        indexes: list[int] = self.encode(np.array([codes], wide))[0].tolist()
        return indexes

    def _refuse_moved(self, pixels: NDArray[Any], palette: tuple[int, ...], path: object) -> None:
        """Refuse indexes that have the colour of another class in the file's own palette."""
        own, other = (np.array(one).reshape(256, 3).tolist() for one in (self.palette, palette))
        used = {*np.flatnonzero(np.bincount(pixels.ravel(), minlength=256)).tolist()}
        codes = [item.code for item in self.classes if isinstance(item.code, int)]
        moved = [
            f"index {code} is {tuple(other[code])}, the colour of class {meant}"
            for code in codes
            for meant in codes
            if code in used and other[code] == own[meant] != own[code]
        ]
        if moved:
            raise MaskError(
                f"{path or 'a mask'} has another palette than the classes: {'; '.join(moved)}",
                fix="Save the mask with the palette of the training masks.",
            )

    def _flat(self, pixels: NDArray[Any], path: object) -> NDArray[Any]:
        """The codes as integers H×W; RGB packed into one number."""
        is_rgb = pixels.ndim == 3 and pixels.shape[-1] == 3 and pixels.dtype == np.uint8
        if is_rgb and self.coding == "integer" and bool((pixels == pixels[..., :1]).all()):
            is_rgb, pixels = False, pixels[..., 0]
        is_grey = pixels.ndim == 2 and pixels.dtype.kind in "iu"
        if not (is_rgb if self.coding == "rgb" else is_grey):
            came = f"{pixels.dtype} pixels of shape {pixels.shape}"
            where = f"{path}: " if path else ""
            raise MaskError(f"{where}{came}, expected {coding_name(self.coding)} masks")
        return pack(pixels) if is_rgb else np.ascontiguousarray(pixels)

    def _unknown(self, codes: NDArray[Any], path: object) -> MaskError:
        strange = unpack(np.unique(codes), self.coding)
        shown = some_of([str(code) for code in strange], _SHOWN)
        known = ", ".join(str(code) for code in self._codes[:_SHOWN])
        return MaskError(
            f"{path or 'a mask'} holds values that are no class: {shown}; known are {known}",
            fix="Fix the mask, or give --snap to take the nearest class.",
        )


def write_mask(path: Path, index: NDArray[np.uint8], class_map: ClassMap) -> None:
    """Write indexes (uint8 H×W) to `path` (.png, .tif or .tiff) in the coding of `class_map`.

    Raises:
        MaskError: the file format cannot hold the codes.
        MachineError: the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in {".png", ".tif", ".tiff"}:
        raise MaskError(f"{path}: masks are written as .png or .tif")
    if suffix == ".png" and class_map.dtype in {"int16", "int32"}:
        raise MaskError(f"{path}: a PNG holds no {class_map.dtype} values; write a .tif")
    write = write_png if suffix == ".png" else write_tiff
    write(path, class_map.decode(index), class_map.palette)


def pack(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Make one number of each colour: uint8 …×3 → int32 …, red in the highest byte."""
    packed = pixels[..., 0].astype(np.int32)
    for band in (1, 2):
        packed <<= 8
        packed |= pixels[..., band]
    return packed


def unpack(values: NDArray[Any], coding: Coding) -> list[Code]:
    """Make codes of flat integers: the numbers themselves, or RGB triples.

    >>> unpack(np.array([0x0A0B0C]), "rgb")
    [(10, 11, 12)]
    """
    numbers = [int(value) for value in values]
    if coding != "rgb":
        return list(numbers)
    return [(number >> 16, number >> 8 & 255, number & 255) for number in numbers]


def class_code(codes: NDArray[np.int64], numbers: int) -> NDArray[np.int64]:
    """The codes without the numbers of objects.

    Of class × 256 + number (Mapillary, KITTI) that is class × 256, of class × 1000 + number
    (Cityscapes, KITTI-360) it is the class, as are lower codes. Codes below 0 stay.

    >>> class_code(np.array([0, 257, 513]), 256), class_code(np.array([7, 26001]), 1000)
    (array([  0, 256, 512]), array([ 7, 26]))
    """
    if numbers == 256:
        return np.where(codes < 0, codes, codes - codes % 256)
    return np.where(codes < 1000, codes, codes // 1000)


def runs(
    codes: NDArray[Any],
) -> tuple[NDArray[Any], NDArray[np.intp], NDArray[np.intp]]:
    """Distinct values of flat `codes`, the value number of each run, and the length of each run.

    Masks are made of long runs, so sorting the runs is far cheaper than sorting the pixels.
    """
    starts = np.flatnonzero(np.r_[codes.size > 0, codes[1:] != codes[:-1]])
    lengths = np.diff(np.r_[starts, codes.size])
    values, inverse = np.unique(codes[starts], return_inverse=True)
    return values, inverse.ravel(), lengths


def _look_up(table: NDArray[Any], index: NDArray[np.uint8]) -> NDArray[Any]:
    """`table[index]` of a table with 256 rows; OpenCV does it many times faster than NumPy."""
    if not index.size:
        return np.asarray(table[index])
    columns = [cv2.LUT(index, column) for column in table.reshape(256, -1).T.copy()]
    looked_up = cv2.merge(columns) if len(columns) > 1 else columns[0]
    return np.asarray(looked_up).reshape(index.shape + table.shape[1:])


@lru_cache(maxsize=16)
def _table(class_map: ClassMap, dtype: str) -> NDArray[np.uint8]:
    """The index of every value of an 8- or 16-bit type, at the value's unsigned bits."""
    bits = 8 * np.dtype(dtype).itemsize
    values = np.arange(2**bits, dtype=f"uint{bits}").view(dtype)
    return _match(values, class_map)


def _match(values: NDArray[Any], class_map: ClassMap) -> NDArray[np.uint8]:
    """The index of each flat value: that of its code, of the nearest code, or `_UNKNOWN`."""
    codes = np.array(class_map._codes, np.int64)
    blank, more = [IGNORED] * len(class_map.ignore), [index for _, index in class_map.united]
    index = np.array([*range(len(class_map.classes)), *blank, *more])
    wide = values.astype(np.int64)
    if class_map.numbers:  # an ignored code is none of class and object
        is_ignored = np.isin(wide, np.array(class_map.ignore, np.int64))
        wide = np.where(is_ignored, wide, class_code(wide, class_map.numbers))
    if class_map.snap and class_map.coding == "rgb":
        return np.asarray(index[_nearest_colour(wide, codes)], np.uint8)
    if class_map.coding == "rgb":
        codes = codes @ np.array([1 << 16, 1 << 8, 1])
    order = np.argsort(codes)
    codes, index = codes[order], index[order]
    if class_map.snap:
        return np.asarray(index[np.searchsorted((codes[1:] + codes[:-1]) / 2, wide)], np.uint8)
    place = np.minimum(np.searchsorted(codes, wide), len(codes) - 1)
    unknown = len(class_map.classes) - 1 if class_map.objects else _UNKNOWN
    return np.where(codes[place] == wide, index[place], unknown).astype(np.uint8)


def _nearest_colour(values: NDArray[np.int64], codes: NDArray[np.int64]) -> NDArray[np.intp]:
    """The number of the colour (K×3) nearest to each packed value, by the largest difference."""
    colours = np.stack([values >> 16, values >> 8 & 255, values & 255], axis=-1)
    distances = np.stack([np.abs(colours - code).max(axis=-1) for code in codes])  # K, V
    return np.asarray(distances.argmin(axis=0))
