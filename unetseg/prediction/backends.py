"""What runs a trained U-Net: torch as it is, fused, compiled or OpenVINO; and which is chosen.

A backend takes what `Segmenter.prepared` gives (float32, N×C×H×W, any size) to logits N×K×H×W.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unetseg.errors import MachineError
from unetseg.prediction.fusion import fuse, is_fusible
from unetseg.prediction.recording import TOLERANCE, Recording, probe, record, relative_error
from unetseg.runtime import Machine
from unetseg.text import first_line
from unetseg.unet.segmenter import Segmenter

Backend = Callable[[Tensor], Tensor]
Rewrite = Callable[[Recording, torch.dtype], Backend]
"""Makes of a recording what runs in an arithmetic."""

COMPILED_PIXELS = 2 * 10**9
"""Pixels of a job from which compiling (half a minute) is taken to pay on a GPU; an estimate."""
BUCKET = 128
"""Pixels; sides are continued to its multiples, so that varied sizes do not compile anew."""
PROBES = (4, 5)
"""Sides of the images that a rewritten network is tried on, in strides of the network."""
USUAL = 3
"""From its third image on, a size is worth a graph of its own, where networks need one."""
MOST_GRAPHS = 8
"""Graphs that are kept for networks that need one for each size."""


@dataclass(frozen=True)
class Choice:
    """A backend, and why it was taken."""

    name: str
    reason: str
    backend: Backend

    def __str__(self) -> str:
        return f"engine {self.name} ({self.reason})"


def choose_backend(
    segmenter: Segmenter, machine: Machine, engine: str, pixels: int | None = None
) -> Choice:
    """The backend called `engine`; "auto" takes the fastest that earns back its preparation.

    Args:
        segmenter: In evaluation mode, on the machine's device; not to be changed afterwards.
        machine: Where it runs, and in which arithmetic.
        engine: auto, eager, fused, compile or openvino.
        pixels: What is to be predicted in all, if that is known.

    Raises:
        MachineError: the machine or the network does not allow `engine`.
    """
    if engine == "auto":
        return _fastest(segmenter, machine, pixels or 0)
    make: dict[str, Callable[[Segmenter, Machine], Backend]] = {
        "eager": eager,
        "fused": _fused,
        "compile": _compiled,
        "openvino": _openvino,
    }
    try:
        return Choice(engine, "as asked for", make[engine](segmenter, machine))
    except NotImplementedError as error:
        summary = f"--engine {engine} cannot run this network: {error}"
        raise MachineError(summary, fix="Choose --engine auto.") from error


def _fastest(segmenter: Segmenter, machine: Machine, pixels: int) -> Choice:
    """The choice of "auto"."""
    usual = eager(segmenter, machine)
    if machine.device.type == "mps":
        return Choice("eager", "nothing else is known to work on MPS", usual)
    try:
        fused = _fused(segmenter, machine)
    except (MachineError, NotImplementedError) as error:
        return Choice("eager", str(error), usual)
    if machine.is_cpu:
        return Choice("fused", "as fast as compiled code, without compiling", fused)
    if pixels < COMPILED_PIXELS:
        return Choice("fused", "the job is too short to earn back compiling", fused)
    return Choice("compile", "the job is long", _compiled(segmenter, machine, fused))


def _fused(segmenter: Segmenter, machine: Machine) -> "Rewritten":
    if machine.is_cpu and not is_fusible(machine.dtype):
        raise MachineError(f"oneDNN has no fused operations in {machine.dtype} here")
    return Rewritten(segmenter, machine, fuse if machine.is_cpu else folded)


def _compiled(
    segmenter: Segmenter, machine: Machine, otherwise: Backend | None = None
) -> "Compiled":
    return Compiled(Rewritten(segmenter, machine, folded, finish=torch.compile), otherwise)


def _openvino(segmenter: Segmenter, machine: Machine) -> Backend:
    from unetseg.prediction.openvino import OpenVinoNetwork  # an extra

    if not machine.is_cpu:
        raise MachineError("--engine openvino runs on the CPU", fix="Add --device cpu.")
    network: Backend = OpenVinoNetwork(segmenter.network, machine.dtype, torch.get_num_threads())
    return network


def folded(recording: Recording, dtype: torch.dtype) -> Backend:
    """A recorded network as it is, its batch norms folded; the recording is used up."""
    return recording.cast(dtype).module()


def eager(segmenter: Segmenter, machine: Machine) -> Backend:
    """The network as it was trained, in torch's automatic mixed precision."""

    def network(image: Tensor) -> Tensor:
        with machine.autocast():
            logits: Tensor = segmenter.network(image)
        return logits

    return network


class Rewritten:
    """The network recorded and rewritten.

    Most networks do the same at every size: one graph serves them. Of the others, sizes that come
    often get a graph of their own.

    Args:
        segmenter: In evaluation mode.
        machine: Where it runs, and in which arithmetic.
        rewrite: `fuse` or `folded`.
        finish: Changes a graph once more: `torch.compile`.

    Raises:
        NotImplementedError: the network does something that cannot be rewritten.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        machine: Machine,
        rewrite: Rewrite,
        finish: Callable[[Any], Backend] = lambda graph: graph,
    ) -> None:
        self._network = segmenter.network
        self._dtype = machine.dtype
        self._eager = eager(segmenter, machine)
        self._rewrite, self._finish = rewrite, finish
        bands, device = segmenter.mean.numel(), segmenter.mean.device
        small, large = (
            probe(self._network.geometry, bands, (side, side)).to(device) for side in PROBES
        )
        recording = record(self._network.on_grid, small)
        tried = large if recording.of_any_size else small
        with torch.no_grad():
            logits = rewrite(recording.copy(), torch.float32)(tried)
            off = relative_error(logits, self._network.on_grid(tried))
        if not off <= TOLERANCE:
            raise NotImplementedError(f"rewritten, its logits are off by {off:.1%}")
        self._graph = self._make(recording) if recording.of_any_size else None
        self._seen: Counter[tuple[int, ...]] = Counter()
        self._graphs: OrderedDict[tuple[int, ...], Backend] = OrderedDict()

    def __call__(self, image: Tensor) -> Tensor:
        """Logits of a prepared image."""
        continued = self._network.continued(image)
        graph = self._graph_of_size(continued) if self._graph is None else self._graph
        if graph is None:
            return self._eager(image)
        return self._network.cropped(graph(continued.to(self._dtype)), image)

    def _make(self, recording: Recording) -> Backend:
        return self._finish(self._rewrite(recording, self._dtype))

    def _graph_of_size(self, image: Tensor) -> Backend | None:
        """The graph for images of this size alone, where they come often."""
        shape = tuple(image.shape)
        self._seen[shape] += 1
        if self._seen[shape] < USUAL:
            return None
        if shape not in self._graphs:
            self._graphs[shape] = self._make(record(self._network.on_grid, image))
        self._graphs.move_to_end(shape)
        if len(self._graphs) > MOST_GRAPHS:
            self._graphs.popitem(last=False)
        return self._graphs[shape]


class Compiled:
    """A network that is compiled at its first image.

    Args:
        network: What `torch.compile` gave.
        otherwise: Takes its place where compiling fails.
    """

    def __init__(self, network: Backend, otherwise: Backend | None = None) -> None:
        self._network = network
        self._otherwise = otherwise
        self._has_run = False

    def __call__(self, image: Tensor) -> Tensor:
        """Logits of a prepared image.

        Raises:
            MachineError: torch cannot compile here, and there is nothing else.
        """
        below, right = (-side % BUCKET for side in image.shape[-2:])
        mode = "reflect" if max(below, right) < min(image.shape[-2:]) else "replicate"
        try:
            logits = self._network(F.pad(image, (0, right, 0, below), mode))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if self._has_run:
                raise
            if self._otherwise is None:
                reason = first_line(error)
                fix = "Install a C++ compiler, or choose --engine auto."
                raise MachineError(f"torch cannot compile here: {reason}", fix=fix) from error
            self._network = self._otherwise
            return self._otherwise(image)
        self._has_run = True
        height, width = logits.shape[-2:]
        return logits[..., : height - below, : width - right]
