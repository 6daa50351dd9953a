"""Splits that text files list: `train.txt` and `val.txt`, `ImageSets/Segmentation/train.txt`."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from unetseg.data.pairs.naming import SPLITS, tokens

_SUFFIXES = {".txt", ".lst", ".csv", ""}
_MOST = 64 << 20  # bytes of a list
_COVER = 0.5  # of the lines of a list name images, or it is another list


def listed_splits(root: Path, images: Sequence[Path]) -> dict[Path, str]:
    """The split of each image that the lists below `root` name; none unless two splits are listed.

    A line may be a name, with or without suffix and folders, or begin with one. Images that no list
    names have no split where `train` is listed, and train where it is not.
    """
    stems: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        stems[image.stem].append(image)
    splits: dict[Path, str] = {}
    for file, split in _lists(root):
        for image in _named(file, stems):
            if splits.setdefault(image, split) != split:
                return {}  # lists of several draws: nobody could know which
    if len({*splits.values()}) == 1 and len(splits) == len(images):
        return {}
    if {*splits.values()} == {"train"}:
        return {}
    if "train" not in splits.values() and splits:
        splits = {image: splits.get(image, "train") for image in images}
    return splits


def _lists(root: Path) -> list[tuple[Path, str]]:
    """Text files that are called after one split and nothing else."""
    files = []
    for path in sorted(p for p in root.rglob("*") if p.suffix.lower() in _SUFFIXES):
        words = [
            t for t in tokens(path.stem) if t not in {"set", "list", "split", "id", "ids", "names"}
        ]
        if (
            len(words) == 1
            and words[0] in SPLITS
            and path.is_file()
            and path.stat().st_size < _MOST
        ):
            files.append((path, SPLITS[words[0]]))
    return files


def _named(file: Path, stems: dict[str, list[Path]]) -> list[Path]:
    """The images that most lines of a list name, or none."""
    try:
        lines = [line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        return []
    found = [image for line in lines if (image := _image_of(line.strip(), stems)) is not None]
    return found if len(found) >= _COVER * len(lines) else []


def _image_of(line: str, stems: dict[str, list[Path]]) -> Path | None:
    for text in (line, re.split(r"[\s,;]", line)[0]):
        path = PurePosixPath(text.replace("\\", "/").lstrip("/"))
        for stem in (path.stem, path.name):
            same = stems.get(stem, [])
            if len(same) == 1:
                return same[0]
            ends = [
                image
                for image in same
                if image.as_posix().removesuffix(image.suffix).endswith(f"/{path.with_suffix('')}")
            ]
            if len(ends) == 1:
                return ends[0]
    return None
