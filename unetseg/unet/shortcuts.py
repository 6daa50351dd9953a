"""Shortcuts: how the input x of a block passes by its convolutions F.

A shortcut joins x, N×inputs×H×W, with F(x), N×outputs×H×W. It has a `path`, which gives x the
shape of F(x): the identity, zero padding or a projection. Some shortcuts learn, or
decide for each pixel, how much of x and of F(x) goes on.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]
"""Makes the normalisation layer of so many channels; `nn.Identity()` where there is none."""
MakePath = Callable[[int, int, Norm], nn.Module]
"""Makes a path from the channels that come in and go out and the norm."""
Branch = Callable[[Tensor], Tensor]
"""The convolutions F of a block."""

CARRY = -2.0
"""Bias of a highway's gate: at first it lets σ(−2) = 12% of F and 88% of x through."""


class Projection(nn.Sequential):
    """A 1×1 convolution and a norm: changes the channels (option B of He 2015, 1512.03385).

    Args:
        inputs: Channels of the block's input.
        outputs: Channels of the block's output.
        norm: Makes the norm; without one the convolution has a bias.
    """

    def __init__(self, inputs: int, outputs: int, norm: Norm) -> None:
        layer = norm(outputs)
        bias = isinstance(layer, nn.Identity)
        super().__init__(nn.Conv2d(inputs, outputs, 1, bias=bias), layer)


class ZeroPad(nn.Module):
    """x with channels of zeros added (option A of He 2015, 1512.03385).

    It has no parameters. Where the channels become fewer, as in a decoder behind [feature, up],
    the last ones go on: those of the path from below.

    Args:
        inputs: Channels of the block's input.
        outputs: Channels of the block's output.
        norm: Not used.
    """

    def __init__(self, inputs: int, outputs: int, norm: Norm) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, features: Tensor) -> Tensor:
        """N×inputs×H×W → N×outputs×H×W."""
        features = features[:, -self.outputs :, :, :]
        missing = self.outputs - features.shape[1]
        return nn.functional.pad(features, (0, 0, 0, 0, 0, missing)) if missing else features


def identity_or_projection(inputs: int, outputs: int, norm: Norm) -> nn.Module:
    """The identity where the channels agree, else a projection."""
    return nn.Identity() if inputs == outputs else Projection(inputs, outputs, norm)


class Sum(nn.Module):
    """F(x) + path(x): the residual connection (He 2015, 1512.03385).

    Args:
        path: Gives x the shape of F(x).
    """

    def __init__(self, path: nn.Module) -> None:
        super().__init__()
        self.path = path

    def forward(self, features: Tensor, branch: Branch) -> Tensor:
        """N×outputs×H×W."""
        carried: Tensor = self.path(features)
        return branch(features) + carried


class ScaledInput(nn.Module):
    """F(x) + α·path(x), α one learned number.

    Args:
        path: Gives x the shape of F(x).
        alpha: First value of α.
    """

    def __init__(self, path: nn.Module, alpha: float = 1.0) -> None:
        super().__init__()
        self.path = path
        self.alpha = nn.Parameter(torch.tensor(alpha))

    def forward(self, features: Tensor, branch: Branch) -> Tensor:
        """N×outputs×H×W."""
        carried: Tensor = self.path(features)
        return branch(features) + self.alpha * carried


class ScaledBranch(nn.Module):
    """path(x) + α·F(x), α one learned number: ReZero (2003.04887) and SkipInit (2002.10444).

    With α = 0 the block passes x on and F learns nothing in the first step, but α does.

    Args:
        path: Gives x the shape of F(x).
        alpha: First value of α.
    """

    def __init__(self, path: nn.Module, alpha: float = 0.0) -> None:
        super().__init__()
        self.path = path
        self.alpha = nn.Parameter(torch.tensor(alpha))

    def forward(self, features: Tensor, branch: Branch) -> Tensor:
        """N×outputs×H×W."""
        carried: Tensor = self.path(features)
        return carried + self.alpha * branch(features)


class Gate(nn.Conv2d):
    """A 1×1 convolution before a sigmoid that starts as one number: no weights, only a bias.

    Args:
        inputs: Channels that come in.
        outputs: Gates.
        bias: First value before the sigmoid; initialisation leaves it alone.
    """

    def __init__(self, inputs: int, outputs: int, bias: float) -> None:
        super().__init__(inputs, outputs, kernel_size=1)
        nn.init.zeros_(self.weight)
        assert self.bias is not None
        nn.init.constant_(self.bias, bias)


class Highway(nn.Module):
    """g·F(x) + (1 − g)·path(x), g = σ(W·path(x) + b) (Srivastava 2015, 1505.00387).

    g is a number for each channel and pixel; b starts at `CARRY`, so that x is carried.

    Args:
        path: Gives x the shape of F(x).
        width: Channels of F(x).
    """

    def __init__(self, path: nn.Module, width: int) -> None:
        super().__init__()
        self.path = path
        self.gate = Gate(width, width, CARRY)

    def forward(self, features: Tensor, branch: Branch) -> Tensor:
        """N×outputs×H×W."""
        carried: Tensor = self.path(features)
        gate = torch.sigmoid(self.gate(carried))
        return gate * branch(features) + (1 - gate) * carried


class Deactivable(nn.Module):
    """path(x) + b·F(x), b = 1 with probability p and else 0: stochastic depth (1603.09382).

    b is drawn for each training step; with b = 0 the convolutions are not even computed. In
    evaluation b is p, its mean, as in the paper (`whole` = False), or 1; then training divides
    by p instead, so that the mean is the same.

    Args:
        path: Gives x the shape of F(x).
        survival: p, 0–1.
        whole: Whether F(x) has its full weight in evaluation.
    """

    def __init__(self, path: nn.Module, survival: float = 0.8, *, whole: bool = False) -> None:
        super().__init__()
        self.path = path
        self.survival = survival
        self.in_training, self.in_evaluation = (1 / survival, 1.0) if whole else (1.0, survival)

    def forward(self, features: Tensor, branch: Branch) -> Tensor:
        """N×outputs×H×W."""
        carried: Tensor = self.path(features)
        if self.training and torch.rand(()).item() >= self.survival:
            return carried
        weight = self.in_training if self.training else self.in_evaluation
        return carried + weight * branch(features)


class NoShortcut(nn.Module):
    """F(x) alone: the control."""

    def forward(self, features: Tensor, branch: Branch) -> Tensor:
        """N×outputs×H×W."""
        return branch(features)
