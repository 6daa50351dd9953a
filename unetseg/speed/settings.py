"""The settings of `unetseg bench`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from pydantic import Field

from unetseg.config import Commas, Seconds, Settings

EngineName = Literal["auto", "all", "eager", "fused", "compile", "openvino"]


class BenchConfig(Settings):
    """What `unetseg bench` measures, and for how long."""

    data: Path | None = None
    """Your images, or with --train your folder of pairs (default: drawn cells)."""
    size: Annotated[int, Field(ge=32, le=16384)] | None = None
    """Side of the drawn images, and of the squares on which engines are compared, pixels."""
    batch: Annotated[int | None, Field(ge=1), Parameter(alias=["-b"])] = None
    """Images or crops that go through the network at once (default: as in real work)."""
    count: Annotated[int, Field(ge=2)] = 64
    """Images that are predicted from folder to folder, as far as the time allows."""
    seconds: Seconds = 40.0
    """Time for measuring; what is done once, such as compiling, comes on top."""
    engines: Annotated[tuple[EngineName, ...], Commas] = ("auto",)
    """Engines to compare; auto: those that are ready at once; all: also those that compile."""
    train: bool = False
    """Measure the training too: reading, augmentation, and training steps."""
    json_file: Annotated[Path | None, Parameter(name="--json", allow_leading_hyphen=True)] = None
    """Write all figures to this file; - prints them, and nothing else."""
