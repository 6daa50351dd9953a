"""What moves the weights, and the running mean of them that is kept."""

import torch
from torch import nn

from unetseg.config import TrainingConfig

EMA_DECAY = 0.999
"""Largest decay of the running mean of the weights; it grows towards that as (1 + s) / (10 + s)."""


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
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.99, nesterov=True)
    return torch.optim.AdamW(groups, lr=lr, fused=True)


@torch.no_grad()
def update_average(average: nn.Module, live: nn.Module, step: int) -> None:
    """Move the running mean of all weights and buffers towards the live ones."""
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    for mean, now in zip(average.state_dict().values(), live.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(now, 1 - decay)
        else:
            mean.copy_(now)


@torch.no_grad()
def restore_buffers(live: nn.Module, average: nn.Module) -> None:
    """Take the statistics of norms back from the running mean, after a step that was no number."""
    for now, mean in zip(live.buffers(), average.buffers(), strict=True):
        now.copy_(mean)
