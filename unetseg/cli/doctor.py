"""unetseg doctor."""

import math
import shutil
from pathlib import Path

from rich.table import Table

from unetseg.cli.console import out, say


def doctor() -> None:
    """Say what this machine offers: packages, device, arithmetic, memory, disk.

    Example: unetseg doctor
    """
    import torch

    from unetseg import runtime
    from unetseg.config import DeviceConfig
    from unetseg.data.facts.fingerprint import cache_folder
    from unetseg.resources import core_quota, host_memory, memory_left, usable_cores

    machine = runtime.start(DeviceConfig())
    gibibyte = 2**30
    table = Table(show_header=False, box=None)
    for name, version in runtime.versions().items():
        table.add_row(name, version)
    table.add_row("device", str(machine))
    table.add_row("CUDA", torch.version.cuda or "none" if torch.cuda.is_available() else "none")
    quota, limit = core_quota(), memory_left()
    of_container = f" (the container's quota: {quota:.3g})" if math.isfinite(quota) else ""
    table.add_row("cores", f"{usable_cores()}{of_container}")
    of_container = " (what the container's limit leaves)" if limit < math.inf else ""
    table.add_row("free memory", f"{host_memory() / gibibyte:.1f} GiB{of_container}")
    table.add_row("free disk here", f"{shutil.disk_usage(Path()).free / gibibyte:.1f} GiB")
    table.add_row("fingerprint cache", str(cache_folder()))
    out.print(table)
    say("next: unetseg demo")
