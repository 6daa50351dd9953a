"""Every mask of another size is named with both sizes, under what is behind it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unetseg.checks.evidence import Evidence
from unetseg.checks.finding import Finding
from unetseg.checks.sizes import inspect_sizes, whole_factor
from unetseg.data.facts.fingerprint import PairFacts, describe_pairs
from unetseg.data.files.images import read_image
from unetseg.data.masks.mask_file import read_mask
from unetseg.data.pairs.match import find_pairs
from unetseg.data.sample import draw_sample


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_sample(tmp_path_factory.mktemp("data") / "sample", count=6, size=96)


@pytest.fixture
def data(sample: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample, tmp_path / "photos"))


def image(data: Path, number: int) -> Path:
    return data / "images" / f"cells_{number:03d}.png"


def mask(data: Path, number: int) -> Path:
    return data / "masks" / f"cells_{number:03d}.png"


def resize(path: Path, width: int, height: int) -> None:
    Image.open(path).resize((width, height), Image.Resampling.NEAREST).save(path)


def findings(data: Path) -> list[Finding]:
    pairs = find_pairs(data).pairs
    facts = [fact for fact in describe_pairs(pairs) if isinstance(fact, PairFacts)]
    assert len(facts) == len(pairs)
    return list(inspect_sizes(Evidence(data, pairs, tuple(facts))))


def test_a_good_folder_has_no_finding(data: Path) -> None:
    assert findings(data) == []


def test_whole_factors_are_one_finding(data: Path) -> None:
    resize(mask(data, 0), 48, 48)
    resize(mask(data, 1), 192, 192)
    resize(mask(data, 2), 24, 24)
    (found,) = findings(data)
    assert (found.check, found.severity) == ("size-factor", "error")
    assert found.summary.startswith("3 masks")
    assert found.files == tuple(
        f"{image(data, n)} is 96×96, {mask(data, n)} is {side}×{side}"
        for n, side in enumerate((48, 192, 24))
    )
    assert found.command == "unetseg check DATA --fix OUT"


@pytest.mark.parametrize("size", [(96, 48), (48, 96), (47, 47), (90, 96), (95, 95), (3, 3)])
def test_other_sizes_are_another(data: Path, size: tuple[int, int]) -> None:
    resize(mask(data, 3), *size)
    (found,) = findings(data)
    assert (found.check, found.severity) == ("size-mismatch", "error")
    assert found.files == (f"{image(data, 3)} is 96×96, {mask(data, 3)} is {size[0]}×{size[1]}",)
    assert "nearest" in found.fix
    assert not found.command


def test_swapped_sides_are_another(data: Path) -> None:
    resize(image(data, 4), 96, 64)
    resize(mask(data, 4), 64, 96)
    (found,) = findings(data)
    assert (found.check, found.severity) == ("size-swapped", "error")
    assert found.files[0].endswith("is 64×96")


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_drawn_before_the_rotation_is_another(data: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(image(data, 5)).crop((0, 0, 96, 64)).save(image(data, 5), exif=exif)
    resize(mask(data, 5), 96, 64)  # as stored
    assert read_image(image(data, 5)).shape[:2] == read_mask(mask(data, 5)).pixels.shape[::-1]
    (found,) = findings(data)
    assert (found.check, found.severity) == ("size-unturned", "error")
    assert "rotation" in found.summary
    assert found.command == "unetseg check DATA --fix OUT"
    resize(mask(data, 5), 64, 96)  # as seen
    assert findings(data) == []


def test_each_kind_is_a_finding_of_its_own(data: Path) -> None:
    resize(mask(data, 0), 48, 48)
    resize(mask(data, 1), 50, 48)
    resize(image(data, 2), 96, 64)
    resize(mask(data, 2), 64, 96)
    checks = [finding.check for finding in findings(data)]
    assert checks == ["size-factor", "size-swapped", "size-mismatch"]


def test_very_small_images_are_a_note(data: Path) -> None:
    for path in (image(data, 0), mask(data, 0)):
        resize(path, 96, 31)
    (found,) = findings(data)
    assert (found.check, found.severity, found.files) == (
        "small-images",
        "note",
        (f"{image(data, 0)}: 96×31",),
    )


def test_very_unequal_images_are_a_note(data: Path) -> None:
    for path in (image(data, 0), mask(data, 0)):
        resize(path, 768, 767)
    assert findings(data) == []
    for path in (image(data, 0), mask(data, 0)):
        resize(path, 768, 768)
    (found,) = findings(data)
    assert (found.check, found.severity) == ("unequal-sizes", "note")
    assert "from 96×96 to 768×768" in found.summary


@given(
    height=st.integers(1, 99), width=st.integers(1, 99), factor=st.sampled_from([2, 3, 4, 8, 16])
)
def test_a_whole_factor_brings_the_mask_to_the_size_of_the_image(
    height: int, width: int, factor: int
) -> None:
    small, large = (height, width), (height * factor, width * factor)
    assert whole_factor(large, small) == factor
    assert whole_factor(small, large) == 1 / factor
    assert whole_factor(large, large) is None
    assert np.zeros(small).repeat(factor, 0).repeat(factor, 1).shape == large


@pytest.mark.parametrize("name", ["drive", "cwfid", "tiny_ade20k", "hot_buildings_geotiff"])
def test_real_folders_have_no_finding(real_data: Path, name: str) -> None:
    assert findings(real_data / name) == []
