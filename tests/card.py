"""A GPU that is none: its tensors lie in main memory, but say that they do not, and behave so.

What a real one would refuse is refused: numbers of two devices in one operation, numpy on its
tensors. What a real one would do later is done later: a copy to the host that nobody waits for
leaves rubbish. What is asked of it is written down, in order.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")
READS = ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "equal", "nonzero")
"""Calls that wait for a GPU, because Python wants to know numbers."""
MIXING = ("__getitem__", "__setitem__", "__set__", "_has_compatible_shallow_copy_type")
"""Calls that take tensors of both devices."""


class Card(TorchFunctionMode):
    """While it is entered, `cuda` is there, for this thread.

    Its memory is that of the largest tensor which was sent to it.

    Args:
        free: Bytes of its memory that are free, half of all.

    Attributes:
        asked: What was asked of it, in order.
    """

    def __init__(self, free: int = 2**30) -> None:
        super().__init__()
        self.free, self.asked = free, list[str]()
        self.limit, self.largest = math.inf, 0  # bytes of a tensor: allowed, and seen
        # Storages are kept alive, so that their addresses are theirs alone.
        self._own, self._pinned = dict[int, object](), dict[int, object]()
        self._copies = list[Callable[[], object]]()

    def has(self, tensor: Tensor) -> bool:
        """Whether a tensor lies on the card."""
        return tensor.untyped_storage().data_ptr() in self._own

    def take(self) -> list[str]:
        """What was asked since the last call."""
        asked, self.asked = self.asked, []
        return asked

    def finish(self, copies: int) -> None:
        """Do the copies to the host that were asked for first."""
        with torch._C.DisableTorchFunction():
            for copy in self._copies[:copies]:
                copy()
        self._copies[:copies] = [lambda: None] * copies

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = dict(kwargs or {})
        name = func.__name__
        if name == "__get__" and func.__self__ is Tensor.device:
            return CUDA if self.has(args[0]) else func(*args)
        if name in {"to", "cpu", "copy_", "pin_memory", "is_pinned"}:
            return getattr(self, f"_{name}")(func, *args, **given)
        tensors = [each for each in pytree.tree_iter((args, given)) if isinstance(each, Tensor)]
        is_here = any(map(self.has, tensors))
        if is_here:
            self._check(name, tensors)
        is_new = torch.device(given.get("device") or CPU).type == "cuda"
        if is_new:
            given["device"] = CPU
        is_pinned = given.pop("pin_memory", False)
        result = func(*args, **given)
        if is_pinned:
            self._keep(result, self._pinned)
        if is_here or is_new:
            self._keep(result, self._own)
        return result

    def _check(self, name: str, tensors: list[Tensor]) -> None:
        """Write down what waits, and refuse what a GPU would."""
        if name in ("numpy", "__array__"):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if name in READS:
            self.asked.append(f"wait for {name}")
        strange = [each for each in tensors if each.ndim and not self.has(each)]
        if strange and name not in MIXING:
            raise RuntimeError(f"{name}: Expected all tensors to be on the same device")

    def _keep(self, result: Any, where: dict[int, object]) -> None:
        for each in pytree.tree_iter(result):
            if isinstance(each, Tensor) and each.untyped_storage().data_ptr():
                where[each.untyped_storage().data_ptr()] = each.untyped_storage()

    def _to(self, func: Any, tensor: Tensor, *args: Any, **given: Any) -> Tensor:
        like = [each for each in args if isinstance(each, Tensor)]
        types = [each for each in (*args, given.get("dtype")) if isinstance(each, torch.dtype)]
        names = [each for each in args if isinstance(each, (torch.device, str))]
        target = next(iter(names), given.get("device"))
        if torch.device(target or CPU).type == "meta":
            return tensor.to("meta")
        types += [each.dtype for each in like]
        was_here, is_here = self.has(tensor), torch.device(target or CPU).type == "cuda"
        if target is None:
            is_here = self.has(like[0]) if like else was_here
        moved = func(tensor, types[0]) if types else tensor
        if was_here != is_here or given.get("copy"):
            moved = moved.clone()
        late = given.get("non_blocking", len(args) > 2 and args[2])
        if is_here and not was_here:
            if tensor.nbytes > self.limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.largest = max(self.largest, tensor.nbytes)
            how = "late" if tensor.untyped_storage().data_ptr() in self._pinned else "not pinned"
            self.asked.append(f"to card, {how if late else 'wait'}")
        if was_here and not is_here:
            self.asked.append("wait for to")
        if is_here:
            self._keep(moved, self._own)
        return moved

    def _cpu(self, func: Any, tensor: Tensor) -> Tensor:
        if not self.has(tensor):
            return tensor
        self.asked.append("wait for cpu")
        return tensor.clone()

    def _copy_(self, func: Any, tensor: Tensor, source: Tensor, non_blocking: bool = False) -> Any:
        if self.has(tensor) or not self.has(source):
            return func(tensor, source)
        if not (non_blocking and tensor.untyped_storage().data_ptr() in self._pinned):
            self.asked.append("wait for copy_")
            return func(tensor, source)
        self.asked.append("to host, late")
        tensor.fill_(77)
        self._copies.append(lambda: func(tensor, source))
        return tensor

    def _pin_memory(self, func: Any, tensor: Tensor) -> Tensor:
        assert not self.has(tensor)
        self.asked.append("pin")
        pinned = tensor.clone()
        self._keep(pinned, self._pinned)
        return pinned

    def _is_pinned(self, func: Any, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._pinned

    def leave(self, share: float, device: int) -> None:
        """Stands for torch.cuda.set_per_process_memory_fraction: tensors must not be larger."""
        assert 0 <= share <= 1
        assert device == 0  # it takes no device without a number
        self.limit = 2 * self.free * share if share < 1 else math.inf

    def event(self) -> "Event":
        """Stands for torch.cuda.Event."""
        return Event(self)


class Event:
    """A mark in what a card does."""

    def __init__(self, card: Card) -> None:
        self.card, self.copies = card, 0

    def record(self, stream: object) -> None:
        """All that was asked before is before it."""
        assert stream == "stream"
        self.copies = len(self.card._copies)
        self.card.asked.append("record")

    def synchronize(self) -> None:
        """Wait for all that is before it, and for nothing else."""
        self.card.asked.append("wait for event")
        self.card.finish(self.copies)


@contextmanager
def fake_card(capability: tuple[int, int] = (9, 0), free: int = 2**30) -> Iterator[Card]:
    """A `Card`, with what `torch.cuda` says of it."""
    card = Card(free)

    def group(lists: Any, with_indices: bool = False) -> Any:
        groups = real(lists, with_indices)
        on_card = any(card.has(each) for each in lists[0] if each is not None)
        return {(CUDA if on_card else at, dtype): rest for (at, dtype), rest in groups.items()}

    real = torch._C._group_tensors_by_device_and_dtype
    told: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_name": lambda device: "Card",
        "get_device_capability": lambda device=None: capability,
        "get_arch_list": lambda: ["sm_80", "sm_90"],
        "is_bf16_supported": lambda *_: capability >= (8, 0),
        "mem_get_info": lambda device: (card.free, 2 * card.free),
        "Event": card.event,
        "current_stream": lambda device: "stream",
        "get_rng_state": lambda device: torch.zeros(1),
        "set_rng_state": lambda state, device: None,
        "memory_allocated": lambda device: 0,
        "max_memory_allocated": lambda device: card.largest,
        "reset_peak_memory_stats": lambda device: setattr(card, "largest", 0),
        "set_per_process_memory_fraction": card.leave,
    }
    for name in ("synchronize", "empty_cache"):
        told[name] = lambda *_, name=name: card.asked.append(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch._C, "_group_tensors_by_device_and_dtype", group)
        for name, answer in told.items():
            patch.setattr(torch.cuda, name, answer)
        cudnn: Any = torch.backends.cudnn
        flags = [(cudnn, "benchmark"), (cudnn, "allow_tf32")]
        flags.append((torch.backends.cuda.matmul, "allow_tf32"))
        before = [getattr(*flag) for flag in flags]
        try:
            with card:
                yield card
        finally:
            for flag, value in zip(flags, before, strict=True):
                setattr(*flag, value)
