"""A trained U-Net run by OpenVINO, Intel's library for networks on processors; an extra.

The network is converted once, for all sizes; each size is compiled when it first comes. Code for
one size is 5–25% faster than OpenVINO's code for any size.
"""

import os
import sys
import warnings
from functools import cache, lru_cache
from textwrap import shorten
from typing import Any, cast

import torch
from torch import Tensor

from unetseg.errors import MachineError, imported
from unetseg.prediction.recording import EXAMPLE, TOLERANCE, OnGrid, probe, relative_error
from unetseg.runtime import after_fork
from unetseg.unet.model import UNet

SIZES_KEPT = 4
"""Sizes that stay compiled, the last used; each holds the weights once more."""
PROBE = (2, 3)
"""Height and width of the image that a converted network is tried on, in strides of it."""


class OpenVinoNetwork:
    """A U-Net that OpenVINO runs on the processor.

    The images of a batch are computed side by side, each by its share of the threads: threads that
    work at one image wait for one another after every layer.

    Args:
        network: In evaluation mode, on the CPU; not to be changed afterwards.
        dtype: Arithmetic of the convolutions: bfloat16 where the processor has it, or float32.
        threads: Processor threads that work at the same time.

    Raises:
        MachineError: OpenVINO is not installed, or its threads were left behind by a fork.
    """

    def __init__(self, network: UNet, dtype: torch.dtype, threads: int) -> None:
        self._openvino, self._core = openvino_package(), openvino_core()
        self._network = network
        self._precision = "bf16" if dtype == torch.bfloat16 else "f32"
        self._threads = threads
        self._model = lru_cache(1)(self._convert)
        self._compiled = lru_cache(SIZES_KEPT)(self._compile)

    def __call__(self, prepared: Tensor) -> Tensor:
        """Logits N×K×H×W float32 of prepared images N×C×H×W float32, of any height and width.

        Raises:
            MachineError: OpenVINO cannot run this network.
        """
        image = self._network.continued(prepared)
        streams = min(len(image), self._threads)
        compiled = self._compiled(tuple(image.shape[1:]), streams, self._precision)
        return self._network.cropped(self._run(compiled, image), prepared)

    def _convert(self, bands: int) -> Any:
        """OpenVINO's model of images whose sides fit the network, held against torch."""
        network, frontend = self._network, self._openvino.frontend
        failures = (RuntimeError, frontend.OpConversionFailure, frontend.GeneralFailure)
        example = probe(network.geometry, bands, EXAMPLE)
        # whoever predicts may be in inference mode and autocast, which would be written down
        with (
            warnings.catch_warnings(),
            torch.inference_mode(mode=False),
            torch.autocast("cpu", enabled=False),
            torch.no_grad(),
        ):
            warnings.simplefilter("ignore")  # of what torch deprecates and OpenVINO uses
            try:
                model = self._openvino.convert_model(OnGrid(network), example_input=example)
            except failures as error:
                raise _unfit(shorten(str(error), 400)) from error
        noise = probe(network.geometry, bands, PROBE)
        with torch.inference_mode():
            compiled = self._compile(tuple(noise.shape[1:]), 1, "f32", model)
            off = relative_error(self._run(compiled, noise), network.on_grid(noise))
        if not off <= TOLERANCE:
            raise _unfit(f"converted, its logits are off by {off:.1%}")
        return model

    def _compile(
        self, size: tuple[int, ...], streams: int, precision: str, model: Any = None
    ) -> Any:
        """The network for images of `size` (C, H, W), `streams` of them at the same time."""
        model = self._model(size[0]) if model is None else model
        model = model.clone()
        model.reshape([1, *size])
        steps = self._openvino.preprocess.PrePostProcessor(model)
        steps.input().tensor().set_layout(self._openvino.Layout("NHWC"))
        steps.input().model().set_layout(self._openvino.Layout("NCHW"))
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": streams,
            # bound to cores, the threads of two processes would share one and leave others idle
            "ENABLE_CPU_PINNING": False,
        }
        return self._core.compile_model(steps.build(), "CPU", settings)

    def _run(self, compiled: Any, image: Tensor) -> Tensor:
        """Logits of images of the compiled size; OpenVINO reads and writes torch's own memory."""
        pixels = image.permute(0, 2, 3, 1).contiguous()  # N, H, W, C: no copy if channels_last
        logits = torch.empty(len(pixels), *list(compiled.output(0).shape)[1:])
        requests = []
        for one, result in zip(pixels[:, None], logits[:, None], strict=True):  # batches of one
            request = compiled.create_infer_request()
            request.set_input_tensor(self._openvino.Tensor(one.numpy(), shared_memory=True))
            request.set_output_tensor(self._openvino.Tensor(result.numpy(), shared_memory=True))
            request.start_async()
            requests.append(request)
        for request in requests:
            request.wait()
        return logits


def openvino_package() -> Any:
    """OpenVINO without its telemetry, which sends usage data to Intel unless one opts out."""
    sys.modules.setdefault("openvino_telemetry", cast(Any, None))  # None: cannot be imported
    return imported("openvino", "openvino")


@cache
def _core() -> tuple[Any, int]:
    """OpenVINO's plugins, which stay for the life of the process, and the number of that.

    Its CPU plugin gives the thread that loads it another stack for signals, and unmaps that when it
    is unloaded, be it by another thread: the next signal, a Ctrl-C too, then ends the process.
    """
    return openvino_package().Core(), os.getpid()


def openvino_core() -> Any:
    """OpenVINO's plugins.

    Raises:
        MachineError: it is not installed, or its threads were left behind by a fork.
    """
    core, process = _core()
    if process != os.getpid():
        raise after_fork("OpenVINO, which the parent has used,")
    return core


def compiled(model: Any) -> Any:
    """A model as it is in a file, of any size, in float32 or what it says itself."""
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,  # see `OpenVinoNetwork`
    }
    return openvino_core().compile_model(model, "CPU", settings)


def _unfit(reason: str) -> MachineError:
    return MachineError("OpenVINO cannot run this network", [reason], fix="Choose --engine auto.")
