"""What the figures say to do, in sentences."""

from collections.abc import Iterator

import torch

from unetseg.runtime import Machine, choose_dtype, dtype_name
from unetseg.speed.network import Comparison
from unetseg.speed.stages import PredictionSpeed
from unetseg.speed.training import TrainingSpeed

NEAR = 0.5
"""Share of the ceiling from which the network is called well fed."""
EQUAL = 1.1
"""Ratio up to which two times are called equal."""

STAGES = {
    "read": "reading the images takes longest: JPEG and uncompressed TIFF decode several times "
    "faster than PNG and deflated TIFF",
    "write": "writing the masks takes longest: a faster disk for the masks helps",
}


def advise(
    machine: Machine,
    why: str,
    compared: Comparison,
    prediction: PredictionSpeed,
    training: TrainingSpeed | None,
) -> tuple[str, ...]:
    """A few sentences, about everything that was measured; see the functions below."""
    return (
        *advise_arithmetic(machine, compared, why),
        *advise_engine(machine, compared),
        *advise_prediction(prediction),
        *(advise_training(training) if training else ()),
    )


def advise_arithmetic(machine: Machine, compared: Comparison, why: str = "") -> Iterator[str]:
    """About bf16 and fp16: whether the machine has units for it, and whether they are used.

    Args:
        machine: Where the network runs, and in which arithmetic.
        compared: The engines.
        why: What the bundle says against fast arithmetic, if it does.
    """
    used, fast = dtype_name(machine.dtype), choose_dtype("auto", machine.device)
    if why:
        yield why
    elif machine.dtype != torch.float32:
        times = compared.ceiling(used).gflops / compared.ceiling("float32").gflops
        gain = _gain(compared, used)
        yield f"{used} units: they multiply {times:.1f} times as fast as float32{gain}"
    elif fast != torch.float32:
        yield f"float32 leaves the {dtype_name(fast)} units idle; --precision auto uses them"
    elif machine.is_cpu:
        yield (
            "this processor has no bf16 units, so the network runs in float32: one with AMX or "
            "AVX-512 BF16, or a GPU, is several times faster"
        )


def _gain(compared: Comparison, used: str) -> str:
    fastest, plain = compared.fastest(used), compared.fastest("float32")
    if fastest is None or plain is None:
        return ""
    times = plain.pace.seconds / fastest.pace.seconds
    return f", and this network runs {times:.1f} times as fast"


def advise_engine(machine: Machine, compared: Comparison) -> Iterator[str]:
    """About the fastest engine, and how near it comes to what the machine can do."""
    used = dtype_name(machine.dtype)
    fastest = compared.fastest(used)
    if fastest is None:
        return
    plain = [s for s in compared.engines if (s.engine, s.dtype) == ("eager", used)]
    times = plain[0].pace.seconds / fastest.pace.seconds if plain else 1.0
    faster = f", {times:.1f} times as fast as eager" if times > EQUAL else ""
    sentence = (
        f"the fastest engine is {fastest.engine}{faster}: "
        f"{fastest.share:.0%} of what a product of matrices reaches here"
    )
    if fastest.share < NEAR:
        sentence += "; layers with few channels move more memory than they multiply"
    yield sentence


def advise_prediction(speed: PredictionSpeed) -> Iterator[str]:
    """About the stage that bounds a prediction."""
    stages = speed.stages
    share = f"({stages.shares[stages.longest]:.0%} of the time of the stages alone)"
    if stages.longest == "network":
        yield (
            f"prediction: the network bounds it {share}; a smaller --scale or --width in training, "
            "or a GPU, makes it faster"
        )
    else:
        yield f"prediction: {STAGES[stages.longest]} {share}"


def advise_training(speed: TrainingSpeed) -> Iterator[str]:
    """About what bounds a training."""
    times = speed.loaded / speed.steps.images_per_second
    if speed.loading_bounds:
        yield (
            f"training: loading bounds it, with {times:.0%} of the crops that the steps could "
            "take: raise --workers, or choose --augment light"
        )
    else:
        yield (
            f"training: the steps bound it; loading could feed {times:.1f} times as many crops "
            f"({speed.share:.0%} of what a product of matrices reaches)"
        )
