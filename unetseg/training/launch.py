"""Several training processes started on this machine, as `torchrun` would start them."""

import logging
import os
import signal
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from unetseg.errors import MachineError, UnetsegError
from unetseg.resources import usable_cores
from unetseg.runtime import SIGNALS

GRACE = 60
"""Seconds that the processes have to end by themselves, to finish a step and to save."""


def launch(words: Sequence[str], processes: int, restarts: int) -> None:
    """Run `unetseg` with these words in so many processes, and wait for them.

    They share the cores. After one is lost all begin anew, so often at most.

    Raises:
        UnetsegError: they ended with an error, which they have told; its exit code is theirs.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(GRACE))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id="unetseg",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=restarts,
        signals_to_handle=",".join(number.name for number in heard),
    )
    try:
        elastic_launch(config, sys.executable)("-m", "unetseg", *words)
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        causes = [code for code in codes if code != MachineError.exit_code]
        code = [*causes, *codes][0]  # not that of those that have lost another
        raise _ended(code if code > 0 else 128 - code) from error
    except SignalException as error:
        raise _ended(128 + error.sigval) from error


def _ended(exit_code: int) -> UnetsegError:
    error = UnetsegError(f"the training ended with exit code {exit_code}")
    error.exit_code, error.told = exit_code, True  # by those that ended
    return error
