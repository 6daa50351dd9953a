"""unetseg curve."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.table import Table

from unetseg.cli.console import observed, out, say
from unetseg.config import TrainConfig


def curve(
    data: Path,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")] = Path("checkpoints/curve"),
    doublings: Annotated[int, Parameter(validator=Number(gte=2, lte=10))] = 3,
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
    config: Annotated[TrainConfig, Parameter(name="*")] = TrainConfig(),
) -> None:
    """Tell whether more labelled images would help.

    Trains on an eighth, a quarter, half and all of the training images, each for the same time, and
    scores all on the same held-out images. The same command goes on with what was stopped.

    Examples:
    unetseg curve photos/ --budget 20m               four trainings of five minutes
    unetseg curve photos/ --budget 20m --doublings 4 -o checkpoints/more

    Parameters
    ----------
    data
        Folder with images and masks, or a CSV with the columns image and mask.
    output
        Folder to write to: a run for each share, curve.json and curve.csv.
    doublings
        Times that the smallest share is doubled.
    config_file
        YAML file with settings.
    """
    from unetseg.storage import refuse_read_only
    from unetseg.training.learning_curve import learning_curve

    refuse_read_only(output)
    output.mkdir(parents=True, exist_ok=True)
    with observed() as progress:
        found = learning_curve(data, output, config, doublings, progress)
    table = Table("training images", "Dice", "95% interval", box=None)
    for share in found.shares:
        table.add_row(f"{share.images:,}", f"{share.dice:.4f}", f"{share.low:.4f}–{share.high:.4f}")
    out.print(table)
    say(found.verdict)
    say(f"runs, curve.json: {output}")
