"""Skips whose switch is closed, taken out of a trained U-Net: fewer channels, the same logits.

A closed switch hands the decoder zeros in place of the encoder's features. The convolutions behind
it have weights for these channels all the same, and multiply them by zero. Without both, the
decoder computes the same from fewer numbers. An open switch passes everything: plain `concat`.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from unetseg.bundle import BundleInfo, build_segmenter, load_single, save_bundle
from unetseg.config import DeviceConfig, TrainingConfig
from unetseg.errors import BundleError, ConfigError
from unetseg.evaluation.evaluate import run_folder
from unetseg.prediction.engine import Engine
from unetseg.progress import SILENT, Progress
from unetseg.report.card import model_card
from unetseg.report.facts import Facts
from unetseg.runtime import start
from unetseg.skiplab.cost import Cost, network_cost, predict_ms
from unetseg.unet.model import UNet
from unetseg.unet.segmenter import Segmenter
from unetseg.unet.skips import Switch

SIZES = ((64, 64), (93, 70), (128, 160))
"""Height and width of the images that the logits are compared on, pixels."""
AGREEMENT = 1e-4
"""Largest difference allowed, relative to the largest logit: float32 sums in another order."""
LARGEST_SIDE = 512
"""Side of the square image that is timed, pixels; the bundle's tile where that is smaller."""


@dataclass(frozen=True)
class Pruning:
    """What was taken out of a network, and what that saves."""

    folder: Path
    """The bundle of the smaller network."""
    levels: tuple[int, ...]
    """Levels whose skip was taken out; 0 is full resolution."""
    side: int
    """Side of the square image that the costs are for, pixels."""
    before: Cost
    after: Cost
    milliseconds: tuple[float, float]
    """Median time from raw pixels to class indexes, before and after."""
    difference: float
    """Largest difference between two logits of the same random image."""


def prune(
    run: Path,
    *,
    output: Path | None = None,
    device: DeviceConfig | None = None,
    progress: Progress = SILENT,
) -> Pruning:
    """Take the skips whose switch is closed out of a trained U-Net.

    Writes a bundle, which stands for the run wherever a trained U-Net is asked for.

    Args:
        run: Run folder or bundle folder.
        output: Folder of the new bundle; default: "pruned" in the run folder.
        device: Where both networks are timed.
        progress: Hears what is done.

    Raises:
        ConfigError: there is no switch, none is closed, or `output` is there already.
        BundleError: there is no usable model, or the logits changed; then nothing is written.
    """
    output = output or run_folder(run) / "pruned"
    is_free = output.is_dir() and not any(output.iterdir())
    if not is_free and (output.exists() or output.is_symlink()):
        fix = "Give another folder by --output, or remove it first."
        raise ConfigError(f"{output} is there already", fix=fix)
    machine = start(device or DeviceConfig())
    segmenter, info = load_single(run)
    smaller, smaller_info = prune_segmenter(segmenter, info)
    difference = check_agreement(segmenter, smaller)
    side = min(LARGEST_SIDE, info.tile)
    noise = _random_image(segmenter, side, side, torch.Generator().manual_seed(0))
    engines = {
        name: Engine(each, machine, tile=side, overlap=0)
        for name, each in {"before": segmenter, "after": smaller}.items()
    }
    progress.say(f"timing both networks on {machine}")
    times = predict_ms(engines, noise[0].permute(1, 2, 0).numpy(), progress)  # H, W, C
    pruning = Pruning(
        folder=output,
        levels=closed_levels(segmenter.network),
        side=side,
        before=network_cost(info, side),
        after=network_cost(smaller_info, side),
        milliseconds=(times["before"], times["after"]),
        difference=difference,
    )
    card = partial(model_card, facts=Facts(output.absolute()))
    save_bundle(output.absolute(), smaller.state_dict(), smaller_info, card)
    return pruning


def prune_segmenter(segmenter: Segmenter, info: BundleInfo) -> tuple[Segmenter, BundleInfo]:
    """A segmenter without the skips whose switch is closed in `segmenter`, and its info.

    In the new settings a closed switch is "pruned" and an open one "concat". All else in `info`,
    scores and hash of the data included, stays. The new segmenter is in evaluation mode on the CPU.

    Raises:
        ConfigError: there is no switch, or none is closed.
    """
    switches = find_switches(segmenter.network)
    if not switches:
        summary = f"there is no switch to prune; the skips are: {', '.join(info.network.skip)}"
        fix = "Only --skip switch learns to do without a level: unetseg train DATA --skip switch"
        raise ConfigError(summary, fix=fix)
    if not closed_levels(segmenter.network):
        summary = "no switch is closed: there is nothing to prune"
        usual = TrainingConfig().switch_penalty
        fix = f"Train longer, or with a higher --switch-penalty (default {usual:g})."
        odds = [
            f"level {level} (1/{1 << level}): log-odds {switch.log_odds.item():+.2f}, "
            f"open with a probability of {switch.probability().item():.1%}"
            for level, switch in switches.items()
        ]
        raise ConfigError(summary, odds, fix)
    kinds = list(info.network.skip_of_levels(len(segmenter.network.decoder.steps)))
    for level, kind in enumerate(kinds):
        if level in switches:
            kinds[level] = "concat" if switches[level].is_open else "pruned"
        elif kind == "switch":
            kinds[level] = "none"  # the encoder has no features of this level
    network = info.network.model_copy(update={"skip": tuple(kinds)})
    info = info.model_copy(update={"network": network})
    smaller = build_segmenter(info.fresh)
    old, kept = segmenter.state_dict(), {}
    for name, like in smaller.state_dict().items():
        kept[name] = old[name]
        if like.shape != kept[name].shape:
            # weights lose the first of their input channels: in [feature, up] the encoder's stand
            # first, and so they do in all that a dense block appends to
            kept[name] = kept[name][:, -like.shape[1] :]
    smaller.load_state_dict(kept)
    return smaller.eval(), info


def find_switches(network: UNet) -> dict[int, Switch]:
    """The switches of a network by their level; 0 is full resolution."""
    skips = [step.skip for step in network.decoder.steps]
    return {level: skip for level, skip in enumerate(skips) if isinstance(skip, Switch)}


def closed_levels(network: UNet) -> tuple[int, ...]:
    """Levels that a closed switch keeps from the decoder, full resolution first."""
    return tuple(level for level, switch in find_switches(network).items() if not switch.is_open)


def check_agreement(before: Segmenter, after: Segmenter) -> float:
    """The largest difference between the logits of two segmenters on the same random images.

    The images are of several sizes, in float32, their pixels drawn around the mean of the training
    images with their deviation.

    Raises:
        BundleError: they differ by more than the order of a sum explains.
    """
    differences, largest = [], []
    generator = torch.Generator().manual_seed(0)
    for height, width in SIZES:
        image = _random_image(before, height, width, generator)
        with torch.inference_mode():
            expected, logits = before(image), after(image)
        differences.append((logits - expected).abs().max())
        largest.append(expected.abs().max())
    difference, scale = torch.stack(differences).max().item(), torch.stack(largest).max().item()
    if not difference <= AGREEMENT * scale:  # nor if either is not a number
        summary = (
            f"without the closed skips the logits differ by {difference:.2g}, "
            f"the largest being {scale:.2g}: nothing was written"
        )
        raise BundleError(summary, fix="The network as it was trained can be used as before.")
    return difference


def _random_image(
    segmenter: Segmenter, height: int, width: int, generator: torch.Generator
) -> Tensor:
    """1×C×height×width on the CPU, pixel values like those that `segmenter` was trained on."""
    mean, std = segmenter.mean.cpu(), segmenter.std.cpu()
    return mean + std * torch.randn(1, mean.shape[1], height, width, generator=generator)
