"""unetseg train."""

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from unetseg.cli.console import observed, say
from unetseg.cli.console import out as console
from unetseg.config import PairsConfig, TrainConfig


def train(  # noqa: PLR0913 (each is a flag)
    data: Path,
    /,
    *,
    out: Path = Path("checkpoints"),
    name: str | None = None,
    resume: bool = False,
    nproc: Annotated[int, Parameter(validator=Number(gte=1))] = 1,
    max_restarts: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
    config: Annotated[TrainConfig, Parameter(name="*")] = TrainConfig(),  # noqa: B008 (frozen)
) -> None:
    """Train a U-Net on a folder of image/mask pairs.

    Examples:
    unetseg train photos/ --budget 10m --name cells
    unetseg train photos/ -e 50 -b 4 -l 3e-4 --encoder resnet34 --weights imagenet
    unetseg train --name cells --resume photos/
    unetseg train more/ --from checkpoints/cells     new images or classes, trained weights
    unetseg train photos/ --name cells --nproc 4     4 processes on this machine, each with a GPU

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
    nproc
        Processes that train together on this machine (torchrun starts them on several).
    max_restarts
        Times that they begin anew from the last state when one is lost; needs --name.
    config_file
        YAML file with settings; a run's own config.yaml repeats that run.
    """
    from unetseg.storage import refuse_read_only

    console.quiet = os.environ.get("RANK", "0") != "0"  # of several processes the first speaks
    refuse_read_only(out)  # at once, before torch is loaded
    if nproc > 1 and "RANK" not in os.environ:
        from unetseg.training.launch import launch
        from unetseg.training.run import refuse_nameless

        refuse_nameless(name, max_restarts)
        launch(sys.argv[1:], nproc, max_restarts)
        return

    from unetseg.cli.findings import given_words, quoted
    from unetseg.training.fit import train as run_training

    with observed() as progress:
        folder = run_training(data, config, out=out, name=name, resume=resume, progress=progress)
    say(f"model, metrics and previews: {folder}; page: {folder / 'report.html'}")
    said = PairsConfig.model_validate(config.data.model_dump(include={*PairsConfig.model_fields}))
    say(f"next: unetseg eval {quoted(folder)} {' '.join(given_words(data, said))}")
