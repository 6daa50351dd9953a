"""Work that may end its process, such as decoders on damaged files, done in a process apart.

The process is this file run by Python: what it is sent and what it answers are pickles on its
standard input and output. It ends when the process that started it does.
"""

import os
import pickle
import signal
import sys
from collections.abc import Callable, Generator, Iterable
from subprocess import PIPE, Popen
from typing import Any, TypeVar

from unetseg.errors import MachineError, UnetsegError
from unetseg.runtime import end_of

T = TypeVar("T")
R = TypeVar("R")
COMMAND = [sys.executable, "-P", "-c", "from unetseg.prediction.alone import main; main()"]


def each_alone(
    make: Callable[[], Callable[[T], R]], items: Iterable[T]
) -> Generator[R | str, None, None]:
    """What `make()`, called in a process apart, makes of each item; where that ends it, a new one.

    Args:
        make: Can be pickled, as the items and all that is returned.
        items: Each is asked for when the one before is done.

    Yields:
        Of each item what is returned, or what ended the process: a signal or an exit code.

    Raises:
        UnetsegError: as raised in the process.
        MachineError: it ended before the first item.
    """
    process: Popen[bytes] | None = None
    try:
        for item in items:
            if process is None:
                known = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
                process = Popen(COMMAND, env=known, stdin=PIPE, stdout=PIPE)
                if (answer := _asked(process, make)) is not None:
                    raise MachineError(f"a process of its own ended: {answer}")
            answer = _asked(process, item)
            if process.returncode is not None:
                process = None
            yield answer
    finally:
        if process is not None:
            process.kill()
            process.communicate()


def _asked(process: Popen[bytes], what: object) -> Any:
    """What the process answers; what ended it, if it has no answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        pickle.dump(what, process.stdin)
        process.stdin.flush()
        answer = pickle.load(process.stdout)
    except (EOFError, OSError, pickle.UnpicklingError):  # it ended before, or within its answer
        process.communicate()
        return end_of(process.returncode)
    if isinstance(answer, UnetsegError):
        raise answer
    return answer


def main() -> None:
    """Answer what comes on the standard input, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    work: Callable[[Any], Any] | None = None
    while True:
        answer = None
        try:
            what = pickle.load(sys.stdin.buffer)
            if work is None:
                work = what()
            else:
                answer = work(what)
        except EOFError:
            return
        except UnetsegError as error:
            answer = error
        pickle.dump(answer, answers)
        answers.flush()
