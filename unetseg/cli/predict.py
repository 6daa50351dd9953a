"""unetseg predict."""

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from unetseg.cli.console import observed, say
from unetseg.config import DeviceConfig, PredictConfig, ScalingConfig
from unetseg.errors import ConfigError, ImageError, PartialError
from unetseg.text import address_of, plural

if TYPE_CHECKING:
    from unetseg.progress import Progress
    from unetseg.scaling.shards import Totals


def predict(
    run: Path,
    /,
    *images: Path,
    output: Annotated[Path, Parameter(alias="-o")],
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
    config: Annotated[PredictConfig, Parameter(name="*")] = PredictConfig(),
    device: Annotated[DeviceConfig, Parameter(name="*", group="Machine")] = DeviceConfig(),
    scaling: Annotated[ScalingConfig, Parameter(name="*", group="Scaling")] = ScalingConfig(),
) -> None:
    """Write masks for images, in the coding of the masks the model was trained on.

    Images that are placed on the earth give GeoTIFFs of the same place.

    Images bigger than memory go band by band. After a stop, and with new or changed images,
    --existing skip goes on: predictions.jsonl beside the masks knows image, model and settings of
    each, and masks of two models are never mixed. failures.jsonl lists what has no mask, and why.

    --objects and --polygons say what there is, how large and where: docs/objects.md.

    Examples:
    unetseg predict checkpoints/cells new/ -o masks/
    unetseg predict checkpoints/cells a.png 'scans/*.tif' -o masks/ --overlay --probabilities
    unetseg predict checkpoints/roofs city.tif -o masks/ --overviews --existing skip
    unetseg predict checkpoints/cells new/ -o masks/ --objects --polygons
    unetseg predict checkpoints/cells scans/ -o masks/ --shard 0/3        (and 1/3, and 2/3)
    unetseg predict checkpoints/cells s3://bucket/scans -o s3://bucket/masks --cluster ray

    Parameters
    ----------
    run
        Run folder of `unetseg train`.
    images
        Image files, folders (subfolders are kept), glob patterns, or an address such as s3://….
    output
        Folder for the masks, or an address.
    config_file
        YAML file with settings.
    """
    _refuse_idle(config, scaling)
    with observed() as progress:
        totals = _predicted(run, images, output, (config, device, scaling), progress)
    if totals.skipped:
        say(f"there already: {plural(totals.skipped, 'mask')}")
    if totals.failed:
        done, file = totals.written + totals.skipped, address_of(totals.file) or totals.file
        raise (PartialError if done else ImageError)(
            f"no mask for {plural(totals.failed, 'image')}, {done} have one",
            totals.told,
            f"They are listed in {file}; fix them and add --existing skip.",
        )
    if totals.skipped and not totals.written:
        return
    say(f"{plural(totals.written, 'mask')}: {address_of(output) or output}")
    if config.overlay:
        say(f"next: look at {address_of(output) or output}/*_overlay.*")
    else:
        say("next: add --overlay --existing overwrite to see them drawn over the images")


def _refuse_idle(config: PredictConfig, scaling: ScalingConfig) -> None:
    """Let no flag do nothing, for want of another.

    Raises:
        ConfigError: there are such flags.
    """
    given = [
        name
        for name in (*config.model_fields_set, *scaling.model_fields_set)
        if f"UNETSEG_{name.upper()}" not in os.environ  # which is for other commands, too
    ]
    config.refuse_idle(given)
    flags = [f"--{name}" for name in ("address", "workers", "cores") if name in given]
    if flags and not scaling.cluster:
        fix = "Add --cluster ray, or leave them out."
        raise ConfigError("without a cluster these do nothing", flags, fix)


def _predicted(
    run: Path,
    images: Sequence[Path],
    output: Path,
    settings: tuple[PredictConfig, DeviceConfig, ScalingConfig],
    progress: "Progress",
) -> "Totals":
    """What became of the images, by whom and wherever they are predicted."""
    from unetseg.prediction.predict import predict_folder, work_of
    from unetseg.scaling.shards import Totals, predict_shard

    config, device, scaling = settings
    if scaling.cluster:
        from unetseg.scaling.cluster import predict_on_cluster

        return predict_on_cluster(run, images, output, settings, progress)
    if any(map(address_of, (*images, output))):
        from unetseg.scaling.object_storage import predict_stored

        work = work_of(run, (), Path(gettempdir()), config, device)
        return predict_stored(scaling.shard, work, images, output, progress)
    if scaling.shard:
        work = work_of(run, images, output, config, device)
        return predict_shard(scaling.shard, work, progress)
    result = predict_folder(run, images, output, config, device, progress)
    return Totals.of(result, output / "failures.jsonl")
