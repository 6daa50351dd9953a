"""Folders as people have them load as they are or are asked about; no pair is ever wrong."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.pairs.layouts import PHOTOS, TABLE, Layout, draw, read_table
from unetseg.config import GroupsConfig
from unetseg.data.files.pages import file_of, files_of
from unetseg.data.pairs.match import PairSet, find_pairs
from unetseg.errors import PairingError

LAYOUTS = read_table(TABLE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_layout(tmp_path: Path, layout: Layout) -> None:
    root = draw(layout, tmp_path)
    try:
        found = find_pairs(root)
    except PairingError as error:
        check_guidance(root, layout, error)
    else:
        assert ("numbered" if found.numbered else "pairs") in layout.outcomes
        check_pairs(layout, found)
        check_splits(layout, found)


def check_pairs(layout: Layout, found: PairSet) -> None:
    """The pairs are those that are expected, and every other file is told."""
    pairs = dict(couples(found))
    assert not pairs.items() - layout.pairs.items() - layout.optional.items()
    assert not layout.pairs.items() - pairs.items()
    told = {path.relative_to(found.root).as_posix() for path, _ in found.left_out}
    taken = {path for image, masks in pairs.items() for path in (image, *masks)}
    assert told | taken >= {*layout.pairs, *(path for path in layout.files if is_picture(path))}
    assert not told & taken


def couples(found: PairSet) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each image with its masks, as the table has them."""
    for pair in found.pairs:
        assert pair.mask is not None
        files = file_of(pair.image), *files_of(pair.mask)
        image, *masks = (path.relative_to(found.root).as_posix() for path in files)
        yield image, tuple(masks)


def is_picture(path: str) -> bool:
    return not Path(path).name.startswith(".") and bool(
        re.search(r"\.(png|jpe?g|tiff?|bmp|gif|jp2)$", path, re.IGNORECASE)
    )


def check_splits(layout: Layout, found: PairSet) -> None:
    """The splits are those of the folder; a test split is never made up."""
    splits = Counter(pair.split for pair in found.pairs if pair.split)
    if layout.splits == {}:
        assert "test" not in splits
    elif layout.splits is not None:
        assert splits == layout.splits


def check_guidance(root: Path, layout: Layout, error: PairingError) -> None:
    """The refusal is one that the table allows; its commands have real folders, and work."""
    text = " ".join([str(error), *error.offenders])
    words = [shlex.split(command) for command in error.commands]
    imports = {f"import {word[2]}" for word in words if word[1] == "import"}
    named = [o for o in layout.outcomes if o.startswith("names ") and o[6:].lower() in text.lower()]
    asked = "ask" in layout.outcomes and any("--images" in word for word in words)
    assert named or asked or imports & {*layout.outcomes}, text
    for word in words:
        if "--images" in word and not named:
            check_answer(root, layout, word)


def check_answer(root: Path, layout: Layout, words: list[str]) -> None:
    """A reading that a question offers pairs photos with pictures of the same scene."""
    assert words[:3] == ["unetseg", "check", str(root)]
    given = {side: Path(words[words.index(f"--{side}") + 1]) for side in ("images", "masks")}
    found = find_pairs(root, GroupsConfig(images=given["images"], masks=given["masks"]))
    assert found.pairs
    for image, (mask,) in couples(found):
        assert layout.files[image][1] == layout.files[mask][1], (image, mask)


def test_the_table_is_complete() -> None:
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS) > 100
    for layout in LAYOUTS:
        for image, masks in {**layout.pairs, **layout.optional}.items():
            assert layout.files[image][0].partition(":")[0] in PHOTOS | {"pages"}, image
            assert {layout.files[mask][1] for mask in masks} == {layout.files[image][1]}
