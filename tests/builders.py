"""What many tests begin with: classes, small U-Nets with random weights, pixels and files."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.typing import DTypeLike, NDArray
from rasterio.crs import CRS
from rasterio.transform import Affine
from safetensors.torch import save_file
from torch import Tensor, nn

from unetseg.bundle import BundleInfo, build_segmenter, save_bundle
from unetseg.config import NetworkConfig
from unetseg.data.crops.dataset import CropRule, Crops
from unetseg.data.crops.reader import PairReader
from unetseg.data.facts.survey import survey
from unetseg.data.files.pngs import write_png
from unetseg.data.masks.class_map import ClassInfo, ClassMap, Code
from unetseg.data.masks.mask_values import MaskFacts
from unetseg.progress import Silent
from unetseg.runtime import Machine
from unetseg.unet.segmenter import Segmenter

CPU = Machine(torch.device("cpu"), torch.float32, "CPU")


class Heard(Silent):
    """Keeps what is said, and counts the steps that are announced and done."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.total = self.done = 0

    def say(self, message: str) -> None:
        self.said.append(message)

    def start(self, task: str, total: int | None = None) -> None:
        self.total += total or 0

    def advance(self, task: str, steps: int = 1, **facts: object) -> None:
        self.done += steps


def class_map(*codes: int | tuple[int, int, int], **more: Any) -> ClassMap:
    """Classes of these codes, the first of them the background, called "class 0", "class 1" …"""
    classes = tuple(
        ClassInfo(
            name=f"class {number}",
            code=code,
            colour=code if isinstance(code, tuple) else (code % 256, 0, 0),
        )
        for number, code in enumerate(codes)
    )
    return ClassMap.model_validate({"classes": classes, "background": 0} | more)


CELLS = ClassMap(
    classes=(
        ClassInfo(name="background", code=0, colour=(0, 0, 0)),
        ClassInfo(name="cell", code=255, colour=(200, 0, 0)),
    ),
    background=0,
)


def bundle_info(
    network: NetworkConfig | Mapping[str, Any] | None = None,
    classes: ClassMap = CELLS,
    *,
    bands: int = 3,
    kind: str = "dataset",
    **more: Any,
) -> BundleInfo:
    """A small U-Net's model.json.

    Args:
        network: Settings; one of our own has depth 2 and width 4 unless they say otherwise.
        classes: What it tells apart.
        bands: Of its images.
        kind: Of its normalisation.
        more: Any other field of `BundleInfo`.
    """
    if not isinstance(network, NetworkConfig):
        settings = dict(network or {})
        if {"encoder", "preset"}.isdisjoint(settings):
            settings = {"depth": 2, "width": 4} | settings
        network = NetworkConfig.model_validate(settings)
    fields = {
        "network": network,
        "bands": bands,
        "dtype": "uint8",
        "class_map": classes,
        "normalisation": {"kind": kind, "mean": (110.0,) * bands, "std": (60.0,) * bands},
        "tile": 128,
        "overlap": 0.5,
    }
    return BundleInfo.model_validate(fields | more)


def used_norms(module: nn.Module) -> None:
    """Let the batch norms of `module` have seen something else than 0 and 1."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            nn.init.normal_(norm.running_mean, 0, 0.3)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 1.5)


def random_segmenter(info: BundleInfo, seed: int = 0) -> Segmenter:
    """A U-Net with random weights and used batch norms, in evaluation mode."""
    torch.manual_seed(seed)
    segmenter = build_segmenter(info).eval()
    used_norms(segmenter)
    return segmenter


def save_run(
    folder: Path, info: BundleInfo | None = None, segmenter: Segmenter | None = None
) -> Path:
    """A run folder with a U-Net of random weights."""
    info = info or bundle_info()
    segmenter = segmenter or random_segmenter(info)
    save_bundle(folder / "model", segmenter.state_dict(), info)
    return folder


def noise(*shape: int, dtype: DTypeLike = np.uint8, seed: int = 0) -> NDArray[Any]:
    """Every value of the type as likely; floats are of mean 0 and deviation 1."""
    rng, dtype = np.random.default_rng(seed), np.dtype(dtype)
    if dtype.kind == "f":
        return rng.normal(size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, endpoint=True, dtype=dtype)


def noisy_crops(folder: Path, count: int, rule: CropRule) -> Crops:
    """Crops of so many pairs of noise, 40×50, each with another object; drawn into `folder`."""
    for index in range(count):
        write_png(folder / "images" / f"{index}.png", noise(40, 50, 3, seed=index))
        mask = np.zeros((40, 50), np.uint8)
        mask[5 : 15 + index, 7:12] = 1
        write_png(folder / "masks" / f"{index}.png", mask)
    known = survey(folder)
    reader = PairReader(known.select("all"), known.class_map, 3)
    return Crops(reader, rule, np.zeros((count, 2, 3), np.float32))


def blotches(height: int, width: int, bands: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Blotched noise H×W×C, bright on one side: no two tiles are alike."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.random((height // 8 + 1, width // 8 + 1, bands)), np.ones((8, 8, 1)))
    light = np.linspace(0.3, 1, width)[:, None]
    return (255 * coarse[:height, :width] * light).astype(np.uint8)


UTM = CRS.from_epsg(32631)
GEOTRANSFORM = Affine(2, 0, 500_000, 0, -2, 4_900_000)
"""Pixels of 2 m."""


def write_raster(path: Path, bands: NDArray[Any], **how: Any) -> None:
    """Write bands C×H×W with GDAL: where `valid` is not, a mask says so; `how` has its options."""
    valid, internal = how.pop("valid", None), how.pop("internal", True)
    profile = {"driver": "GTiff", "crs": UTM, "transform": GEOTRANSFORM}
    count, height, width = bands.shape
    profile |= {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal),
        rasterio.open(path, "w", **(profile | how)) as file,
    ):
        file.write(bands)
        if valid is not None:
            file.write_mask(valid)


def write_geotiff(path: Path, image: NDArray[Any], **tags: Any) -> Path:
    """An image H×W×C or H×W with a place on the earth, written by rasterio."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = image.reshape(*image.shape[:2], -1).transpose(2, 0, 1)
    shape = dict(zip(("count", "height", "width"), bands.shape, strict=True))
    profile = {"driver": "GTiff", "dtype": image.dtype.name, "crs": UTM, "transform": GEOTRANSFORM}
    with rasterio.open(path, "w", **{**profile, **shape, **tags}) as file:
        file.write(bands)
    return path


def mask_facts(
    *codes: Code | tuple[Code, int], thin: Collection[Code] = (), path: str = "a.png", **more: Any
) -> MaskFacts:
    """A mask with these codes, or (code, pixels), 1,000 without; those in `thin` cover no area."""
    counts: list[tuple[Code, int]] = [
        item if _is_counted(item) else (item, 1000)  # type: ignore[misc]
        for item in codes
    ]
    parts = {
        "path": path,
        "shape": (1, sum(count for _, count in counts)),
        "coding": "rgb" if isinstance(counts[0][0], tuple) else "integer",
        "dtype": "uint8",
        "counts": counts,
        "inner": [0 if code in thin else count for code, count in counts],
    }
    return MaskFacts.model_validate({**parts, **more})


def _is_counted(item: object) -> bool:
    return isinstance(item, tuple) and len(item) == 2


def encoder_weights(name: str = "resnet18") -> dict[str, Tensor]:
    """Weights of an smp encoder, drawn at random, whose batch norms are used."""
    from segmentation_models_pytorch.encoders import get_encoder  # takes seconds to import

    torch.manual_seed(0)
    encoder: nn.Module = get_encoder(name, weights=None)
    used_norms(encoder)
    return dict(encoder.state_dict())


def fill_hub_cache(cache: Path, name: str = "resnet18") -> dict[str, Tensor]:
    """Put "ImageNet" weights where smp's version of huggingface_hub looks for them; the weights."""
    state = encoder_weights(name)
    folder = hub_snapshot(cache, name)
    folder.mkdir(parents=True)
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(INCEPTION))
    return state


INCEPTION: dict[str, list[float]] = {
    "mean": [0.5, 0.4, 0.3],
    "std": [0.5, 0.6, 0.7],
    "input_range": [0, 1],
}
"""What a config.json on the hub says; these numbers are no network's."""


def hub_snapshot(cache: Path, name: str = "resnet18") -> Path:
    """The folder of the cache with the files of an encoder, in the revision that smp wants."""
    from segmentation_models_pytorch.encoders import encoders

    source = encoders[name]["pretrained_settings"]["imagenet"]
    repository = source["repo_id"].replace("/", "--")
    return cache / f"models--{repository}" / "snapshots" / str(source["revision"])
