"""A training at work: what the network is fed and answers, in pictures, and what its skips pass."""

from contextlib import closing
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unetseg.data.crops.dataset import Crops, Gaps, known_gaps
from unetseg.data.crops.reader import PairReader
from unetseg.data.facts.survey import Survey
from unetseg.data.masks.class_map import ClassMap
from unetseg.data.masks.overlay import contact_sheet, overlay, picture
from unetseg.prediction.engine import Engine
from unetseg.training.plan import Plan, crop_rule
from unetseg.unet.segmenter import Segmenter
from unetseg.unet.skips import Adaptive

ROWS = 6
DRAWS = 4
VIEW = 512
"""Of a pair bigger than memory, the square of this side in its middle is shown, pixels."""


def shown(images: int) -> list[int]:
    """The images of a sheet, spread evenly: neighbours may be frames of one second of a film.

    >>> shown(4), shown(60)
    ([0, 1, 2, 3], [5, 15, 25, 35, 45, 55])
    """
    rows = min(ROWS, images)
    return [(2 * row + 1) * images // (2 * rows) for row in range(rows)]


def augmented_sheet(crops: Crops) -> NDArray[np.uint8]:
    """A sheet of augmented pairs: each row one image, each column one draw."""
    class_map = crops.reader.class_map
    rows = []
    for row, index in enumerate(shown(len(crops.reader))):
        draws = [crops[index, row * DRAWS + draw] for draw in range(DRAWS)]
        rows.append(
            [_overlay(d.image.permute(1, 2, 0).numpy(), d.mask.numpy(), class_map) for d in draws]
        )
    return contact_sheet(rows)


def planned_sheet(known: Survey, plan: Plan) -> NDArray[np.uint8]:
    """A sheet of augmented pairs as a plan would feed them."""
    rule, gaps = crop_rule(plan), known_gaps(known, plan.bands)
    limit = known.config.max_pixels
    with closing(PairReader(known.select("train"), known.class_map, plan.bands, limit)) as reader:
        unused = np.zeros((len(reader), 2, plan.bands), np.float32)
        return augmented_sheet(Crops(reader, rule, unused, gaps))


def validation_sheet(reader: PairReader, engine: Engine) -> NDArray[np.uint8]:
    """A sheet of validation images: the image, its mask, and the mask predicted."""
    rows = []
    for index in shown(len(reader)):
        image, truth = middle(reader, index, VIEW) if reader.is_windowed(index) else reader[index]
        masks, image = (truth, engine.classes(image)), image[..., : reader.bands]
        rows.append([picture(image), *(_overlay(image, mask, reader.class_map) for mask in masks)])
    return contact_sheet(rows)


def middle(reader: PairReader, index: int, side: int) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """The square in the middle of a pair: image side×side×C and class indexes side×side."""
    pair = reader.pair(index)
    height, width = pair.size
    return pair.crop((height // 2, width // 2), side)


def _overlay(image: NDArray[Any], index: NDArray[np.uint8], class_map: ClassMap) -> Any:
    return overlay(image, index, class_map.colours, background=class_map.background)


@torch.no_grad()
def skip_openings(
    segmenter: Segmenter, reader: PairReader, gaps: Gaps, side: int
) -> dict[str, Any]:
    """How much each skip lets through on a validation crop, and the learned factors.

    Nothing, where no skip and no shortcut learns.
    """
    network = segmenter.network
    factors = {name: p.item() for name, p in network.named_parameters() if p.ndim == 0}
    if not factors and not any(isinstance(part, Adaptive) for part in network.modules()):
        return {}
    image, _ = gaps.hide(*middle(reader, 0, side))
    crop = torch.from_numpy(image).permute(2, 0, 1)[None]
    pixels = segmenter.prepared(crop.to(segmenter.mean.device))
    openings = network.openings(pixels)  # in float32: bf16 has few numbers near 1
    means = [None if opening is None else opening.float().mean().item() for opening in openings]
    return {"openings": means, "factors": factors}
