"""Tiles and thumbnails: what is shown is what the file holds, whatever its size."""

import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tests.serving.test_folder import _closed, bare, browser, images  # noqa: F401
from unetseg.data.files.once import Recent
from unetseg.data.files.pngs import write_png
from unetseg.data.files.tiffs import write_tiff
from unetseg.data.masks.overlay import levels_of, picture
from unetseg.serving import pictures
from unetseg.serving.pictures import Pyramid, image_pyramid, mean_of, one_of

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("kind", "bands"), [("uint8", 3), ("uint16", 1), ("uint16", 5), ("float32", 2), ("int16", 1)]
)
def test_tiles_are_the_windows_of_the_image(tmp_path: Path, kind: str, bands: int) -> None:
    pixels = (RANDOM.random((300, 530, bands)) * 200).astype(kind)
    write_tiff(tmp_path / "image.tif", pixels)
    pyramid = image_pyramid(tmp_path / "image.tif")
    levels = None if kind == "uint8" else levels_of(pixels)
    shown = picture(pixels, levels)
    tiles = [[pyramid.tile(0, column, row) for column in range(3)] for row in range(2)]
    rows = [np.concatenate([np.asarray(tile) for tile in row], axis=1) for row in tiles]
    joined = np.concatenate(rows)
    assert (joined == shown).all()
    assert pyramid.tile(0, 3, 0) is None
    assert pyramid.levels == 3
    half = pyramid.tile(1, 0, 0)
    assert half is not None
    expected = shown[:300, :512].reshape(150, 2, 256, 2, 3).mean(axis=(1, 3))
    assert np.abs(half[:150].astype(float) - expected).max() <= 0.5


@pytest.mark.parametrize("shrink", [mean_of, one_of])
def test_levels_from_the_overview_are_those_from_the_file(
    monkeypatch: pytest.MonkeyPatch, shrink: Any
) -> None:
    shape = (1000, 1313, 3) if shrink is mean_of else (1000, 1313)
    pixels = RANDOM.integers(0, 255, shape, np.uint8)

    def read(top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        return pixels[top : top + height, left : left + width]

    direct = Pyramid((1000, 1313), read, shrink)
    monkeypatch.setattr(pictures, "HELD", 2**15)
    through = Pyramid((1000, 1313), read, shrink)
    for level in range(direct.levels):
        for column, row in ((0, 0), (1, 0), (0, 1)):
            a, b = direct.tile(level, column, row), through.tile(level, column, row)
            assert (a is None) == (b is None)
            if a is not None and b is not None:  # means of means are rounded twice
                assert a.shape == b.shape
                assert np.abs(a.astype(int) - b).max() <= (shrink is mean_of)


def test_what_was_forgotten_while_it_was_made_costs_nothing() -> None:
    recent: Recent[bytes] = Recent(100, len)

    def slow() -> bytes:  # meanwhile a larger one comes
        recent.get("b", lambda: bytes(90))
        recent.get("c", lambda: bytes(90))
        return bytes(80)

    recent.get("a", slow)
    assert recent._costs.keys() == recent._made.keys()
    assert sum(recent._costs.values()) <= 100


def test_what_was_used_last_is_kept_and_no_more() -> None:
    made: list[int] = []
    recent: Recent[bytes] = Recent(100, len)

    def get(key: int) -> bytes:
        return recent.get(key, lambda: made.append(key) or bytes(40))  # type: ignore[func-returns-value]

    for key in (1, 2, 1, 3, 1, 2):
        get(key)
    assert made == [1, 2, 3, 2]


def test_many_small_things_are_not_added_up_each_time() -> None:
    recent: Recent[bytes] = Recent(2**26, len)
    began = time.monotonic()
    for key in range(50_000):  # such as the Dice of so many images
        recent.get(key, lambda: b"0.9")
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("kind", ["grey16.png", "palette.png", "float.tif", "bands.tif", "cut.png"])
def test_thumbnails_of_everything_that_is_read(tmp_path: Path, kind: str) -> None:
    root = bare(tmp_path / "any", 1)
    path = root / kind
    if kind == "grey16.png":
        write_png(path, RANDOM.integers(0, 60000, (40, 700), np.uint16))
    elif kind == "palette.png":
        write_png(path, RANDOM.integers(0, 9, (40, 50), np.uint8), palette=list(range(256)) * 3)
    elif kind == "float.tif":
        write_tiff(path, RANDOM.random((40, 50, 1)).astype(np.float32))
    elif kind == "bands.tif":
        write_tiff(path, RANDOM.integers(0, 9999, (40, 50, 7)).astype(np.uint16))
    else:
        path.write_bytes((root / "photo 0.png").read_bytes()[:900])
    client = browser(root)
    listed = images(client)[path.stem]
    answer = client.get(f"/app/api/images/{listed['id']}/thumbnail.jpg")
    if kind == "cut.png":
        assert answer.status_code == 422
        return
    small = np.asarray(Image.open(BytesIO(answer.content)))
    assert small.shape == ((15, 256, 3) if kind == "grey16.png" else (40, 50, 3))
    info = client.get(f"/app/api/images/{listed['id']}/info").json()
    assert (info["width"], info["height"]) == (listed["width"], listed["height"])
    tile = client.get(f"/app/api/images/{listed['id']}/tiles/0/0/0.jpg")
    assert tile.headers["content-type"] == "image/jpeg"
    assert client.get(f"/app/api/images/{listed['id']}/tiles/9/0/0.jpg").status_code == 404


GIANT = """
import resource, sys, numpy as np
from pathlib import Path
from unetseg.serving.folder import Folder
from unetseg.serving.drawing import save_mask
from unetseg.serving.pictures import image_pyramid, mask_pyramid, thumbnail
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
folder = Folder(Path(sys.argv[1]))
(entry,) = folder.entries.values()
pyramid = image_pyramid(entry.image)
for level in range(pyramid.levels):
    assert pyramid.tile(level, 0, 0) is not None
window = (9000, 11000, 2048, 2048)
entry = save_mask(folder, entry, np.ones((2048, 2048), np.uint8), window)
mask = mask_pyramid(entry.mask, folder.classes, entry.size)
assert (mask.window(0, *window) == 1).all()
assert (mask.window(0, 0, 0, 10, 10) == 255).all()
thumbnail(pyramid, mask, folder.classes)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_a_giant_is_shown_and_drawn_in_within_little_memory(tmp_path: Path) -> None:
    root = tmp_path / "giant"
    root.mkdir()
    side, tile = 20_000, np.zeros((512, 512, 3), np.uint8)
    tile[100:200] = 77
    tiles = (tile for _ in range((-(-side // 512)) ** 2))
    tifffile.imwrite(
        root / "city.tif",
        tiles,
        shape=(side, side, 3),
        dtype="uint8",
        tile=(512, 512),
        compression="zlib",
        photometric="rgb",
    )
    done = subprocess.run(
        [sys.executable, "-c", GIANT, str(root)],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert int(done.stdout) < 600 * 1024  # KiB; the image has 1.2 GB
