"""YOLO: a text for each image, with a line of corners for each object.

`images/train/x.jpg` has `labels/train/x.txt`, or the text lies beside it. A line is the number of a
class and the corners of a polygon, in shares of the width and height of the upright image. The
names of the classes stand in data.yaml, classes.txt or obj.names. Splits are the folders or lists
that data.yaml tells, or folders called so. An image without a text, or with an empty one, shows no
object. As in Ultralytics, small objects lie over large ones.
Format: https://docs.ultralytics.com/datasets/segment/
"""

from collections import Counter
from collections.abc import Collection, Container, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from unetseg.data.masks.class_list import load_yaml
from unetseg.data.pairs.mask_sets import ImageKey, folder_roles, photos_below, without_role
from unetseg.errors import DataError, MaskError
from unetseg.importers.annotations import AnnotatedImage, Classes, Entry, Note, Problem, Shape
from unetseg.importers.shapes import Patch, Size, polygon
from unetseg.importers.source_files import ImageFiles, by_key, name_in, split_path, visible_files
from unetseg.text import plural

_NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels")
_OWN_FILES = (".yaml", ".yml", ".txt")  # others beside texts are of another format
_MARGIN = 0.01  # share of a side by which rounding may put corners outside
_BOX = 5  # numbers of a line
_BOXES = "boxes are no masks"
_SAMPLE = 20  # texts that are looked into

_Line = tuple[int, list[tuple[float, float]]]  # the number of a class, and corners


def recognises(source: Path) -> bool:
    """Whether there are texts with lines of polygons, or of boxes."""
    if source.is_file() and source.suffix.lower() not in _OWN_FILES:
        return False
    folder = source if source.is_dir() else source.parent
    texts = list(_texts(folder, dict(photos_below(folder))).values())
    for path in texts[:_SAMPLE]:
        try:
            if _read_text(path):
                return True
        except MaskError as error:
            if error.summary == _BOXES:
                return True
    return False


def read(source: Path, images: Path | None = None) -> Iterator[Entry]:
    """Read the texts below a folder, or below that of a data.yaml.

    Raises:
        DataError: there are none, all are of boxes, or a YAML cannot be read.
    """
    folder = source if source.is_dir() else source.parent
    photos, twins = by_key(photos_below(images or folder))
    texts = _texts(folder, photos)
    lines, problems = _read_texts(texts, source)
    if not texts:
        fix = "Give the folder with images/ and labels/."
        raise DataError("no label files of YOLO found", fix=fix)
    described = _description(folder)
    names = _class_names(folder, described) or {
        number: f"class {number}" for one in lines.values() for number, _ in one
    }
    yield Classes(names[number] for number in sorted(names))
    yield from (*problems.values(), *twins.values())
    splits = _splits(folder, described, photos.values(), ImageFiles(folder, images))
    sections = {key.folders for key in texts}
    for key in (key for key in photos if key not in twins and key not in problems):
        if key.folders not in sections:
            yield Note(1, "image", "left out: no image of its folder has a label file")
            continue
        shapes = [
            Shape(names.get(number, ""), partial(_patch, corners), f"line {i}")
            for i, (number, corners) in enumerate(lines.get(key, ()), 1)
        ]
        if any(not shape.label for shape in shapes):
            yield Problem("class without name", key.name)
            continue
        split = splits.get(photos[key], key.split)
        yield AnnotatedImage(photos[key], key.name, shapes, split, smallest_on_top=True)
        yield Note(not shapes, "image", "without an object: all background")
    for key in sorted(lines.keys() - photos.keys()):
        yield Problem("no such image", name_in(source, texts[key]))


def _read_texts(
    texts: Mapping[ImageKey, Path], source: Path
) -> tuple[dict[ImageKey, list[_Line]], dict[ImageKey, Problem]]:
    """The lines of each text, and the texts that have other ones.

    Raises:
        DataError: there are boxes alone.
    """
    lines: dict[ImageKey, list[_Line]] = {}
    problems: dict[ImageKey, Problem] = {}
    for key, path in texts.items():
        try:
            lines[key] = _read_text(path)
        except MaskError as error:
            where = f"{name_in(source, path)}: {'; '.join(error.offenders)}"
            problems[key] = Problem(error.summary, where)
    if not any(lines.values()) and _BOXES in {one.kind for one in problems.values()}:
        raise DataError(
            f"{plural(len(texts), 'label file')} and no polygon: {_BOXES}",
            fix="Export the data set for segmentation, not for detection.",
        )
    return lines, problems


def _texts(folder: Path, photos: Container[ImageKey]) -> dict[ImageKey, Path]:
    """The texts in folders of labels, and those with the name of an image."""
    texts = {}
    for path in visible_files(folder, "*.txt"):
        folders = path.relative_to(folder).parts[:-1]
        key = ImageKey(without_role(folders, "mask"), path.stem)
        is_label = "mask" in folder_roles(folders) and path.name not in _NAME_FILES
        if is_label or key in photos:
            texts[key] = path
    return texts


def _read_text(path: Path) -> list[_Line]:
    """The lines of a text.

    Raises:
        MaskError: lines are of boxes, or of nothing that is known; all are listed.
    """
    lines, faults, boxes = [], [], []
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    for i, words in enumerate(map(str.split, text.splitlines()), 1):
        if not words:
            continue
        try:
            number, *shares = map(float, words)
        except ValueError:
            faults.append(f"line {i} has words, expected numbers")
            continue
        if len(words) == _BOX:
            boxes.append(f"line {i} is a box")
        elif len(shares) < 6 or len(shares) % 2 or number % 1:
            faults.append(f"line {i} has {plural(len(words), 'number')} that are no polygon")
        elif not all(-_MARGIN <= share <= 1 + _MARGIN for share in shares):
            faults.append(f"line {i} has corners outside, expected shares from 0 to 1")
        else:
            lines.append((int(number), list(zip(shares[::2], shares[1::2], strict=True))))
    if boxes or faults:
        raise MaskError(_BOXES if not faults else "no polygons of YOLO", faults or boxes)
    return lines


def _patch(corners: list[tuple[float, float]], size: Size) -> Patch:
    """The pixels of a polygon with corners in shares of the sides."""
    return polygon([(x * size[1], y * size[0]) for x, y in corners], size)


# What stands beside the texts


def _description(folder: Path) -> Mapping[str, Any]:
    """The content of data.yaml, whatever it is called, or nothing.

    Raises:
        DataError: no file has names, and files that may be meant are no YAML.
    """
    faults = []
    for path in visible_files(folder, "*.y*ml"):
        try:
            content = load_yaml(path.read_text(encoding="utf-8-sig"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            faults.append(f"{name_in(folder, path)} is no YAML: {reason}")
            continue
        if isinstance(content, dict) and "names" in content:
            return content
    if faults:
        raise DataError("no data.yaml can be read", faults)
    return {}


def _class_names(folder: Path, described: Mapping[str, Any]) -> dict[int, str]:
    """The name of each number, from data.yaml or a list of names, or nothing."""
    names = described.get("names")
    if not names:
        lists = [path for name in _NAME_FILES for path in visible_files(folder, name)]
        texts = [path.read_text(encoding="utf-8-sig", errors="replace") for path in lists[:1]]
        names = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    try:
        by_number = dict(enumerate(names)) if isinstance(names, list) else names
        return {int(number): str(name) for number, name in by_number.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"the names in data.yaml are no list of names: {names}") from error


def _splits(
    folder: Path, described: Mapping[str, Any], photos: Collection[Path], files: ImageFiles
) -> dict[Path, str]:
    """The split of each image that data.yaml tells, by folders or by lists of images."""
    splits: dict[Path, str] = {}
    for split in ("test", "val", "train"):
        entries = described.get(split) or []
        for entry in map(str, entries if isinstance(entries, list) else [entries]):
            said = split_path(f"{described.get('path') or ''}/{entry}")
            parts = [part for part in said if part != ".."]
            # the longest end that is there: it may begin with folders of another machine
            ends = (folder.joinpath(*parts[start:]) for start in range(len(parts)))
            path = next(filter(Path.exists, ends), None)
            if path is not None and path.is_file():
                splits |= dict.fromkeys(_listed(path, split, photos, files), split)
            elif path is not None and path != folder:
                splits |= {photo: split for photo in photos if path in photo.parents}
    return splits


def _listed(path: Path, split: str, photos: Collection[Path], files: ImageFiles) -> set[Path]:
    """The images that a list names: by their paths, or where these are wrong by the name alone."""
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    found = {line.strip(): files.find(line.strip(), path.parent, split) for line in lines}
    listed = {one for one in found.values() if isinstance(one, Path)}
    stems = {Path(*split_path(k)).stem for k, one in found.items() if not isinstance(one, Path)}
    count = Counter(photo.stem for photo in photos)
    return listed | {photo for photo in photos if photo.stem in stems and count[photo.stem] == 1}
