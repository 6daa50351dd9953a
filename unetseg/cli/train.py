"""unetseg train."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unetseg.cli.console import observed, say
from unetseg.config import PairsConfig, TrainConfig


def train(
    data: Path,
    /,
    *,
    out: Path = Path("checkpoints"),
    name: str | None = None,
    resume: bool = False,
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
    config: Annotated[TrainConfig, Parameter(name="*")] = TrainConfig(),  # noqa: B008 (frozen)
) -> None:
    """Train a U-Net on a folder of image/mask pairs.

    Examples:
    unetseg train photos/ --budget 10m --name cells
    unetseg train photos/ -e 50 -b 4 -l 3e-4 --encoder resnet34 --weights imagenet
    unetseg train --name cells --resume photos/
    unetseg train more/ --from checkpoints/cells     new images or classes, trained weights

    Parameters
    ----------
    data
        Folder with images and masks, or a CSV with the columns image and mask.
    out
        Folder of the run folders.
    name
        Name of the run folder (default: date and time).
    resume
        Go on with the run called --name, or with the last one in --out.
    config_file
        YAML file with settings; a run's own config.yaml repeats that run.
    """
    from unetseg.storage import refuse_read_only

    refuse_read_only(out)  # at once, before torch is loaded

    from unetseg.cli.report import given_words, quoted
    from unetseg.training.fit import train as run_training

    with observed() as progress:
        folder = run_training(data, config, out=out, name=name, resume=resume, progress=progress)
    say(f"model, metrics and previews: {folder}")
    said = PairsConfig.model_validate(config.data.model_dump(include={*PairsConfig.model_fields}))
    say(f"next: unetseg eval {quoted(folder)} {' '.join(given_words(data, said))}")
