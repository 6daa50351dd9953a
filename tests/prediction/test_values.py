"""Values far from those trained on are told, or refused; others are let pass in silence."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from tests.builders import bundle_info, save_run, write_geotiff
from unetseg.bundle import BundleInfo, KnownValues
from unetseg.cli.app import run
from unetseg.data.facts.survey import survey
from unetseg.data.files import image as image_file
from unetseg.data.files.image import ImageFile
from unetseg.data.files.nodata import with_gaps
from unetseg.data.files.pngs import write_png
from unetseg.prediction.predict import predict_folder
from unetseg.prediction.predictor import Predictor
from unetseg.prediction.values import SeenValues
from unetseg.training.plan import known_values

Pixels = NDArray[Any]


def counts(seed: int = 0, height: int = 60, width: int = 80) -> Pixels:
    """Four bands of counts, as of a satellite, H×W×C."""
    rng = np.random.default_rng(seed)
    return rng.gamma(4, [100, 120, 150, 500], (height, width, 4)).clip(1, 10_000)


def info(kind: str = "dataset", dtype: str = "uint16", *, old: bool = False) -> BundleInfo:
    """Of a U-Net that was trained on such counts."""
    pixels = counts().reshape(-1, 4)
    values = KnownValues(
        low=tuple(pixels.min(0)), high=tuple(pixels.max(0)), smallest=tuple(pixels.max(0) / 3)
    )
    about = bundle_info(bands=4, kind=kind, dtype=dtype, values=None if old else values)
    normalisation = about.normalisation.model_copy(
        update={"mean": tuple(pixels.mean(0).tolist()), "std": tuple(pixels.std(0).tolist())}
    )
    return about.model_copy(update={"normalisation": normalisation})


def judged(image: Pixels, about: BundleInfo) -> str:
    parts = SeenValues(about)  # as of a large image
    for strip in np.array_split(image, 3):
        parts.add(strip)
    words = SeenValues(about, image).judged(Path("a.tif"))
    assert bool(parts.judged(Path("a.tif"))) == bool(words)
    return words


def with_fill(image: Pixels) -> Pixels:
    image = image.copy()
    image[:6] = -9999
    return image


FAR: dict[str, tuple[Callable[[Pixels], Pixels], str]] = {
    "reflectance": (lambda image: image / 10_000, "dataset image known"),
    "8 of 16 bits": (lambda image: image / 256, "dataset image known"),
    "scaled up": (lambda image: image * 100, "dataset known old"),
    "-9999": (with_fill, "dataset image known old"),
    "wrong sign": (lambda image: -image, "dataset image known"),
    "one band": (lambda image: image * [1, 1, 1, 50], "dataset known old"),
}
NEAR: dict[str, Callable[[Pixels], Pixels]] = {
    "itself": lambda image: image,
    "brighter": lambda image: image * 2,
    "dark": lambda image: image / 10,
    "blank": lambda image: image * 0 + 3,
    "dark, haze taken away": lambda image: image / 100 - image.max(axis=(0, 1)) / 50,
    "all black": lambda image: image * 0,
    "a few broken pixels": lambda image: np.where(image == image.max(), 65535, image),
}


@pytest.mark.parametrize("kind", ["dataset", "image"])
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("change", FAR)
def test_values_far_from_those_trained_on_are_told(change: str, old: bool, kind: str) -> None:
    make, where = FAR[change]
    image = make(counts(1)).astype(np.float32)
    words = judged(image, info(kind, "float32", old=old))
    is_wanted = kind in where and ("old" if old else "known") in where
    assert bool(words) == is_wanted
    if is_wanted:
        assert words.startswith(f"{image.min():.4g} to ")
        assert "trained on" in words


@pytest.mark.parametrize("kind", ["dataset", "image"])
@pytest.mark.parametrize("change", NEAR)
def test_images_that_are_brighter_darker_or_blank_are_let_pass(change: str, kind: str) -> None:
    assert not judged(NEAR[change](counts(1)).astype(np.float32), info(kind, "float32"))


def test_pixels_without_data_are_not_looked_at_and_8_bit_is_not_judged() -> None:
    image = with_fill(counts(1)).astype(np.float32)
    about = info(dtype="float32")
    assert judged(image, about)
    assert not judged(with_gaps(image, 4, (image == -9999).all(-1)), about)
    assert not judged((counts(1) / 10_000).astype(np.uint8), info(dtype="uint8"))


def heard(capsys: pytest.CaptureFixture[str]) -> str:
    """All that was said, in one line."""
    return " ".join(" ".join(capsys.readouterr()).split())


@pytest.mark.parametrize("is_large", [False, True])
def test_predict_warns_once_of_all_and_strict_refuses_them(
    is_large: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained, folder = save_run(tmp_path / "run", info()), tmp_path / "in"
    for number in range(6):
        image = counts(number) / (256 if number < 5 else 1)
        write_geotiff(folder / f"{number}.tif", image.astype(np.uint16))
    monkeypatch.setattr(image_file, "WHOLE_PIXELS", 0 if is_large else 2**25)
    words = ["predict", str(trained), str(folder), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert run(words) == 0
    told = heard(capsys)
    assert told.count("warning:") == 1
    assert "warning: 5 images with values far from those trained on" in told
    assert "and 2 more; --strict refuses them" in told
    assert len(list((tmp_path / "out").glob("*.tif"))) == 6
    words[4] = str(tmp_path / "strict")
    assert run([*words, "--strict"]) != 0
    told = heard(capsys)
    assert "no mask for 5 images, 1 have one" in told
    assert "trained on" in told
    assert [path.name for path in (tmp_path / "strict").glob("*.tif")] == ["5.tif"]
    assert not [path for path in (tmp_path / "strict").iterdir() if path.name.startswith(".")]


def test_another_declared_scale_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained, files = save_run(tmp_path / "run", info()), []
    for number, scale in enumerate([1.0, 0.0001, 0.0001]):
        image = counts(number).astype(np.uint16)
        files.append(write_geotiff(tmp_path / "in" / f"{number}.tif", image))
        with rasterio.open(files[-1], "r+") as file:
            file.scales, file.offsets = (scale,) * 4, (0, 0, 0, -0.1 * (number == 2))
    with ImageFile(files[2]) as opened:
        assert opened.scaling == "scale 0.0001, offset -0.1"
    words = ["predict", str(trained), str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    assert run([*words, "--device", "cpu"]) == 0
    assert (
        "2 images with another scale than trained on (none), used as stored: 1.tif (scale 0.0001), "
        "2.tif (scale 0.0001, offset -0.1)"
    ) in heard(capsys)


def test_eval_warns_and_strict_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained, data = save_run(tmp_path / "run", info()), tmp_path / "data"
    for number in range(3):
        image = counts(number) / (256 if number else 1)
        write_geotiff(data / "images" / f"{number}.tif", image.astype(np.uint16))
        mask = (counts(number)[..., 0] > 400).astype(np.uint8) * 255
        write_png(data / "masks" / f"{number}.png", mask)
    words = ["eval", str(trained), str(data), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert run(words) == 0
    told = heard(capsys)
    assert "warning: 2 images with values far from those trained on" in told
    assert run([*words, "--strict"]) != 0
    assert "2 of 3 pairs do not fit" in heard(capsys)


def test_from_python_it_is_a_warning_of_python(tmp_path: Path) -> None:
    predictor = Predictor(save_run(tmp_path / "run", info(dtype="float32")))
    image = counts(1).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor.predict(image)
    with pytest.warns(UserWarning, match="the image .* to .* \\(trained on "):
        predictor.predict(image / 10_000)
    write_geotiff(tmp_path / "in" / "a.tif", image / 10_000)
    with pytest.warns(UserWarning, match=r"a\.tif"):
        predictor.predict(tmp_path / "in" / "a.tif")
    result = predict_folder(tmp_path / "run", tmp_path / "in", tmp_path / "out", device="cpu")
    assert list(result.strange) == [tmp_path / "in" / "a.tif"]
    strict = predict_folder(
        tmp_path / "run", tmp_path / "in", tmp_path / "strict", device="cpu", strict=True
    )
    assert list(strict.failures) == [tmp_path / "in" / "a.tif"]


def test_what_was_seen_is_noted_for_the_bundle(tmp_path: Path) -> None:
    images = [counts(seed) * (1 + seed) for seed in range(4)]
    images[0][:] = 7  # blank: it has no largest value to speak of
    for number, image in enumerate(images):
        write_geotiff(tmp_path / f"images/{number}.tif", image.astype(np.uint16))
        mask = (counts(9)[..., 0] > 400).astype(np.uint8) * 255
        write_png(tmp_path / f"masks/{number}.png", mask)
    known = survey(tmp_path)
    kept = [image.astype(np.uint16).reshape(-1, 4) for image in images]
    chosen = {int(pair.name) for pair in known.select("train")}
    values = known_values(known)
    pixels = np.concatenate([kept[number] for number in chosen])
    assert values.low == tuple(pixels.min(0))
    assert values.high == tuple(pixels.max(0))
    shown = np.stack([kept[number].max(0) for number in chosen - {0}])
    assert values.smallest == tuple(shown.min(0))
