"""unetseg compare."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from unetseg.cli.console import observed, out, say
from unetseg.config import ComparisonConfig
from unetseg.errors import ConfigError
from unetseg.text import plural, printable


def compare(
    *paths: Path,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
    config: Annotated[ComparisonConfig, Parameter(name="*")] = ComparisonConfig(),
) -> None:
    r"""Say whether trained U-Nets are better than the first, on the pairs that all hold out.

    Each is compared with the first, image by image: the mean difference of the foreground Dice
    with its 95% interval, and the verdict: better, worse, or none where the interval holds 0.
    Writes compare.json and compare.csv.

    Examples:
    unetseg compare checkpoints/old checkpoints/new photos/
    unetseg compare checkpoints/a checkpoints/b checkpoints/c photos/ --group 'patient\d+'

    Parameters
    ----------
    paths
        Run folders of `unetseg train`, two or more, and last the folder of pairs.
    output
        Folder to write to (default: compare/ in the first run).
    config_file
        YAML file with settings.
    """
    from unetseg.evaluation.compare import compare as run_comparison

    if len(paths) < 3:
        fix = "unetseg compare RUN RUN DATA"
        raise ConfigError(f"{plural(len(paths), 'path')}, expected runs and a folder", fix=fix)
    with observed() as progress:
        result = run_comparison(paths[:-1], paths[-1], config, output=output, progress=progress)
    table = Table("run", "Dice", "95% interval", "difference", "95% interval", "verdict", box=None)
    for one in result.runs:
        low, high = one.scores.foreground_dice_interval
        cells = [f"{one.scores.foreground_dice:.4f}", f"{low:.4f}–{high:.4f}"]
        if gap := one.difference:
            low, high = gap.interval
            cells += [f"{gap.mean:+.4f}", f"{low:+.4f} to {high:+.4f}", gap.verdict]
        table.add_row(Text(printable(one.run)), *cells)
    out.print(table)
    first = result.runs[0].scores
    say(f"{result.split}, {plural(first.images, 'image')}; intervals {first.intervals}")
    say(f"every image: {result.folder / 'compare.csv'}")
