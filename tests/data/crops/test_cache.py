"""Laws of the cache: crops do not know it, processes share it, and nothing is ever left behind."""

import gc
import pickle
import resource
import signal
import subprocess
import sys
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unetseg.data.crops import cache
from unetseg.data.crops.cache import (
    DecodedFile,
    choose_cache,
    decoded_file,
    decoding_speed,
    pixel_bytes,
    read_split,
)
from unetseg.data.crops.dataset import CropRule, Crops, Order
from unetseg.data.crops.loading import crop_batches
from unetseg.data.crops.reader import DecodedPair, PairReader
from unetseg.data.facts.survey import Survey, survey
from unetseg.data.files import image as image_file
from unetseg.data.files.pngs import write_png
from unetseg.errors import ConfigError, MachineError, MaskError, OutOfMemoryError

PLACES = ("memory", "disk", "none")
PIXELS = 40 * 30
DECODED = 10 * PIXELS * 4  # bytes of all pairs of `known`


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    """Ten pairs of 40×30, half of them with an opaque alpha band; two are for validation."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for index in range(10):
        image = rng.integers(0, 256, (40, 30, 3 + index % 2), np.uint8)
        image[..., 3:] = 255
        write_png(folder / "images" / f"{index}.png", image)
        mask = np.zeros((40, 30), np.uint8)
        mask[5 + index : 15 + index, 7:12] = 255
        write_png(folder / "masks" / f"{index}.png", mask)
    return survey(folder)


def batches(reader: PairReader, workers: int) -> list[torch.Tensor]:
    """The first batches of a training, images and masks."""
    unused = np.zeros((len(reader), 2, 3), np.float32)
    crops = Crops(reader, CropRule(16, "full", 0.5), unused)
    order = Order([1] * len(reader), 3, seed=1)
    loader = crop_batches(crops, order, workers)
    return [tensor for batch in islice(loader, 3) for tensor in batch]


@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 2])
def test_crops_do_not_know_where_their_pair_was_kept(
    known: Survey, tmp_path: Path, workers: int
) -> None:
    readers = [read_split(known, "train", 3, place, tmp_path) for place in PLACES]
    first, *others = (batches(reader, workers) for reader in readers)
    for other in others:
        assert all(map(torch.equal, first, other))
    for reader in readers:
        reader.forget()
    assert not list(tmp_path.iterdir())


@pytest.mark.long
@pytest.mark.parametrize("name", ["dsb2018", "sen1floods11_tiles13band", "camvid"])
def test_real_pairs_come_back_as_decoded(real_data: Path, tmp_path: Path, name: str) -> None:
    known = survey(real_data / name)
    reader = read_split(known, "val", known.bands, "disk", tmp_path)
    for index in range(len(reader)):
        for kept, decoded in zip(reader[index], reader.decode(index), strict=True):
            assert kept.dtype == decoded.dtype
            np.testing.assert_array_equal(kept, decoded)
    reader.forget()


@pytest.mark.parametrize("asked", ["auto", "memory"])
def test_the_facts_of_a_folder_are_looked_through_once(
    known: Survey, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    """And not for each of its pairs: of 100,000 that takes half an hour."""
    asked_for = list[int]()

    def spy(folder: Survey, bands: int) -> int:
        asked_for.append(bands)
        return pixel_bytes(folder, bands)

    monkeypatch.setattr(cache, "pixel_bytes", spy)
    choose_cache(known, 3, asked)
    assert asked_for == [3]


def test_the_files_of_small_pairs_are_opened_to_be_decoded_alone(
    known: Survey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unetseg.data.crops.reader.MaskFile", None)  # asked for large ones
    reader = read_split(known, "train", 3, "memory")
    assert not any(map(reader.is_windowed, range(len(reader))))


# The file


arrays = st.tuples(
    st.integers(1, 9), st.integers(1, 9), st.sampled_from(["u1", "<u2", "<i2", "<f4"])
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shapes=st.lists(arrays, min_size=1, max_size=12))
def test_a_file_keeps_what_a_dict_keeps(tmp_path: Path, shapes: list[tuple[int, int, str]]) -> None:
    rng = np.random.default_rng(0)
    expected: dict[int, DecodedPair] = {
        index: (
            rng.integers(0, 99, (height, width, 3)).astype(dtype),
            rng.integers(0, 9, (height, width)).astype(np.uint8),
        )
        for index, (height, width, dtype) in enumerate(shapes)
    }
    file = decoded_file(tmp_path, "train")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(file.__setitem__, expected, expected.values()))
    assert file.get(len(shapes)) is None
    for index, pair in expected.items():
        kept = file.get(index)
        assert kept is not None
        assert kept[0].dtype == pair[0].dtype
        np.testing.assert_array_equal(kept[0], pair[0])
        np.testing.assert_array_equal(kept[1], pair[1])
    file.clear()
    assert file.get(0) is None


PAIR = np.full((5, 4, 3), 7, np.uint8), np.ones((5, 4), np.uint8)


def test_arrays_outlive_their_file(tmp_path: Path) -> None:
    file = decoded_file(tmp_path, "train")
    file[0] = PAIR
    kept = file.get(0)
    file.clear()
    del file
    gc.collect()
    assert kept is not None
    np.testing.assert_array_equal(kept[0], PAIR[0])


@pytest.mark.long
def test_a_file_without_name_leaves_nothing_even_when_it_is_killed(tmp_path: Path) -> None:
    text = """
        import os, signal, sys
        from pathlib import Path
        import numpy as np
        from unetseg.data.crops.cache import decoded_file
        file = decoded_file(Path(sys.argv[1]), "train")
        file[0] = np.ones((99, 99, 3), np.uint8), np.ones((99, 99), np.uint8)
        assert file.get(0)[0].all()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", dedent(text), str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not list(tmp_path.iterdir())


def test_where_processes_are_not_forked_the_file_is_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "FORKS", False)
    leftover, foreign = tmp_path / ".decoded-train-old", tmp_path / ".decoded-val-other"
    leftover.write_bytes(b"of a crash")
    foreign.write_bytes(b"of the other split")
    file = decoded_file(tmp_path, "train")
    file[3] = PAIR
    assert set(tmp_path.iterdir()) == {file.path, foreign}
    opened: DecodedFile = pickle.loads(pickle.dumps(file))
    kept = opened.get(3)
    assert kept is not None
    np.testing.assert_array_equal(kept[0], PAIR[0])
    del opened, kept
    gc.collect()
    assert file.path.exists()  # only its owner removes it
    file.clear()
    assert set(tmp_path.iterdir()) == {foreign}
    second = decoded_file(tmp_path, "val")
    assert list(tmp_path.iterdir()) == [second.path]
    del second
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_answer(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    file = decoded_file(tmp_path, "train")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(MachineError, match=r"cannot write .*\.decoded-.*: File too large"):
            file[0] = np.zeros((99, 99, 3), np.uint8), np.zeros((99, 99), np.uint8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        file.clear()


def test_a_pair_that_cannot_be_read_is_named_and_nothing_stays(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    run.mkdir()
    for index in range(4):
        for folder in ("images", "masks"):
            write_png(data / folder / f"{index}.png", np.full((8, 8), index % 2, np.uint8))
    known = survey(data)
    bad = known.select("train")[0].mask
    assert isinstance(bad, Path)
    write_png(bad, np.full((8, 8), 77, np.uint8))
    for place in ("memory", "disk"):
        with pytest.raises(MaskError, match="holds values that are no class: 77"):
            read_split(known, "train", 1, place, run)
    gc.collect()
    assert not list(run.iterdir())


# The choice


Usage = namedtuple("Usage", "free")


def choose(
    known: Survey, patch: pytest.MonkeyPatch, *, memory: float, room: float = 9, speed: float = 1e8
) -> str:
    """What is chosen when so many times the decoded size is free; its reason is in one line."""
    patch.setattr(cache, "host_memory", lambda: int(memory * DECODED))
    patch.setattr(cache, "disk_usage", lambda _: Usage(int(room * DECODED)))
    patch.setattr(cache, "decoding_speed", lambda _: speed)
    choice = choose_cache(known, 3, "auto", Path("run"))
    assert choice.reason
    assert "\n" not in choice.reason
    return choice.place


def test_memory_then_disk_then_nowhere(known: Survey, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(known, monkeypatch, memory=4) == "memory"
    assert choose(known, monkeypatch, memory=3) == "disk"  # a third, of both splits together
    assert choose(known, monkeypatch, memory=3, room=1.9) == "none"
    assert choose(known, monkeypatch, memory=3, speed=2e9) == "none"
    assert choose_cache(known, 3).place == "none"  # no folder to write to
    assert choose_cache(known, 3, splits=("val",)).place == "memory"
    assert choose_cache(known, 3, "none").place == "none"


def test_a_wish_is_obeyed_or_refused(known: Survey, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(known, monkeypatch, memory=1.5, room=1.1)
    asked = choose_cache(known, 3, "memory")
    assert (asked.place, asked.reason) == ("memory", "as set: 0 MB, 67% of the free memory")
    assert choose_cache(known, 3, "disk", Path("run")).place == "disk"
    with pytest.raises(ConfigError, match="needs a run folder"):
        choose_cache(known, 3, "disk")
    choose(known, monkeypatch, memory=1.1, room=0.9)
    with pytest.raises(OutOfMemoryError, match=r"0 MB of memory are free\nChoose --cache disk"):
        choose_cache(known, 3, "memory")
    with pytest.raises(MachineError, match="are free on the disk of run\nChoose --cache none"):
        choose_cache(known, 3, "disk", Path("run"))


def test_large_images_are_never_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 1000)
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for index, side in enumerate((20, 50, 20, 50)):
            pixels = rng.integers(0, 2, (side, side), np.uint8)
            tifffile.imwrite(tmp_path / folder / f"{index}.tif", pixels)
    known = survey(tmp_path)
    reader = read_split(known, "train", 1, "disk", tmp_path)
    wholes = [index for index in range(len(reader)) if not reader.is_windowed(index)]
    assert 0 < len(wholes) < len(reader)
    assert [i for i in range(len(reader)) if reader._kept.get(i) is not None] == wholes
    assert decoding_speed(reader) > 0
    reader.forget()


def test_nothing_to_decode_is_fast(known: Survey) -> None:
    assert decoding_speed(PairReader([], known.class_map, 3)) == float("inf")
