"""The processes that train one network together, as torchrun starts them; most often one.

Every process takes its share of each batch. What one of them decides or fails at, all do: they
would wait for each other without end where one goes another way.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unetseg.errors import MachineError, UnetsegError
from unetseg.text import first_line

T = TypeVar("T")

CONTRACT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What a process that belongs to a group finds in its environment."""
PATIENCE = timedelta(days=1)
"""How long the others wait for one, such as the first, which alone looks at all files before."""
LOST = re.compile(r"gloo|nccl|connection (closed|reset)|peer|timed? ?out|socket", re.IGNORECASE)
"""What torch says where a process does not hear the others."""


@dataclass(frozen=True)
class Group:
    """Processes that train one network together; the first alone writes and speaks.

    Attributes:
        rank: Which of them this is, from 0.
        size: How many they are, on all machines.
        local_rank: Which of those on this machine this is, from 0.
        local_size: How many are on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    # ---------------------------------------------------------------- work

    def first(self, work: Callable[[], T]) -> T:
        """What `work` gives in the first process; the others wait for it and do nothing.

        Raises:
            UnetsegError: `work` fails; all raise it.
        """
        given: list[Any] = [self.together(lambda: work() if self.is_first else None)]
        if self.size > 1:
            dist.broadcast_object_list(given)
        result: T = given[0]
        return result

    def together(self, work: Callable[[], T]) -> T:
        """What `work` gives here; it may itself be something that all do together.

        Raises:
            UnetsegError: `work` fails in some process; all raise what came in the first of those.
        """
        if self.size == 1:
            return work()
        failed: UnetsegError | None = None
        try:
            result = work()
        except UnetsegError as error:
            failed = error
        if self.any(failed is not None):
            errors: list[Any] = [None] * self.size
            dist.all_gather_object(errors, failed)
            raise self._heard(next(filter(None, errors)))
        return result

    def _heard(self, error: UnetsegError) -> UnetsegError:
        """The error that all raise; the first process tells it."""
        error.told = not self.is_first
        return error

    # ---------------------------------------------------------------- numbers

    def any(self, here: bool) -> bool:
        """Whether it is so in any process."""
        return bool(self.largest(here)[0])

    def largest(self, *numbers: float) -> list[float]:
        """The largest of what the processes give, for each of the numbers."""
        if self.size == 1:
            return list(numbers)
        every = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(every, dist.ReduceOp.MAX)
        return every.tolist()

    def sum(self, counts: Tensor) -> Tensor:
        """The sum of what the processes give, int64: none is averaged, none is rounded."""
        if self.size > 1:
            dist.all_reduce(counts)
        return counts

    def total(self, part: Tensor) -> Tensor:
        """The sum of what the processes give, for a loss whose gradients `averaged` averages."""
        total: Tensor = _Total.apply(part.double(), self.size)  # type: ignore[no-untyped-call]
        return total.to(part.dtype)

    # ---------------------------------------------------------------- weights

    @torch.no_grad()
    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give `tensors` the values that they have in the first process."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def averaged(
        self, module: nn.Module, loss: Callable[[T], Tensor], *, all_used: bool
    ) -> Callable[[T], Tensor]:
        """`loss`, its gradients for the parameters of `module` averaged over the processes.

        Buffers, such as the statistics of batch norm, become those of the first process. Unless
        all parameters are used in each step, those that are not are looked for.
        """
        wrapped: Callable[[T], Tensor] = nn.parallel.DistributedDataParallel(
            _Loss(module, loss), gradient_as_bucket_view=True, find_unused_parameters=not all_used
        )
        return wrapped


ALONE = Group()


class _Total(torch.autograd.Function):
    """The sum over all processes.

    Each has the gradient of the part that it brought. These gradients are averaged afterwards, so
    they are multiplied by the number of processes before: what comes out is that of the whole.
    """

    @staticmethod
    def forward(ctx: Any, part: Tensor, size: int) -> Tensor:
        ctx.size = size
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.size, None


class _Loss(nn.Module):
    """A loss as the output of a module, as torch wants what it averages the gradients of."""

    def __init__(self, module: nn.Module, loss: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.module, self.loss = module, loss

    def forward(self, batch: Any) -> Tensor:
        return self.loss(batch)


@contextmanager
def joined_group(*, gpu: bool) -> Iterator[Group]:
    """The group that torchrun or Slurm started this process for; `ALONE` where none did.

    Args:
        gpu: Whether the network may run on NVIDIA's GPUs.

    Raises:
        MachineError: the others cannot be reached, or are gone.
    """
    if any(name not in os.environ for name in CONTRACT):
        yield ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if gpu and torch.cuda.is_available() else "gloo"
    is_lost = False
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=PATIENCE))  # type: ignore[attr-defined]
        # One that torchrun begins anew must not find the addresses of those before.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(attempt, store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
        local_rank, local_size = (
            int(os.environ.get(name, default))
            for name, default in (("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))
        )
        yield Group(rank, size, local_rank, local_size)
    except RuntimeError as error:
        is_lost = bool(LOST.search(str(error)))
        if not is_lost:
            raise
        told = "the other processes of this training cannot be reached, or one has ended"
        said = [first_line(error)]
        raise MachineError(told, said, "See what they said; --resume goes on.") from error
    finally:
        if dist.is_initialized() and not is_lost:
            dist.destroy_process_group()
