"""unetseg report."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unetseg.cli.console import observed, say


def report(
    run: Path,
    /,
    *others: Path,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
) -> None:
    """Write the page of a run again, or one page that sets several runs side by side.

    `train` and `eval` write RUN/report.html by themselves; after the lab, or with other files in
    the run folder, this writes it anew. The page is one file without anything from elsewhere.

    Examples:
    unetseg report checkpoints/cells
    unetseg report checkpoints/cells checkpoints/cells-longer -o both.html

    Parameters
    ----------
    run
        Run folder of `unetseg train`.
    others
        More of them.
    output
        The page (default: RUN/report.html; of several runs report.html beside the first).
    """
    from unetseg.report.page import save_page

    with observed():
        path = save_page([run, *others], output)
    say(f"page: {path}")
