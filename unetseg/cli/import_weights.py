"""unetseg import-weights."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unetseg.cli.console import say
from unetseg.errors import ConfigError
from unetseg.storage import is_file
from unetseg.text import quoted


def import_weights(
    file: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    scale: Annotated[float, Parameter(alias="-s")] = 0.5,
) -> None:
    """Turn a checkpoint of milesial/Pytorch-UNet into a trained U-Net of unetseg.

    Only numbers are read from it, nothing in it is run. Masks have the values that stand in it.

    Examples:
    unetseg import-weights checkpoint_epoch5.pth -o checkpoints/carvana
    unetseg import-weights checkpoint_epoch5.pth -o checkpoints/carvana --scale 1
    unetseg predict checkpoints/carvana new/ -o masks/

    Parameters
    ----------
    file
        The .pth file.
    output
        Folder of the bundle (default: the name of the file, below checkpoints).
    scale
        The --scale of its training, above 0 to 1.
    """
    from unetseg.export.pytorch_unet import import_weights as convert

    if not is_file(file):
        raise ConfigError(f"{file} is no file", fix="Give a checkpoint such as model.pth.")
    if not 0 < scale <= 1:
        raise ConfigError(f"--scale {scale}: a number above 0, at most 1")
    output = output or Path("checkpoints") / file.stem
    info = convert(file, output, scale)
    codes = ", ".join(f"{item.name} {item.code}" for item in info.class_map.classes)
    say(f"{info.bands} bands of {info.dtype}, classes: {codes}")
    say(f"the network sees images at {scale:g} of their size (--scale)")
    say(f"bundle: {output}")
    say(f"next: unetseg predict {quoted(output)} IMAGES -o masks")
