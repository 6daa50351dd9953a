"""A trained U-Net on disk: model.safetensors + model.json, complete in itself.

No pickled object and no import path is stored; the network is rebuilt from the allow-list of
`unet/build.py`.
"""

import math
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors
import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from unetseg.config import NetworkConfig
from unetseg.data.files.limits import MOST_BANDS
from unetseg.data.masks.class_map import ClassMap
from unetseg.errors import BundleError, ConfigError
from unetseg.runtime import Machine, versions
from unetseg.storage import (
    is_file,
    is_folder,
    json_value,
    parse_json,
    replace_folder,
    write_bytes,
    write_json,
    write_text,
)
from unetseg.unet.build import build_unet
from unetseg.unet.ensemble import Ensemble
from unetseg.unet.segmenter import Normalisation, Segmenter
from unetseg.unet.weights import DAMAGE

FORMAT: Literal[1] = 1
LARGEST_JSON = 16 * 2**20
"""Bytes; a model.json beyond that is refused unread."""
LARGEST_WEIGHTS = 16 * 2**30
"""Bytes; weights beyond that are refused unread."""
LARGEST_SIDE = 2**16
"""Pixels; a tile beyond that is refused."""
PIXEL_TYPES = ("uint8", "uint16", "int16", "float32")
"""Types of pixels that an exported file may take."""
MOST_MEMBERS = 100
"""U-Nets of an ensemble; more are refused."""
LARGEST_DICE_GAP = 0.001
"""Difference of the mean Dice beyond which fast arithmetic is not taken for float32."""
LARGEST_CLASS_GAP = 0.005
"""Difference of the Dice of any class beyond which it is not."""


def _nan_for_null(value: Any) -> Any:
    """JSON has no nan; `storage.json_value` writes null for it."""
    return math.nan if value is None else value


Card = Callable[[dict[str, Any]], str]
Dice = Annotated[float, BeforeValidator(_nan_for_null)]


class PrecisionVerdict(BaseModel):
    """How far masks in fast arithmetic are those of float32, on validation pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Literal["bfloat16", "float16"]
    """The fast arithmetic."""
    equal_pixels: Annotated[float, Field(ge=0, le=1)]
    """Share of the pixels with data that got the same class in both, 0–1."""
    dice: Dice
    """Mean foreground Dice in fast arithmetic, 0–1; nan where no foreground is."""
    dice_float32: Dice
    """The same in float32."""
    class_gap: Dice = math.nan
    """Largest difference between the two in the Dice of any class; nan where nobody looked."""
    images: Annotated[int, Field(ge=1)]
    """Images, or windows of images, that were compared."""

    @property
    def holds(self) -> bool:
        """Whether fast arithmetic stands for float32: no score differs by more than allowed.

        Scores decide, not pixels: a network of many classes that is unsure between two of them
        changes its mind in a pixel of a hundred, and scores the same.
        """
        without = math.isnan(self.dice) and math.isnan(self.dice_float32)
        near = without or abs(self.dice - self.dice_float32) <= LARGEST_DICE_GAP
        return near and self.class_gap <= LARGEST_CLASS_GAP

    @property
    def figures(self) -> str:
        """What was measured, in words, to stand inside a sentence.

        >>> PrecisionVerdict(
        ...     dtype="bfloat16", equal_pixels=0.99937, dice=0.9121, dice_float32=0.912, images=12
        ... ).figures
        '99.937% of the pixels get the same class in bfloat16 as in float32, Dice 0.9121 and 0.9120'
        """
        percent = math.floor(1e5 * self.equal_pixels) / 1e3  # never rounded up to what is wanted
        scores = [f"{d:.4f}" for d in (self.dice, self.dice_float32) if not math.isnan(d)]
        return (
            f"{percent:.3f}% of the pixels get the same class in {self.dtype} as in float32, "
            f"Dice {' and '.join(scores) or 'none'}"
        )

    def judges(self, machine: Machine) -> bool:
        """Whether this is about the arithmetic of `machine`."""
        return str(machine.dtype) == f"torch.{self.dtype}"


class Calibration(BaseModel):
    """What windows of validation pairs say of the probabilities of a trained U-Net."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: Annotated[float, Field(gt=0)]
    """Logits are divided by it before the softmax, so that the likelihood is largest (Guo 2017)."""
    ece_before: Annotated[float, Field(ge=0, le=1)]
    """Expected calibration error without the temperature, 0–1."""
    ece: Annotated[float, Field(ge=0, le=1)]
    """The same with it."""
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of two classes, the probability of the foreground from which on Dice is largest."""
    dice: Dice = math.nan
    """Dice of the foreground with a threshold of 0.5, the usual mask."""
    dice_at_threshold: Dice = math.nan
    """Dice with that threshold."""
    windows: Annotated[int, Field(ge=1)]
    """How many were looked at."""

    @property
    def dice_gain(self) -> float:
        """What the threshold gains over 0.5; nan without one."""
        return self.dice_at_threshold - self.dice

    @property
    def figures(self) -> str:
        """What was measured, in words, to stand inside a sentence."""
        told = f"temperature {self.temperature:.2f}: calibration error "
        told += f"{self.ece_before:.4f} → {self.ece:.4f}"
        if self.threshold is None:
            return told
        gain = f"Dice {self.dice_gain:+.4f} over 0.5"
        return f"{told}; best threshold {self.threshold:.2f} (--threshold auto): {gain}"


class KnownValues(BaseModel):
    """The pixel values of the training images, per band, those without data left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: tuple[float, ...]
    """The lowest of all."""
    high: tuple[float, ...]
    """The highest of all."""
    smallest: tuple[float, ...]
    """Of each image the value furthest from 0, and of all images the one that is nearest to it."""
    scalings: tuple[str, ...] = ("",)
    """What the files declared that their values, used as stored, are multiplied with."""


class Rule(BaseModel):
    """What is done to the components of a class after a prediction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    class_index: Annotated[int, Field(ge=0, lt=255)]
    fill_holes: bool = False
    """Whether background that the class encloses becomes it."""
    smallest: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Pixels; smaller components become background."""
    largest_only: bool = False
    """Whether all components but the largest do."""

    @property
    def words(self) -> str:
        """What is done, to stand inside a sentence.

        >>> Rule(class_index=1, fill_holes=True, smallest=32).words
        'holes filled, components below 32 pixels removed'
        """
        size = f"components below {self.smallest} pixels removed" if self.smallest else ""
        parts = [
            "holes filled" if self.fill_holes else "",
            "all but the largest component removed" if self.largest_only else size,
        ]
        return ", ".join(filter(None, parts))


class BundleInfo(BaseModel):
    """model.json: everything beside the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = FORMAT
    network: NetworkConfig
    bands: Annotated[int, Field(ge=1, le=MOST_BANDS)]
    dtype: str
    """Pixel type of the training images (numpy name)."""
    class_map: ClassMap
    normalisation: Normalisation
    members: Annotated[tuple[Normalisation, ...], Field(max_length=MOST_MEMBERS)] = ()
    """Of an ensemble: how the pixels reached each of its U-Nets; empty: it is a single one."""
    tile: Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
    """Side of the tiles for images larger than that, pixels."""
    overlap: Annotated[float, Field(ge=0, lt=1)]
    """Share of a tile that its neighbour covers too."""
    data_hash: str = ""
    """Hash over all training pairs."""
    scores: dict[str, Any] = {}
    """Scores at the end of training, with the split they are from."""
    precision: PrecisionVerdict | None = None
    """Whether fast arithmetic stands for float32; None: never compared."""
    postprocess: Annotated[tuple[Rule, ...], Field(max_length=255)] = ()
    """What is done to the masks, in this order; it made those of validation better."""
    calibration: Calibration | None = None
    """Temperature and best threshold; None: never measured, logits stay as they are."""
    values: KnownValues | None = None
    """What was seen in training; None in bundles that never noted it."""
    versions: dict[str, str] = {}
    weights_sha256: str = ""

    @model_validator(mode="after")
    def _is_consistent(self) -> "BundleInfo":
        scalings = (self.normalisation, *self.members)
        given = {len(numbers) for each in scalings for numbers in (each.mean, each.std)}
        if len({each.kind for each in scalings}) > 1:
            raise ValueError("the normalisations of the members are of two kinds")
        if given != {self.bands}:
            raise ValueError("the normalisation has other than one mean and deviation per band")
        ruled = [rule.class_index for rule in self.postprocess]
        known = () if self.class_map.background is None else self.class_map.foreground
        if not set(ruled).issubset(known) or len(set(ruled)) < len(ruled):
            raise ValueError("rules of no class of the foreground, or without a background")
        seen = self.values
        if seen and {*map(len, (seen.low, seen.high, seen.smallest))} != {self.bands}:
            raise ValueError("the values seen in training are other than one per band")
        return self

    @property
    def fresh(self) -> "BundleInfo":
        """The same, with random first weights: none are read or downloaded for an encoder."""
        network = self.network.model_copy(update={"weights": "none"})
        return self.model_copy(update={"network": network})

    @property
    def told_rules(self) -> tuple[str, ...]:
        """What is done to masks after a prediction, in words: "cell: holes filled"."""
        names = self.class_map.names
        return tuple(f"{names[rule.class_index]}: {rule.words}" for rule in self.postprocess)

    @property
    def pixel_type(self) -> str:
        """The type of the pixels that an exported file takes; others are given as float32."""
        return self.dtype if self.dtype in PIXEL_TYPES else "float32"

    def snapping(self, snap: bool) -> "BundleInfo":
        """The same, with stray mask values taken for the nearest class if `snap` says so too."""
        class_map = self.class_map.model_copy(update={"snap": self.class_map.snap or snap})
        return self.model_copy(update={"class_map": class_map})


def build_segmenter(info: BundleInfo) -> Segmenter:
    """A segmenter with its first weights, those of a pretrained encoder included."""
    shape = info.network, info.bands, len(info.class_map.classes)
    network = build_unet(*shape)
    if info.members:
        members = [network, *(build_unet(*shape) for _ in info.members[1:])]
        network = Ensemble(members, info.normalisation, info.members)  # type: ignore[assignment]
    return Segmenter(network, info.normalisation, info.network.scale)


def save_bundle(
    folder: Path, weights: dict[str, Tensor], info: BundleInfo, card: Card | None = None
) -> None:
    """Write a bundle into `folder`, replacing one that is there, whole or not at all.

    `card` gives the text of its README.md from the content of its model.json.
    """
    content = save_tensors({name: tensor.cpu().contiguous() for name, tensor in weights.items()})
    digest = sha256(content).hexdigest()
    complete = info.model_copy(update={"weights_sha256": digest, "versions": versions()})
    with replace_folder(folder) as temporary:
        write_bytes(temporary / "model.safetensors", content)
        described = complete.model_dump(mode="json")
        write_json(temporary / "model.json", described)
        if card is not None:
            write_text(temporary / "README.md", card(json_value(described)))


def keep_in_bundle(run: Path, weights_sha256: str, **fields: object) -> None:
    """Put what was measured of its weights into a bundle on disk; only model.json is written.

    Whoever reads meanwhile finds the bundle as it was or with these fields. Weights saved later by
    `save_bundle` have the fields that their own `info` brings.

    Raises:
        BundleError: there is no bundle, or it holds other weights by now; nothing is written.
    """
    file = find_bundle(run) / "model.json"
    info = read_info(file)
    if info.weights_sha256 != weights_sha256:
        raise BundleError(f"{file.parent} holds other weights than those that were measured")
    write_json(file, info.model_copy(update=fields).model_dump(mode="json"))


def load_bundle(run: Path) -> tuple[Segmenter, BundleInfo]:
    """The trained U-Net in a run folder or bundle folder, in evaluation mode on the CPU.

    Raises:
        BundleError: there is none, it is damaged, or it is not of this format.
    """
    folder = find_bundle(run)
    info = read_info(folder / "model.json")
    file = folder / "model.safetensors"
    content = _content(file, LARGEST_WEIGHTS)
    if sha256(content).hexdigest() != info.weights_sha256:
        raise BundleError(f"{file} is damaged: its bytes differ from the sum in model.json")
    network = info.network.model_copy(update={"weights": "none", "init": "torch"})
    # On "meta" no fresh weights are drawn for nothing (other inits load sympy there); an encoder of
    # others may need numbers.
    try:
        with torch.device("cpu" if network.encoder else "meta"):
            segmenter = build_segmenter(info.model_copy(update={"network": network}))
    except ConfigError as error:
        raise BundleError.like(error) from error
    try:
        weights = load_tensors(content)
        members = {name.split(".")[2] for name in weights if name.startswith("network.members.")}
        if len(members) != len(info.members):
            raise ValueError(f"{len(info.members)} members there, the weights of {len(members)}")
        for name, tensor in segmenter.state_dict().items():
            if name in weights and weights[name].dtype != tensor.dtype:
                raise TypeError(f"{name} is {weights[name].dtype}, expected {tensor.dtype}")
        segmenter.load_state_dict(weights, assign=True)
    except (*DAMAGE, safetensors.SafetensorError) as error:
        raise BundleError(f"{file} does not hold the network of model.json", [error]) from error
    if strange := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        fix = "Train it anew, or take an older copy."
        raise BundleError(f"{file} has weights that are no numbers", strange, fix)
    return segmenter.eval(), info


def load_single(run: Path) -> tuple[Segmenter, BundleInfo]:
    """As `load_bundle`, of what is to be looked into or to go on learning.

    Raises:
        BundleError: it is an ensemble; or as `load_bundle`.
    """
    segmenter, info = load_bundle(run)
    _refuse_ensemble(run, info)
    return segmenter, info


def _refuse_ensemble(run: Path, info: BundleInfo) -> None:
    if count := len(info.members):
        home = run.parent if (run / "model.json").is_file() else run
        fix = f"Give one of them, such as {home / 'fold_0'}."
        raise BundleError(f"{run} is an ensemble of {count} U-Nets, not a single one", fix=fix)


def join_bundles(runs: Sequence[Path], folder: Path, card: Card | None = None) -> None:
    """Write the ensemble of the trained U-Nets in `runs`, which are of one shape, into `folder`.

    Raises:
        BundleError: one has no trained U-Net, or they are of several shapes.
    """
    found = [load_single(run) for run in runs]
    infos = [info for _, info in found]
    for name in ("network", "bands", "class_map"):
        if any(getattr(info, name) != getattr(infos[0], name) for info in infos):
            raise BundleError(f"U-Nets of several {name} are no ensemble", list(map(str, runs)))
    verdicts = [info.precision for info in infos if info.precision]
    changed: dict[str, Any] = {
        "members": tuple(info.normalisation for info in infos),
        "values": _of_all([info.values for info in infos if info.values]),
        "precision": min(verdicts, key=lambda verdict: verdict.holds, default=None),
        "scores": {},
        "calibration": None,  # of a member, which says nothing of their mean
        "postprocess": (),
    }
    kinds = {info.normalisation.kind for info in infos}
    if len(kinds) > 1:
        told = "U-Nets that normalise by image and by data set are no ensemble"
        raise BundleError(told, list(map(str, runs)), "Train them with one --normalisation.")
    info = infos[0].model_copy(update=changed)
    joined = build_segmenter(info.fresh)
    for member, (segmenter, _) in zip(joined.network.members, found, strict=True):  # type: ignore[arg-type]
        member.load_state_dict(segmenter.network.state_dict())
    save_bundle(folder, joined.state_dict(), info, card)


def _of_all(seen: Sequence[KnownValues]) -> KnownValues | None:
    """What several trainings saw, as if it had been one."""
    if not seen:
        return None
    low, high, smallest = (
        tuple(map(choose, zip(*(getattr(each, name) for each in seen), strict=True)))
        for name, choose in (("low", min), ("high", max), ("smallest", min))
    )
    scalings = tuple(dict.fromkeys(text for each in seen for text in each.scalings))
    return KnownValues(low=low, high=high, smallest=smallest, scalings=scalings)


def starting_network(run: Path, asked: NetworkConfig, bands: int) -> NetworkConfig:
    """The settings of the trained U-Net in `run`, for a training that starts from its weights.

    Args:
        run: Run folder or bundle folder.
        asked: Settings of the user; those that are not the default must be those of `run`.
        bands: Of the new images.

    Raises:
        BundleError: there is no trained U-Net.
        ConfigError: settings or bands differ; all are listed.
    """
    info = read_info(find_bundle(run) / "model.json")
    _refuse_ensemble(run, info)
    default = NetworkConfig()
    differences = [
        f"--{name.replace('_', '-')}: {getattr(info.network, name)} there, {value} here"
        for name, value in asked
        if value not in (getattr(default, name), getattr(info.network, name))
    ]
    if info.bands != bands:
        differences.append(f"bands of the images: {info.bands} there, {bands} here")
    if differences:
        fix = (
            "Leave these settings out: they are those of the trained network. Or leave out --from."
        )
        raise ConfigError(f"the network of {run} is no start for this training", differences, fix)
    return info.network.model_copy(update={"weights": "none"})


def take_weights(segmenter: Segmenter, classes: Sequence[str], run: Path) -> tuple[str, ...]:
    """Give `segmenter` the weights of the trained U-Net in `run`, which has the same settings.

    The rows of its heads are taken for classes that are called alike there; the other rows, and
    the normalisation, stay as they are.

    Returns:
        The classes whose rows were taken.

    Raises:
        BundleError: there is no trained U-Net.
    """
    trained, info = load_bundle(run)
    there = info.class_map.names
    rows = {new: there.index(name) for new, name in enumerate(classes) if name in there}
    weights = trained.network.state_dict()
    for name, tensor in segmenter.network.state_dict().items():
        if name.startswith(("head.", "coarse_heads.")):
            tensor[list(rows)] = weights[name][list(rows.values())].to(tensor.device)
        else:
            tensor.copy_(weights[name])
    return tuple(classes[row] for row in rows)


def find_bundle(run: Path) -> Path:
    """The folder with model.json: `run` itself or `run`/model."""
    for folder in (run, run / "model", run / ".model-old"):  # the last after a crash in saving
        if is_file(folder / "model.json") and is_file(folder / "model.safetensors"):
            return folder
    if is_file(run):
        raise BundleError(
            f"{run} is a file, not a run folder",
            fix="Give the folder that `unetseg train` wrote; foreign checkpoints are not loaded.",
        )
    there = [above for above in (run, run.parent) if is_folder(above)]
    what = "has no trained model (model/model.json)" if run in there else "does not exist"
    near = (file for above in there for file in above.glob("*/model/model.json"))
    runs = [str(file.parents[1]) for file in sorted(near)]
    fix = "Give a run folder of `train`, or a file that `unetseg export` wrote."
    if runs:
        fix = f"Runs that are there: {', '.join(runs)}"
    raise BundleError(f"{run} {what}", fix=fix)


def read_info(path: Path) -> BundleInfo:
    """The checked content of a model.json."""
    return parse_info(_content(path, LARGEST_JSON), path)


def parse_info(text: bytes | str, path: Path) -> BundleInfo:
    """The checked content of the text of a model.json; `path` is named in errors."""
    try:
        content = parse_json(text)
    except ValueError as error:
        raise BundleError(f"{path} is no JSON: {error}") from error
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        fix = "Use the unetseg version that wrote it."
        raise BundleError(f"{path} is of format {version!r}, this version reads {FORMAT}", fix=fix)
    try:
        return BundleInfo.model_validate(content)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise BundleError(f"{path} is not a bundle of this version", wrong) from error


def _content(path: Path, largest: int) -> bytes:
    try:
        if (size := path.stat().st_size) > largest:
            raise BundleError(f"{path} has {size} bytes; at most {largest} are read")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
