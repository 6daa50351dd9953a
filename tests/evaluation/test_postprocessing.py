"""What is done to masks: as scipy does it, without seams, and only where validation gains by it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from scipy.ndimage import binary_fill_holes, gaussian_filter, label

import unetseg
from tests.builders import CELLS, blotches, bundle_info, class_map, save_run
from unetseg.bundle import BundleInfo, Rule
from unetseg.cli.app import run
from unetseg.data.files import image as image_file
from unetseg.evaluation.postprocessing import choose_rules, cross_validated
from unetseg.prediction import stream
from unetseg.prediction.objects import Components
from unetseg.prediction.postprocess import cleaned_bands, cleaned_image
from unetseg.prediction.stream import Band

Index = NDArray[np.uint8]
CROSS = np.ones((3, 3))


def info_of(*rules: Rule) -> BundleInfo:
    return bundle_info(classes=class_map(0, 1, 2), postprocess=rules)


def index_of(seed: int, sigma: float = 1.5) -> Index:
    """Blobs of three classes with holes and specks; some pixels without data."""
    rng = np.random.default_rng(seed)
    fields = [gaussian_filter(rng.normal(size=(70, 60)), sigma) for _ in range(3)]
    index: Index = np.stack(fields).argmax(0).astype(np.uint8)
    index[rng.random(index.shape) < 0.01] = 255
    return index


def expected(index: Index, rule: Rule) -> Index:
    """The same by scipy, of the whole image."""
    result, kind = index.copy(), rule.class_index
    if rule.fill_holes:
        result[binary_fill_holes(index == kind) & (index == 0)] = kind
    labels, _ = label(result == kind, CROSS)
    areas = np.bincount(labels.ravel())
    goes = areas < rule.smallest
    if rule.largest_only:
        goes = np.arange(len(areas)) != 1 + areas[1:].argmax()
    goes[0] = False
    return np.asarray(np.where(goes[labels], 0, result), np.uint8)


@pytest.mark.parametrize(
    "rule",
    [
        Rule(class_index=1, fill_holes=True),
        Rule(class_index=2, smallest=20),
        Rule(class_index=1, fill_holes=True, smallest=33),
        Rule(class_index=1, largest_only=True),
    ],
    ids=lambda rule: rule.words,
)
def test_rules_do_what_scipy_does_whole_and_in_bands(rule: Rule) -> None:
    for seed in range(4):
        index = index_of(seed)
        whole = cleaned_image(index, info_of(rule))
        np.testing.assert_array_equal(whole, expected(index, rule))
        assert (whole != index).any()
        for rows in (1, 7, 30):
            tops = range(0, len(index), rows)
            bands = [Band(number, top, index[top : top + rows]) for number, top in enumerate(tops)]
            found = cleaned_bands(bands, info_of(rule))
            np.testing.assert_array_equal(np.concatenate([b.index for b in found]), whole)
    nothing = np.zeros((5, 6), np.uint8)
    np.testing.assert_array_equal(cleaned_image(nothing, info_of(rule)), nothing)


def test_twice_as_many_rules_are_twice_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []
    label = Components._label

    def counted(parts: Components, top: int, bottom: int) -> Any:
        searched.append(top)
        return label(parts, top, bottom)

    monkeypatch.setattr(Components, "_label", counted)
    bands = [Band(number, top, index_of(0)[top : top + 7]) for number, top in enumerate((0, 7))]
    counts = []
    for count in (6, 12):
        rules = [Rule(class_index=n, fill_holes=True, smallest=2) for n in range(1, count + 1)]
        info = bundle_info(classes=class_map(*range(13)), postprocess=rules)
        searched.clear()
        list(cleaned_bands(bands, info))
        counts.append(len(searched))
    assert 0 < counts[1] == 2 * counts[0]


def test_bundles_hold_rules_for_their_own_classes_alone() -> None:
    with pytest.raises(ValidationError, match="rules of no class"):
        info_of(Rule(class_index=3))
    with pytest.raises(ValidationError, match="without a background"):
        bundle_info(classes=class_map(0, 1, background=None), postprocess=[Rule(class_index=1)])


def pairs(count: int, *, specks: bool, seed: int = 0) -> list[tuple[Index, Index]]:
    """Discs, and predictions of them that are a little aside, with false specks or without."""
    rng, found = np.random.default_rng(seed), []
    y, x = np.mgrid[:64, :64]
    for _ in range(count):
        cy, cx, radius = rng.uniform(20, 44), rng.uniform(20, 44), rng.uniform(8, 14)
        truth = (np.hypot(y - cy, x - cx) < radius).astype(np.uint8)
        prediction = np.roll(truth, 1, axis=0)
        if specks:
            prediction[rng.random(truth.shape) < 0.02] = 1
        found.append((truth, prediction))
    return found


def test_specks_are_removed_where_validation_has_them_and_else_nothing_is_done() -> None:
    noisy = pairs(8, specks=True)
    (rule,), told = choose_rules(noisy, CELLS)
    assert rule.smallest or rule.largest_only
    assert rule.words in told
    info = bundle_info(postprocess=(rule,))
    for truth, prediction in noisy:
        better = cleaned_image(prediction, info)
        assert (better != truth).sum() < (prediction != truth).sum()
    assert choose_rules(pairs(8, specks=False), CELLS) == ((), "")


def test_what_helps_one_image_alone_is_no_rule() -> None:
    sums = np.zeros((6, 2, 2), int)
    sums[:, 0] = 80, 200
    sums[:, 1] = 79, 200  # a little worse everywhere …
    sums[0, 1] = 100, 200  # … but for one image, which lifts the mean of all
    best, before, after = cross_validated(sums)
    assert best == 1
    assert before == pytest.approx(0.8)
    assert after < before


@pytest.mark.long
def test_predict_eval_and_python_apply_the_rules_of_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    info = info_of(
        Rule(class_index=1, fill_holes=True, smallest=50), Rule(class_index=2, smallest=9)
    )
    trained = save_run(tmp_path / "run", info)
    image = blotches(90, 80)
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    source = tmp_path / "data" / "images" / "x.png"
    Image.fromarray(image).save(source)
    raw = unetseg.load(trained, device="cpu", precision="float32", postprocess="off").predict(image)
    mask = expected(expected(raw, info.postprocess[0]), info.postprocess[1])
    assert (mask != raw).any()
    Image.fromarray(mask).save(tmp_path / "data" / "masks" / "x.png")
    model = unetseg.load(trained, device="cpu", precision="float32")
    np.testing.assert_array_equal(model.predict(image), mask)
    np.testing.assert_array_equal(next(model.predict_many([image])), mask)
    assert unetseg.score(model, image, mask).foreground_dice == 1
    common = ["--device", "cpu", "--precision", "float32"]

    def written(name: str, *more: str) -> Index:
        out = tmp_path / name
        assert run(["predict", str(trained), str(source), "-o", str(out), *common, *more]) == 0
        (file,) = out.glob("x.*")
        return np.asarray(Image.open(file))

    np.testing.assert_array_equal(written("on", "--objects"), mask)
    assert "class 1: holes filled, components below 50 pixels removed" in capsys.readouterr().out
    np.testing.assert_array_equal(written("off", "--postprocess", "off"), raw)
    words = ["eval", str(trained), str(tmp_path / "data"), "--split", "all", *common]
    assert run([*words, "-o", str(tmp_path / "scores")]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "scores/masks/x.png")), mask)
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 0)
    monkeypatch.setattr(stream, "PIECE_PIXELS", 1500)
    np.testing.assert_array_equal(written("bands", "--objects"), mask)
    whole, bands = (tmp_path / name / "x_objects.csv" for name in ("on", "bands"))
    assert bands.read_text() == whole.read_text()
