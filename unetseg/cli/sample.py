"""unetseg sample."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unetseg.cli.console import observed, say
from unetseg.text import plural, quoted


def sample(
    out: Path,
    /,
    *,
    count: Annotated[int, Parameter(alias="-n")] = 24,
    size: int = 256,
    seed: int = 0,
) -> None:
    """Draw a sample folder of image/mask pairs: bright cells on a textured ground.

    Examples:
    unetseg sample data/sample
    unetseg sample /tmp/cells -n 100 --size 512

    Parameters
    ----------
    out
        Folder to draw into.
    count
        Number of pairs.
    size
        Side of the images, pixels.
    seed
        Other seeds draw other images.
    """
    from unetseg.data.sample import draw_sample

    with observed() as progress:
        draw_sample(out, count=count, size=size, seed=seed, progress=progress)
    say(f"{plural(count, 'pair')}: {out}")
    say(f"next: unetseg check {quoted(out)}")
