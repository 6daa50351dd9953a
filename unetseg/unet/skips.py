"""Skips: how one level of the decoder takes the encoder's features of the same resolution.

A skip joins `feature` N×inputs×H×W of the encoder with `up` N×outputs×H×W, the decoder's features
from below, doubled in size. Its attribute `width` is the number of channels that come out. Skips
that learn how much they let through also have `opening(feature, up)`.
"""

import math

import torch
from torch import Tensor, nn

from unetseg.unet.shortcuts import Gate, Norm

OPEN = 2.0
"""First value before the sigmoid of a gated skip: it lets σ(2) = 88% of each channel through."""
SQUEEZE = 8
"""How many times fewer channels than its input the hidden layer of a gated skip has."""

# The hard concrete distribution (Louizos 2018, 1712.01312, section 4.1).
TEMPERATURE = 2 / 3
BELOW, ABOVE = -0.1, 1.1
"""Ends of the interval that the gate is stretched to before it is cut to 0–1."""
SWITCH_START = 2.0
"""First log-odds of a switch: open with a probability of 97%."""
SWITCH_SPEED = 20.0
"""How many times faster than other weights Adam moves the log-odds: they have a long way to go."""


class Concat(nn.Module):
    """[feature, up] side by side, the encoder's channels first (Ronneberger 2015, 1505.04597).

    Args:
        inputs: Channels of the encoder's features.
        outputs: Channels of the decoder's features.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.width = inputs + outputs

    def forward(self, feature: Tensor, up: Tensor) -> Tensor:
        """N×(inputs + outputs)×H×W."""
        return torch.cat([feature, up], dim=1)


class Add(nn.Module):
    """feature + up (LinkNet, 1707.03718), with a 1×1 convolution where the channels differ.

    Args:
        inputs: Channels of the encoder's features.
        outputs: Channels of the decoder's features.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.width = outputs
        same = inputs == outputs
        self.project = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, feature: Tensor, up: Tensor) -> Tensor:
        """N×outputs×H×W."""
        projected: Tensor = self.project(feature)
        return projected + up


class NoSkip(nn.Module):
    """Up alone: the encoder's features of this level are not used.

    Args:
        inputs: Channels of the encoder's features, ignored.
        outputs: Channels of the decoder's features.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.width = outputs

    def forward(self, feature: Tensor, up: Tensor) -> Tensor:
        """N×outputs×H×W."""
        return up


class Learned(nn.Module):
    """α·feature + up, α one learned number (1×1 convolution where the channels differ).

    Args:
        inputs: Channels of the encoder's features.
        outputs: Channels of the decoder's features.
        alpha: First value of α.
    """

    def __init__(self, inputs: int, outputs: int, alpha: float = 1.0) -> None:
        super().__init__()
        self.add = Add(inputs, outputs)
        self.width = outputs
        self.alpha = nn.Parameter(torch.tensor(alpha))

    def forward(self, feature: Tensor, up: Tensor) -> Tensor:
        """N×outputs×H×W."""
        joined: Tensor = self.add(self.alpha * feature, up)
        return joined

    def opening(self, feature: Tensor, up: Tensor) -> Tensor:
        """α, any number."""
        return self.alpha


class Gated(nn.Module):
    """[s ⊙ feature, up]: the image decides, for each channel, how much of it passes.

    s = σ(W₂·ReLU(W₁·[mean of feature, mean of up])), N×inputs×1×1: squeeze and excitation (Hu 2017,
    1709.01507) of the skip, seeing both sides. The means are over the whole input, so a tile is
    gated by what is in it.

    Args:
        inputs: Channels of the encoder's features.
        outputs: Channels of the decoder's features.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.width = inputs + outputs
        hidden = max(4, self.width // SQUEEZE)
        self.squeeze = nn.Conv2d(self.width, hidden, 1)
        self.excite = Gate(hidden, inputs, OPEN)

    def forward(self, feature: Tensor, up: Tensor) -> Tensor:
        """N×(inputs + outputs)×H×W."""
        return torch.cat([self.opening(feature, up) * feature, up], dim=1)

    def opening(self, feature: Tensor, up: Tensor) -> Tensor:
        """s, N×inputs×1×1, 0–1."""
        means = [side.mean((2, 3), keepdim=True) for side in (feature, up)]
        hidden = self.squeeze(torch.cat(means, dim=1)).relu()
        return torch.sigmoid(self.excite(hidden))


class Attention(nn.Module):
    """[a ⊙ feature, up]: an attention gate decides for each pixel (Oktay 2018, 1804.03999).

    a = σ(norm(ψ·ReLU(norm(W·feature) + norm(G·up)))), N×1×H×W, with 1×1 convolutions to half the
    channels and to one. The gating signal is `up`, of the skip's own resolution, as in the usual
    implementations; the paper takes the coarser level and interpolates a.

    Args:
        inputs: Channels of the encoder's features.
        outputs: Channels of the decoder's features.
        norm: Makes the norms.
    """

    def __init__(self, inputs: int, outputs: int, norm: Norm) -> None:
        super().__init__()
        self.width = inputs + outputs
        hidden = max(1, inputs // 2)
        self.of_feature = nn.Sequential(nn.Conv2d(inputs, hidden, 1), norm(hidden))
        self.of_up = nn.Sequential(nn.Conv2d(outputs, hidden, 1), norm(hidden))
        self.psi = nn.Sequential(nn.Conv2d(hidden, 1, 1), norm(1))

    def forward(self, feature: Tensor, up: Tensor) -> Tensor:
        """N×(inputs + outputs)×H×W."""
        return torch.cat([self.opening(feature, up) * feature, up], dim=1)

    def opening(self, feature: Tensor, up: Tensor) -> Tensor:
        """a, N×1×H×W, 0–1."""
        return torch.sigmoid(self.psi((self.of_feature(feature) + self.of_up(up)).relu()))


class Switch(nn.Module):
    """[z·feature, up], z = 0 or 1: a switch per level, learned by gradient (Louizos 2018).

    In training z is drawn from the hard concrete distribution: mostly 0 or 1, with a gradient for
    the log-odds in between. In evaluation the switch is open if its log-odds are above 0; one that
    is undecided, near 0, is then set where training saw both. A closed one can be taken out of the
    network: see `unetseg prune`.

    Args:
        inputs: Channels of the encoder's features.
        outputs: Channels of the decoder's features.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.width = inputs + outputs
        self.slow_log_odds = nn.Parameter(torch.tensor(SWITCH_START / SWITCH_SPEED))

    @property
    def log_odds(self) -> Tensor:
        """Log-odds of the concrete variable, before it is stretched."""
        return SWITCH_SPEED * self.slow_log_odds

    @property
    def is_open(self) -> bool:
        """Whether the features pass in evaluation."""
        return self.slow_log_odds.item() > 0

    def probability(self) -> Tensor:
        """Probability that z is not 0 in training (equation 12 of the paper)."""
        return torch.sigmoid(self.log_odds - TEMPERATURE * math.log(-BELOW / ABOVE))

    def forward(self, feature: Tensor, up: Tensor) -> Tensor:
        """N×(inputs + outputs)×H×W."""
        return torch.cat([self.opening(feature, up) * feature, up], dim=1)

    def opening(self, feature: Tensor, up: Tensor) -> Tensor:
        """z: 0–1 in training, 0 or 1 in evaluation."""
        if not self.training:
            return (self.slow_log_odds > 0).to(feature.dtype)
        noise = torch.rand(()).clamp(1e-6, 1 - 1e-6).logit()  # on the CPU: part of an exact resume
        noise = noise.to(feature.device, non_blocking=True)  # else every step would wait for a GPU
        concrete = torch.sigmoid((noise + self.log_odds) / TEMPERATURE)
        return (concrete * (ABOVE - BELOW) + BELOW).clamp(0, 1)


Adaptive = Learned | Gated | Attention | Switch
"""Skips with an `opening`."""
Skip = Concat | Add | NoSkip | Adaptive


def expected_open_switches(network: nn.Module) -> Tensor | None:
    """Sum of the probabilities that the switches of `network` are open; None if it has none."""
    found = [part.probability() for part in network.modules() if isinstance(part, Switch)]
    return torch.stack(found).sum() if found else None


def crop(feature: Tensor, like: Tensor) -> Tensor:
    """The middle of `feature`, as high and wide as `like` (all of it in padded networks)."""
    height, width = like.shape[-2:]
    top, left = (feature.shape[-2] - height) // 2, (feature.shape[-1] - width) // 2
    return feature[..., top : top + height, left : left + width]
