"""Laws of the split: every image in one shard and one block, wherever and however it is listed."""

from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unetseg.data.files.folders import output_names
from unetseg.errors import ImageError
from unetseg.scaling.blocks import PER_BLOCK, Blocks, Shard, split_hash

ROOT = Path("/photos")
STEMS = st.sampled_from(["a", "A", "b", "é", "e\u0301", "scan_01", "scan_02", "\udcff"])
ENDS = st.sampled_from(["", "_png", "_jpg", "_overlay", "_png_overlay", "_probabilities"])
FOLDERS = st.sampled_from(["", "x", "x/y", "png"])
SUFFIXES = st.sampled_from([".png", ".jpg", ".tif"])
FILES = st.builds(lambda f, s, e, x: ROOT / f / f"{s}{e}{x}", FOLDERS, STEMS, ENDS, SUFFIXES)


def named(path: Path) -> tuple[Path, Path]:
    return path, path.relative_to(ROOT).with_suffix("")


def in_blocks(files: list[Path], shards: int) -> list[list[tuple[Path, Path]]]:
    """The images of each block, with their final names."""

    def final(images: list[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
        return output_names([(path, ROOT) for path, _ in images], ROOT)

    shares = [Blocks(map(named, files), Shard(i, shards), final) for i in range(shards)]
    return [list(block.images) for share in shares for block in share.read(at_least=4)]


@given(st.sets(FILES, min_size=1, max_size=30), st.integers(1, 5), st.randoms())
@settings(max_examples=200)
def test_blocks_of_all_shards_are_the_whole_and_name_masks_as_one_process_does(
    files: set[Path], shards: int, random: "object"
) -> None:
    listed = sorted(files)
    try:
        whole = output_names([(path, ROOT) for path in listed], ROOT)
    except ImageError:
        return
    random.shuffle(listed)  # type: ignore[attr-defined]
    blocks = in_blocks(listed, shards)
    assert sorted(chain(*blocks)) == sorted(whole)


@given(FILES, st.integers(1, 10))
def test_the_shard_of_an_image_depends_on_nothing_but_its_name(file: Path, shards: int) -> None:
    others = [ROOT / f"other_{number}.png" for number in range(20)]
    for listed in ([file], [file, *others], [*others, file]):
        images = list(map(named, listed))
        holders = [
            number
            for number in range(shards)
            for block in Blocks(images, Shard(number, shards)).read()
            if named(file) in block.images
        ]
        assert holders == [split_hash(named(file)[1])[0] % shards]


def test_shards_and_blocks_are_of_equal_size_about() -> None:
    images = [named(ROOT / f"{n // 1000}/scan_{n:05}.png") for n in range(20_000)]
    for number in range(7):
        share = Blocks(images, Shard(number, 7))
        assert share.total == pytest.approx(20_000 / 7, rel=0.06)
        sizes = [len(block.images) for block in share.read()]
        assert sum(sizes) == share.total
        assert max(sizes) < 1.4 * PER_BLOCK


def test_files_of_other_splits_are_read_where_they_may_tell_of_the_images() -> None:
    """Blocks of another number, shards of another number; never those of the shards beside."""
    images = [named(ROOT / f"{n}.png") for n in range(1000)]
    names: list[str] = []
    where: dict[str, set[Path]] = {}
    for shards, at_least in ((1, 8), (3, 2), (2, 16)):
        for number in range(shards):
            share = Blocks(images, Shard(number, shards))
            for block in share.read(names, at_least):
                where[block.journal.file] = {path for path, _ in block.images}
                names.append(Path(block.journal.file).name)
    for block in Blocks(images, Shard(1, 3)).read(names, 4):
        mine = {path for path, _ in block.images}
        told = set[Path]().union(*(where.get(file, set()) for file in block.journal.others))
        assert mine <= told
        assert not [file for file in block.journal.others if file.endswith("of-3.jsonl")
                    and not file.endswith(".1-of-3.jsonl")]  # fmt: skip
        telling = {file for file, there in where.items() if there & mine}
        assert telling <= {*block.journal.others, block.journal.file}
