"""Every setting there is, once: typed, with unit, default and source.

The fields are the flags of the command line, the keys of a `--config` file and the environment
variables (`UNETSEG_` + upper case). Precedence: defaults < file < environment < flags. "auto" is
resolved by `training/plan.py`, which writes each choice with its reason to `plan.json`.
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
)

from unetseg.errors import ConfigError

Auto = Literal["auto"]
Fraction = Annotated[float, Field(ge=0, le=1)]
MOST_LEVELS = 8
"""Times that a network halves the resolution."""
MOST_CHANNELS = 2**16
"""Channels that a level of a network has; no machine holds more."""

SHORT = 30.0
"""Seconds below which a duration without a unit is asked about."""
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: object) -> object:
    """Seconds in a duration such as `90`, `90s`, `10m`, `1h30m` or `2d`.

    Raises:
        ValueError: the text is no duration.

    >>> parse_duration("1h30m")
    5400.0
    """
    if not isinstance(text, str):
        return text
    if re.fullmatch(r"\d+(\.\d+)?", text.strip()):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([smhd])", text.lower())
    if not parts or "".join(n + u for n, u in parts) != re.sub(r"\s", "", text.lower()):
        raise ValueError(f"{text!r} is no duration: write 90s, 10m or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def clear_duration(text: object) -> object:
    """As `parse_duration`, but a short text without a unit may have been meant otherwise.

    Raises:
        ValueError: the text is no duration, or has no unit and says less than `SHORT` seconds.
    """
    seconds = parse_duration(text)
    if isinstance(text, str) and text[-1:].isdigit() and 0 < float(text) < SHORT:
        raise ValueError(f"{text!r} has no unit: {text}m or {text}s?")
    return seconds


Seconds = Annotated[float, BeforeValidator(parse_duration), Field(gt=0)]
ClearSeconds = Annotated[
    float,
    BeforeValidator(clear_duration),
    PlainSerializer(lambda seconds: f"{seconds}s", when_used="json"),
]


def split_commas(values: object) -> object:
    """`("a,b", "c")` as `("a", "b", "c")`, and 255 as `(255,)`: lists may be written shorter."""
    if isinstance(values, (str, int, float)):
        values = (values,)
    if isinstance(values, (list, tuple)):
        return tuple(
            part.strip() if isinstance(part, str) else part
            for value in values
            for part in (value.split(",") if isinstance(value, str) else [value])
        )
    return values


Commas = BeforeValidator(split_commas)


def is_part(text: str) -> str:
    """The text, if it names one of several parts: 0/3, 1/3 or 2/3.

    Raises:
        ValueError: it does not.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise ValueError(f"{text!r} is no part: write I/N, such as 0/3, 1/3 and 2/3")
    return text


Part = Annotated[str, AfterValidator(is_part)]


def is_fold(text: str) -> str:
    """The text, if it names one of two parts or more.

    Raises:
        ValueError: it does not.
    """
    if is_part(text).endswith("/1"):
        raise ValueError(f"{text!r} leaves nothing to train on: write I/N, N from 2 on")
    return text


class Settings(BaseModel):
    """Base of all settings: frozen, and no unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ReadingConfig(Settings):
    """How image files are read."""

    max_pixels: Annotated[int, Field(ge=1)] | None = None
    """Largest image that is decoded, pixels (default: 89,478,485); larger TIFFs go by windows."""


Unpaired = Literal["auto", "skip", "empty", "error"]


class PairsConfig(ReadingConfig):
    """Where images and masks are."""

    images: Path | None = None
    """Folder of the images in DATA, or a pattern such as '*_rgb.png', when names do not tell."""
    masks: Path | None = None
    """Folder of the masks, or a pattern such as '*/1st_manual/*.gif'."""
    unpaired: Unpaired = "auto"
    """Images without mask: skip: left out (auto: unless most are); empty: they show nothing."""
    pairs: Path | None = None
    """CSV file with the columns image, mask and optionally split and group."""
    snap: bool = False
    """Snap stray mask values (anti-aliasing, JPEG noise) to the nearest class."""


class GroupsConfig(PairsConfig):
    """Which pairs belong together."""

    group: str | None = None
    """Regular expression on image names; images with equal matches stay in one split, and count
    as one in intervals."""
    group_column: str | None = None
    """Column of the pairs CSV; images with equal values are such a group."""


class DataConfig(GroupsConfig):
    """What the masks mean, and how the pairs are split."""

    classes: Path | None = None
    """classes.txt, .json or .yaml with class names and codes (default: found in DATA)."""
    ignore: Annotated[tuple[int, ...], Commas, Parameter(allow_leading_hyphen=True)] = ()
    """Mask values that no loss and no score counts."""
    background: Annotated[str, BeforeValidator(str)] | None = None
    """Class left out of means over the foreground, by name or code; none: all count (default: as
    their names say, else the masks)."""
    on_bad: Literal["error", "skip"] = "error"
    """Files that cannot be read: error: refuse them; skip: leave their pairs out, at most 10%."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the images held out for validation when the folder has no split of its own."""
    fold: Annotated[str, AfterValidator(is_fold)] | None = None
    """Hold out one of N equal parts of the images, I/N with I from 0, whatever the folder says of
    validation."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training images that is used; the others take no part."""


BlockKind = Literal["plain", "residual", "dense"]
ShortcutKind = Literal[
    "identity", "zero_pad", "projection", "learned", "rezero", "gated", "deactivable", "none"
]
SkipKind = Literal["concat", "add", "none", "learned", "gated", "attention", "switch", "nested"]
LevelSkip = Literal[SkipKind, "pruned"]
"""What a level of a trained U-Net may have; only `unetseg prune` makes it "pruned"."""
NormKind = Literal["batch", "group", "instance", "none"]
InitKind = Literal["he", "xavier", "orthogonal", "torch"]


class NetworkConfig(Settings):
    """The U-Net."""

    preset: Literal["unet", "classic"] = "unet"
    """classic: Ronneberger 2015 exactly (depth 4, width 64, valid convolutions, no norm)."""
    depth: Annotated[int, Field(ge=1, le=MOST_LEVELS)] | Auto = "auto"
    """Number of times the resolution is halved."""
    width: Annotated[int, Field(ge=1, le=MOST_CHANNELS)] | Auto = "auto"
    """Channels of the first level; each level below has twice as many."""
    widths: Annotated[
        tuple[Annotated[int, Field(le=MOST_CHANNELS)], ...],
        Commas,
        Field(max_length=MOST_LEVELS + 1),
    ] = ()
    """Channels of every level, depth + 1 numbers, instead of width: 32,64,128."""
    block: BlockKind = "plain"
    """Two convolutions, plain or with a shortcut around them, or four that see all before them."""
    blocks_per_level: Annotated[int, Field(ge=1, le=64)] = 1
    """Blocks of each level of encoder and decoder, one after the other."""
    shortcut: ShortcutKind = "identity"
    """Shortcut of residual blocks: how the input x passes by the convolutions F."""
    skip: Annotated[
        tuple[LevelSkip, ...],
        Commas,
        Field(max_length=MOST_LEVELS),
        Parameter(show_choices=False),
    ] = ("concat",)
    """Skip connection of all levels, or one per level from the top: concat, add, none, learned,
    gated, attention, switch, nested."""
    alpha: Annotated[float | None, Field(allow_inf_nan=False)] = None
    """First value of learned factors α (default: 1 in F + αx and in skips, 0 in x + αF)."""
    survival: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of the training steps in which a deactivable shortcut's convolutions take part."""
    deactivable: Literal["scaled", "whole"] = "scaled"
    """Weight of these convolutions in evaluation: their survival, or 1 (and more in training)."""
    growth: Annotated[int | None, Field(ge=1, le=MOST_CHANNELS)] = None
    """Channels that each layer of a dense block adds (default: a quarter of the level's)."""
    norm: NormKind = "batch"
    """Normalisation layer after each convolution."""
    init: InitKind = "he"
    """First weights: He 2015, Glorot 2010, orthogonal, or torch's own default."""
    up: Literal["transpose", "bilinear", "aligned"] = "transpose"
    """How the decoder doubles the resolution; aligned: by interpolation alone, corners on corners,
    as milesial/Pytorch-UNet does with --bilinear."""
    padding: Literal["same", "valid"] = "same"
    """valid: 3×3 convolutions without padding (572² in, 388² out); needs preset classic."""
    deep_supervision: bool = False
    """Also train the coarser decoder levels (weights 1, ½, ¼ …)."""
    encoder: str | None = None
    """Encoder of segmentation-models-pytorch, for example resnet34, instead of our own; auto: one
    with pretrained weights, where these can be had."""
    weights: str = "none"
    """Weights of that encoder: imagenet, none, or a local .safetensors or .pth file."""
    scale: Annotated[float, Field(gt=0, le=1), Parameter(alias=["-s"])] = 1.0
    """Size at which the network sees the image, as a fraction; masks keep full size."""

    def skip_of_levels(self, levels: int) -> tuple[LevelSkip, ...]:
        """The kind of skip of each level, full resolution first, where one may stand for all."""
        return self.skip * (levels if len(self.skip) == 1 else 1)


class TrainingConfig(Settings):
    """How the network is trained."""

    from_: Path | None = None
    """Run or bundle whose trained network is the start; what it says of classes of equal names is
    kept."""
    epochs: Annotated[int | None, Field(ge=1), Parameter(alias=["-e"])] = None
    """Passes over the training images (default: what fits in the budget, else by the plan)."""
    budget: Annotated[ClearSeconds, Field(gt=0)] | None = None
    """Time for the whole training, validation included: 90s, 10m, 1h30m."""
    batch: Annotated[Annotated[int, Field(ge=1)] | Auto, Parameter(alias=["-b"])] = "auto"
    """Crops per step."""
    lr: Annotated[Annotated[float, Field(gt=0)] | Auto, Parameter(alias=["-l"])] = "auto"
    """Peak learning rate."""
    encoder_lr: Annotated[float, Field(gt=0)] | Auto = "auto"
    """Learning rate of the encoder, relative to lr (auto: 0.1 if its weights are pretrained)."""
    freeze: Fraction | Auto = "auto"
    """Share of the training before the encoder learns (auto: 0.1 if its weights are pretrained)."""
    patch: Annotated[int, Field(ge=16)] | Auto = "auto"
    """Side of the square training crops, pixels."""
    normalisation: Literal["auto", "dataset", "image"] = "auto"
    """Pixels less the mean, over the deviation: of the training images, or of each image."""
    optimizer: Literal["auto", "adamw", "muon", "sgd"] = "auto"
    """adamw; muon: Muon for convolutions larger than 1×1, AdamW for the rest; sgd: with Nesterov
    momentum 0.99. auto: muon, and adamw for trained weights."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Weight decay, over the learning rate (Muon's is 20 times --lr); not of norms and biases."""
    schedule: Literal["poly", "cosine"] = "poly"
    """How the learning rate falls to zero: (1 − t)^0.9, or half a cosine."""
    warmup: Fraction = 0.03
    """Share of the training in which the learning rate rises linearly."""
    loss: Literal["dice_ce", "dice", "ce"] = "dice_ce"
    """Soft Dice, cross-entropy, or their sum."""
    class_weights: Literal["auto", "none"] = "auto"
    """auto: rare classes weigh more in the cross-entropy."""
    oversample: Fraction | Auto = "auto"
    """Share of the crops that are centred on a foreground pixel."""
    augment: Literal["auto", "none", "light", "full"] = "auto"
    """Augmentation profile."""
    upright: Literal["auto", "yes", "no"] = "auto"
    """Whether up is up in the images; then augmentation does not turn them upside down."""
    switch_penalty: Annotated[float, Field(ge=0)] = 0.02
    """Added to the loss for each skip of kind switch, times the probability that it is open."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient; longer ones are scaled to it."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Batches whose gradients are summed for one step."""
    sync_batchnorm: bool = False
    """Batch norm over the crops of all processes, not of each alone; on GPUs."""
    ema: bool = True
    """Validate and keep the running mean of the weights instead of the last ones."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many validations without a better Dice (default: never)."""


class MachineConfig(Settings):
    """Where the network runs, and in which arithmetic."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """Arithmetic of the network; auto takes bf16 or fp16 where the machine has the units."""


class DeviceConfig(MachineConfig):
    """What the network runs on."""

    engine: Literal["auto", "eager", "fused", "compile", "openvino"] = "auto"
    """What runs the trained network; auto takes the fastest that earns back its preparation."""


class RuntimeConfig(DeviceConfig):
    """The machine that trains."""

    compile: Literal["auto", "yes", "no"] = "auto"
    """Compile the training step with torch.compile; auto: on CUDA, when the training is long."""
    checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: half the memory."""
    cache: Literal["auto", "memory", "disk", "none"] = "auto"
    """Where decoded images are kept between epochs; auto: memory, else disk, else nowhere."""
    workers: Annotated[int, Field(ge=0)] | Auto = "auto"
    """Processes that read and augment images."""
    save_every: Annotated[ClearSeconds, Field(ge=0)] = 600.0
    """Longest time between two saved states: 30s, 10m; 0: after every step."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of weights, order and augmentation."""


class TrainConfig(Settings):
    """Everything `unetseg train` can be told."""

    data: Annotated[DataConfig, Parameter(name="*", group="Data", show=True)] = DataConfig()
    network: Annotated[NetworkConfig, Parameter(name="*", group="Network")] = NetworkConfig()
    training: Annotated[TrainingConfig, Parameter(name="*", group="Training")] = TrainingConfig()
    runtime: Annotated[RuntimeConfig, Parameter(name="*", group="Machine")] = RuntimeConfig()


class TilingConfig(Settings):
    """How a network is applied to images of any size."""

    tta: bool = False
    """Average over the mirror images (4 times the work)."""
    tile: Annotated[int, Field(ge=32)] | Auto = "auto"
    """Side of the tiles that large images are cut into, pixels."""
    overlap: Annotated[float, Field(ge=0, le=0.75)] | Auto = "auto"
    """Share of a tile that its neighbour covers too."""
    postprocess: Literal["auto", "off"] = "auto"
    """auto: fill holes and remove components where that made validation better; off: never."""
    threshold: Annotated[float, Field(gt=0, lt=1)] | Auto | None = None
    """Of two classes: probability from which on a pixel is foreground (default: 0.5; auto: the one
    of the best Dice in validation)."""


class PredictConfig(TilingConfig, ReadingConfig):
    """What is written for each image."""

    overlay: bool = False
    """Also write <name>_overlay.png or .tif: the image with the classes drawn over it."""
    probabilities: bool = False
    """Also write <name>_probabilities.tif: one float32 band per class, 0–1."""
    objects: bool = False
    """Also write <name>_objects.csv and <name>_labels.tif, and all rows as objects.csv."""
    polygons: bool = False
    """Also write <name>_polygons.geojson: the outline of each object."""
    watershed: Fraction = 0.8
    """Part touching objects at necks narrower than this share of the narrower one; 0: never."""
    simplify: Annotated[float, Field(ge=0)] = 0.0
    """How far outlines of polygons may leave the edges of the pixels, pixels."""
    review: Annotated[int, Field(ge=1)] | None = None
    """Write review.csv: so many images that most need a look, each with the reason."""
    overviews: bool = False
    """Add smaller copies to GeoTIFFs, so that viewers open them at once."""
    existing: Literal["refuse", "skip", "overwrite"] = "refuse"
    """What to do when an output file is there already."""
    strict: bool = False
    """Refuse images whose values lie far from those trained on, instead of a warning."""

    @property
    def with_probabilities(self) -> bool:
        """Whether more is wanted of each pixel than its class."""
        return bool(self.probabilities or self.objects or self.polygons or self.review)

    def refuse_idle(self, given: Collection[str]) -> None:
        """Let none of the settings that were `given` do nothing, for want of another.

        Raises:
            ConfigError: one would.
        """
        for name, is_wanted, what, flags in (
            ("watershed", self.objects or self.polygons, "objects", "--objects or --polygons"),
            ("simplify", self.polygons, "polygons", "--polygons"),
        ):
            if name in given and not is_wanted:
                fix = f"Add {flags}, or leave it out."
                raise ConfigError(f"without {what} this does nothing", [f"--{name}"], fix)


def is_range(text: str, info: ValidationInfo) -> str:
    """The text, if it is a number from 1 on, or two with a dash between: 4, 2-8 or 2-; auto is 1-.

    Without a cluster it may be anything: the environment is for other commands, too.

    Raises:
        ValueError: it is not.
    """
    if not (info.data or {}).get("cluster"):  # there are no data while a flag is looked at alone
        return text
    if text == "auto":
        return "1-"
    match = re.fullmatch(r"([1-9]\d*)(-(\d*))?", text)
    if not match or (match[3] and int(match[3]) < int(match[1])):
        raise ValueError(f"{text!r} is no number of workers: write 4, 2-8 or 2-")
    return text


class ScalingConfig(Settings):
    """How the images are shared among processes and machines."""

    shard: Part | None = None
    """Predict one of N equal shares of the images, I/N with I from 0: 0/3, 1/3 and 2/3 are all."""
    cluster: Literal["ray"] | None = None
    """Predict on the machines of a Ray cluster, which share the folders."""
    address: str | None = None
    """Of the cluster (default: RAY_ADDRESS, one that runs here, or one that is started here)."""
    workers: Annotated[str, AfterValidator(is_range)] = "1-"
    """Workers of the cluster: a number, or MIN-MAX, more as long as images wait; 1-: all it has."""
    cores: Annotated[int, Field(ge=1)] = 1
    """Processor cores of each worker; where the cluster has GPUs, each also has one of them."""

    @property
    def bounds(self) -> tuple[int, int | None]:
        """The least and the most workers."""
        low, dash, high = self.workers.partition("-")
        return int(low), (int(high) if high else None) if dash else int(low)


class DoorConfig(Settings):
    """Where a server is reached, and by whom."""

    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 is all of this machine's."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen at; 0: a free one."""
    token: Annotated[str, Field(min_length=8)] | None = None
    """What requests must bring (default: none on 127.0.0.1, else one is made and told)."""
    max_body: Annotated[float, Field(gt=0)] = 64.0
    """Largest request that is taken, MB of 1,048,576 bytes."""


class ServeConfig(DoorConfig):
    """Who is answered, and what may be asked for."""

    name: Annotated[str, Field(pattern=r"^[\w.+-]+$")] | None = None
    """Name of the model in addresses (default: the name of RUN)."""
    max_pixels: Annotated[int, Field(ge=1)] | None = None
    """Largest image that is taken, pixels (default: 33,554,432; fewer where bands and classes are
    more than 8)."""
    max_requests: Annotated[int, Field(ge=1)] = 128
    """Requests that are under way at once; more are refused with 429."""
    timeout: Seconds = 60.0
    """In which a request must arrive, and again in which it is answered."""
    label_studio_files: Path | None = None
    """Folder of the images that a Label Studio project shows; turns its backend on."""
    label_studio_pairs: Path | None = None
    """Folder for pairs made of what is annotated there."""


class CountingConfig(Settings):
    """Which pairs are scored, and where they count."""

    split: Literal["auto", "train", "val", "test", "all"] = "auto"
    """auto: test when there is one, else val, else all."""
    region: Literal["auto", "whole"] | Path = "auto"
    """Where scores count: inside the fields of view that lie in DATA (auto), everywhere (whole), or
    where masks are not 0: a folder with one for each image, or one file for all."""


class ScoringConfig(CountingConfig):
    """Which pairs are scored, and what is written beside the scores."""

    save_masks: bool = True
    """Write the predicted masks."""
    overlays: bool = True
    """Write pictures that show hits, misses and false alarms."""
    shapes: bool = True
    """Compare outlines and objects too, not only pixels."""
    calibration: bool = True
    """Measure probabilities too: ROC-AUC, average precision, calibration."""
    tolerance: Annotated[float, Field(ge=0)] = 2.0
    """Pixels that an outline may be aside and still be right."""
    strict: bool = False
    """Refuse images whose values lie far from those trained on, instead of a warning."""


class ComparisonConfig(Settings):
    """Everything `unetseg compare` can be told."""

    scoring: Annotated[CountingConfig, Parameter(name="*", group="Scoring")] = CountingConfig()
    data: Annotated[GroupsConfig, Parameter(name="*", group="Data")] = GroupsConfig()
    tiling: Annotated[TilingConfig, Parameter(name="*", group="Prediction")] = TilingConfig()
    device: Annotated[DeviceConfig, Parameter(name="*", group="Machine")] = DeviceConfig()


class EvalConfig(Settings):
    """Everything `unetseg eval` can be told."""

    scoring: Annotated[ScoringConfig, Parameter(name="*", group="Scoring")] = ScoringConfig()
    data: Annotated[GroupsConfig, Parameter(name="*", group="Data")] = GroupsConfig()
    tiling: Annotated[TilingConfig, Parameter(name="*", group="Prediction")] = TilingConfig()
    device: Annotated[DeviceConfig, Parameter(name="*", group="Machine")] = DeviceConfig()


class CheckConfig(Settings):
    """What `unetseg check` writes beside what it shows."""

    fix: Path | None = None
    """Write a fixed copy to this folder: stray values snapped, masks resized, names made equal."""
    describe: Path | None = None
    """Write classes and splits to this file; as DATA/dataset.yaml every command applies it."""
    report: Path | None = None
    """Write all findings with all their files to this file: JSON if it ends in .json, else text."""
    preview: Path | None = None
    """Write a sheet of augmented pairs to this PNG file."""
    strict: bool = False
    """Exit code 5 for warnings too, not only for errors."""


class AppConfig(DoorConfig):
    """What the app in the browser may open, and who is answered."""

    root: Path | None = None
    """Folder whose folders may be opened (default: FOLDER, else the one you are in)."""
    out: Path = Path("checkpoints")
    """Folder of the run folders."""
    browser: bool = True
    """Open the page in the browser of this machine."""


class BenchConfig(PairsConfig):
    """What `unetseg bench` measures, and for how long."""

    data: Path | None = None
    """Your images, or with --train your folder of pairs (default: drawn cells)."""
    size: Annotated[int, Field(ge=32, le=16384)] | None = None
    """Side of the drawn images, and of the squares on which engines are compared, pixels."""
    batch: Annotated[int | None, Field(ge=1), Parameter(alias=["-b"])] = None
    """Images or crops that go through the network at once (default: as in real work)."""
    count: Annotated[int, Field(ge=2)] = 64
    """Images that are predicted from folder to folder, as far as the time allows."""
    seconds: Seconds = 40.0
    """Time for measuring; what is done once, such as compiling, comes on top."""
    engines: Annotated[
        tuple[Literal["auto", "all", "eager", "fused", "compile", "openvino"], ...], Commas
    ] = ("auto",)
    """Engines to compare; auto: those that are ready at once; all: also those that compile."""
    train: bool = False
    """Measure the training too: loading and training steps, alone and together."""
    json_file: Annotated[Path | None, Parameter(name="--json", allow_leading_hyphen=True)] = None
    """Write all figures to this file; - prints them, and nothing else."""


class GradientsConfig(Settings):
    """The networks that `lab gradients` compares, and for how long it trains them."""

    depths: Annotated[tuple[int, ...], Commas] = (10, 20, 56, 110, 200)
    """Convolutions of each stack."""
    blocks: Annotated[tuple[BlockKind, ...], Commas] = ("plain", "residual")
    """Blocks to compare."""
    shortcuts: Annotated[tuple[ShortcutKind, ...], Commas] = ("identity", "rezero")
    """Shortcuts of the residual blocks to compare."""
    norms: Annotated[tuple[NormKind, ...], Commas] = ("none", "batch")
    """Normalisations to compare."""
    inits: Annotated[tuple[InitKind, ...], Commas] = ("torch", "he")
    """First weights to compare."""
    skips: Annotated[tuple[SkipKind, ...], Commas] = ("concat", "none")
    """Skips to compare where a U-Net is looked at, one kind for all levels."""
    steps: Annotated[int, Field(ge=0)] = 50
    """Training steps along which gradients are measured."""
    lr: Annotated[float, Field(gt=0)] = 1e-4
    """Learning rate of those steps."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of weights and images."""


class SubjectConfig(Settings):
    """Which images of DATA a trained U-Net is looked at with."""

    split: Literal["auto", "train", "val", "test", "all"] = "auto"
    """auto: test when there is one, else val, else all."""
    images_used: Annotated[int, Field(ge=1)] | None = None
    """Use only the first so many images."""
    window: Annotated[int, Field(ge=32)] = 1024
    """Larger images are seen through a window of this side in their middle, pixels."""


class ExportConfig(SubjectConfig):
    """What `export` writes, and which images of DATA it is held against."""

    to: Literal["onnx", "openvino", "torchscript", "bioimage", "deepness"] = "onnx"
    """What it is for: ONNX Runtime and all that reads ONNX, OpenVINO (.xml and .bin), torch (.pt,
    which QuPath reads), Fiji, ilastik and BiaPy (.zip, a package of bioimage.io), or QGIS with the
    plugin Deepness (.onnx of tiles)."""
    threshold: Annotated[float, Field(gt=0, lt=1)] | Auto | None = None
    """Of two classes: probability from which on a pixel is foreground (default: 0.5; auto: the one
    of the best Dice in validation). It is inside the file."""
    int8: bool = False
    """Compute the convolutions of ONNX in whole numbers of 8 bit, measured on DATA; refused where
    Dice would fall, or that of a class differ, by more than 0.005."""
    images_used: Annotated[int, Field(ge=1)] | None = 16
    """Compare on the first so many images."""


class AblateConfig(SubjectConfig):
    """How `lab ablate` breaks the skips."""

    edits: Annotated[tuple[Literal["zero", "mean", "shuffle", "noise"], ...], Commas] = (
        "zero",
        "mean",
        "shuffle",
        "noise",
    )
    """What a skip is replaced by: nothing, its mean, another image's, or noise."""
    samples: Annotated[int, Field(ge=100)] = 1000
    """Bootstrap samples of the intervals."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of noise and intervals."""


class CompareConfig(Settings):
    """What `lab compare` trains. All else is set as for `unetseg train`."""

    skips: Annotated[tuple[SkipKind, ...], Commas] = (
        "concat",
        "add",
        "none",
        "gated",
        "attention",
        "nested",
    )
    """Skips to compare, one kind for all levels."""
    seeds: Annotated[int, Field(ge=1)] = 3
    """Trainings of each kind, with seeds 0, 1, 2 …"""


class LandscapeConfig(SubjectConfig):
    """The part of the loss surface that `lab landscape` looks at."""

    points: Annotated[int, Field(ge=3)] = 21
    """Points along each direction; odd numbers have the trained weights in the middle."""
    reach: Annotated[float, Field(gt=0)] = 1.0
    """How far each direction is followed, relative to the norm of each filter."""
    statistics: Literal["recompute", "keep"] = "recompute"
    """Batch norm's at each point: taken anew from the images, or kept as trained."""
    iterations: Annotated[int, Field(ge=0)] = 20
    """Steps of the power iteration for the sharpness."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the directions."""


class LookConfig(Settings):
    """Where a look into the lab is taken, and where its files go."""

    output: Annotated[Path | None, Parameter(alias=["-o"])] = None
    """Folder to write to (default: in RUN/lab or checkpoints/lab)."""
    quick: bool = False
    """Fewer images, sizes and steps: minutes on a CPU."""
    data: Annotated[PairsConfig, Parameter(name="*", group="Data")] = PairsConfig()
    device: Annotated[DeviceConfig, Parameter(name="*", group="Machine")] = DeviceConfig()


PRUNED = "pruned"  # a kind of skip that only `unetseg prune` makes


def _every(group: type[Settings]) -> Iterator[type[Settings]]:
    """A group of settings and all that build on it."""
    yield group
    for more in group.__subclasses__():
        yield from _every(more)


SETTINGS = frozenset(name for group in _every(Settings) for name in group.model_fields)
"""The name of every setting."""


def with_flags(
    flags: Mapping[str, object], *configs: Settings, beside: Sequence[str] = ()
) -> tuple[Any, ...]:
    """Settings with those of `flags` in the place of their own; as in Python, so from the shell.

    Args:
        flags: Value by the name of the flag, with `_` for `-`: {"budget": "10m"}.
        configs: Settings, which may hold groups of settings.
        beside: Other keywords that the caller has, to be named where one is unknown.

    Raises:
        ConfigError: none of `configs` has such a flag, or a value is not allowed.

    >>> with_flags({"budget": "10m"}, TrainConfig())[0].training.budget
    600.0
    """
    names = [name for config in configs for name in _flags(config)]
    if unknown := [flag for flag in flags if flag not in names]:
        known = [*names, *beside]
        near = [one for flag in unknown for one in difflib.get_close_matches(flag, known, 1)]
        listed = ", ".join(dict.fromkeys(near or sorted(known)))
        fix = f"Did you mean {listed}?" if near else f"There are: {listed}"
        raise ConfigError(f"there is no setting {' and no '.join(map(repr, unknown))}", fix=fix)
    try:
        return tuple(_changed(config, flags) for config in configs)
    except ValidationError as error:
        raise ConfigError(wrong_settings(error, dashes="")) from error


def _flags(config: Settings) -> Iterator[str]:
    """The names of all settings, those of groups included."""
    for name, value in config:
        yield from _flags(value) if isinstance(value, Settings) else [name]


def _changed(config: Settings, flags: Mapping[str, object]) -> Settings:
    """`config` with the values of those flags that it has."""
    values: dict[str, object] = {name: getattr(config, name) for name in config.model_fields_set}
    for name, value in config:
        if isinstance(value, Settings):
            values[name] = _changed(value, flags)
        elif name in flags:
            values[name] = flags[name]
    return type(config).model_validate(values)


def wrong_settings(error: ValidationError, dashes: str = "--") -> str:
    """One plain line for each wrong setting: name, value, what is allowed.

    Args:
        error: What pydantic says.
        dashes: What the name begins with; flags of the shell have `-` for `_`.
    """
    lines: dict[str, list[str]] = {}
    for problem in error.errors():
        names = [str(part) for part in problem["loc"] if str(part) in SETTINGS]
        flag = names[-1] if names else str(problem["loc"][-1])
        flag = dashes + flag.replace("_", "-") if dashes else flag
        value = problem.get("input")
        lines.setdefault(f"{flag} {value!r}", []).append(_allowed(problem))
    reasons = {what: " or ".join(dict.fromkeys(why)) for what, why in lines.items()}
    return "\n".join(
        f"{what}: {why.replace(' or must be ', ' or ')}" for what, why in reasons.items()
    )


def _allowed(problem: Any) -> str:
    if problem["type"] == "literal_error":
        options = re.findall(r"'([^']+)'", problem["ctx"]["expected"])
        options = [option for option in options if option != PRUNED]
        choices = [", ".join(map(repr, options[:-1])), repr(options[-1])]
        near = difflib.get_close_matches(str(problem["input"]), options, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return f"must be {' or '.join(filter(None, choices))}{hint}"
    message = expected(problem).removeprefix("Value error, ").partition(", unable to parse")[0]
    return message if problem["type"] == "value_error" else f"must be {message}"


def expected(problem: Any) -> str:
    """What pydantic expected in the place of something else."""
    if problem["type"] == "path_type":  # told by the name of a class
        return "a path"
    return str(problem["msg"]).removeprefix("Input should be ")
