"""Laws of breaking skips: what the decoder does not use changes nothing, what it uses does."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, stats
from torch import Tensor, nn
from torch.nn import functional

from tests.builders import CPU, Heard, bundle_info, class_map
from tests.skiplab.builders import tiny, view_of
from unetseg.bundle import BundleInfo, build_segmenter
from unetseg.config import (
    AblateConfig,
    DeviceConfig,
    EvalConfig,
    NetworkConfig,
    ScoringConfig,
)
from unetseg.errors import ConfigError
from unetseg.evaluation.confusion import Counts, dice
from unetseg.evaluation.evaluate import evaluate
from unetseg.skiplab.ablate import (
    CARRIES,
    IDLE,
    ablate,
    break_skips,
    decide,
    first_dice,
    look_at_whole,
    one_class,
    paired_change,
    partners,
    replaced,
    skip_levels,
)
from unetseg.skiplab.look import Row, Subject, View, open_subject
from unetseg.training.fit import train
from unetseg.unet.decoder import Decoder
from unetseg.unet.encoder import Encoder
from unetseg.unet.model import Geometry, UNet
from unetseg.unet.segmenter import Normalisation, Segmenter

DEPTH = 3
ALL = ("zero", "mean", "shuffle", "noise")
QUICK = AblateConfig(samples=100)


class Pyramid(nn.Module):
    """The image and its smaller copies, as features."""

    def forward(self, image: Tensor) -> list[Tensor]:
        return [functional.avg_pool2d(image, 1 << level) for level in range(DEPTH + 1)]


class OneLevel(nn.Module):
    """Passes on the features of one level alone."""

    widths = (1,)

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = level

    def forward(self, bottom: Tensor, skips: Sequence[Tensor]) -> Tensor:
        return functional.interpolate(skips[self.level], skips[0].shape[-2:])


def info_of(classes: int = 2, bands: int = 1, **network: object) -> BundleInfo:
    unchanged = {"kind": "dataset", "mean": (0.0,) * bands, "std": (1.0,) * bands}
    of: dict[str, Any] = {"bands": bands, "dtype": "float32", "normalisation": unchanged}
    return bundle_info({"depth": DEPTH} | network, class_map(*range(classes)), **of)


def one_level_segmenter(level: int, classes: int) -> Segmenter:
    """Gives each pixel the class whose number is nearest to the value of one level's features."""
    network = UNet(
        cast("Encoder", Pyramid()),
        cast("Decoder", OneLevel(level)),
        classes,
        geometry=Geometry(DEPTH),
    )
    numbers = torch.arange(float(classes))
    network.head.weight.data = 2 * numbers[:, None, None, None]
    network.head.bias = nn.Parameter(-(numbers**2))
    normalisation = Normalisation(kind="dataset", mean=(0.0,), std=(1.0,))
    return Segmenter(network, normalisation).eval()


def blobs(height: int, width: int, top: float = 1.0, seed: int = 0) -> View:
    """A view of smooth values between 0 and about `top`."""
    field = np.random.default_rng(seed).normal(size=(height, width))
    smooth = ndimage.gaussian_filter(field, 5)
    scaled = (smooth - smooth.min()) / np.ptp(smooth) * top
    return view_of(scaled.astype(np.float32)[..., None], name=f"blobs {seed}")


def subject_of(segmenter: Segmenter, info: BundleInfo, views: Sequence[View]) -> Subject:
    """A subject whose truth is what its whole network predicts, so that its Dice is 1."""
    with torch.inference_mode():
        truths = [
            segmenter(view.tensor, view.statistics)[0].max(0).indices.to(torch.uint8).numpy()
            for view in views
        ]
    seen = [replace(view, truth=truth) for view, truth in zip(views, truths, strict=True)]
    return Subject(Path("run"), segmenter, info, CPU, "val", tuple(seen))


def constructed(level: int = 0, classes: int = 2, sizes: Sequence[tuple[int, int]] = ()) -> Subject:
    sizes = sizes or [(48, 48)] * 3
    views = [blobs(*size, top=classes - 1, seed=seed) for seed, size in enumerate(sizes)]
    return subject_of(one_level_segmenter(level, classes), info_of(classes), views)


def drawn(skip: Sequence[str] = ("concat",), views: Sequence[View] = (), seed: int = 0) -> Subject:
    """A small U-Net with drawn weights, whose head splits the pixels of the views in halves."""
    torch.manual_seed(seed)
    info = info_of(skip=skip)
    segmenter = build_segmenter(info).eval()
    views = views or [blobs(40, 32, seed=number) for number in range(3)]
    with torch.inference_mode():
        logits = torch.cat([segmenter(view.tensor).flatten(2) for view in views], -1)
    bias = segmenter.network.head.bias
    assert bias is not None
    bias.data[1] -= (logits[0, 1] - logits[0, 0]).median()
    return subject_of(segmenter, info, views)


def of_foreground(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["class"] == "foreground"]


def verdicts(rows: Sequence[Row]) -> dict[int, str]:
    return {row["level"]: row["verdict"] for row in of_foreground(rows)}


# ------------------------------------------------------------------ what is not used is idle


@pytest.mark.parametrize(
    "skip", ["concat", "add", "learned", "gated", "attention", "switch", "nested"]
)
def test_muting_nothing_is_identical(skip: str) -> None:
    subject = drawn([skip])
    image = subject.views[0].tensor
    whole = subject.segmenter(image)
    for level in range(DEPTH):
        assert torch.equal(subject.segmenter(image, None, replaced(level, torch.clone)), whole)
        zeroed = subject.segmenter(image, None, replaced(level, torch.zeros_like))
        assert not torch.equal(zeroed, whole)


@pytest.mark.parametrize("level", range(DEPTH))
def test_the_only_level_that_is_used_carries_and_the_others_are_idle(
    level: int, tmp_path: Path
) -> None:
    found = ablate(constructed(level), QUICK, output=tmp_path)
    expected = {at: "carries" if at == level else "idle" for at in range(DEPTH)}
    assert verdicts(found.rows) == expected
    shown = {(row["level"], row["edit"]): row["verdict"] for row in found.summary}
    assert shown == {(at, edit): expected[at] for at in range(DEPTH) for edit in ("zero", "mean")}
    for row in found.rows:
        if row["level"] != level:
            assert row["change"] == row["low"] == row["high"] == 0
            assert row["dice"] == 1
        elif row["class"] == "foreground":
            assert row["high"] < 0


def test_a_level_whose_weights_are_zero_is_idle(tmp_path: Path) -> None:
    subject = drawn()
    step = subject.segmenter.network.decoder.steps[1]
    first = next(part for part in step.modules() if isinstance(part, nn.Conv2d) and part.padding[0])
    first.weight.data[:, : first.weight.shape[1] // 2] = 0  # concat: the encoder's come first
    subject = subject_of(subject.segmenter, subject.info, subject.views)
    found = ablate(subject, QUICK, output=tmp_path)
    rows = [row for row in found.rows if row["level"] == 1]
    assert {row["edit"] for row in rows} == set(ALL)
    assert all(row["change"] == 0 and row["verdict"] == "idle" for row in rows)
    others = [row for row in of_foreground(found.rows) if row["level"] != 1]
    assert all(row["change"] < 0 for row in others)


def test_a_level_without_skip_changes_nothing_and_is_not_run(tmp_path: Path) -> None:
    subject = drawn(["none", "concat", "none"])
    image = subject.views[0].tensor
    for level in (0, 2):
        zeroed = subject.segmenter(image, None, replaced(level, torch.zeros_like))
        assert torch.equal(zeroed, subject.segmenter(image))
    heard = Heard()
    found = ablate(subject, QUICK, output=tmp_path, progress=heard)
    assert heard.done == heard.total == len(subject.views) * (1 + len(ALL))
    assert {at: word for at, word in verdicts(found.rows).items() if at != 1} == {
        0: "none",
        2: "none",
    }
    assert [row["change"] for row in found.rows if row["level"] != 1] == [None, None]


def test_a_network_without_any_skip_has_nothing_to_lose(tmp_path: Path) -> None:
    found = ablate(drawn(["none"]), QUICK, output=tmp_path)
    assert set(verdicts(found.rows).values()) == {"none"}
    assert (tmp_path / "ablate.png").is_file()


def test_levels_without_features_or_skip_are_not_there() -> None:
    network = NetworkConfig(skip=("concat", "pruned", "gated", "none"))
    levels = skip_levels(network, [0, 8, 16, 32])
    assert [level.there for level in levels] == [False, False, True, False]
    assert [level.kind for level in levels] == ["none", "pruned", "gated", "none"]


def test_nested_nodes_read_a_level_that_has_no_skip_of_its_own() -> None:
    skip = ("nested", "none", "none")
    assert [level.there for level in skip_levels(NetworkConfig(skip=skip), [4, 8, 16])] == [
        True,
        True,
        False,
    ]
    subject = drawn(skip)
    image = subject.views[0].tensor
    whole = subject.segmenter(image)
    assert not torch.equal(subject.segmenter(image, None, replaced(1, torch.zeros_like)), whole)
    assert torch.equal(subject.segmenter(image, None, replaced(2, torch.zeros_like)), whole)


# ------------------------------------------------------------------ the edits


def test_a_constant_feature_is_its_own_mean(tmp_path: Path) -> None:
    flat = [view_of(np.full((*size, 1), 0.7, np.float32)) for size in [(40, 32), (37, 51)]]
    subject = subject_of(one_level_segmenter(1, 2), info_of(), flat)
    rows = of_foreground(ablate(subject, QUICK, output=tmp_path).rows)
    changes = {row["edit"]: row["change"] for row in rows if row["level"] == 1}
    assert changes == {"zero": -1, "mean": 0, "shuffle": 0, "noise": 0}


def test_the_mean_is_over_space_and_all_images_pixel_by_pixel() -> None:
    views = [view_of(np.full((16, 16, 1), 1, np.float32)), blobs(48, 32, seed=3)]
    look = look_at_whole(subject_of(one_level_segmenter(0, 2), info_of(), views))
    pixels = np.concatenate([view.image.ravel() for view in views])
    assert look.means[0].item() == pytest.approx(pixels.mean(), rel=1e-6)
    assert [mean.shape for mean in look.means] == [(1, 1, 1, 1)] * DEPTH


def test_shuffling_identical_images_changes_nothing(tmp_path: Path) -> None:
    subject = drawn(views=[blobs(40, 32)] * 3)
    rows = ablate(subject, QUICK, output=tmp_path).rows
    assert all(row["change"] == 0 for row in rows if row["edit"] == "shuffle")
    assert any(row["change"] < 0 for row in rows if row["edit"] == "noise")


def test_shuffling_gives_the_mask_of_the_partner() -> None:
    subject = constructed(0, sizes=[(48, 48), (48, 48)])
    look = look_at_whole(subject)
    broken = break_skips(subject, look, ["shuffle"])[look.levels[0], "shuffle"]
    first, second = (view.truth for view in subject.views)
    assert broken[0, 1, 1] == broken[1, 1, 1] == ((first == 1) & (second == 1)).sum()
    assert broken[0, 0, 1] == ((first == 0) & (second == 1)).sum()


@pytest.mark.parametrize("count", range(2, 12))
def test_everyone_has_another_partner(count: int) -> None:
    chosen = partners(count, seed=count)
    assert sorted(chosen) == list(range(count))
    assert all(partner != index for index, partner in enumerate(chosen))


def test_noise_is_reproducible_by_its_seed(tmp_path: Path) -> None:
    subject = constructed(1)
    configs = [QUICK.model_copy(update={"seed": seed}) for seed in (1, 1, 2)]
    runs = [ablate(subject, config, output=tmp_path).rows for config in configs]
    assert runs[0] == runs[1]
    noise, other = (
        [row["dice"] for row in of_foreground(rows) if (row["level"], row["edit"]) == (1, "noise")]
        for rows in runs[1:]
    )
    assert noise != other


def test_noise_has_the_mean_and_deviation_of_each_channel() -> None:
    given: list[Tensor] = []

    class Watched(OneLevel):
        def forward(self, bottom: Tensor, skips: Sequence[Tensor]) -> Tensor:
            given.append(skips[0])
            return super().forward(bottom, skips)

    subject = constructed(0, sizes=[(64, 64)])
    look = look_at_whole(subject)
    subject.segmenter.network.decoder = cast("Decoder", Watched(0))
    break_skips(subject, look, ["noise"])
    feature = subject.views[0].tensor
    assert given[0].mean().item() == pytest.approx(feature.mean().item(), abs=0.02)
    assert given[0].std().item() == pytest.approx(feature.std().item(), rel=0.05)
    neighbours = np.corrcoef(given[0][0, 0, :-1].ravel(), given[0][0, 0, 1:].ravel())
    assert abs(neighbours[0, 1]) < 0.1


# ------------------------------------------------------------------ intervals and verdicts


def confusions(count: int, classes: int = 3, seed: int = 0) -> Counts:
    return np.random.default_rng(seed).integers(1, 200, (count, classes, classes))


def test_the_interval_of_a_constant_change_is_that_constant() -> None:
    pair = np.stack([confusions(1)[0], confusions(1, seed=1)[0]])
    change = paired_change(np.stack([pair] * 5), first_dice)
    assert change["low"] == change["high"] == change["change"] != 0


def test_intervals_agree_with_scipy() -> None:
    whole = confusions(12)
    pair = np.stack([whole, whole + 40 * confusions(12, seed=2) // 100], axis=1)

    def statistic(images: NDArray[np.int64]) -> float:
        sums = pair[images].sum(0)
        return float(dice(sums[1])[1] - dice(sums[0])[1])

    expected = stats.bootstrap(
        (np.arange(12),),
        statistic,
        n_resamples=1000,
        vectorized=False,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    change = paired_change(pair, lambda sums: dice(sums)[..., 1], samples=2000)
    width = expected.high - expected.low
    assert change["change"] == pytest.approx(statistic(np.arange(12)))
    assert change["low"] == pytest.approx(expected.low, abs=0.1 * width)
    assert change["high"] == pytest.approx(expected.high, abs=0.1 * width)


def test_one_class_against_the_rest_has_its_dice() -> None:
    counts = confusions(4, classes=5)
    for index in range(5):
        alone = one_class(counts, index)
        np.testing.assert_array_equal(first_dice(alone), dice(counts)[:, index])
        np.testing.assert_array_equal(alone.sum((1, 2)), counts.sum((1, 2)))


def change_of(change: float, low: float, high: float) -> dict[str, float]:
    return {"dice": 0.8 + change, "change": change, "low": low, "high": high}


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ((-0.3, -0.4, -0.2), "carries"),
        ((-CARRIES, -0.06, -0.01), "carries"),
        ((-0.02, -0.03, -0.01), "helps"),
        ((-0.002, -0.003, -0.001), "idle"),  # beyond doubt, but too small to matter
        ((0.0, -IDLE, IDLE), "idle"),
        ((-0.004, -0.009, -0.001), "unclear"),  # may be too small to matter
        ((0.02, 0.01, 0.03), "hurts"),
        ((0.004, 0.001, 0.009), "unclear"),
        ((0.001, -0.004, 0.004), "idle"),
        ((-0.009, -0.012, -0.005), "helps"),
        ((-0.2, -0.5, 0.1), "unclear"),
        ((-0.2, np.nan, np.nan), "unclear"),
        ((np.nan, np.nan, np.nan), "unclear"),
    ],
)
def test_verdicts(change: tuple[float, float, float], verdict: str) -> None:
    assert decide({"zero": change_of(*change)})[1] == verdict


def test_a_level_hurts_only_if_every_removal_gains() -> None:
    gain, small = change_of(0.02, 0.01, 0.03), change_of(0.008, 0.001, 0.02)
    loss, doubt = change_of(-0.02, -0.03, -0.01), change_of(0.01, -0.01, 0.03)
    assert decide({"zero": gain, "mean": small, "noise": loss})[1] == "hurts"
    for other in (loss, doubt):
        assert decide({"zero": gain, "mean": other})[1] == "unclear"
        assert decide({"shuffle": gain, "noise": other})[1] == "unclear"


def test_no_gain_by_chance_is_called_harm() -> None:
    """The better of two removals that change nothing but by chance, of 20 images."""
    random = np.random.default_rng(0)
    harmful = 0
    for _ in range(400):
        changes = {}
        for edit in ("zero", "mean"):
            drawn = random.normal(0, 0.03, 20)
            half = 1.96 * drawn.std() / np.sqrt(20)
            mean = float(drawn.mean())
            changes[edit] = change_of(mean, mean - half, mean + half)
        harmful += decide(changes)[1] == "hurts"
    assert harmful / 400 < 0.025  # what one removal alone would have


@pytest.mark.parametrize("before", [np.nan, 0.0, CARRIES])
def test_without_dice_there_is_nothing_to_judge(before: float) -> None:
    changes = {"dice": before, "change": 0 * before, "low": 0 * before, "high": 0 * before}
    assert decide({"zero": changes})[1] == "unclear"


def test_the_gentler_removal_decides_and_wrong_content_only_without_one() -> None:
    changes = {
        edit: change_of(change, change - 0.01, change + 0.01)
        for edit, change in {"zero": -0.3, "mean": -0.2, "shuffle": -0.1, "noise": 0.0}.items()
    }
    assert decide(changes)[0] == "mean"
    assert decide({edit: changes[edit] for edit in ("noise", "zero")})[0] == "zero"
    assert decide({edit: changes[edit] for edit in ("shuffle", "noise")})[0] == "noise"


# ------------------------------------------------------------------ the whole command


def test_one_image_gives_changes_but_no_interval_and_no_verdict(tmp_path: Path) -> None:
    found = ablate(constructed(1, sizes=[(48, 40)]), QUICK, output=tmp_path)
    assert {row["edit"] for row in found.rows} == {"zero", "mean", "noise"}
    assert all(row["low"] is None and row["high"] is None for row in found.rows)
    assert set(verdicts(found.rows).values()) == {"unclear"}


@pytest.mark.parametrize("there", [0, 1])
def test_a_network_that_finds_nothing_has_no_dice_to_lose(there: int, tmp_path: Path) -> None:
    """Nothing is found where there is nothing: no Dice; or where there is something: Dice 0."""
    subject = constructed(0)
    subject.segmenter.network.head.bias = nn.Parameter(torch.tensor([9.0, -9.0]))
    truths = [np.full_like(view.truth, there) for view in subject.views]
    views = [replace(v, truth=truth) for v, truth in zip(subject.views, truths, strict=True)]
    found = ablate(replace(subject, views=tuple(views)), QUICK, output=tmp_path)
    assert set(verdicts(found.rows).values()) == {"unclear"}
    assert (tmp_path / "ablate.png").is_file()


def test_shuffling_alone_needs_two_images(tmp_path: Path) -> None:
    only = AblateConfig(edits=("shuffle",))
    with pytest.raises(ConfigError, match="no edit is left") as caught:
        ablate(constructed(sizes=[(48, 48)]), only, output=tmp_path)
    assert "at least two images" in caught.value.fix


def test_sizes_may_differ_and_classes_be_many_or_absent(tmp_path: Path) -> None:
    subject = constructed(1, classes=4, sizes=[(48, 33), (37, 51), (64, 40)])
    views = [
        replace(view, image=np.minimum(view.image, 2), truth=np.minimum(view.truth, 2))
        for view in subject.views
    ]
    found = ablate(replace(subject, views=tuple(views)), QUICK, output=tmp_path)
    assert len(found.rows) == DEPTH * len(ALL) * (1 + 4)
    assert verdicts(found.rows) == {0: "idle", 1: "carries", 2: "idle"}
    absent = [row for row in found.rows if row["class"] == "class 3" and row["level"] == 0]
    assert all(row["dice"] is None and row["change"] is None for row in absent)
    assert {row["verdict"] for row in absent} == {"unclear"}
    height, width = np.array(Image.open(tmp_path / "ablate_classes.png")).shape[:2]
    assert min(height, width) > 200


@pytest.mark.long
def test_a_real_run_writes_table_facts_and_picture(data: Path, tmp_path: Path) -> None:
    trained = train(data, tiny(), out=tmp_path, name="cells")
    config = AblateConfig(split="all", samples=100)
    subject = open_subject(trained, data, config, device=DeviceConfig(device="cpu"))
    found = ablate(subject, config, output=tmp_path)
    assert len(found.rows) == 2 * len(ALL) * (1 + 2)
    with (tmp_path / "ablate.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    columns = ["level", "resolution", "kind", "edit", "class", "dice", "change", "low", "high"]
    assert list(table[0]) == [*columns, "decides", "verdict"]
    assert {(row["level"], row["resolution"]) for row in table} == {("0", "1/1"), ("1", "1/2")}
    facts: dict[str, Any] = json.loads((tmp_path / "ablate.json").read_text())
    assert len(facts["rows"]) == len(table) == len(found.rows)
    assert set(facts["verdicts"]) == {"0", "1"}
    everything = EvalConfig(scoring=ScoringConfig(split="all"))
    scores = evaluate(trained, data, everything, output=tmp_path / "eval").scores
    assert facts["dice"] == pytest.approx(scores.foreground_dice, abs=1e-3)
    assert np.array(Image.open(tmp_path / "ablate.png")).ndim == 3
    assert not (tmp_path / "ablate_classes.png").exists()
