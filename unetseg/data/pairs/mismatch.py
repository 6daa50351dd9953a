"""Images and masks that do not match up: who, and in which way."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from unetseg.data.pairs.layouts import BY_HAND, Layout, NamedFile
from unetseg.data.pairs.naming import Affixes, Key, cuts_at, find_affixes, strip
from unetseg.errors import PairingError
from unetseg.text import plural, printable

SAME_NAME = "with the same name"
UNLIKE = "different only in case or Unicode form"
SEVERAL_MASKS = "with several masks"
NO_MASK = "images without mask"
NO_IMAGE = "masks without image"
FIXES = {
    SAME_NAME: "Keep one of each.",
    UNLIKE: "Rename the mask exactly like its image.",
    SEVERAL_MASKS: "Keep one mask of each image, or unite them in one.",
    NO_MASK: "Add the masks or move these images away.",
    NO_IMAGE: "Add the images or move these masks away.",
}
"""What to do about each kind of fault, in the order in which they are told."""


class Match(NamedTuple):
    """An image and a mask whose keys agree once the affixes are taken off."""

    image: NamedFile
    mask: NamedFile
    key: Key
    affixes: Affixes


@dataclass(frozen=True)
class Fault:
    """Files that do not pair, for one reason.

    Attributes:
        kind: A key of `FIXES`.
        paths: The files: all that share a name; the image and the mask (in this order) that differ
            only in case or Unicode form; the image and then its masks; or the one that is alone.
        remark: More about it, or nothing.
        split: The split of an image and a mask that differ only in case or Unicode form.
        name: The name that they would have as a pair.
    """

    kind: str
    paths: tuple[Path, ...]
    remark: str = ""
    split: str | None = None
    name: str = ""

    def line(self, root: Path) -> str:
        """The files as one line, those in `root` relative to it."""
        inner = [path.relative_to(root) if root in path.parents else path for path in self.paths]
        return ", ".join(map(printable, inner)) + (f" ({self.remark})" if self.remark else "")


@dataclass(frozen=True)
class Mismatch:
    """Everything that is wrong with the names of a number of images and masks."""

    images: int
    masks: int
    faults: tuple[Fault, ...]

    def error(self, root: Path) -> PairingError:
        """All faults in one error about the folder `root`."""
        by_kind = group_faults(self.faults)
        counts = (counted(len(faults), kind) for kind, faults in by_kind.items())
        return PairingError(
            f"{plural(self.images, 'image')} and {plural(self.masks, 'mask')} in "
            f"{printable(root)} do not match up: {', '.join(counts)}",
            [f"{fault.kind}: {fault.line(root)}" for fault in chain(*by_kind.values())],
            " ".join([*(FIXES[kind] for kind in by_kind), f"Or {BY_HAND[0].lower()}{BY_HAND[1:]}"]),
        )


def group_faults(faults: Iterable[Fault]) -> dict[str, list[Fault]]:
    """The faults of each kind, in the order of `FIXES`."""
    groups: dict[str, list[Fault]] = {kind: [] for kind in FIXES}
    for fault in faults:
        groups[fault.kind].append(fault)
    return {kind: found for kind, found in groups.items() if found}


def counted(count: int, kind: str) -> str:
    """The number of faults of a kind.

    >>> counted(1, NO_MASK), counted(2, NO_MASK)
    ('1 image without mask', '2 images without mask')
    """
    one = re.sub("^(image|mask)s", r"\1", kind)
    return f"1 {one}" if count == 1 else f"{count} {kind}"


def find_mismatch(layout: Layout, matches: Sequence[Match]) -> Mismatch:
    """What `matches` leave of a layout; files that share a name are in doubt although matched."""
    known = {file.path for match in matches for file in (match.image, match.mask)}
    faults: list[Fault] = []

    def add(found: Iterable[Fault]) -> None:
        faults.extend(found)
        known.update(path for fault in faults for path in fault.paths)

    def rest(files: Iterable[NamedFile]) -> list[NamedFile]:
        return [file for file in files if file.path not in known]

    add([*_twins(layout.images), *_twins(layout.masks)])
    add(_variants(rest(layout.images), rest(layout.masks)))
    add(_crowds(layout, matches, rest(layout.masks)))
    add([Fault(NO_MASK, (file.path,)) for file in rest(layout.images)])
    add([Fault(NO_IMAGE, (file.path,)) for file in rest(layout.masks)])
    return Mismatch(len(layout.images), len(layout.masks), tuple(faults))


def _twins(files: Iterable[NamedFile]) -> list[Fault]:
    """Files of one side that share a key."""
    groups: dict[Key, list[Path]] = defaultdict(list)
    for file in files:
        groups[file.key].append(file.path)
    return [Fault(SAME_NAME, tuple(group)) for group in groups.values() if len(group) > 1]


def _variants(images: Sequence[NamedFile], masks: Sequence[NamedFile]) -> list[Fault]:
    """Images and masks that would pair but for case or Unicode form."""
    folded = [{_folded(file): file for file in side} for side in (images, masks)]
    affixes = find_affixes(folded[0], folded[1])
    partners = {strip(key, *affixes[2:]): file for key, file in folded[1].items()}
    keys = {strip(key, *affixes[:2]): file for key, file in folded[0].items()}
    return [
        _variant(keys[key], partners[key]) for key in keys if key is not None and key in partners
    ]


def _variant(image: NamedFile, mask: NamedFile) -> Fault:
    couple = image.path, mask.path
    name = "/".join((*image.folder, image.path.stem))
    return Fault(UNLIKE, couple, _unlike(*couple), image.split, name)


def _folded(file: NamedFile) -> Key:
    return tuple(fold(name) for name in file.folder), fold(file.path.stem)


def fold(name: str) -> str:
    """What is left of a name where neither case nor Unicode form counts."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _unlike(image: Path, mask: Path) -> str:
    stems = [unicodedata.normalize("NFC", str(path)) for path in (image, mask)]
    same_form = stems == [str(image), str(mask)]
    return "upper and lower case" if same_form else "Unicode form, NFC and NFD"


def _crowds(layout: Layout, matches: Sequence[Match], masks: Sequence[NamedFile]) -> list[Fault]:
    """Each image with the masks that are left over in its folder, or begin with its name."""
    partner = {match.image.path: match.mask.path for match in matches}
    owners = {match.key: match.image.path for match in matches}
    alone = _alone(layout.images)
    crowds: dict[Path, list[Path]] = defaultdict(list)
    for mask in masks:
        folder, stem = mask.key
        ends = (end for end in range(len(stem), 0, -1) if cuts_at(stem, end))
        worded = (end for end in ends if re.search("[a-zA-Z]", stem[end:]))  # a_1 is not one of a
        owner = next(filter(None, (owners.get((folder, stem[:end])) for end in worded)), None)
        owner = owner or alone.get(folder)
        if owner is not None:
            crowds[owner].append(mask.path)
    whole = ((image, *filter(None, [partner.get(image)]), *more) for image, more in crowds.items())
    return [Fault(SEVERAL_MASKS, crowd) for crowd in whole if len(crowd) > 2]


def _alone(images: Iterable[NamedFile]) -> dict[tuple[str, ...], Path]:
    """The image of each folder that holds a single one."""
    folders: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for image in images:
        folders[image.folder].append(image.path)
    return {folder: paths[0] for folder, paths in folders.items() if folder and len(paths) == 1}
