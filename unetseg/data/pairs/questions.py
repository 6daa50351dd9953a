"""What nobody could know, as questions whose answers can be pasted."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from glob import escape
from itertools import permutations
from pathlib import Path, PurePosixPath

from unetseg.data.files.folders import IMAGE_SUFFIXES
from unetseg.data.files.limits import LFS_START
from unetseg.data.files.vrts import first_bytes
from unetseg.data.pairs.affixes import common_beginning
from unetseg.data.pairs.foreign import find_foreign, import_command
from unetseg.data.pairs.keys import match
from unetseg.data.pairs.series import Entry, Series
from unetseg.errors import PairingError
from unetseg.text import plural, printable

_FEW = 4  # series of which a command is offered for each couple


def check_command(root: Path, *words: str) -> str:
    """The command that looks at the folder again, with the words of an answer."""
    return shlex.join(["unetseg", "check", str(root), *words])


def several_masks(root: Path, crowds: Mapping[Entry, Sequence[Entry]]) -> PairingError:
    """Images with more than one mask each, and the command that unites them."""
    lines = [
        f"{printable(image.inner)}: {', '.join(printable(mask.inner) for mask in masks)}"
        for image, masks in crowds.items()
    ]
    return PairingError(
        f"{printable(root)} holds {plural(len(crowds), 'image')} with several masks",
        lines,
        "Where each of them shows one object, unite them:",
        code="several-masks",
        commands=[import_command("instances", root)],
    )


def nothing_pairs(root: Path, series: Sequence[Series], home: Path | None = None) -> PairingError:
    """What there is, and that no masks are among it."""
    everything = [entry for one in series for entry in one.entries]
    foreign = find_foreign(home or root)
    lines = [one.line() for one in foreign]
    lines += [
        f"{printable(pattern(one, everything))}: {plural(len(one), 'image file')}"
        + (f" ({one.aside})" if one.aside else "")
        for one in series
    ]
    commands = [command for one in foreign if (command := one.command())]
    sides = [
        [pattern(one, everything) for one in couple]
        for couple in permutations(series, 2)
        if len(series) <= _FEW
        and (couple[0].said.role != "mask" or couple[1].said.role == "mask")
        and match(*(one.entries for one in couple)).couples
    ]
    by_hand = [check_command(root, "--images", one, "--masks", other) for one, other in sides]
    by_hand.append(check_command(root, "--pairs", "FILE.csv"))
    say_which = "Say which is which:"
    if all(one.look.readable and not one.look.masks for one in series):
        say_which = (
            "There are no masks here. Where a file shows image and mask side by side, cut it in "
            "two; else draw masks, with labelme for example, and import them:"
        )
        by_hand = [import_command("labelme", root)]
    elif not sides and len(everything) > 1:
        row = f"{printable(everything[0].inner)},{printable(everything[-1].inner)}"
        say_which = f"Say which is which, in FILE.csv with the lines image,mask and {row} …:"
    fix = "Import them:" if commands else say_which
    pointers = sum(first_bytes(entry.path).startswith(LFS_START) for entry in everything)
    if pointers:
        lines.insert(0, f"{plural(pointers, 'pointer')} of Git LFS in place of files")
        fix, commands = "Fetch the files:", ["git lfs pull"]
    return PairingError(
        f"{printable(root)} holds no images with masks beside them"
        if foreign or pointers
        else f"{printable(root)} holds {plural(len(everything), 'image file')}, of which none is "
        "known as the mask of another",
        lines,
        fix,
        code="foreign" if foreign else "no-pairs",
        commands=commands or by_hand,
    )


def no_images(root: Path) -> PairingError:
    """What there is in a folder without images."""
    foreign = find_foreign(root)
    suffixes = " ".join(sorted(IMAGE_SUFFIXES))
    return PairingError(
        f"{printable(root)} holds no images",
        [one.line() for one in foreign],
        f"Images end in {suffixes}.",
        code="no-images",
        commands=[command for one in foreign if (command := one.command())],
    )


def question(
    root: Path, readings: Sequence[tuple[Series, Series, int]], series: Sequence[Series], what: str
) -> PairingError:
    """What nobody could know, with a command for each answer.

    Args:
        root: The folder.
        readings: Images, masks, and the pairs that they make.
        series: All series of the folder.
        what: What it holds, in words.
    """
    everything = [entry for one in series for entry in one.entries]
    lines, commands = [], []
    for images, masks, pairs in readings:
        sides = [pattern(one, everything) for one in (images, masks)]
        lines.append(f"{printable(sides[0])} ↔ {printable(sides[1])}: {plural(pairs, 'pair')}")
        commands.append(check_command(root, "--images", sides[0], "--masks", sides[1]))
    fix = "Say which are meant:"
    if _may_be_classes([images for images, _, _ in readings], [masks for _, masks, _ in readings]):
        fix = "Where each shows one object or one class, unite them; else say which are meant:"
        commands.insert(0, import_command("classes", root))
    return PairingError(
        f"{printable(root)} holds {what}",
        lines,
        fix,
        code="ambiguous",
        commands=list(dict.fromkeys(commands)),
    )


def several_bands(error: PairingError, labels: Path) -> PairingError:
    """The question which of several images of one band each is meant, and how they are joined.

    Args:
        error: The question without that.
        labels: The folder of the masks.
    """
    error.summary += ", of one band each"
    error.fix = "Join them to one TIFF for each image (gdal_merge.py -separate), or say which:"
    if labels.name == "labelsTr" and (labels.parent / "dataset.json").is_file():
        error.commands = (import_command("nnunet", labels.parent), *error.commands)
        error.fix = "Join them, or say which are meant:"
    return PairingError.like(error)


def _may_be_classes(images: Sequence[Series], masks: Sequence[Series]) -> bool:
    """Whether masks of the same images lie in one folder, or in folders of one, without images."""
    if len({one.entries for one in images}) > 1 or any(m.aside or m.said.second for m in masks):
        return False
    parents = [entry.parent for one in masks for entry in one.entries]
    common = PurePosixPath(os.path.commonpath(parents))
    above = {folder for e in images[0].entries for folder in (e.parent, *e.parent.parents)}
    return common not in above


def pattern(one: Series, everything: Sequence[Entry]) -> str:
    """The folder that holds these files alone, or a pattern that no other file fits."""
    common = set.intersection(*({e.parent, *e.parent.parents} for e in one.entries))
    for folder in sorted(common - {PurePosixPath()}, key=lambda f: len(f.parts)):
        below = [e for e in everything if folder in (e.parent, *e.parent.parents)]
        if len(below) == len(one):
            return str(folder)
    return _glob({PurePosixPath(entry.inner) for entry in one.entries})


def _glob(paths: set[PurePosixPath]) -> str:
    depth = {len(path.parts) for path in paths}
    if len(depth) > 1:
        return "**/" + _common_text([path.name for path in paths])
    levels = zip(*(path.parts for path in paths), strict=True)
    return "/".join(_common_text(list(level)) for level in levels)


def _common_text(names: Sequence[str]) -> str:
    if len(set(names)) == 1:
        return escape(names[0])
    head = common_beginning(names).rstrip("0123456789")
    tail = common_beginning([name[len(head) :][::-1] for name in names])[::-1]
    return f"{escape(head)}*{escape(tail.lstrip('0123456789'))}"


def fits(inner: str, wanted: str) -> bool:
    """Whether a path lies in the folder `wanted`, or fits the pattern; * stops at a slash."""
    if not is_pattern(wanted):
        return f"{inner}/".startswith(f"{wanted}/")
    levels = wanted.removeprefix("**/").split("/")
    parts = inner.split("/")
    if not wanted.startswith("**/") and len(levels) != len(parts):
        return False
    parts = parts[-len(levels) :]
    return len(parts) == len(levels) and all(
        fnmatchcase(part, level) for part, level in zip(parts, levels, strict=True)
    )


def is_pattern(wanted: Path | str) -> bool:
    """Whether it stands for several paths, and not for the one folder of that name."""
    return re.search(r"[*?\[]", str(wanted)) is not None
