"""A look into the lab: a trained U-Net and its images go in, a table with pictures comes out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from numpy.typing import NDArray
from torch import Tensor

from unetseg.bundle import BundleInfo, load_single
from unetseg.config import DeviceConfig, PairsConfig, SubjectConfig
from unetseg.data.crops.crop import crop
from unetseg.data.crops.dataset import Gaps
from unetseg.data.pairs.dataset_yaml import find_described
from unetseg.data.pairs.match import Pair
from unetseg.errors import DataError, UnetsegError
from unetseg.evaluation.evaluate import choose_pairs, run_folder
from unetseg.evaluation.truth import read_truth
from unetseg.prediction.engine import machine_for
from unetseg.prediction.pipeline import read_ahead
from unetseg.progress import SILENT, Progress
from unetseg.runtime import Machine, start
from unetseg.storage import atomic_path, write_csv, write_json
from unetseg.text import plural
from unetseg.unet.segmenter import Segmenter, image_statistics, to_machine

Row = Mapping[str, Any]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
"""Colours of lines and bars, told apart by colour-blind eyes too (Okabe & Ito 2008)."""
MOST_ROWS = 2000
"""Rows of a table up to which the JSON repeats it."""
STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.w_pad": 0.12,
    "figure.dpi": 120,
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}


# ------------------------------------------------------------------ what is looked at


@dataclass(frozen=True)
class View:
    """One image as the network is shown it, and its truth."""

    name: str
    image: NDArray[Any]
    """H×W×C, raw pixel values."""
    truth: NDArray[np.uint8]
    """H×W class indexes; 255 is ignored."""
    statistics: Tensor
    """1×2×C mean and deviation of the whole image, of which `image` may be a part."""

    @property
    def tensor(self) -> Tensor:
        """1×C×H×W float32, raw pixel values."""
        return _tensor(self.image)


@dataclass(frozen=True)
class Subject:
    """A trained U-Net in evaluation mode on its machine, and the images it is looked at with."""

    run: Path
    """The run folder."""
    segmenter: Segmenter
    info: BundleInfo
    machine: Machine
    split: str
    views: tuple[View, ...]


def open_subject(
    run: Path,
    data: Path,
    config: SubjectConfig,
    pairs: PairsConfig | None = None,
    device: DeviceConfig | None = None,
    *,
    progress: Progress = SILENT,
) -> Subject:
    """Load a trained U-Net and the images of `data` that `config` chooses.

    Raises:
        DataError: pairs that cannot be read or do not fit the model, all of them.
        BundleError: there is no usable model.
    """
    device = device or DeviceConfig()
    segmenter, info = load_single(run)
    machine, remark = machine_for(info, start(device), device.precision)
    split, views = read_views(run, data, info, config, pairs)
    why = f"; {remark}" if remark else ""
    progress.say(f"{plural(len(views), 'image')} of split {split} on {machine}{why}")
    moved = to_machine(segmenter, machine)
    return Subject(run_folder(run), moved, info, machine, split, views)


def read_views(
    run: Path, data: Path, info: BundleInfo, config: SubjectConfig, pairs: PairsConfig | None = None
) -> tuple[str, tuple[View, ...]]:
    """The split of `data` that `config` chooses, and its images.

    Raises:
        DataError: pairs that cannot be read or do not fit the model, all of them.
    """
    found, source = find_described(data, pairs or PairsConfig(), info.class_map)
    info = info.snapping(source.snap)
    split, chosen = choose_pairs(found, run_folder(run), config.split)
    by_image = {pair.image: pair for pair in chosen[: config.images_used]}
    failures: list[str] = []

    def read(pair: Pair) -> View:
        return _view(pair.name, *read_filled(pair, info, source.max_pixels), config.window)

    def refuse(_pair: Pair, error: UnetsegError) -> None:
        failures.append(error.summary)

    views = tuple(read_ahead(by_image.values(), read, refuse=refuse))
    if failures:
        fix = "Replace these files, or leave them out."
        raise DataError(f"{len(failures)} of {len(by_image)} pairs do not fit", failures, fix)
    return split, views


def read_filled(
    pair: Pair, info: BundleInfo, max_pixels: int | None
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """As `read_truth`; where the image has no data, it is filled and its classes are ignored."""
    gaps = Gaps(np.array(info.normalisation.mean), np.array(info.normalisation.std))
    return gaps.hide(*read_truth(pair, info, max_pixels))


def _view(name: str, image: NDArray[Any], truth: NDArray[np.uint8], side: int) -> View:
    """The middle of an image, at most `side` pixels high and wide."""
    statistics = image_statistics(_tensor(image))
    height, width = (min(side, length) for length in truth.shape)
    top, left = (truth.shape[0] - height) // 2, (truth.shape[1] - width) // 2
    part = np.s_[top : top + height, left : left + width]
    return View(name, image[part], truth[part], statistics)


def fitted(view: View, height: int, width: int) -> Tensor:
    """The image of `view` as 1×C×height×width: its middle, continued by mirroring if smaller."""
    side = max(height, width)
    centre = (view.truth.shape[0] // 2, view.truth.shape[1] // 2)
    square = crop(view.image, centre, side)
    top, left = side // 2 - height // 2, side // 2 - width // 2
    return _tensor(square[top : top + height, left : left + width])


def _tensor(image: NDArray[Any]) -> Tensor:
    array = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
    return torch.from_numpy(array)[None]  # 1, C, H, W


# ------------------------------------------------------------------ what is seen


@dataclass(frozen=True)
class Result:
    """The result of one `unetseg lab` command."""

    folder: Path
    """Where its files are: NAME.csv, NAME.json and pictures."""
    rows: Sequence[Row]
    """The table, one mapping of column to value per row."""
    summary: Sequence[Row]
    """The few rows that a terminal shows, each with its verdict."""
    caption: str
    """How table and picture are read: the same whatever they show."""


def publish(result: Result, name: str, figures: Mapping[str, Figure], **facts: object) -> Result:
    """Write NAME.csv (the rows), NAME.json (caption, facts and rows) and each figure as PNG.

    Numbers that are not finite are null in the JSON; very long tables are in the CSV only.

    Args:
        result: Rows, caption, and the folder to write to.
        name: Stem of the files of the table.
        figures: Figure of each picture by the stem of its file.
        **facts: What else belongs to the JSON: settings, seeds, versions.
    """
    columns = list(dict.fromkeys(column for row in result.rows for column in row))
    write_csv(result.folder / f"{name}.csv", result.rows, columns)
    content: dict[str, object] = {"caption": result.caption} | facts
    if len(result.rows) <= MOST_ROWS:
        content["rows"] = list(result.rows)
    write_json(result.folder / f"{name}.json", content)
    for stem, figure in figures.items():
        with atomic_path(result.folder / f"{stem}.png") as temporary:
            figure.savefig(temporary, format="png", facecolor="white")
    return result


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    """A figure of `width`×`height` inches and its rows×columns axes; needs no screen.

    The axes come as an array of rows×columns, also where there is one only.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False)
