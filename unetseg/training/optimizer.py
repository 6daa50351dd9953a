"""What moves the weights, and the running mean of them that is kept.

Whether a gradient is a number stays a tensor on the device, so that no step waits for the device.
The rules are torch's own functions, and Muon; torch's classes around them would import its
compiler, which takes seconds of every start.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from unetseg.errors import BundleError

EMA_DECAY = 0.999
"""Largest decay of the running mean of the weights; it grows towards that as (1 + s) / (10 + s)."""
FUSED = {"cpu", "cuda"}
"""Devices whose fused rules divide by `grad_scale`, and rest where `found_inf` is 1."""
MUON_LR = 20.0
"""Learning rate of Muon relative to AdamW's: both then change weights by about 1% in a step."""
NEWTON_SCHULZ = (2, 3)
"""Iterations that make Muon's directions equally long, before and after beginning anew."""


# ------------------------------------------------------------------ rules


class Rule(ABC):
    """How parameters are moved along their gradients.

    Args:
        parameters: What it moves.
        lr: Peak learning rate.
        weight_decay: Share of a weight that a step takes away, over the learning rate; Nesterov
            momentum has it in the gradient.

    Attributes:
        moments: What it remembers: lists of a tensor for each parameter, changed in place.
    """

    def __init__(self, parameters: Sequence[Tensor], lr: float, weight_decay: float) -> None:
        self.parameters, self.lr, self.weight_decay = list(parameters), lr, weight_decay
        self.moments = [[*map(torch.zeros_like, self.parameters)]]

    @abstractmethod
    def move(self, factor: float, divisor: Tensor | None, skip: Tensor | None) -> None:
        """One step at `factor` of the peak rate.

        Args:
            factor: 0–1.
            divisor: What gradients are divided by; None: they are as they should be.
            skip: 1 where nothing must change, else 0.
        """

    def with_gradients(self) -> list[list[Tensor]]:
        """Parameters that have a gradient, their gradients, and their moments."""
        rows = zip(self.parameters, *self.moments, strict=True)
        used = [(p, p.grad, *moments) for p, *moments in rows if p.grad is not None]
        return [*map(list, zip(*used, strict=True))] or [[] for _ in range(2 + len(self.moments))]


class AdamW(Rule):
    """Adam with decoupled weight decay (arXiv 1711.05101)."""

    def __init__(self, parameters: Sequence[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, lr, weight_decay)
        squares = [*map(torch.zeros_like, self.parameters)]
        steps = [torch.zeros((), device=p.device) for p in self.parameters]
        self.moments += [squares, steps]

    def move(self, factor: float, divisor: Tensor | None, skip: Tensor | None) -> None:
        """One step; see `Rule.move`."""
        weights, slopes, means, squares, steps = self.with_gradients()
        adamw(
            weights,
            slopes,
            means,
            squares,
            [],
            steps,
            fused=True,
            grad_scale=divisor,
            found_inf=skip,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.lr * factor,
            weight_decay=self.weight_decay,
            eps=1e-8,
            maximize=False,
        )


class Nesterov(Rule):
    """Gradient descent with Nesterov momentum 0.99, as nnU-Net has it."""

    def move(self, factor: float, divisor: Tensor | None, skip: Tensor | None) -> None:
        """One step; see `Rule.move`."""
        weights, slopes, means = self.with_gradients()
        sgd(
            weights,
            slopes,
            list[Tensor | None](means),
            fused=True,
            grad_scale=divisor,
            found_inf=skip,
            weight_decay=self.weight_decay,
            momentum=0.99,
            lr=self.lr * factor,
            dampening=0.0,
            nesterov=True,
            maximize=False,
        )


class Muon(Rule):
    """Nesterov momentum 0.95 along the singular vectors alone (Jordan et al. 2024).

    A weight of any shape counts as the matrix of its first axis by all others, and every direction
    of that matrix moves equally far: kellerjordan.github.io/posts/muon, arXiv 2502.16982.

    Args:
        parameters, lr, weight_decay: See `Rule`.
        dtype: What directions are computed in.
    """

    def __init__(
        self, parameters: Sequence[Tensor], lr: float, weight_decay: float, dtype: torch.dtype
    ) -> None:
        super().__init__(parameters, lr, weight_decay)
        self.dtype = dtype

    def move(self, factor: float, divisor: Tensor | None, skip: Tensor | None) -> None:
        """One step; see `Rule.move`."""
        weights, slopes, means = self.with_gradients()
        if divisor is not None and skip is not None:
            slopes = [torch.where(skip > 0, 0, slope / divisor) for slope in slopes]
        taken = 1.0 if skip is None else 1 - skip
        for weight, slope, mean in zip(weights, slopes, means, strict=True):
            mean.lerp_(slope, 0.05 * taken)
            matrix = slope.lerp(mean, 0.95).flatten(1)
            tall = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
            direction = orthogonal(matrix, self.dtype).view_as(weight) * tall
            direction = direction + self.weight_decay * weight
            weight.sub_(direction * (self.lr * factor * taken))


def orthogonal(matrix: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """U·Vᵀ of the singular value decomposition, roughly: singular values of 0.7–1.2.

    Five Newton–Schulz iterations of the fifth degree, computed in `dtype`. They run on the small
    matrix of inner products, of which they are polynomials, and once begin anew with the result,
    because rounding errors of that matrix grow from iteration to iteration.
    """
    is_wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if is_wide else matrix.T
    x = (x / (x.norm() + 1e-7)).to(dtype)
    unit = torch.eye(len(x), dtype=dtype, device=x.device)
    for iterations in NEWTON_SCHULZ:
        gram, product = x @ x.T, unit
        for left in reversed(range(iterations)):
            factor = 3.4445 * unit - 4.7750 * gram + 2.0315 * gram @ gram
            product = factor @ product
            if left:
                gram = factor @ gram @ factor
        x = product @ x
    result: Tensor = (x if is_wide else x.T).to(matrix.dtype)
    return result


class Optimizer:
    """Parameters, each moved by one of several rules.

    Args:
        rules: Which parameters are moved how.
        encoder: Further rules, for those of an encoder.

    Attributes:
        frozen: Whether the encoder rests; its moments go on.
    """

    def __init__(self, rules: Iterable[Rule], encoder: Iterable[Rule] = ()) -> None:
        self.encoder = list(encoder)
        self.rules = [*self.encoder, *rules]
        self.frozen = False

    @property
    def param_groups(self) -> list[dict[str, list[Tensor]]]:
        """The parameters as torch's GradScaler looks for them."""
        return [{"params": rule.parameters} for rule in self.rules]

    @torch.no_grad()
    def step(
        self, factor: float = 1.0, divisor: Tensor | None = None, skip: Tensor | None = None
    ) -> None:
        """Move all parameters that have a gradient; see `Rule.move`."""
        for rule in self.rules:
            rests = self.frozen and rule in self.encoder
            rule.move(0.0 if rests else factor, divisor, skip)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for rule in self.rules:
            for parameter in rule.parameters:
                parameter.grad = None

    def state(self) -> list[Tensor]:
        """What the rules remember, for `restore`."""
        return [each for rule in self.rules for moment in rule.moments for each in moment]

    def restore(self, state: Sequence[Tensor]) -> None:
        """Remember what `state` gave.

        Raises:
            BundleError: it is of another optimizer, or of an earlier version.
        """
        now = self.state()
        if [tensor.shape for tensor in now] != [getattr(each, "shape", None) for each in state]:
            raise BundleError(
                "the state is of another optimizer, or of an earlier version",
                fix="Train anew, or start from its weights: unetseg train DATA --from RUN",
            )
        for tensor, each in zip(now, state, strict=True):
            tensor.copy_(each)


def build_optimizer(
    segmenter: nn.Module,
    kind: str,
    lr: float,
    weight_decay: float,
    encoder_lr: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> Optimizer:
    """The rules for all parameters that learn; norms and biases are not decayed.

    Args:
        segmenter: The network.
        kind: adamw; muon (AdamW for all but convolutions larger than 1×1); or sgd.
        lr: Peak learning rate.
        weight_decay: See `Rule`.
        encoder_lr: Learning rate of the encoder, relative to `lr`; None: it is one of all.
        dtype: What Muon's directions are computed in.
    """
    named = [(name, p) for name, p in segmenter.named_parameters() if p.requires_grad]
    if encoder_lr is None:
        return Optimizer(_rules([p for _, p in named], kind, lr, weight_decay, dtype))
    encoder = [p for name, p in named if name.startswith("network.encoder.")]
    rest = [p for name, p in named if not name.startswith("network.encoder.")]
    return Optimizer(
        _rules(rest, kind, lr, weight_decay, dtype),
        _rules(encoder, kind, encoder_lr * lr, weight_decay, dtype),
    )


def _rules(
    learning: list[nn.Parameter], kind: str, lr: float, weight_decay: float, dtype: torch.dtype
) -> list[Rule]:
    matrices = [p for p in learning if p.ndim > 1]
    rest = [p for p in learning if p.ndim <= 1]
    if kind == "sgd":
        return [Nesterov(matrices, lr, weight_decay), Nesterov(rest, lr, 0.0)]
    rules: list[Rule] = [AdamW(matrices, lr, weight_decay), AdamW(rest, lr, 0.0)]
    if kind == "muon":
        # Not the head, nor other 1×1, nor kernels that each see one channel.
        spatial = [p for p in matrices if p.ndim == 4 and p.shape[1] > 1 and p[0, 0].numel() > 1]
        chosen = set(map(id, spatial))
        others = [p for p in matrices if id(p) not in chosen]
        rules[:1] = [
            Muon(spatial, MUON_LR * lr, weight_decay, dtype),
            AdamW(others, lr, weight_decay),
        ]
    return rules


def move_weights(
    optimizer: Optimizer, scaler: torch.amp.GradScaler, longest: float, factor: float
) -> Tensor:
    """One step along the gradients, which are used up; none where they are no numbers.

    Args:
        optimizer: From `build_optimizer`.
        scaler: What the loss was scaled by.
        longest: Norm that longer gradients are scaled to.
        factor: Learning rate, relative to its peak.

    Returns:
        Whether the gradients were numbers, a scalar on their device.
    """
    scaler.unscale_(optimizer)  # type: ignore[arg-type]
    parameters = [p for rule in optimizer.rules for p in rule.parameters]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    finite = norm.isfinite()
    if norm.device.type in FUSED:
        optimizer.step(factor, (norm / longest).clamp(min=1), finite.logical_not().float())
    elif finite:
        nn.utils.clip_grads_with_norm_(parameters, longest, norm)
        optimizer.step(factor)
    scaler.update()
    optimizer.zero_grad()
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
