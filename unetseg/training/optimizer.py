"""What moves the weights, and the running mean of them that is kept.

Whether a gradient is a number stays a tensor on the device, so that no step waits for the device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unetseg.config import TrainingConfig

EMA_DECAY = 0.999
"""Largest decay of the running mean of the weights; it grows towards that as (1 + s) / (10 + s)."""
FUSED = {"cpu", "cuda"}
"""Devices whose fused optimizers divide by `grad_scale`, and rest where `found_inf` is 1."""


def build_optimizer(
    segmenter: nn.Module, lr: float, config: TrainingConfig
) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum; norms and biases are not decayed."""
    parameters = [p for p in segmenter.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in parameters if p.ndim > 1],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=True)
    sgd = torch.optim.SGD(groups, lr=lr, momentum=0.99, nesterov=True, fused=True)
    for parameter in parameters:  # torch would take memory as it is, and fill it in the first step
        sgd.state[parameter] = {"momentum_buffer": torch.zeros_like(parameter)}
    return sgd


def move_weights(
    optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, longest: float
) -> Tensor:
    """One step along the gradients, which are used up; none where they are no numbers.

    Args:
        optimizer: From `build_optimizer`.
        scaler: What the loss was scaled by.
        longest: Norm that longer gradients are scaled to.

    Returns:
        Whether the gradients were numbers, a scalar on their device.
    """
    scaler.unscale_(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    finite = norm.isfinite()
    if norm.device.type in FUSED:
        optimizer.grad_scale = (norm / longest).clamp(min=1)  # type: ignore[attr-defined]
        optimizer.found_inf = finite.logical_not().float()  # type: ignore[attr-defined]
        scaler.step(optimizer)
    elif finite or scaler.is_enabled():  # the scaler skips such a step itself
        nn.utils.clip_grads_with_norm_(parameters, longest, norm)
        scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return finite


@torch.no_grad()
def update_average(average: nn.Module, live: nn.Module, step: int, finite: Tensor) -> None:
    """Move the running mean of all weights and buffers towards the live ones, where `finite`."""
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    sides = ([*module.parameters(), *module.buffers()] for module in (average, live))
    pairs = list(zip(*sides, strict=True))
    means, nows = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
    torch._foreach_lerp_(means, nows, [finite * (1 - decay)] * len(means))
    for count, now in pairs:
        if not count.is_floating_point():
            count.copy_(now)


@torch.no_grad()
def restore_buffers(module: nn.Module, before: Sequence[Tensor], finite: Tensor) -> None:
    """Give the buffers of `module` the values from `before`, unless `finite`."""
    for now, old in zip(module.buffers(), before, strict=True):
        torch.where(finite, now, old, out=now)


class SkippedSteps:
    """How many steps were skipped, counted on the device.

    Args:
        device: Where the steps are made.
    """

    def __init__(self, device: torch.device) -> None:
        self._new, self._row, self._longest = torch.zeros(3, dtype=torch.int64, device=device)

    def count(self, finite: Tensor) -> None:
        """Count a step, which was made if `finite`."""
        skipped = finite.logical_not().long()
        self._new = self._new + skipped
        self._row = (self._row + 1) * skipped
        self._longest = torch.maximum(self._longest, self._row)

    def read(self) -> tuple[int, int]:
        """Steps skipped since the last reading, and the most in a row so far."""
        new, longest = torch.stack([self._new, self._longest]).tolist()
        self._new = torch.zeros_like(self._new)
        return new, longest
