"""Images and masks that do not match up: who, and in which way."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from unetseg.data.pairs.layouts import BY_HAND, Layout, NamedFile
from unetseg.data.pairs.naming import Affixes, Key, cuts_at, find_affixes, strip
from unetseg.errors import PairingError
from unetseg.text import plural, printable


class Kind(NamedTuple):
    """One way in which files do not pair.

    Attributes:
        check: Its name in reports.
        one: What it is, in the singular.
        several: And in the plural.
        label: What stands before the files of one such fault.
        fix: What to do about it.
    """

    check: str
    one: str
    several: str
    label: str
    fix: str


SAME_NAME = Kind(
    "same-name",
    "group of files with the same name",
    "groups of files with the same name",
    "with the same name",
    "Keep one of each.",
)
UNLIKE = Kind(
    "unlike-names",
    "couple of image and mask different only in case or Unicode form",
    "couples of image and mask different only in case or Unicode form",
    "different only in case or Unicode form",
    "Rename the mask exactly like its image.",
)
SEVERAL_MASKS = Kind(
    "several-masks",
    "image with several masks",
    "images with several masks",
    "with several masks",
    "Keep one mask of each image, or unite them in one.",
)
NO_MASK = Kind(
    "image-without-mask",
    "image without mask",
    "images without mask",
    "images without mask",
    "Add the masks or move these images away.",
)
NO_IMAGE = Kind(
    "mask-without-image",
    "mask without image",
    "masks without image",
    "masks without image",
    "Add the images or move these masks away.",
)
KINDS = (SAME_NAME, UNLIKE, SEVERAL_MASKS, NO_MASK, NO_IMAGE)
"""In the order in which they are told."""


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
        kind: That reason.
        paths: The files: all that share a name; the image and the mask (in this order) that differ
            only in case or Unicode form; the image and then its masks; or the one that is alone.
        remark: More about it, or nothing.
        split: The split of an image and a mask that differ only in case or Unicode form.
        name: The name that they would have as a pair.
    """

    kind: Kind
    paths: tuple[Path, ...]
    remark: str = ""
    split: str | None = None
    name: str = ""

    def line(self, root: Path) -> str:
        """The files as one line, those in `root` relative to it."""
        inner = [path.relative_to(root) if root in path.parents else path for path in self.paths]
        return ", ".join(map(printable, inner)) + (f" ({self.remark})" if self.remark else "")


def mismatch_error(root: Path, layout: Layout, faults: Sequence[Fault]) -> PairingError:
    """All faults of a layout in one error about the folder `root`."""
    groups = group_faults(faults)
    counts = (counted(len(group), kind) for kind, group in groups.items())
    return PairingError(
        f"{plural(len(layout.images), 'image')} and {plural(len(layout.masks), 'mask')} in "
        f"{printable(root)} do not match up: {', '.join(counts)}",
        [f"{fault.kind.label}: {fault.line(root)}" for fault in chain(*groups.values())],
        " ".join([*(kind.fix for kind in groups), f"Or {BY_HAND[0].lower()}{BY_HAND[1:]}"]),
    )


def counted(count: int, kind: Kind) -> str:
    """The number of faults of a kind.

    >>> counted(1, NO_MASK), counted(2, NO_MASK)
    ('1 image without mask', '2 images without mask')
    """
    return f"{count} {kind.one if count == 1 else kind.several}"


def group_faults(faults: Iterable[Fault]) -> dict[Kind, list[Fault]]:
    """The faults of each kind, in the order of `KINDS`."""
    groups: dict[Kind, list[Fault]] = {kind: [] for kind in KINDS}
    for fault in faults:
        groups[fault.kind].append(fault)
    return {kind: group for kind, group in groups.items() if group}


def find_faults(layout: Layout, matches: Sequence[Match]) -> tuple[Fault, ...]:
    """What `matches` leave of a layout; files that share a name are in doubt although matched."""
    told = {file.path for match in matches for file in (match.image, match.mask)}
    faults: list[Fault] = []

    def add(more: Iterable[Fault]) -> None:
        faults.extend(more)
        told.update(path for fault in faults for path in fault.paths)

    def rest(files: Iterable[NamedFile]) -> list[NamedFile]:
        return [file for file in files if file.path not in told]

    add([*_twins(layout.images), *_twins(layout.masks)])
    add(_variants(rest(layout.images), rest(layout.masks)))
    add(_crowds(layout, matches, rest(layout.masks)))
    add([Fault(NO_MASK, (file.path,)) for file in rest(layout.images)])
    add([Fault(NO_IMAGE, (file.path,)) for file in rest(layout.masks)])
    return tuple(faults)


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
    faults = []
    for key, image in keys.items():
        if key is not None and key in partners:
            mask = partners[key]
            paths = image.path, mask.path
            same_form = all(unicodedata.is_normalized("NFC", str(path)) for path in paths)
            remark = "upper and lower case" if same_form else "Unicode form, NFC and NFD"
            name = "/".join((*image.folder, image.path.stem))
            faults.append(Fault(UNLIKE, paths, remark, image.split, name))
    return faults


def _folded(file: NamedFile) -> Key:
    return tuple(fold(name) for name in file.folder), fold(file.path.stem)


def fold(name: str) -> str:
    """What is left of a name where neither case nor Unicode form counts."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _crowds(layout: Layout, matches: Sequence[Match], masks: Sequence[NamedFile]) -> list[Fault]:
    """Each image with the masks that are left over in its folder, or begin with its name."""
    partner = {match.image.path: match.mask.path for match in matches}
    owners = {match.key: match.image.path for match in matches}
    count = Counter(image.folder for image in layout.images)
    alone = {i.folder: i.path for i in layout.images if i.folder and count[i.folder] == 1}
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
