"""unetseg prune."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from unetseg.cli.console import observed, out, say
from unetseg.config import DeviceConfig
from unetseg.text import quoted


def prune(
    run: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
    device: Annotated[DeviceConfig, Parameter(name="*", group="Machine")] = DeviceConfig(),
) -> None:
    """Take the skips that learned to be off out of a U-Net trained with --skip switch.

    Checks that the logits stay the same, and measures what is saved.

    Examples:
    unetseg train photos/ --skip switch --name cells
    unetseg prune checkpoints/cells
    unetseg predict checkpoints/cells/pruned new/ -o masks/

    Parameters
    ----------
    run
        Run folder of `unetseg train`.
    output
        Folder for the smaller model (default: RUN/pruned).
    config_file
        YAML file with settings.
    """
    from unetseg.skiplab.prune import prune as run_pruning

    with observed() as progress:
        result = run_pruning(run, output=output, device=device, progress=progress)
    before, after, size = result.before, result.after, f"{result.side}×{result.side}"
    table = Table("", "before", "after", "saved", box=None)
    for name, form, old, new in (
        ("parameters", ",", before.parameters, after.parameters),
        (f"GFLOP for {size} pixels", ".4g", before.gflop, after.gflop),
        (f"ms for {size} pixels", ".4g", *result.milliseconds),
    ):
        table.add_row(name, f"{old:{form}}", f"{new:{form}}", f"{(old - new) / old:.1%}")
    out.print(table)
    removed = ", ".join(f"level {level} (1/{1 << level})" for level in result.levels)
    say(
        f"skips taken out: {removed}; "
        f"the logits of random images changed by {result.difference:.1g} at most"
    )
    say(f"smaller model: {result.folder}")
    say(f"next: unetseg predict {quoted(result.folder)} IMAGES -o masks")
