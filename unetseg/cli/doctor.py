"""unetseg doctor."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unetseg.cli.console import say
from unetseg.cli.findings import count_findings, show_finding
from unetseg.config import MachineConfig
from unetseg.errors import MachineError


def doctor(
    *,
    folder: Annotated[Path, Parameter(name="--out")] = Path("checkpoints"),
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
    machine: Annotated[MachineConfig, Parameter(name="*", group="Machine")] = MachineConfig(),
) -> None:
    """Say what this machine offers, what is wrong with it, and the fix.

    Ends with exit code 3 when training would fail.

    Examples:
    unetseg doctor
    unetseg doctor --device cuda    in a container: is the GPU there?

    Parameters
    ----------
    folder
        Where the run folders would be written.
    config_file
        YAML file with settings.
    """
    from unetseg.checks.finding import in_order
    from unetseg.doctor import examine

    found = examine(machine, folder)
    width = max(map(len, found.facts))
    for name, value in found.facts.items():
        say(f"{name:{width}}  {value}")
    for finding in in_order(found.findings):
        show_finding(finding)
    if found.errors:
        raise MachineError(f"training would fail here: {count_findings(found.errors)}")
    say("next: unetseg demo")
