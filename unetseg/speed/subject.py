"""What is measured: a network on its machine, and images for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from numpy.typing import NDArray

from unetseg.bundle import BundleInfo, build_segmenter, load_bundle, save_bundle
from unetseg.config import NetworkConfig, RuntimeConfig, TrainConfig, TrainingConfig
from unetseg.data.crops.crop import window
from unetseg.data.facts.survey import Survey, survey
from unetseg.data.files.images import image_size, match_bands, read_image
from unetseg.prediction.engine import machine_for
from unetseg.runtime import Machine, start
from unetseg.speed.material import (
    Kind,
    draw_pairs,
    find_material,
    kind_of,
    kind_of_file,
    repeated,
    spread_out,
)
from unetseg.speed.settings import BenchConfig
from unetseg.training.plan import bundle_info, make_plan
from unetseg.training.run import TrainingRun, data_hash
from unetseg.training.trial import tried_plan
from unetseg.unet.segmenter import Segmenter

SIDE = 512
"""Of drawn images, pixels."""
SMALLEST_SIDE = 32
LARGEST_SIDE = 1024
"""Side up to which the engines are compared on squares as large as the user's images."""
SIZES_LOOKED_AT = 50
"""Images of the user's whose size is read."""


@dataclass(frozen=True)
class Subject:
    """A network on its machine, and images for it."""

    segmenter: Segmenter
    info: BundleInfo
    bundle: Path
    machine: Machine
    """Where and in which arithmetic it predicts."""
    why: str
    """What the bundle says against fast arithmetic, if it does."""
    images: list[Path]
    side: int
    """Of the squares that the engines are compared on, pixels."""
    training: TrainingRun
    """The training of such a network, which nobody has begun."""

    def squares(self, count: int) -> list[NDArray[Any]]:
        """So many squares from the middles of the images, side×side×C raw pixel values."""
        return [self._square(self.images[at % len(self.images)]) for at in range(count)]

    def _square(self, path: Path) -> NDArray[Any]:
        image = match_bands(read_image(path), self.info.bands, path)
        return window(image, (image.shape[0] // 2, image.shape[1] // 2), self.side)


def open_subject(
    run: Path | None,
    config: BenchConfig,
    network: NetworkConfig,
    runtime: RuntimeConfig,
    folder: Path,
) -> Subject:
    """Load the network of `run`, or make the one that training would; find or draw images.

    Args:
        run: A trained U-Net, if there is one.
        config: What is measured.
        network: The U-Net where there is no run.
        runtime: Device and arithmetic.
        folder: An empty folder for what is drawn.

    Raises:
        BundleError: `run` holds no model.
        DataError: the images cannot be used.
    """
    machine = start(runtime)
    trained = load_bundle(run) if run else None
    found = find_material(config.data) if config.data else []
    side = config.size or (_usual_side(found) if found else SIDE)
    known = _pairs(config, trained[1] if trained else None, found, side, folder / "pairs")
    network = trained[1].network if trained else network
    training = _planned(known, config, network, runtime, machine, folder)
    segmenter, info = trained or _fresh(training)
    if run is None:
        run = folder / "model"
        save_bundle(run, segmenter.state_dict(), info)
    drawn = [pair.image for pair in known.pairs.pairs]
    images = spread_out(found, config.count) or repeated(drawn, config.count, folder / "images")
    where, why = machine_for(info, machine, runtime.precision)
    return Subject(segmenter, info, run, where, why, images, side, training)


def _usual_side(images: Sequence[Path]) -> int:
    """The median shorter side of images, as far as the engines are compared on that."""
    some = spread_out(images, SIZES_LOOKED_AT)
    side = round(median(min(image_size(path)) for path in some))
    return max(SMALLEST_SIDE, min(LARGEST_SIDE, side))


def _pairs(
    config: BenchConfig, info: BundleInfo | None, found: Sequence[Path], side: int, folder: Path
) -> Survey:
    """The user's pairs where a training of them is measured; else pairs that fit the network."""
    if config.data and config.train:
        return survey(config.data)
    kind = kind_of(info) if info else kind_of_file(found[0]) if found else Kind()
    return draw_pairs(folder, kind, side)


def _planned(
    known: Survey,
    config: BenchConfig,
    network: NetworkConfig,
    runtime: RuntimeConfig,
    machine: Machine,
    folder: Path,
) -> TrainingRun:
    """The training of `network` on these pairs, with a run folder of its own."""
    settings = TrainConfig(
        network=network.model_copy(update={"weights": "none"}),
        training=TrainingConfig(batch=config.batch or "auto"),
        runtime=runtime,
    )
    own = folder / "run"
    own.mkdir()
    plan = make_plan(known, settings, machine)
    if config.train:
        plan = tried_plan(plan, known, settings, machine)
    return TrainingRun(own, known.pairs.root, settings, machine, known, plan, data_hash(known))


def _fresh(training: TrainingRun) -> tuple[Segmenter, BundleInfo]:
    """What the training would begin with."""
    info = bundle_info(training.plan, training.known, training.data_hash)
    torch.manual_seed(training.config.runtime.seed)
    return build_segmenter(info).eval(), info
