"""unetseg predict."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unetseg.cli.console import observed, say
from unetseg.config import DeviceConfig, PredictConfig
from unetseg.errors import ImageError, PartialError


def predict(
    run: Path,
    /,
    *images: Path,
    output: Annotated[Path, Parameter(alias="-o")],
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
    config: Annotated[PredictConfig, Parameter(name="*")] = PredictConfig(),  # noqa: B008 (frozen)
    device: Annotated[DeviceConfig, Parameter(name="*", group="Machine")] = DeviceConfig(),  # noqa: B008
) -> None:
    """Write masks for images, in the coding of the masks the model was trained on.

    Images that are placed on the earth give GeoTIFFs of the same place.

    Images bigger than memory go band by band. After a stop, and with new or changed images,
    --existing skip goes on: predictions.jsonl beside the masks knows image, model and settings of
    each, and masks of two models are never mixed. failures.jsonl lists what has no mask, and why.

    Examples:
    unetseg predict checkpoints/cells new/ -o masks/
    unetseg predict checkpoints/cells a.png 'scans/*.tif' -o masks/ --overlay --probabilities
    unetseg predict checkpoints/roofs city.tif -o masks/ --overviews --existing skip

    Parameters
    ----------
    run
        Run folder of `unetseg train`.
    images
        Image files, folders (subfolders are kept) or glob patterns.
    output
        Folder for the masks.
    config_file
        YAML file with settings.
    """
    from unetseg.prediction.predict import predict_folder
    from unetseg.text import plural

    with observed() as progress:
        result = predict_folder(run, images, output, config, device, progress)
    if result.skipped:
        say(f"there already: {plural(len(result.skipped), 'mask')}")
    if result.failures:
        done = [*result.written, *result.skipped]
        kind = PartialError if done else ImageError
        raise kind(
            f"no mask for {plural(len(result.failures), 'image')}, {len(done)} have one",
            ["; ".join(map(str.strip, str(e).splitlines())) for e in result.failures.values()],
            f"They are listed in {output / 'failures.jsonl'}; fix them and add --existing skip.",
        )
    if result.skipped and not result.written:
        return
    say(f"{plural(len(result.written), 'mask')}: {output}")
    if config.overlay:
        say(f"next: look at {output / '*_overlay.*'}")
    else:
        say("next: add --overlay --existing overwrite to see them drawn over the images")
