"""Laws of checking precision: a network agrees with itself, gaps do not count, windows are fair."""

import json
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.builders import bundle_info, class_map, random_segmenter
from unetseg.bundle import PrecisionVerdict, keep_in_bundle, load_bundle, save_bundle
from unetseg.data.crops.reader import PairReader
from unetseg.data.facts.image_values import ImageFacts, image_facts
from unetseg.data.files import image as image_file
from unetseg.data.files.nodata import with_gaps
from unetseg.data.masks.class_map import ClassInfo
from unetseg.data.pairs.match import find_pairs
from unetseg.errors import BundleError
from unetseg.evaluation.precision import (
    FEWEST_PIXELS,
    MOST_PIXELS,
    WINDOW,
    Labelled,
    check_precision,
    compare_precision,
    pixels_to_compare,
    spread_windows,
)
from unetseg.prediction.engine import Engine, machine_for
from unetseg.runtime import Machine
from unetseg.unet.segmenter import Segmenter, image_statistics

FAST = Machine(torch.device("cpu"), torch.bfloat16, "CPU")
EXACT = replace(FAST, dtype=torch.float32)
NAMES = ("ground", "cell", "crack")
CLASS_MAP = class_map(0, 1, 2)
INFO = bundle_info(classes=CLASS_MAP)


def segmenter() -> Segmenter:
    return random_segmenter(INFO, seed=1)


def engine(machine: Machine, built: Segmenter | None = None) -> Engine:
    return Engine(built or segmenter(), machine, tile=2048, overlap=0.25)


def some_pairs(count: int = 3, seed: int = 0) -> list[Labelled]:
    """Blotched noise; the first has a hole without data, some truth of all is ignored."""
    rng = np.random.default_rng(seed)
    pairs: list[Labelled] = []
    for number in range(count):
        shape = (70 + 8 * number, 90)
        image = np.kron(rng.integers(1, 255, (shape[0] // 8 + 1, 12, 3)), np.ones((8, 8, 1), int))
        truth = rng.integers(0, 3, shape).astype(np.uint8)
        truth[:5] = 255
        pixels, missing = image[: shape[0], : shape[1]].astype(np.uint8), np.zeros(shape, bool)
        missing[20:40, 30:50] = number == 0
        pairs.append(Labelled(with_gaps(pixels, 3, missing if number == 0 else None), truth))
    return pairs


# ------------------------------------------------------------------ the comparison


def test_a_network_agrees_with_itself() -> None:
    verdict = compare_precision(engine(FAST), engine(FAST), some_pairs(), 3, [1, 2])
    assert verdict is not None
    assert (verdict.equal_pixels, verdict.images, verdict.dtype) == (1, 3, "bfloat16")
    assert verdict.class_gap == 0
    assert verdict.dice == verdict.dice_float32
    assert verdict.holds


def flat_masks(predictor: Engine, pairs: Sequence[Labelled]) -> NDArray[np.uint8]:
    return np.concatenate([predictor.classes(image).ravel() for image, *_ in pairs])


def dice_of_sets(truth: NDArray[np.uint8], mask: NDArray[np.uint8], wanted: int) -> float:
    counted = (truth != 255) & (mask != 255)
    true, found = (set(np.flatnonzero(counted & (index == wanted))) for index in (truth, mask))
    return 2 * len(true & found) / (len(true) + len(found))


def test_the_figures_are_those_of_all_pixels_with_data() -> None:
    pairs = some_pairs()
    fast, exact = engine(FAST), engine(EXACT)
    masks = flat_masks(fast, pairs), flat_masks(exact, pairs)
    truth = np.concatenate([index.ravel() for _, index, _ in pairs])
    seen = masks[1] != 255
    assert np.count_nonzero(~seen) == 20 * 20
    verdict = compare_precision(fast, exact, iter(pairs), 3, [1, 2])
    assert verdict is not None
    assert verdict.equal_pixels == np.mean(masks[0][seen] == masks[1][seen])
    assert 0.9 < verdict.equal_pixels < 1
    by_hand = np.array([[dice_of_sets(truth, m, wanted) for wanted in range(3)] for m in masks])
    means = by_hand[:, 1:].mean(axis=1)
    assert [verdict.dice, verdict.dice_float32] == pytest.approx(means, abs=1e-12)
    assert verdict.class_gap == pytest.approx(np.abs(by_hand[0] - by_hand[1]).max(), abs=1e-12)


def test_ignored_truth_counts_for_equal_pixels_but_not_for_dice() -> None:
    pairs = [Labelled(image, np.full_like(truth, 255)) for image, truth, _ in some_pairs()]
    with_truth = compare_precision(engine(FAST), engine(EXACT), some_pairs(), 3, [1, 2])
    without = compare_precision(engine(FAST), engine(EXACT), pairs, 3, [1, 2])
    assert with_truth is not None
    assert without is not None
    assert without.equal_pixels == with_truth.equal_pixels
    assert np.isnan([without.dice, without.dice_float32, without.class_gap]).all()


def test_images_without_data_are_no_evidence() -> None:
    blank = Labelled(np.zeros((40, 40, 4), np.uint8), np.ones((40, 40), np.uint8))
    assert compare_precision(engine(FAST), engine(EXACT), [blank], 3, [1]) is None
    assert compare_precision(engine(FAST), engine(EXACT), [], 3, [1]) is None
    with_blank = compare_precision(engine(FAST), engine(EXACT), [blank, *some_pairs()], 3, [1])
    assert with_blank == compare_precision(engine(FAST), engine(EXACT), some_pairs(), 3, [1])


def test_a_network_that_says_something_else_does_not_hold() -> None:
    other = segmenter()
    other.load_state_dict({**other.state_dict(), "network.head.bias": torch.tensor([0, 0.1, 0])})
    verdict = compare_precision(engine(FAST, other), engine(EXACT), some_pairs(), 3, [1, 2])
    assert verdict is not None
    assert verdict.equal_pixels < 0.999
    assert not verdict.holds


# ------------------------------------------------------------------ the bundle


@pytest.fixture
def run(tmp_path: Path) -> Path:
    save_bundle(tmp_path / "run" / "model", segmenter().state_dict(), INFO)
    return tmp_path / "run"


def unread() -> Iterator[Labelled]:
    raise AssertionError("no pair is to be read")
    yield


def test_the_verdict_is_kept_and_applied(run: Path) -> None:
    verdict = check_precision(run, FAST, some_pairs())
    info = load_bundle(run)[1]
    assert verdict is not None
    assert info.precision == verdict
    assert machine_for(info, FAST, "auto")[0] == (FAST if verdict.holds else EXACT)
    assert verdict == compare_precision(engine(FAST), engine(EXACT), some_pairs(), 3, [1, 2])


def test_what_is_known_is_not_measured_again_until_the_weights_change(run: Path) -> None:
    first = check_precision(run, FAST, some_pairs())
    content = (run / "model" / "model.json").read_bytes()
    assert check_precision(run, FAST, unread()) == first
    assert (run / "model" / "model.json").read_bytes() == content
    save_bundle(run / "model", segmenter().state_dict(), INFO)
    assert load_bundle(run)[1].precision is None
    with pytest.raises(AssertionError, match="no pair is to be read"):
        check_precision(run, FAST, unread())


def test_nothing_is_compared_or_kept_without_fast_arithmetic_or_data(run: Path) -> None:
    assert check_precision(run, EXACT, unread()) is None
    assert check_precision(run, FAST, []) is None
    assert load_bundle(run)[1].precision is None


# ------------------------------------------------------------------ the verdict on precision


def verdict(gap: float, dice: float = 0.9, exact: float = 0.9, **kind: object) -> PrecisionVerdict:
    facts = {"dtype": "bfloat16", "dice": dice, "dice_float32": exact, "images": 12} | kind
    return PrecisionVerdict.model_validate({"equal_pixels": 0.99, "class_gap": gap} | facts)


@pytest.mark.parametrize(
    ("gap", "dice", "exact", "holds"),
    [
        (0.0, 0.9, 0.9, True),
        (0.005, 0.9, 0.9, True),
        (0.0051, 0.9, 0.9, False),
        (math.nan, 0.9, 0.9, False),
        (0.0, 0.9009, 0.9, True),
        (0.0, 0.9011, 0.9, False),
        (0.0, 0.8989, 0.9, False),
        (0.0, math.nan, math.nan, True),
        (0.0, math.nan, 0.0, False),
        (0.0, 0.0, math.nan, False),
    ],
)
def test_scores_decide_the_verdict_whatever_pixels_differ(
    gap: float, dice: float, exact: float, holds: bool
) -> None:
    for equal in (0.5, 1.0):
        assert verdict(gap, dice, exact, equal_pixels=equal).holds is holds


def store_verdict(run: Path, found: PrecisionVerdict, weights_sha256: str) -> None:
    keep_in_bundle(run, weights_sha256, precision=found)


def test_a_bundle_from_before_verdicts_loads(run: Path) -> None:
    file = run / "model" / "model.json"
    content = json.loads(file.read_text())
    assert content.pop("precision") is None
    file.write_text(json.dumps(content))
    assert load_bundle(run)[1].precision is None


def test_a_verdict_from_before_classes_were_compared_does_not_hold(run: Path) -> None:
    store_verdict(run, verdict(0.0), load_bundle(run)[1].weights_sha256)
    file = run / "model" / "model.json"
    content = json.loads(file.read_text())
    assert content["precision"].pop("class_gap") == 0
    file.write_text(json.dumps(content))
    old = load_bundle(run)[1].precision
    assert old is not None
    assert not old.holds


@pytest.mark.parametrize("dice", [0.75, math.nan])
def test_a_stored_verdict_changes_nothing_else(run: Path, dice: float) -> None:
    weights = run / "model" / "model.safetensors"
    before, content = load_bundle(run)[1], weights.read_bytes()
    store_verdict(run, verdict(0.004, dice, dice), before.weights_sha256)
    after = load_bundle(run)[1]
    assert after.precision is not None
    assert after.precision.holds
    np.testing.assert_equal(after.precision.model_dump(), verdict(0.004, dice, dice).model_dump())
    assert after.model_copy(update={"precision": None}) == before
    assert weights.read_bytes() == content
    assert {p.name for p in (run / "model").iterdir()} == {"model.json", "model.safetensors"}


def test_new_weights_have_no_verdict(run: Path) -> None:
    old = load_bundle(run)[1].weights_sha256
    store_verdict(run, verdict(0.0), old)
    save_bundle(run / "model", random_segmenter(INFO, seed=2).state_dict(), INFO)
    assert load_bundle(run)[1].precision is None
    with pytest.raises(BundleError, match="other weights than those that were measured"):
        store_verdict(run, verdict(0.0), old)
    assert load_bundle(run)[1].precision is None


def test_a_verdict_that_cannot_be_written_leaves_the_bundle_as_it_was(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = load_bundle(run)[1]
    store_verdict(run, verdict(0.5), known.weights_sha256)

    def crash(*_: object) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            store_verdict(run, verdict(0.0), known.weights_sha256)
    assert load_bundle(run)[1].precision == verdict(0.5)
    assert {p.name for p in (run / "model").iterdir()} == {"model.json", "model.safetensors"}


def test_whoever_reads_meanwhile_finds_a_whole_bundle(run: Path) -> None:
    known = load_bundle(run)[1].weights_sha256
    written = threading.Event()

    def write() -> None:
        for step in range(60):
            store_verdict(run, verdict(step / 60), known)
        written.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not written.is_set() and writer.is_alive():
        load_bundle(run)
    writer.join()
    assert load_bundle(run)[1].precision == verdict(59 / 60)


@pytest.mark.parametrize(
    ("found", "dtype", "precision"),
    [
        (None, torch.bfloat16, "auto"),
        (verdict(0.004), torch.bfloat16, "auto"),
        (verdict(0.01), torch.float32, "auto"),
        (verdict(0.01), torch.float16, "auto"),  # nothing is known of that
        (verdict(0.01), torch.bfloat16, "bf16"),
        (verdict(0.01, dtype="float16"), torch.bfloat16, "auto"),
    ],
)
def test_a_verdict_decides_only_what_it_knows_and_is_asked(
    found: PrecisionVerdict | None, dtype: torch.dtype, precision: str
) -> None:
    known = INFO.model_copy(update={"precision": found})
    asked = replace(FAST, dtype=dtype)
    assert machine_for(known, asked, precision) == (asked, "")


def test_float32_stays_where_the_verdict_does_not_hold_and_it_is_said() -> None:
    known = INFO.model_copy(update={"precision": verdict(0.00612, 0.9012, 0.9025)})
    chosen, why = machine_for(known, FAST, "auto")
    assert chosen == EXACT
    assert why == (
        "float32, because bfloat16 scored otherwise in validation, see model.json "
        "(--precision bf16 is faster)"
    )
    half = INFO.model_copy(update={"precision": verdict(0.01, dtype="float16")})
    chosen, why = machine_for(half, replace(FAST, dtype=torch.float16), "auto")
    assert chosen == EXACT
    assert "--precision fp16 is faster" in why


# ------------------------------------------------------------------ what is compared


def numbered(folder: Path, shapes: Sequence[tuple[int, int]]) -> tuple[PairReader, list[Any]]:
    """Pairs whose pixels tell where they are: red the image, green and blue row and column / 4."""
    for number, (height, width) in enumerate(shapes):
        rows, columns = np.mgrid[:height, :width] // 4
        image = np.stack([np.full_like(rows, number), rows, columns], -1).astype(np.uint8)
        for kind, array in (("images", image), ("masks", (image[..., 1] % 2 * 255))):
            path = folder / kind / f"{number:02}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    pairs = find_pairs(folder).pairs
    classes = (CLASS_MAP.classes[0], CLASS_MAP.classes[1].model_copy(update={"code": 255}))
    class_map = CLASS_MAP.model_copy(update={"classes": classes})
    return PairReader(pairs, class_map, 3), [image_facts(pair.image) for pair in pairs]


def images_of(windows: Sequence[Labelled]) -> list[int]:
    return [int(image[0, 0, 0]) for image, *_ in windows]


def test_windows_are_parts_of_their_images_and_masks(tmp_path: Path) -> None:
    shapes = [(40, 30), (300, 700), (256, 256), (900, 800)]
    reader, facts = numbered(tmp_path, shapes)
    windows = list(spread_windows(reader, facts, pixels=10**9))
    assert images_of(windows) == [0, 1, 1, 1, 2] + 10 * [3]  # each as often as 256² fit into it
    for number, (image, mask, _) in zip(images_of(windows), windows, strict=True):
        side = min(WINDOW, *shapes[number])
        assert image.shape == (side, side, 3)
        assert mask.shape == (side, side)
        np.testing.assert_array_equal(mask, image[..., 1] % 2)
        # never mirrored: rows and columns only grow
        assert (np.diff(image[:, 0, 1].astype(int)) >= 0).all()
        assert (np.diff(image[0, :, 2].astype(int)) >= 0).all()
        assert image[-1, 0, 1] - image[0, 0, 1] >= side // 4 - 1


def test_windows_are_spread_evenly_and_equal_in_every_run(tmp_path: Path) -> None:
    reader, facts = numbered(tmp_path, [(256, 256)] * 12)
    few = list(spread_windows(reader, facts, pixels=4 * WINDOW**2))
    assert images_of(few) == [1, 4, 7, 10]
    assert images_of(list(spread_windows(reader, facts, pixels=1))) == [6]
    again = spread_windows(reader, facts, pixels=4 * WINDOW**2)
    for one, other in zip(few, again, strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_of_large_images_only_windows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, facts = numbered(tmp_path, [(300, 700), (900, 800)])
    whole = list(spread_windows(reader, facts, pixels=5 * WINDOW**2))
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 0)
    windowed = PairReader(reader.pairs, reader.class_map, 3)
    monkeypatch.setattr(PairReader, "__getitem__", None)
    for one, other in zip(whole, spread_windows(windowed, facts, 5 * WINDOW**2), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    windowed.close()


def test_more_training_pays_for_more_pixels_within_limits() -> None:
    wanted = [pixels_to_compare(trained) for trained in (0, 10**6, 10**8, 3 * 10**8, 10**12)]
    assert wanted == sorted(wanted)
    assert (wanted[0], wanted[-1]) == (FEWEST_PIXELS, MOST_PIXELS)
    assert wanted[2] == 10**8 // 128


def test_real_windows_carry_what_their_files_declare(real_data: Path) -> None:
    pairs = find_pairs(real_data / "dsb2018").pairs[:6]
    reader = PairReader(pairs, CLASS_MAP.model_copy(update={"classes": BINARY}), 3)
    facts: list[ImageFacts] = [image_facts(pair.image) for pair in pairs]
    windows = list(spread_windows(reader, facts, pixels=10**9))
    assert sum(image.shape[0] * image.shape[1] for image, *_ in windows) <= sum(
        fact.pixels for fact in facts
    )
    assert {image.shape[2] for image, *_ in windows} == {3}
    assert set(np.unique(np.concatenate([mask.ravel() for _, mask, _ in windows]))) == {0, 1}


BINARY = (
    ClassInfo(name="ground", code=0, colour=(0, 0, 0)),
    ClassInfo(name="cell", code=255, colour=(255, 0, 0)),
)


def test_windows_know_mean_and_deviation_of_their_whole_images(tmp_path: Path) -> None:
    reader, facts = numbered(tmp_path, [(300, 700)])
    whole = torch.from_numpy(reader[0][0]).permute(2, 0, 1)[None]
    for window in spread_windows(reader, facts, pixels=10**9):
        torch.testing.assert_close(window.statistics, image_statistics(whole), rtol=1e-4, atol=1e-2)
