"""Work done by several processes that train together, each forked from the test."""

import multiprocessing
import os
import pickle
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from unetseg.errors import UnetsegError
from unetseg.runtime import survive_forks

LONGEST = 240
"""Seconds after which a group is taken to hang."""


def in_group(size: int, work: Callable[[], Any]) -> list[Any]:
    """What `work`, which is to join the group, gives in each process, or the error there."""
    survive_forks()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ends, processes = [], []
    for rank in range(size):
        ours, theirs = context.Pipe(duplex=False)
        contract = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1"}
        contract |= {"MASTER_PORT": port, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
        process = context.Process(target=_member, args=(contract, work, theirs), daemon=True)
        process.start()
        theirs.close()
        ends.append(ours)
        processes.append(process)
    try:
        answers = []
        for end in ends:
            assert end.poll(LONGEST), "the group hangs"
            try:
                answers.append(pickle.loads(end.recv_bytes()))
            except EOFError as error:  # it was killed
                answers.append(error)
        return answers
    finally:
        for process in processes:
            process.kill()
            process.join()


def _member(contract: dict[str, Any], work: Callable[[], Any], answer: Connection) -> None:
    os.environ.update({name: str(value) for name, value in contract.items()})
    try:
        given: Any = work()
    except (UnetsegError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        given = error
    answer.send_bytes(pickle.dumps(given))  # tensors whole: this process ends now
