"""Pruning: the same logits from fewer channels, whatever stands behind the switch."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.builders import bundle_info
from unetseg.bundle import BundleInfo, build_segmenter, load_bundle, save_bundle
from unetseg.cli.app import run
from unetseg.cli.prune import prune as prune_command
from unetseg.config import DeviceConfig
from unetseg.errors import BundleError, ConfigError
from unetseg.skiplab.prune import (
    Pruning,
    check_agreement,
    find_switches,
    prune,
    prune_segmenter,
)
from unetseg.unet.segmenter import Segmenter

Capture = pytest.CaptureFixture[str]
CPU = DeviceConfig(device="cpu", precision="float32")
MIXED, ALL = (0, 2), (0, 1, 2)
SMALL: dict[str, Any] = {"depth": 3, "width": 4}
SHORTCUTS = ("identity", "zero_pad", "projection", "learned", "rezero", "gated", "deactivable")


def info_of(skip: tuple[str, ...] = ("switch",), **settings: Any) -> BundleInfo:
    more: dict[str, Any] = {"data_hash": "of the data", "scores": {"foreground_dice": 0.5}}
    return bundle_info({**settings, "skip": skip}, tile=64, **more)


def close(segmenter: Segmenter, levels: tuple[int, ...]) -> None:
    """Close the switches of `levels`, and open all others."""
    for level, switch in find_switches(segmenter.network).items():
        switch.slow_log_odds.data.fill_(-0.25 if level in levels else 0.25)


def segmenter_of(info: BundleInfo, closed: tuple[int, ...]) -> Segmenter:
    """A network whose norms, biases and learned factors are random too, and `closed` switches."""
    torch.manual_seed(0)
    segmenter = build_segmenter(info).eval()
    for tensor in segmenter.network.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim <= 1:
            tensor += 0.3 * torch.rand_like(tensor)  # variances stay positive
    close(segmenter, closed)
    return segmenter


def assert_same_logits(before: Segmenter, after: Segmenter) -> None:
    """Equal up to the rounding of float64, on images that do and do not fit the stride."""
    for size in ((32, 64), (45, 51)):
        image = torch.randn(2, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            logits = [each.double().network(image) for each in (before, after)]
        assert logits[0].std() > 1e-3
        torch.testing.assert_close(logits[1], logits[0], rtol=1e-9, atol=1e-9)


def parameters(segmenter: Segmenter) -> int:
    return sum(parameter.numel() for parameter in segmenter.parameters())


# ------------------------------------------------------------------ the network

# settings, and weights per squared width behind one skip: 3×3 convolutions 9, projections 1
BLOCKS: list[tuple[dict[str, Any], int]] = [
    ({"block": "plain"}, 9),
    ({"block": "plain", "norm": "instance"}, 9),
    ({"block": "plain", "up": "bilinear", "deep_supervision": True}, 9),
    ({"block": "residual", "shortcut": "none"}, 9),
    *(
        ({"block": "residual", "shortcut": kind, "norm": norm}, 9 + (kind != "zero_pad"))
        for kind, norm in zip(SHORTCUTS, ("batch", "none", "group") * 3, strict=False)
    ),
    ({"block": "dense"}, 10),  # four layers that add a quarter of the width, and a transition
    ({"block": "dense", "norm": "none"}, 10),
]


@pytest.mark.parametrize(("blocks", "closed"), [(1, MIXED), (2, ALL)])
@pytest.mark.parametrize(("settings", "share"), BLOCKS)
def test_every_block_computes_the_same_from_fewer_weights(
    settings: dict[str, Any], share: int, blocks: int, closed: tuple[int, ...]
) -> None:
    info = info_of(**SMALL, **settings, blocks_per_level=blocks)
    before = segmenter_of(info, closed)
    after, pruned = prune_segmenter(before, info)
    assert_same_logits(before, after)
    saved = sum(share * (4 << level) ** 2 for level in closed)
    assert parameters(before) - parameters(after) == saved + 3  # and the switches' own
    kinds = tuple("pruned" if level in closed else "concat" for level in range(3))
    assert pruned.network.skip == kinds


@pytest.mark.long
@pytest.mark.parametrize(
    ("encoder", "block"),
    [*product(["resnet18"], ["plain", "residual", "dense"]), ("mit_b0", "plain")],
)
def test_an_encoder_of_smp(encoder: str, block: str) -> None:
    info = info_of(encoder=encoder, depth=3, block=block)
    before = segmenter_of(info, MIXED)
    after, pruned = prune_segmenter(before, info)
    assert_same_logits(before, after)
    middle = "none" if encoder == "mit_b0" else "concat"  # it has no features at half resolution
    assert pruned.network.skip == ("pruned", middle, "pruned")


@pytest.mark.parametrize(
    "skip",
    [
        ("nested", "switch", "concat"),
        ("nested", "nested", "switch"),
        ("switch", "nested", "nested"),
        ("attention", "switch", "add"),
        ("gated", "learned", "switch"),
        ("none", "switch", "pruned"),
    ],
)
def test_skips_without_a_switch_stay(skip: tuple[str, ...]) -> None:
    info = info_of(skip, **SMALL)
    before = segmenter_of(info, ALL)
    after, pruned = prune_segmenter(before, info)
    assert_same_logits(before, after)
    assert pruned.network.skip == tuple(kind.replace("switch", "pruned") for kind in skip)


def test_all_closed_is_the_published_size_without_long_skips() -> None:
    info = info_of(depth=4, width=64)
    before = segmenter_of(info, (0, 1, 2, 3))
    after, _ = prune_segmenter(before, info)
    assert parameters(before) == 31_037_698 + 4
    assert parameters(after) == 27_904_258


def test_what_is_pruned_stays_as_it_was() -> None:
    info = info_of(**SMALL)
    segmenter = segmenter_of(info, MIXED)
    tensors = {name: tensor.clone() for name, tensor in segmenter.state_dict().items()}
    after, pruned = prune_segmenter(segmenter, info)
    assert all(torch.equal(tensors[name], now) for name, now in segmenter.state_dict().items())
    assert not after.training
    network = pruned.network.model_copy(update={"skip": info.network.skip})
    assert pruned.model_copy(update={"network": network}) == info


@pytest.mark.parametrize(
    ("skip", "summary", "odds"),
    [
        (("concat", "switch", "switch"), "no switch is closed", ["level 1", "level 2"]),
        (("add", "pruned", "concat"), "the skips are: add, pruned, concat", []),
    ],
)
def test_without_a_closed_switch_there_is_nothing_to_prune(
    skip: tuple[str, ...], summary: str, odds: list[str]
) -> None:
    info = info_of(skip, **SMALL)
    with pytest.raises(ConfigError, match=summary) as caught:
        prune_segmenter(segmenter_of(info, ()), info)
    assert [str(line)[:7] for line in caught.value.offenders] == odds
    assert all("+5.00" in str(line) and "99.9%" in str(line) for line in caught.value.offenders)


# ------------------------------------------------------------------ the check


def test_a_network_agrees_with_itself() -> None:
    segmenter = segmenter_of(info_of(**SMALL), MIXED)
    assert check_agreement(segmenter, segmenter) == 0


@pytest.mark.parametrize("change", [1.01, float("nan")])
def test_other_logits_are_refused(change: float) -> None:
    info = info_of(**SMALL)
    before = segmenter_of(info, MIXED)
    after, _ = prune_segmenter(before, info)
    assert check_agreement(before, after) < 1e-4
    after.network.head.weight.data *= change
    with pytest.raises(BundleError, match=r"the logits differ by .*: nothing was written"):
        check_agreement(before, after)


# ------------------------------------------------------------------ a run


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training whose middle switch is closed afterwards."""
    words = ["-e", "2", "--depth", "3", "--width", "4", "--patch", "32", "-b", "2"]
    words += ["--workers", "0", "--device", "cpu", "--skip", "switch", "--norm", "instance"]
    out = tmp_path_factory.mktemp("runs")
    assert run(["train", str(data), *words, "--out", str(out), "--name", "cells"]) == 0
    segmenter, info = load_bundle(out / "cells")
    close(segmenter, (1,))
    save_bundle(out / "cells" / "model", segmenter.state_dict(), info)
    return out / "cells"


@pytest.fixture(scope="module")
def pruned(trained: Path) -> Pruning:
    return prune(trained, device=CPU)


def masks(bundle: Path, data: Path, output: Path) -> list[NDArray[np.uint8]]:
    words = ["--device", "cpu", "--precision", "float32"]
    assert run(["predict", str(bundle), str(data / "images"), "-o", str(output), *words]) == 0
    return [np.array(Image.open(file)) for file in sorted(output.glob("*.png"))]


@pytest.mark.long
def test_a_pruned_run_predicts_the_same_masks_for_less(
    trained: Path, pruned: Pruning, data: Path, tmp_path: Path
) -> None:
    assert pruned.folder == trained / "pruned"
    written = {file.name for file in pruned.folder.iterdir()}
    assert written == {"README.md", "model.json", "model.safetensors"}
    before = masks(trained, data, tmp_path / "before")
    after = masks(pruned.folder, data, tmp_path / "after")
    assert len(before) == 6
    np.testing.assert_array_equal(after, before)
    # The first convolution behind level 1 no longer sees 8 of its 16 channels.
    assert pruned.levels == (1,)
    assert pruned.before.parameters - pruned.after.parameters == 9 * 8 * 8 + 3
    pixels = (pruned.side // 2) ** 2
    saved = 1e9 * (pruned.before.gflop - pruned.after.gflop)
    assert saved == pytest.approx(2 * 9 * 8 * 8 * pixels)
    assert min(pruned.milliseconds) > 0
    assert pruned.difference < 1e-4


@pytest.mark.long
def test_the_written_bundle_is_the_one_that_was_checked(trained: Path, pruned: Pruning) -> None:
    segmenter, info = load_bundle(trained)
    expected, _ = prune_segmenter(segmenter, info)
    loaded, read = load_bundle(pruned.folder)
    tensors = expected.state_dict()
    assert all(torch.equal(tensors[name], now) for name, now in loaded.state_dict().items())
    assert read.network.skip == ("concat", "pruned", "concat")
    assert read.scores == info.scores
    assert read.data_hash == info.data_hash != ""


@pytest.mark.long
def test_a_pruned_run_is_scored_on_the_split_of_its_training(
    trained: Path, pruned: Pruning, data: Path, tmp_path: Path
) -> None:
    scores = []
    for bundle in (trained, pruned.folder):
        words = ["--device", "cpu", "--precision", "float32", "-o", str(tmp_path)]
        assert run(["eval", str(bundle), str(data), *words]) == 0
        scores.append(json.loads((tmp_path / "scores.json").read_text()))
    assert scores[0] == scores[1]
    assert scores[1]["split"] == "val"


@pytest.mark.long
def test_the_command_says_what_is_saved(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "new" / "small"
    prune_command(trained / "model", output=folder, device=CPU)
    lines = capsys.readouterr().out.splitlines()
    words = [line.split() for line in lines]  # of the table, and of progress before it
    _, *rows = words[words.index(["before", "after", "saved"]) :][:4]
    old, new = (parameters(load_bundle(each)[0]) for each in (trained, folder))
    assert rows[0] == ["parameters", f"{old:,}", f"{new:,}", f"{(old - new) / old:.1%}"]
    assert [row[0] for row in rows[1:]] == ["GFLOP", "ms"]
    assert lines[-1] == f"next: unetseg predict {folder} IMAGES -o masks"


@pytest.mark.long
def test_nothing_is_replaced(trained: Path, pruned: Pruning, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    digest = load_bundle(pruned.folder)[1].weights_sha256
    for source, taken in ((trained, None), (trained / "model", None), (trained, file)):
        with pytest.raises(ConfigError, match="is there already"):
            prune(source, output=taken, device=CPU)
    assert file.read_text() == "mine"
    assert load_bundle(pruned.folder)[1].weights_sha256 == digest


@pytest.mark.long
def test_what_is_pruned_already_has_no_switch(pruned: Pruning, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the skips are: concat, pruned, concat"):
        prune(pruned.folder, output=tmp_path / "again", device=CPU)
    assert not (tmp_path / "again").exists()
