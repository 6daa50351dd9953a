"""A checkpoint of milesial/Pytorch-UNet as a bundle whose masks are those of its own `predict.py`.

Both networks are the same but for the names of their parts; that program divides pixels by 255 and
writes the codes in `mask_values`, which stand in the checkpoint. Masks differ in two cases:

- sides that are no multiples of 16: there features are filled up with zeros, here the image is
  continued: seen at the right and lower border, and with `--bilinear` a little everywhere
- images made smaller (`scale`): there bicubically, rounded to whole values, here bilinearly
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unetseg.bundle import BundleInfo, build_segmenter, save_bundle
from unetseg.config import NetworkConfig
from unetseg.data.masks.class_map import BLACK, ClassInfo, ClassMap, Code
from unetseg.data.masks.infer_classes import distinct_colours
from unetseg.errors import BundleError, ConfigError
from unetseg.report.card import model_card
from unetseg.report.facts import Facts
from unetseg.text import first_line
from unetseg.unet.segmenter import Normalisation
from unetseg.unet.weights import DAMAGE

DEPTH = 4
TILE, OVERLAP = 1024, 0.25
"""Images with a longer side, pixels, are cut into tiles; that program never does."""
USUAL_SCALE = 0.5
"""Its `--scale`, unless it is told another."""

Weights = dict[str, Tensor]


def import_weights(file: Path, output: Path, scale: float = USUAL_SCALE) -> BundleInfo:
    """Write the bundle of a checkpoint.

    Args:
        file: The .pth file; nothing in it is run.
        output: The folder that is written.
        scale: The `--scale` that it was trained with, 0–1.

    Raises:
        BundleError: it is damaged, or holds another network.
        ConfigError: `output` is there already.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ConfigError(f"{output} is there already", fix="Give another folder by --output.")
    weights, values = read_checkpoint(file)
    network = _network(weights, scale)
    head = weights["outc.conv.weight"], weights["outc.conv.bias"]
    if len(head[1]) == 1:  # one logit, against which there is 0
        weights["outc.conv.weight"], weights["outc.conv.bias"] = (
            torch.cat([torch.zeros_like(one), one]) for one in head
        )
    bands = weights["inc.double_conv.0.weight"].shape[1]
    info = BundleInfo(
        network=network,
        bands=bands,
        dtype="uint8",
        class_map=_classes(values, len(weights["outc.conv.bias"]), file),
        normalisation=Normalisation(kind="dataset", mean=(0.0,) * bands, std=(255.0,) * bands),
        tile=TILE,
        overlap=OVERLAP,
    )
    segmenter = build_segmenter(info)
    segmenter.network.load_state_dict(_renamed(weights, segmenter.network.state_dict(), file))
    card = partial(model_card, facts=Facts(output.absolute()))
    save_bundle(output.absolute(), segmenter.state_dict(), info, card)
    return info


def read_checkpoint(file: Path) -> tuple[Weights, list[Any] | None]:
    """The tensors of a checkpoint by name, and its `mask_values`.

    Raises:
        BundleError: it is damaged, or holds other things.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        told = [first_line(error)]
        raise BundleError(f"{file} cannot be read as a checkpoint", told) from error
    fix = "Give a checkpoint of milesial/Pytorch-UNet: checkpoint_epochN.pth."
    if not isinstance(state, Mapping):
        raise BundleError(f"{file} holds no weights by name", fix=fix)
    state = {str(name).removeprefix("module."): value for name, value in state.items()}
    values = state.pop("mask_values", None)
    strange = [name for name, value in state.items() if not isinstance(value, Tensor)]
    needed = ("inc.double_conv.0.weight", "outc.conv.weight", "outc.conv.bias")
    missing = [name for name in needed if name not in state]
    if strange or missing:
        told = [*strange, *(f"{name}: missing" for name in missing)]
        raise BundleError(f"{file} is not of milesial/Pytorch-UNet", told, fix)
    return state, values


def _network(weights: Weights, scale: float) -> NetworkConfig:
    """The network whose weights these are; parts that are missing are told later."""
    names = ["inc", *(f"down{n}.maxpool_conv.1" for n in range(1, DEPTH + 1))]
    widths = [
        weights.get(f"{name}.double_conv.0.weight", torch.empty(1)).shape[0] for name in names
    ]
    up = "transpose" if "up1.up.weight" in weights else "aligned"
    settings = {"depth": DEPTH, "widths": widths}
    return NetworkConfig.model_validate(settings | {"up": up, "scale": scale, "init": "torch"})


def _renamed(weights: Weights, expected: Weights, file: Path) -> Weights:
    """The weights by their names here; a bias before a norm, in old checkpoints, goes into it.

    Raises:
        BundleError: some are missing, unknown or of another shape; all are listed.
    """
    given = dict(weights)
    for name in weights:
        if old := re.fullmatch(r"(.*double_conv)\.([03])\.bias", name):
            mean = f"{old[1]}.{int(old[2]) + 1}.running_mean"
            given[mean] = given.get(mean, torch.zeros(1)) - given.pop(name)
    rooms = {"encoder.levels.0.0": "inc.double_conv", "head": "outc.conv"}
    for n in range(1, DEPTH + 1):
        rooms[f"encoder.levels.{n}.1"] = f"down{n}.maxpool_conv.1.double_conv"
        rooms[f"decoder.steps.{DEPTH - n}.block"] = f"up{n}.conv.double_conv"
        rooms[f"decoder.steps.{DEPTH - n}.up"] = f"up{n}.up"
    found, problems = Weights(), []
    for name, like in expected.items():
        room = next(room for room in rooms if name.startswith(f"{room}."))
        theirs = rooms[room] + name.removeprefix(room)
        found[name] = given.pop(theirs, like)
        if theirs not in weights and not name.endswith("num_batches_tracked"):
            problems.append(f"{theirs}: missing")
        if found[name].shape != like.shape:
            shapes = tuple(found[name].shape), tuple(like.shape)
            problems.append(f"{theirs}: {shapes[0]}, expected {shapes[1]}")
    problems += [f"{name}: unknown" for name in given]
    if problems:
        raise BundleError(f"{file} holds another network than milesial/Pytorch-UNet", problems)
    return found


def _classes(values: list[Any] | None, count: int, file: Path) -> ClassMap:
    """The classes of `mask_values`: numbers, or colours; without them 0, 1 and so on.

    Raises:
        BundleError: they are not as many codes as there are classes.
    """
    count = max(2, count)
    codes: list[Code] = list(range(count))
    try:
        if values is not None:
            codes = [tuple(map(int, v)) if isinstance(v, list) else int(v) for v in values]  # type: ignore[misc]
        black = next((index for index, code in enumerate(codes) if code in (0, BLACK)), None)
        colours = distinct_colours(len(codes), black)
        names = [f"class {code}" for code in codes]
        if black is not None:
            names[black] = "background"
            names = ["foreground" if count == 2 and n != black else t for n, t in enumerate(names)]
        is_colour = any(isinstance(code, tuple) for code in codes)
        given = [
            ClassInfo(name=name, code=code, colour=code if isinstance(code, tuple) else colour)
            for name, code, colour in zip(names, codes, colours, strict=False)
        ]
        if len(codes) != count:
            raise ValueError(f"{len(codes)} values for {count} classes")
        return ClassMap(
            classes=tuple(given),
            coding="rgb" if is_colour else "integer",
            dtype="uint8" if is_colour or max(codes) < 256 else "uint16",  # type: ignore[operator]
            background=black,
        )
    except (ValueError, TypeError) as error:
        told = f"{file}: mask_values are no classes: {values}"
        raise BundleError(told[:400], [first_line(error)]) from error
