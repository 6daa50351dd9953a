"""unetseg export."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unetseg.cli.console import observed, say
from unetseg.config import ExportConfig, PairsConfig
from unetseg.text import plural, quoted


def export(
    run: Path,
    data: Path | None = None,
    /,
    *,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
    config: Annotated[ExportConfig, Parameter(name="*")] = ExportConfig(),
    pairs: Annotated[PairsConfig, Parameter(name="*", group="Data")] = PairsConfig(),
) -> None:
    """Write a trained U-Net as one file: raw pixels in, masks in their own codes out.

    The file is loaded again and held against the run: on images of noise, and on those of DATA that
    the training held out. Where masks differ it is not written.

    Examples:
    unetseg export checkpoints/cells
    unetseg export checkpoints/cells photos/ -o cells.onnx
    unetseg export checkpoints/cells photos/ --int8 -o small.onnx
    unetseg export checkpoints/cells --to torchscript -o cells.pt
    unetseg export checkpoints/cells photos/ --to bioimage -o cells.zip
    unetseg export checkpoints/roofs --to deepness -o roofs.onnx
    unetseg predict cells.onnx new/ -o masks/

    Parameters
    ----------
    run
        Run folder of `unetseg train`.
    data
        Folder of pairs to compare on.
    output
        The file (default: model.onnx, model-int8.onnx … in the run folder).
    config_file
        YAML file with settings.
    """
    from unetseg.export.export import export as write

    with observed() as progress:
        made = write(run, config, data, pairs=pairs, output=output, progress=progress)
    height, width = made.size
    of_run, of_file = (1000 * seconds for seconds in made.seconds)
    agreement, images = made.agreement, plural(made.agreement.images, "image")
    say(f"{agreement.equal:.3%} of the pixels of {images} have the run's code in its masks;")
    say(f"probabilities differ by {agreement.probability_gap:.1g} at most")
    if made.dice:
        before, after = made.dice
        say(f"Dice of these images: {before:.4f} in float32, {after:.4f} in 8 bit")
    before, after = (size / 2**20 for size in made.bytes)
    say(f"size: {before:.1f} MiB of weights → {after:.1f} MiB")
    say(f"time for {height}×{width} pixels: {of_run:.1f} ms → {of_file:.1f} ms, on this processor")
    for rule in made.rules:
        say(f"not in the file, added by `unetseg predict`: {rule}")
    say(f"written: {made.file}")
    file = quoted(made.file)
    ways_on = {
        "bioimage": f"bioimageio test {file}",
        "deepness": "choose it in QGIS, as the model of the plugin Deepness",
    }
    say(f"next: {ways_on.get(config.to, f'unetseg predict {file} IMAGES -o masks')}")
