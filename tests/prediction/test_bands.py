"""Laws of finished bands: what went in comes out, and only for the job it was made for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unetseg.errors import MachineError
from unetseg.prediction.bands import BandStore, bands_folder, held_bands
from unetseg.prediction.stream import Band

SPANS = [(0, 7), (7, 12), (12, 30)]
WIDTH = 11
JOB = {"image": "a.tif", "tile": 64}


def store(folder: Path, job: dict[str, Any] | None = None, classes: int = 3) -> BandStore:
    return BandStore(folder / "mask.tif", job or JOB, SPANS, WIDTH, classes)


def drawn() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    index = rng.integers(0, 3, (30, WIDTH)).astype(np.uint8)
    return index, rng.random((30, WIDTH, 3)).astype(np.float32)


def save(kept: BandStore, numbers: range) -> None:
    index, probabilities = drawn()
    for number in numbers:
        first, end = SPANS[number]
        middle = (first + end) // 2
        pieces = (probabilities[first:middle], probabilities[middle:end])
        kept.save(Band(number, first, index[first:end], pieces))


def test_rows_come_back_across_bands(tmp_path: Path) -> None:
    kept = store(tmp_path)
    save(kept, range(3))
    index, probabilities = drawn()
    for top, bottom in ((0, 30), (0, 1), (6, 8), (7, 12), (3, 29), (29, 30), (25, 99)):
        np.testing.assert_array_equal(kept.index(top, bottom), index[top:bottom])
        np.testing.assert_array_equal(kept.probabilities(top, bottom), probabilities[top:bottom])


def test_another_process_finds_the_bands(tmp_path: Path) -> None:
    save(store(tmp_path), range(2))
    again = store(tmp_path)
    assert again.finished == 2
    np.testing.assert_array_equal(again.index(0, 12), drawn()[0][:12])
    assert again.folder == tmp_path / ".mask.tif.bands"


@pytest.mark.parametrize("change", [{"tile": 32}, {"image": "b.tif"}, {"model": None}])
def test_bands_of_another_job_are_thrown_away(tmp_path: Path, change: dict[str, Any]) -> None:
    save(store(tmp_path), range(3))
    other = store(tmp_path, JOB | change)
    assert other.finished == 0
    assert [path.name for path in other.folder.iterdir()] == ["job.json"]


def test_a_damaged_job_is_begun_anew(tmp_path: Path) -> None:
    kept = store(tmp_path)
    save(kept, range(3))
    (kept.folder / "job.json").write_text("{")
    assert store(tmp_path).finished == 0


def test_bands_count_only_from_the_top(tmp_path: Path) -> None:
    kept = store(tmp_path, classes=0)
    assert kept.finished == 0
    save(kept, range(1, 3))
    assert kept.finished == 0
    save(kept, range(1))
    assert kept.finished == 3


def test_a_band_is_there_when_its_classes_are(tmp_path: Path) -> None:
    kept = store(tmp_path)

    def killed() -> Any:
        yield drawn()[1][:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept.save(Band(0, 0, drawn()[0][:7], killed()))
    assert store(tmp_path).finished == 0
    assert [path.name for path in kept.folder.iterdir()] == ["job.json"]


def test_a_damaged_band_says_what_to_do(tmp_path: Path) -> None:
    kept = store(tmp_path)
    save(kept, range(3))
    file = kept.folder / "000001.classes"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(MachineError, match=r"000001\.classes cannot be read") as caught:
        kept.index(0, 30)
    assert str(kept.folder) in caught.value.fix


def test_nothing_is_left_when_it_is_removed(tmp_path: Path) -> None:
    kept = store(tmp_path)
    save(kept, range(3))
    kept.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_held_is_told(tmp_path: Path) -> None:
    mask = tmp_path / "mask.tif"
    (bands_folder(mask) / ".lock").mkdir(parents=True)
    with pytest.raises(MachineError, match=r"cannot write .*mask\.tif\.bands"), held_bands(mask):
        pass


def test_bands_are_held_by_one(tmp_path: Path) -> None:
    mask = tmp_path / "mask.tif"
    with held_bands(mask):
        kept = store(tmp_path)
        with pytest.raises(MachineError, match=r"another .*mask\.tif now"), held_bands(mask):
            pass
        save(kept, range(3))
        assert store(tmp_path).finished == 3
        assert store(tmp_path, JOB | {"tile": 1}).finished == 0
        with pytest.raises(MachineError, match="another process"), held_bands(mask):
            pass
    with held_bands(mask):
        pass
