"""Images that were in work when a process was killed, predicted one by one in a process apart.

Whoever is killed cannot tell by which image: many are in work at once. So those that were begun and
never ended are predicted after all others, by `worker`, and what kills that is known.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from unetseg.errors import ImageError, MachineError
from unetseg.prediction.manifest import Manifest
from unetseg.prediction.outputs import Job
from unetseg.runtime import end_of

TRIES = 2
"""Times that an image may end a process: among others, and apart."""


def is_suspect(job: Job, manifest: Manifest) -> bool:
    """Whether an image was begun and never ended; large ones may be stopped once in their hours."""
    return len(manifest.begun.get(manifest.name(job.mask), ())) > job.is_large


def predict_alone(jobs: Sequence[Job], manifest: Manifest, pixels: int) -> None:
    """Predict suspects one by one in processes apart, and put aside those that end them.

    Args:
        jobs: The images, and the files for their masks.
        manifest: Gets what becomes of each.
        pixels: Of the whole prediction; see `Engine`.

    Raises:
        MachineError: the files cannot be written.
    """
    left = []
    for job in jobs:
        tries = manifest.begun[manifest.name(job.mask)].count(True)
        if tries < TRIES or job.is_large:
            left.append(job)
        else:  # all that ran was ended with it, each time: a container without memory, say
            manifest.fail(job, _deadly(job, "each time"), aside=True)
    while left:
        order = {"output": str(manifest.folder), "pixels": pixels, **manifest.header}
        at, reason = _try(json.dumps(order | {"jobs": [_named(job) for job in left]}))
        manifest.read()
        if reason and manifest.name(left[at].mask) in manifest.begun:
            manifest.fail(left[at], _deadly(left[at], reason), aside=True)
        left = left[at + 1 :] if reason else []
    manifest.read()


def _named(job: Job) -> list[str]:
    return [str(job.image), str(job.mask), job.mask.suffix]


def _try(order: str) -> tuple[int, str]:
    """The number of the image that a process was at last, and what ended it there, if anything did.

    Raises:
        MachineError: the process could not work, for no image's fault.
    """
    command = [sys.executable, "-P", "-c", "from unetseg.prediction.worker import main; main()"]
    known = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    at, told = -1, ""
    with subprocess.Popen(
        command,
        env=known,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{order}\n")  # it stays open: the process ends when it is closed
            process.stdin.flush()
            for line in process.stdout:
                said = json.loads(line)
                at, told = (said, told) if isinstance(said, int) else (at, str(said))
            process.wait()
        finally:
            process.kill()
    if told or (at < 0 and process.returncode):
        raise MachineError(told or f"a process of its own ended: {end_of(process.returncode)}")
    return at, end_of(process.returncode) if process.returncode else ""


def _deadly(job: Job, reason: str) -> ImageError:
    """The answer about an image that ends processes."""
    return ImageError(
        f"{job.image} ended the process that predicted it, twice: {reason}",
        fix="It is put aside until the file changes. Save it anew, in another format, "
        "or see whether memory suffices; --existing overwrite tries it again.",
        code="deadly",
        paths=[job.image],
    )
