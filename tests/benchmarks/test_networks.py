from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.baseline import Model, augmentation, build, dice_loss, predict
from benchmarks.networks import fresh_run, gflop, plain_weights
from benchmarks.pictures import lay, pieces
from benchmarks.predict_folder import same_masks
from unetseg.bundle import load_bundle
from unetseg.data.crops.transforms import colour, geometry
from unetseg.prediction.predictor import load
from unetseg.training.losses import SegmentationLoss


@pytest.mark.long
def test_the_classic_is_the_one_everybody_means() -> None:
    network = build("classic", device="meta")
    assert sum(p.numel() for p in network.parameters()) == 31_037_698
    assert gflop("classic", 512, 512) == pytest.approx(385.4, abs=0.1)


@pytest.mark.long
@pytest.mark.parametrize("network", ["base16", "resnet34"])
def test_a_plain_network_is_ours_number_for_number(network: str, tmp_path: Path) -> None:
    run = fresh_run(network, tmp_path)
    segmenter, _ = load_bundle(run)
    model = Model("plain", network, plain_weights(network, run, tmp_path / "weights.pt"))
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model.net(image), segmenter.network(image))


def test_the_plain_script_writes_the_masks_of_our_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNETSEG_REAL_DATA", raising=False)
    folder = lay(tmp_path / "pairs", pieces(tmp_path / "sample", 2), (96, 64), 2, ".png")
    run = fresh_run("base16", tmp_path)
    weights = plain_weights("base16", run, tmp_path / "weights.pt")
    paths = sorted((folder / "images").iterdir())
    for name in ("ours", "plain"):
        (tmp_path / name).mkdir()
    predict(Model("plain", "base16", weights), paths, tmp_path / "plain")
    predictor = load(run)
    for path in paths:
        Image.fromarray(predictor.predict(path)).save(tmp_path / "ours" / path.name)
    found = same_masks(run, tmp_path / "ours", tmp_path / "plain")
    assert found["compared_images"] == 2
    assert found["equal_pixels"] > 0.9  # it has learned nothing, and ours may be in bfloat16


@pytest.mark.long
def test_pictures_are_laid_of_pieces_and_their_masks(tmp_path: Path) -> None:
    squares = pieces(tmp_path / "sample", 3)
    folder = lay(tmp_path / "pairs", squares, (300, 520), 1, ".png")
    image = np.asarray(Image.open(folder / "images" / "picture_000.png"))
    mask = np.asarray(Image.open(folder / "masks" / "picture_000.png"))
    assert (image.shape, mask.shape) == ((300, 520, 3), (300, 520))
    first = next(p for p in squares if (p.image == image[:256, :256]).all())
    np.testing.assert_array_equal(first.mask, mask[:256, :256])
    assert set(np.unique(mask)) <= {0, 255}


def test_the_dice_of_the_script_is_ours() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 16, 16, generator=generator)
    masks = torch.randint(2, (2, 16, 16), generator=generator)
    expected = SegmentationLoss("dice", foreground=[1])(logits, masks)
    torch.testing.assert_close(dice_loss(logits, masks), expected)


def test_the_script_augments_as_much_as_we_do() -> None:
    ours = [*geometry("full", 256, False), *colour("full")]
    script = augmentation(256, (0.5,) * 3, (0.25,) * 3).transforms[1:-2]  # crop; normalise
    assert [_kind(step) for step in script] == [_kind(step) for step in ours]


def _kind(step: object) -> tuple[str, float]:
    """The transform of albumentations that a step is or extends, and its probability."""
    same = {"RandomRotate90": "SquareSymmetry"}
    names = [c.__name__ for c in type(step).__mro__ if c.__module__.startswith("albumentations")]
    return same.get(names[0], names[0]), float(step.p)  # type: ignore[attr-defined]
