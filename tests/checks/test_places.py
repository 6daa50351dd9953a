"""Places of masks: what lies elsewhere than its image is told, whatever the coordinates say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.warp import transform

from tests.builders import noise, write_geotiff
from unetseg.checks.check import refuse_errors
from unetseg.checks.finding import Finding
from unetseg.checks.places import inspect_places
from unetseg.config import DataConfig
from unetseg.data.facts.survey import Survey, survey
from unetseg.data.files.georeference import quiet
from unetseg.data.files.image import ImageFile
from unetseg.data.files.pngs import write_png
from unetseg.errors import DataError

UTM = "EPSG:32633"
PLACE = Affine(2, 0, 500_000, 0, -2, 5_200_000)


def folder(root: Path, masks: list[dict[str, Any]], **image: Any) -> Survey:
    """Pairs of 48×64 pixels, whose masks are written with other options than the images."""
    image = {"crs": UTM, "transform": PLACE} | image
    for number, options in enumerate(masks):
        shape = options.pop("shape", (48, 64))
        write_geotiff(root / "images" / f"{number}.tif", noise(48, 64, 3, seed=number), **image)
        mask = np.pad(np.full((20, 20), 255, np.uint8), ((9, shape[0] - 29), (9, shape[1] - 29)))
        with quiet():
            write_geotiff(root / "masks" / f"{number}.tif", mask, **(image | options))
    return survey(root, DataConfig(), strict=False)


def found(known: Survey) -> dict[str, Finding]:
    return {finding.check: finding for finding in inspect_places(known)}


def moved(right: float, down: float, scale: float = 1) -> Affine:
    return PLACE @ Affine.translation(right, down) @ Affine.scale(scale)


def test_masks_elsewhere_and_beside_are_errors_and_training_refuses(tmp_path: Path) -> None:
    masks = [
        {},
        {"transform": moved(0.6, -0.6)},
        {"transform": moved(32, 0)},
        {"transform": moved(0, 48)},
        {"crs": "EPSG:32632"},
        {"transform": PLACE @ Affine.translation(0, 48) @ Affine.scale(1, -1)},
        {"transform": moved(0, 0, 0.5), "shape": (96, 128)},
        {"transform": moved(-8, -10), "shape": (80, 100)},
    ]
    known = folder(tmp_path, masks)
    findings = found(known)
    assert {name: finding.severity for name, finding in findings.items()} == {
        "mask-elsewhere": "error",
        "mask-beside": "error",
    }
    said = {
        Path(line.partition(":")[0]).stem: line.partition(": ")[2].rpartition(" ")[0]
        for finding in findings.values()
        for line in finding.files
    }
    assert said["2"] == "32 px right of"
    assert said["3"] == "48 px below"
    assert said["5"] == "turned, or its corners up to 48 px beside those of"
    assert said["7"] == "from its column 8 and row 10 on, it shows"
    assert said.keys() == set("23457")
    assert {Path(line.partition(":")[0]).stem for line in findings["mask-elsewhere"].files} == {
        *("3", "4")
    }
    with pytest.raises(DataError, match="cannot be trained on"):
        refuse_errors(known)


def test_one_place_in_two_coordinate_systems_is_one_place(tmp_path: Path) -> None:
    corners = [PLACE @ at for at in ((0, 0), (64, 0), (0, 48))]
    xs, ys = transform(UTM, "EPSG:32634", *zip(*corners, strict=True))
    across, down = (xs[1] - xs[0]) / 64, (xs[2] - xs[0]) / 48
    along, below = (ys[1] - ys[0]) / 64, (ys[2] - ys[0]) / 48
    other = Affine(across, down, xs[0], along, below, ys[0])
    masks = [
        {"crs": "+proj=utm +zone=33 +ellps=WGS84 +units=m"},
        {"crs": "EPSG:32634", "transform": other},
        {"crs": "EPSG:32634", "transform": other @ Affine.translation(3, 0)},
    ]
    (finding,) = found(folder(tmp_path, masks)).values()
    assert [line.partition("masks/")[2][:21] for line in finding.files] == ["2.tif: 3 px right of "]


def test_without_a_place_nothing_is_said(tmp_path: Path) -> None:
    folder(tmp_path, [{}, {"transform": None}])  # the second has no more than a CRS
    write_png(tmp_path / "masks" / "0.png", np.zeros((48, 64), np.uint8))
    (tmp_path / "masks" / "0.tif").unlink()
    known = survey(tmp_path, DataConfig(), strict=False)
    assert len(known.pairs.pairs) == 2
    assert not found(known)


def test_of_files_without_a_place_no_pixel_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        for side in ("images", "masks"):
            write_png(tmp_path / side / f"{seed}.png", noise(20, 30, seed=seed) % 2)
    known = survey(tmp_path)
    read: list[Path] = []
    monkeypatch.setattr(ImageFile, "picture", lambda file: read.append(file.path))
    assert list(inspect_places(known)) == []
    assert not read


def test_coordinates_of_an_unknown_system_are_a_warning(tmp_path: Path) -> None:
    (finding,) = found(folder(tmp_path, [{"crs": None, "transform": moved(9, 0)}, {}])).values()
    assert (finding.check, finding.severity) == ("mask-place-unsure", "warning")
    assert not found(folder(tmp_path / "same", [{"crs": None}, {}]))


def test_ground_control_points_are_compared(tmp_path: Path) -> None:
    def points(right: float) -> list[GroundControlPoint]:
        corners = [(0, 0), (0, 64), (48, 0), (48, 64)]
        return [GroundControlPoint(r, c, *(moved(right, 0) @ (c, r)), 0) for r, c in corners]

    masks = [{"gcps": points(0)}, {"gcps": points(5)}]
    known = folder(tmp_path, masks, gcps=points(0), transform=None)
    (finding,) = found(known).values()
    assert [line.partition(": ")[2].split(" of ")[0] for line in finding.files] == ["5 px right"]
