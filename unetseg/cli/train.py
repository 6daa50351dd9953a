"""unetseg train."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from unetseg.cli.console import observed, say
from unetseg.cli.console import out as console
from unetseg.config import TrainConfig
from unetseg.errors import BundleError, ConfigError
from unetseg.storage import latest_run, new_run_folder, refuse_read_only
from unetseg.text import quoted

if TYPE_CHECKING:
    from unetseg.progress import Progress


def train(  # noqa: PLR0913 (each is a flag)
    data: Path,
    /,
    *,
    out: Path = Path("checkpoints"),
    name: str | None = None,
    resume: bool = False,
    folds: Annotated[int | None, Parameter(validator=Number(gte=2))] = None,
    nproc: Annotated[int, Parameter(validator=Number(gte=1))] = 1,
    max_restarts: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
    config: Annotated[TrainConfig, Parameter(name="*")] = TrainConfig(),
) -> None:
    """Train a U-Net on a folder of image/mask pairs.

    Examples:
    unetseg train photos/ --budget 10m --name cells
    unetseg train photos/ -e 50 -b 4 -l 3e-4 --encoder resnet34 --weights imagenet
    unetseg train --name cells --resume photos/
    unetseg train more/ --from checkpoints/cells     new images or classes, trained weights
    unetseg train photos/ --folds 5 --budget 50m     5 trainings, each scored on its own fifth
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
    folds
        Parts of the images: so many U-Nets train, each on all but one, and predict together.
    nproc
        Processes that train together on this machine (torchrun starts them on several).
    max_restarts
        Times that they begin anew from the last state when one is lost; needs --name.
    config_file
        YAML file with settings; a run's own config.yaml repeats that run.
    """
    console.quiet = os.environ.get("RANK", "0") != "0"  # of several processes the first speaks
    refuse_read_only(out)  # at once, before torch is loaded
    if (nproc > 1 or max_restarts) and "RANK" not in os.environ:  # where it is one of several
        _launch(name, folds, nproc, max_restarts)
        return
    from unetseg.report.facts import Facts

    places = out, name, resume
    with observed() as progress:
        folder = _trained(data, config, places, folds, progress)
    say(f"model, metrics and previews: {folder}; page: {folder / 'report.html'}")
    say(f"next: unetseg eval {quoted(folder)} {Facts(folder).given(data)}")


def _trained(
    data: Path,
    config: TrainConfig,
    places: tuple[Path, str | None, bool],
    folds: int | None,
    progress: "Progress",
) -> Path:
    """The run folder, which `places` (--out, --name, --resume) lead to, after the training."""
    from unetseg.training.fit import train as run_training
    from unetseg.training.folds import train_folds

    out, name, resume = places
    last = (out / name if name else latest_run(out, of_folds=bool(folds))) if resume else None
    if not folds:
        if last and (last / "started.json").exists():
            told = f"{last} holds the trainings of several folds"
            raise ConfigError(told, fix="Say --folds, and how many there are.")
        return run_training(data, config, out=out, name=name, resume=resume, progress=progress)
    folder = last if resume else new_run_folder(out, name)
    if folder is None or not folder.is_dir():
        told = f"there is no run {folder or out} to go on with"
        raise BundleError(told, fix="Train without --resume first.")
    train_folds(data, folds, folder, config, progress)
    return folder


def _launch(name: str | None, folds: int | None, nproc: int, max_restarts: int) -> None:
    from unetseg.training.launch import launch
    from unetseg.training.run import refuse_nameless

    if nproc == 1:
        told = "one process alone does not begin anew by itself: --max-restarts does nothing"
        raise ConfigError(told, fix="Add --nproc, or leave it out.")
    if folds:
        raise ConfigError("--folds and --nproc cannot be combined", fix="Leave one away.")
    refuse_nameless(name, max_restarts)
    launch(sys.argv[1:], nproc, max_restarts)
