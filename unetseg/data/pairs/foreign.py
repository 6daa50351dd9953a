"""What a folder holds beside images: other programs' annotations, and formats not read here."""

import os
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from unetseg.data.pairs.table import files_by_folder
from unetseg.storage import is_file
from unetseg.text import printable

_HEAD = 1 << 16  # bytes of a file that tell what it is
_SEEN = 5  # files of a suffix that are looked into
_JSONS_SEEN = 100  # JSON files of a folder, the largest; more are as most of these are
_FORMATS = {
    ".mat": "MATLAB file (.mat)",
    ".nii": "NIfTI volume (.nii)",
    ".gz": "NIfTI volume (.nii.gz)",
    ".dcm": "DICOM file (.dcm)",
    ".geojson": "GeoJSON file with polygons (.geojson)",
    ".shp": "shapefile with polygons (.shp)",
    ".h5": "HDF5 file (.h5)",
    ".tfrecord": "TFRecord (.tfrecord)",
}


class Foreign(NamedTuple):
    """Files of one kind that are no image files.

    Attributes:
        what: One of them, in words.
        files: All of them, or those that were looked into.
        kind: The word of `unetseg import` that reads them, or nothing.
        source: What that command is given.
    """

    what: str
    files: tuple[Path, ...]
    kind: str = ""
    source: Path | None = None

    def line(self) -> str:
        """How many of what."""
        return f"{len(self.files)} × {self.what}"

    def command(self) -> str:
        """The command that imports them, or nothing."""
        return import_command(self.kind, self.source) if self.kind and self.source else ""


def import_command(kind: str, source: Path) -> str:
    """The command that makes pairs of annotations, or of several masks of an image."""
    return shlex.join(["unetseg", "import", kind, str(source), "OUT"])


def find_foreign(root: Path) -> list[Foreign]:
    """Annotations and arrays below `root`, the most telling first."""
    by_suffix: dict[str, list[Path]] = defaultdict(list)
    for folder, names in files_by_folder(root):
        for path in filter(is_file, (Path(folder, name) for name in names)):
            by_suffix[path.suffix.lower()].append(path)
    found = [*_jsons(root, by_suffix), *_texts(root, by_suffix), *_xmls(by_suffix)]
    for suffix, what in _FORMATS.items():
        files = [
            f for f in by_suffix.get(suffix, ()) if suffix != ".gz" or f.name.endswith(".nii.gz")
        ]
        if files:
            is_nnunet = suffix in {".nii", ".gz"} and (root / "labelsTr").is_dir()
            found.append(Foreign(what, tuple(files), "nnunet" if is_nnunet else "", root))
    return found


def _head(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD).decode("utf-8-sig", errors="replace")
    except OSError:
        return ""


_JSONS = {  # what one is called, and whether `unetseg import` reads it as a folder or one by one
    "labelme": ("JSON file of labelme", "folder"),
    "coco": ("annotation file of COCO", "file"),
    "labelstudio": ("JSON export of Label Studio", "file"),
    "coco-panoptic": ("annotation file of COCO panoptic", "folder"),
    "via": ("JSON file of VGG Image Annotator (VIA)", "folder"),
    "supervisely": ("JSON file of Supervisely", "folder"),
    "geojson": ("GeoJSON file with polygons", ""),
}


def _jsons(root: Path, files: Mapping[str, Sequence[Path]]) -> Iterator[Foreign]:
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in files.get(".json", ()):
        folders[path.parent].append(path)
    kinds: dict[str, list[Path]] = defaultdict(list)
    for paths in folders.values():
        largest = sorted(paths, key=os.path.getsize, reverse=True)[:_JSONS_SEEN]
        seen = {path: _json_kind(_head(path)) for path in largest}
        usual = Counter(seen.values()).most_common(1)[0][0]
        for path in paths:
            kinds[seen.get(path, usual)].append(path)
    for kind, (what, source) in _JSONS.items():
        same = tuple(kinds.get(kind, ()))
        if source == "file":
            yield from (Foreign(f"{what} ({printable(p.name)})", (p,), kind, p) for p in same)
        elif same:
            yield Foreign(what, same, kind if source else "", root if source else None)


def _json_kind(head: str) -> str:
    keys = set(re.findall(r'"(\w+)"\s*:', head))
    if {"shapes", "imagePath"} <= keys:
        return "labelme"
    if {"annotations", "categories"} & keys and "images" in keys:
        return "coco-panoptic" if "segments_info" in keys else "coco"
    if "regions" in keys or "_via_img_metadata" in keys or "shape_attributes" in keys:
        return "via"
    if {"classTitle", "bitmap", "classId"} & keys or {"objects", "size"} <= keys:
        return "supervisely"
    if "FeatureCollection" in head:
        return "geojson"
    return "labelstudio" if {"annotations", "from_name"} <= keys or "brushlabels" in keys else ""


def _texts(root: Path, files: Mapping[str, Sequence[Path]]) -> Iterator[Foreign]:
    row = re.compile(r"\s*\d+(\s+-?(\d*\.)?\d+(e-?\d+)?){4,}\s*", re.IGNORECASE)
    texts = files.get(".txt", ())
    samples = [path for path in texts if path.stat().st_size][: 4 * _SEEN]
    yolo = [p for p in samples if all(row.fullmatch(line) for line in _head(p).splitlines()[:20])]
    if len(yolo) > 1 or (yolo and len(yolo) == len(samples)):
        yield Foreign("YOLO label file (.txt)", tuple(texts), "yolo", root)
    rle = [path for path in files.get(".csv", ()) if "EncodedPixels" in _head(path)]
    if rle:
        yield Foreign("table of run lengths (EncodedPixels)", tuple(rle), "rle", root)


def _xmls(files: Mapping[str, Sequence[Path]]) -> Iterator[Foreign]:
    cvat = [
        p
        for p in files.get(".xml", ())[:_SEEN]
        if re.search(r"<annotations>.*<image ", _head(p), re.S)
    ]
    for path in cvat[:1]:
        yield Foreign("XML export of CVAT", tuple(cvat), "cvat", path)
