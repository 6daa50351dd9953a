"""Stacks on both sides: each page is an image with the mask of the same page."""

import os
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from unetseg.checks.check import check_folder
from unetseg.checks.fix import write_fixed
from unetseg.config import GroupsConfig
from unetseg.data.facts.survey import survey
from unetseg.data.files import pages as module
from unetseg.data.files import stacks as stack_headers
from unetseg.data.files.image import count_pages, read_image
from unetseg.data.masks.mask_file import read_mask
from unetseg.data.pairs.match import find_pairs
from unetseg.errors import ImageError, PairingError
from unetseg.prediction.outputs import plan_jobs
from unetseg.storage import content_hash

Array = NDArray[Any]


def stacks(pages: int, *colours: int) -> tuple[Array, Array]:
    """Pages of noise with a brighter square, and the squares as 0 and 255."""
    masks = np.zeros((pages, 48, 64), np.uint8)
    for page in range(pages):
        masks[page, 5 : 25 + page, 10 : 40 + page] = 255
    noise = np.random.default_rng(0).integers(0, 90, (pages, 48, 64, *colours))
    squares = masks.reshape(*masks.shape, *(1 for _ in colours)) // 2
    return (noise + squares).astype(np.uint8), masks


def isbi(folder: Path, pages: int = 12, masks: int = 12) -> tuple[Array, Array]:
    """The files of ISBI 2012, with fewer pages."""
    volume, labels = stacks(pages)[0], stacks(masks)[1]
    for name, stack in (
        ("train-volume", volume),
        ("train-labels", labels),
        ("test-volume", volume),
    ):
        tifffile.imwrite(folder / f"{name}.tif", stack, photometric="minisblack")
    return volume, labels


def test_pages_of_tiffs_pair_with_pages(tmp_path: Path) -> None:
    volume, labels = isbi(tmp_path)
    pairs = find_pairs(tmp_path).pairs
    assert [pair.name for pair in pairs] == [f"train_{page:02}" for page in range(1, 13)]
    for pair, image, mask in zip(pairs, volume, labels, strict=True):
        np.testing.assert_array_equal(read_image(pair.image)[..., 0], image)
        assert pair.mask is not None
        np.testing.assert_array_equal(read_mask(pair.mask).pixels, mask)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("colours", [(), (3,)])
def test_pages_of_arrays_pair_with_pages(
    tmp_path: Path, suffix: str, colours: tuple[int, ...]
) -> None:
    volume, labels = stacks(8, *colours)
    save = np.save if suffix == ".npy" else np.savez_compressed
    for name, stack in (("images", volume), ("masks", labels // 255)):
        (tmp_path / name).mkdir()
        save(tmp_path / name / f"{name}{suffix}", stack)
    with pytest.raises(PairingError, match="taken when asked for"):
        find_pairs(tmp_path)
    pairs = find_pairs(tmp_path, GroupsConfig(images=Path("images"), masks=Path("masks"))).pairs
    assert len(pairs) == 8
    for pair, image in zip(pairs, volume, strict=True):
        np.testing.assert_array_equal(read_image(pair.image), image.reshape(48, 64, -1))


def test_every_kind_of_stack_of_tiff_has_its_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    grey, colour = stacks(5)[0], stacks(5, 3)[0]
    planes = np.moveaxis(colour, -1, 1)
    kinds: list[tuple[Array, dict[str, Any]]] = [
        (grey, {"imagej": True, "metadata": {"axes": "ZYX"}}),
        (grey, {"ome": True, "metadata": {"axes": "TYX"}}),
        (colour, {"photometric": "rgb", "compression": "zlib", "tile": (16, 16)}),
        (planes, {"photometric": "rgb", "planarconfig": "separate"}),
        (planes, {"imagej": True, "metadata": {"axes": "ZCYX"}}),
        (grey, {"metadata": None, "compression": "lzw"}),
    ]
    for stack, options in kinds:
        tifffile.imwrite(path, stack, **{"photometric": "minisblack"} | options)
        assert count_pages(path) == (5, True)
        wanted = stack[3] if stack is not planes else colour[3]
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif#4"), wanted.reshape(48, 64, -1))
        with pytest.raises(ImageError, match="no page 6"):
            read_image(tmp_path / "a.tif#6")
    with tifffile.TiffWriter(path) as writer:  # pages of several sizes
        writer.write(grey[0])
        writer.write(grey[1, :20])
    assert read_image(tmp_path / "a.tif#2").shape == (20, 64, 1)


def test_a_table_lists_pages(tmp_path: Path) -> None:
    volume, labels = isbi(tmp_path)
    rows = ["train-volume.tif#3,train-labels.tif#4", "train-volume.tif#12,train-labels.tif#12"]
    (tmp_path / "pairs.csv").write_text("\n".join(["image,mask", *rows]))
    later, pair = find_pairs(tmp_path).pairs
    assert (pair.name, later.name) == ("train-volume_3", "train-volume_12")
    assert pair.mask is not None
    np.testing.assert_array_equal(read_image(pair.image)[..., 0], volume[2])
    np.testing.assert_array_equal(read_mask(pair.mask).pixels, labels[3])
    assert not check_folder(tmp_path).of("error")
    (tmp_path / "pairs.csv").write_text("image,mask\ntrain-volume.tif#1,gone.tif#1\n")
    with pytest.raises(PairingError, match=r"mask gone\.tif#1 does not exist"):
        find_pairs(tmp_path)


@pytest.mark.parametrize(("page", "other"), [("", ""), ("#3", "#3"), ("#3", "#4")])
def test_a_table_of_the_stacks_that_were_found_is_no_other(
    tmp_path: Path, page: str, other: str
) -> None:
    isbi(tmp_path)
    row = f"train-volume.tif{page},train-labels.tif{other}"
    (tmp_path / "about.csv").write_text(f"image,mask\n{row}\n")
    found = find_pairs(tmp_path)
    assert len(found.pairs) == 12
    assert ("other pair" in found.rule) == (page != other)


def test_stacks_of_other_lengths_are_refused_with_both(tmp_path: Path) -> None:
    isbi(tmp_path, 12, 11)
    (finding,) = check_folder(tmp_path).of("error")
    assert finding.check == "several-pages"
    assert [line.split("of ")[-1] for line in finding.files] == [
        "12×48×64, expected one image",
        "11×48×64, expected one image",
    ]


def test_check_tells_files_and_pages_and_fix_writes_each(tmp_path: Path) -> None:
    volume, labels = isbi(tmp_path)
    report = check_folder(tmp_path)
    assert not report.of("error")
    third = report.to_json()["pairs"][2]
    assert (third["image"], third["mask"]) == ("train-volume.tif", "train-labels.tif")
    assert third["page"] == 3
    out = tmp_path.parent / "fixed"
    assert write_fixed(survey(tmp_path, strict=False), out).pairs == 12
    np.testing.assert_array_equal(read_image(out / "images" / "train_03.tif")[..., 0], volume[2])
    np.testing.assert_array_equal(read_mask(out / "masks" / "train_03.tif").pixels, labels[2])


def test_a_mask_is_predicted_for_every_page(tmp_path: Path) -> None:
    isbi(tmp_path)
    classes = survey(tmp_path).class_map
    jobs = plan_jobs(tmp_path / "test-volume.tif", tmp_path / "out" / "test-volume", classes)
    assert [job.mask.stem for job in jobs] == [f"test-volume_{page:02}" for page in range(1, 13)]


def test_a_stack_is_hashed_once_and_anew_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    isbi(tmp_path)
    files = tmp_path / "train-volume.tif", tmp_path / "train-labels.tif"
    read: list[tuple[Path, ...]] = []

    def spy(*paths: Path) -> str:
        read.append(paths)
        return content_hash(*paths)

    def expected() -> list[str]:
        content = content_hash(*files)
        texts = (f"{content} [{page}, {page}]" for page in range(1, 13))
        return [blake2b(text.encode(), digest_size=16).hexdigest() for text in texts]

    pairs = find_pairs(tmp_path).pairs
    monkeypatch.setattr(module, "content_hash", spy)
    before = [module.image_hash(pair.image, pair.mask or pair.image) for pair in pairs]
    assert before == expected()
    assert read == [files]
    content = files[1].read_bytes()
    files[1].write_bytes(content[:-1] + bytes([255 - content[-1]]))
    os.utime(files[1], ns=(0, 0))
    after = [module.image_hash(pair.image, pair.mask or pair.image) for pair in pairs]
    assert after == expected()
    assert not {*after} & {*before}
    assert read == [files] * 2


def test_the_headers_of_a_stack_are_walked_once_and_anew_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else thousands of pages, opened one after another, would each walk thousands of headers."""
    grey, colour = stacks(9)[0], np.moveaxis(stacks(9, 3)[0], -1, 1)
    walk, walked = stack_headers._refuse_circles, list[Path]()

    def spy(file: tifffile.TiffFile, path: Path) -> None:
        walked.append(path)
        walk(file, path)

    monkeypatch.setattr(stack_headers, "_refuse_circles", spy)
    path = tmp_path / "a.tif"
    for times, (stack, axes) in enumerate([(grey, "ZYX"), (colour, "ZCYX")], 1):
        options: dict[str, Any] = {"photometric": "minisblack", "imagej": True}
        tifffile.imwrite(path, stack, **options, metadata={"axes": axes})
        for page, image in enumerate(stack.reshape(9, -1, 48, 64), 1):
            expected = np.moveaxis(image, 0, -1)
            np.testing.assert_array_equal(read_image(tmp_path / f"a.tif#{page}"), expected)
        assert walked == [path] * times
    assert not len(stack_headers._headers(path, (0,)))  # another file is there by now


def test_pages_do_not_take_the_name_of_another_file(tmp_path: Path) -> None:
    for side, stack in zip(("images", "masks"), stacks(2), strict=True):
        (tmp_path / side).mkdir()
        for name, pixels in (("a", stack), ("a_1", stack[0])):
            path = tmp_path / side / f"{name}.tif"
            tifffile.imwrite(path, pixels, photometric="minisblack")
    pairs = find_pairs(tmp_path).pairs
    assert [pair.name for pair in pairs] == ["a_1", "a_page_1", "a_page_2"]
