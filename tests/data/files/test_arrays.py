"""Arrays as images: each shape as people save them, pages, and headers that promise too much."""

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from unetseg.data.files import image as image_file
from unetseg.data.files.image import ImageFile, count_pages, read_image
from unetseg.data.masks.mask_file import read_mask
from unetseg.errors import ImageError


def saved(path: Path, shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray:
    array = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 120, shape).astype(dtype)
    (np.save if path.suffix == ".npy" else np.savez_compressed)(path, array)
    return array


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_arrays_are_read_as_they_are(tmp_path: Path, suffix: str, dtype: str) -> None:
    path = tmp_path / f"a{suffix}"
    for shape in ((20, 30), (20, 30, 3), (20, 30, 12)):
        array = saved(path, shape, dtype)
        read = read_image(path)
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array.reshape(*shape[:2], -1))
    for bands in (1, 3, 12):
        array = saved(path, (bands, 20, 30), dtype)
        np.testing.assert_array_equal(read_image(path), np.moveaxis(array, 0, -1))


def test_masks_of_numpys_usual_types_are_class_numbers(tmp_path: Path) -> None:
    for dtype, factor in (("int64", 1), ("float64", 1), (">i4", 1), ("bool", 255)):
        array = saved(tmp_path / "m.npy", (20, 30), dtype)
        pixels = read_mask(tmp_path / "m.npy").pixels
        np.testing.assert_array_equal(pixels, array.astype(np.int64) * factor)


@pytest.mark.parametrize("shape", [(40, 20, 30), (8, 20, 30, 3), (8, 3, 20, 30), (4, 20, 30)])
def test_a_page_of_an_array_is_an_image(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = saved(tmp_path / "a.npy", shape)
    assert count_pages(tmp_path / "a.npy") == (shape[0], shape[0] != 4)
    page = array[2] if shape[1] == 20 else np.moveaxis(array[2], 0, -1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.npy#3"), page.reshape(20, 30, -1))
    with pytest.raises(ImageError, match=f"no page {shape[0] + 1}"):
        read_image(tmp_path / f"a.npy#{shape[0] + 1}")


@pytest.mark.row(26)
def test_a_page_of_a_packed_stack_takes_the_memory_of_a_page(tmp_path: Path) -> None:
    """A stack of zeros of a few kilobytes may be larger than memory."""
    array = np.zeros((120, 256, 256), np.uint8)
    array[70] = saved(tmp_path / "page.npy", (256, 256))
    np.savez_compressed(tmp_path / "a.npz", array)
    np.savez_compressed(tmp_path / "b.npz", np.asfortranarray(array))
    read_image(tmp_path / "a.npz#2")  # loads what reads it
    tracemalloc.start()
    page = read_image(tmp_path / "a.npz#71")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(page[..., 0], array[70])
    assert peak < 4_000_000  # bytes, of 8 million
    np.testing.assert_array_equal(read_image(tmp_path / "b.npz#71"), page)
    np.savez_compressed(tmp_path / "b.npz", np.zeros_like(array, order="F"))  # all is unpacked
    with pytest.raises(ImageError, match="bomb"):
        read_image(tmp_path / "b.npz#71", max_pixels=100_000)


def test_large_arrays_are_read_by_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = saved(tmp_path / "a.npy", (3, 50, 60), "int16")
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 1000)
    with ImageFile(tmp_path / "a.npy") as image:
        assert image.is_windowed
        assert image.shape == (50, 60, 3)
        np.testing.assert_array_equal(
            image.read(7, 9, 20, 30), array[:, 7:27, 9:39].transpose(1, 2, 0)
        )


@pytest.mark.row(41)
def test_objects_and_what_is_no_image_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array([{"class": 1}, None]), allow_pickle=True)
    with pytest.raises(ImageError, match="Python objects, which are never unpickled"):
        read_image(path)
    for array in (np.zeros(5), np.zeros((0, 5)), np.zeros((5, 5), "U3"), np.zeros((2,) * 5)):
        np.save(path, array)
        with pytest.raises(ImageError, match="expected numbers"):
            read_image(path)
    np.savez(tmp_path / "a.npz", image=np.zeros((5, 5)), label=np.zeros((5, 5)))
    with pytest.raises(ImageError, match=r"2 arrays \(image.npy, label.npy\)"):
        read_image(tmp_path / "a.npz")


@pytest.mark.row(26)
def test_a_header_that_promises_too_much_is_the_files_fault(tmp_path: Path) -> None:
    for shape in ((9000, 9000), (10**9, 10**9), (10**30, 3)):
        text = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).encode() + b"\n"
        start = b"\x93NUMPY\x01\0" + struct.pack("<H", len(text))
        (tmp_path / "a.npy").write_bytes(start + text)
        with pytest.raises(ImageError, match="truncated: its header promises uint8"):
            read_image(tmp_path / "a.npy")
