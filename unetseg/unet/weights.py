"""The weights that an encoder starts with: a local file, or smp's, from the cache or the network.

smp (segmentation-models-pytorch) keeps its weights on the Hugging Face hub, each file beside a
config.json that says which pixel values the weights expect.
"""

import difflib
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat, ValidationError
from torch import Tensor

from unetseg.errors import BundleError, ConfigError, MachineError
from unetseg.progress import SILENT, Progress
from unetseg.text import duration, first_line

CONNECTING = 5.0
"""Seconds in which the hub must answer."""
LONGEST_DOWNLOAD = 300.0
"""Seconds after which a download is given up."""
FETCH = """
import sys
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
repo, revision, seconds, *files = sys.argv[1:]
try:
    get_hf_file_metadata(hf_hub_url(repo, files[0], revision=revision), timeout=float(seconds))
    for file in files:
        hf_hub_download(repo, file, revision=revision)
except Exception as error:
    sys.exit(str(error).strip() or type(error).__name__)
"""
"""What the process that downloads does: it asks once before it tries again and again."""

_FILES = ("model.safetensors", "config.json")  # what the hub has of an encoder
# what torch.load and its unpickler raise on bytes that are no weights
DAMAGE = (
    *(OSError, RuntimeError, EOFError, MemoryError, pickle.UnpicklingError, struct.error),
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError),
)


class ExpectedPixels(BaseModel):
    """The pixels that weights were trained with: (RGB − mean) / std, RGB within `input_range`."""

    model_config = ConfigDict(frozen=True)

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFloat, ...] = (0.229, 0.224, 0.225)
    input_range: tuple[float, PositiveFloat] = (0, 1)
    input_space: Literal["RGB"] = "RGB"

    def statistics(self, bands: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and deviation of 8-bit pixels, by band; those of grey are the means over RGB.

        None: the weights know nothing of so many bands.
        """
        unit = 255 / self.input_range[1]
        mean, std = (tuple(unit * each for each in values) for values in (self.mean, self.std))
        if bands == 1:
            return (fmean(mean),), (fmean(std),)
        return (mean, std) if bands == len(mean) == len(std) else None


def expected_pixels(weights: Path) -> ExpectedPixels:
    """What the config.json beside a file of weights says; without one, as usual for ImageNet.

    Raises:
        BundleError: it cannot be understood.
    """
    file = weights.with_name("config.json")
    try:
        return ExpectedPixels.model_validate_json(file.read_bytes() if file.is_file() else b"{}")
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        summary = f"{file} does not say which pixels the weights expect"
        fix = "Give mean and std for each of R, G, B, and input_range; or move the file away."
        raise BundleError(summary, wrong, fix=fix) from error


def smp_encoder(name: str) -> dict[str, Any]:
    """What smp's table holds on the encoder `name`.

    Raises:
        ConfigError: it has no such encoder.
        MachineError: smp is not installed.
    """
    try:
        from segmentation_models_pytorch import encoders
    except ImportError as error:
        summary = f"an encoder needs segmentation-models-pytorch, which cannot be imported: {error}"
        raise MachineError(summary, fix="pip install segmentation-models-pytorch") from error
    table: dict[str, dict[str, Any]] = encoders.encoders
    if name not in table:
        nearest = difflib.get_close_matches(name.lower(), table, n=5, cutoff=0.4)
        names = nearest or ["resnet34", "efficientnet-b0", "mobilenet_v2"]
        summary = f"there is no encoder {name!r}; the nearest names:"
        raise ConfigError(summary, names, fix=f"Choose one, for example --encoder {names[0]}")
    return table[name]


def weights_file(
    name: str, weights: str, seconds: float = LONGEST_DOWNLOAD, progress: Progress = SILENT
) -> Path:
    """The file of weights for the encoder `name`, a download included.

    Args:
        name: Name in smp's own table.
        weights: "imagenet" or a local .safetensors or .pth file.
        seconds: Time for a download. It is made by a process of its own, ended after that time:
            nothing waits for a network that is not there. A file is in the cache whole or not.
        progress: Hears of a download.

    Raises:
        ConfigError: smp has no such encoder or weights, or there is no such file.
        MachineError: smp is not installed, or the download failed.
    """
    offered = smp_encoder(name)["pretrained_settings"]
    if weights != "imagenet":
        path = Path(weights)
        if path.suffix not in {".safetensors", ".pth", ".pt"} or not path.is_file():
            summary = f"--weights {weights} is neither imagenet, none nor a .safetensors or .pth"
            raise ConfigError(f"{summary} file", fix="Check the path, or use --weights none.")
        return path
    if "imagenet" not in offered:
        summary = f"smp has no weights 'imagenet' for {name}, only {', '.join(offered) or 'none'}"
        raise ConfigError(summary, fix="Use --weights none or a local file.")
    repository, revision = (offered["imagenet"][key] for key in ("repo_id", "revision"))
    file = _cached(repository, revision)
    if file is None:
        problem = _download(name, repository, revision, seconds, progress)
        file = _cached(repository, revision)
        if problem or file is None:
            fix = "Use --weights none, or --weights FILE with a local .safetensors or .pth file."
            summary = f"the ImageNet weights of {name} could not be downloaded"
            raise MachineError(summary, [problem or "they did not arrive"], fix=fix)
    return file


def _cached(repository: str, revision: str) -> Path | None:
    """The weights in the cache of huggingface_hub, if all of `_FILES` are there."""
    from huggingface_hub import try_to_load_from_cache

    paths = [try_to_load_from_cache(repository, file, revision=revision) for file in _FILES]
    here = [Path(path) for path in paths if isinstance(path, str)]
    return here[0] if len(here) == len(_FILES) else None


def _download(
    name: str, repository: str, revision: str, seconds: float, progress: Progress
) -> str | None:
    """Let another process fetch `_FILES` into the cache; what went wrong."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    progress.say(f"downloading the ImageNet weights of {name}, for {duration(seconds)} at most")
    environment = {"HF_HUB_CACHE": constants.HF_HUB_CACHE, "HF_HUB_DISABLE_TELEMETRY": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", FETCH, repository, revision, str(CONNECTING), *_FILES],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it was not there after {duration(seconds)}"
    told = [line for line in done.stderr.splitlines() if line.strip()]
    return (told[-1] if told else f"exit code {done.returncode}") if done.returncode else None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name, of a .safetensors or .pth file; nothing in it is run.

    Raises:
        BundleError: the file is damaged, or holds other things.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (*DAMAGE, SafetensorError) as error:
        raise BundleError(
            f"{path} cannot be read as weights",
            [first_line(error)],
            fix="Give a state dict: a file of named tensors and nothing else.",
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        fix = "Save it again with torch.save(encoder.state_dict(), FILE)."
        raise BundleError(f"{path} holds no state dict (names → tensors)", fix=fix)
    return dict(state)
