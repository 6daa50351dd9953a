"""Losses against torch and segmentation-models-pytorch, against their formulas, and as laws."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from unetseg.training.losses import SMOOTH, SegmentationLoss, deep_supervision, shrink_target

Loss = Callable[[Tensor, Tensor], Tensor]
law = settings(deadline=None, max_examples=30)
soft_dice, cross_entropy = SegmentationLoss("dice"), SegmentationLoss("ce")
dice_ce = SegmentationLoss("dice_ce")
LOSSES = [soft_dice, cross_entropy, dice_ce]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.kind)
seeds = st.integers(0, 2**32 - 1)


def batch(
    seed: int = 0, classes: int = 4, dtype: torch.dtype = torch.float32, ignored: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Logits 2×K×9×7 and target with every class present and a share ignored."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, 9, 7, generator=random, dtype=torch.float64)
    target = torch.randint(0, classes, (2, 9, 7), generator=random, dtype=torch.uint8)
    target[torch.rand(2, 9, 7, generator=random) < ignored] = 255
    target[:, 0, :classes] = torch.arange(classes, dtype=torch.uint8)
    return logits.to(dtype).requires_grad_(), target


def gradient(loss: Loss, logits: Tensor, target: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss(logits, target), logits)
    return found


@pytest.mark.long
@law
@given(seeds, st.integers(2, 7))
def test_dice_is_that_of_smp_when_every_class_is_present(seed: int, classes: int) -> None:
    from segmentation_models_pytorch.losses import DiceLoss  # takes seconds

    logits, target = batch(seed, classes)
    smp = DiceLoss(mode="multiclass", ignore_index=255, from_logits=True, smooth=SMOOTH)

    def reference(logits: Tensor, target: Tensor) -> Tensor:
        return torch.as_tensor(smp(logits, target.long()))

    torch.testing.assert_close(soft_dice(logits, target), reference(logits, target))
    torch.testing.assert_close(
        gradient(soft_dice, logits, target), gradient(reference, logits, target)
    )


@pytest.mark.long
def test_dice_of_some_classes_is_that_of_smp() -> None:
    from segmentation_models_pytorch.losses import DiceLoss

    logits, target = batch()
    reference = DiceLoss(mode="multiclass", classes=[1, 3], ignore_index=255, from_logits=True)
    torch.testing.assert_close(
        SegmentationLoss("dice", foreground=(1, 3))(logits, target),
        reference(logits, target.long()),
    )


@law
@given(seeds, st.integers(2, 7))
def test_cross_entropy_is_that_of_torch(seed: int, classes: int) -> None:
    logits, target = batch(seed, classes)
    weights = torch.linspace(0.5, 3, classes)
    ours = SegmentationLoss("ce", weights)

    def reference(logits: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(logits, target.long(), weights, ignore_index=255)

    torch.testing.assert_close(ours(logits, target), reference(logits, target))
    torch.testing.assert_close(gradient(ours, logits, target), gradient(reference, logits, target))
    torch.testing.assert_close(
        cross_entropy(logits, target),
        functional.cross_entropy(logits, target.long(), ignore_index=255),
    )


@every_loss
@pytest.mark.parametrize("ignored", [0.0, 0.5, 1.0])
def test_gradients_are_those_of_finite_differences(loss: Loss, ignored: float) -> None:
    logits, target = batch(classes=3, dtype=torch.float64, ignored=ignored)
    logits, target = logits[:1, :, :3, :4].detach().requires_grad_(), target[:1, :3, :4]
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits)


@every_loss
def test_ignored_pixels_have_no_gradient_and_no_say(loss: Loss) -> None:
    logits, target = batch()
    ignored = (target == 255).unsqueeze(1).expand_as(logits)
    found = gradient(loss, logits, target)
    assert (found[ignored] == 0).all()
    assert (found[~ignored] != 0).all()
    torch.testing.assert_close(
        loss(logits.masked_fill(ignored, 37.0), target), loss(logits, target), rtol=0, atol=0
    )


@every_loss
def test_a_batch_of_ignored_pixels_has_loss_zero_and_gradient_zero(loss: Loss) -> None:
    logits, target = batch()
    target = torch.full_like(target, 255)
    assert loss(logits, target).item() == 0
    assert (gradient(loss, logits, target) == 0).all()


def test_classes_of_weight_zero_alone_have_loss_zero() -> None:
    logits, target = batch(classes=2)
    loss = SegmentationLoss("ce", (0.0, 1.0))
    assert loss(logits, torch.zeros_like(target)).item() == 0


@every_loss
def test_a_perfect_prediction_costs_nothing(loss: Loss) -> None:
    _, target = batch(ignored=0)
    perfect = 40.0 * functional.one_hot(target.long(), 4).permute(0, 3, 1, 2)
    assert loss(perfect, target).item() == pytest.approx(0, abs=1e-6)


def test_a_wholly_wrong_prediction_has_dice_loss_one() -> None:
    _, target = batch(classes=2, ignored=0)
    wrong = 80.0 * functional.one_hot(1 - target.long(), 2).permute(0, 3, 1, 2)
    assert soft_dice(wrong, target).item() == pytest.approx(1, abs=1e-6)


def test_an_absent_class_is_left_out_of_the_dice_mean() -> None:
    logits, target = batch(classes=4)
    target[target == 2] = 255
    torch.testing.assert_close(
        soft_dice(logits, target), SegmentationLoss("dice", foreground=(0, 1, 3))(logits, target)
    )
    assert SegmentationLoss("dice", foreground=(2,))(logits, target).item() == 0


def test_dice_sums_over_the_batch_and_is_not_a_mean_of_images() -> None:
    logits, target = batch()
    stacked = logits.permute(1, 0, 2, 3).reshape(1, 4, 18, 7)  # the images one below the other
    torch.testing.assert_close(
        soft_dice(logits, target), soft_dice(stacked, target.reshape(1, 18, 7))
    )


@every_loss
def test_the_order_of_pixels_and_images_does_not_matter(loss: Loss) -> None:
    logits, target = batch()
    torch.testing.assert_close(loss(logits.flip(0, 2), target.flip(0, 1)), loss(logits, target))


@every_loss
def test_uint8_and_int64_targets_are_alike(loss: Loss) -> None:
    logits, target = batch()
    assert loss(logits, target).item() == loss(logits, target.long()).item()


def test_dice_ce_is_the_sum() -> None:
    logits, target = batch()
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    of_dice, of_ce = SegmentationLoss("dice", foreground=(1, 2)), SegmentationLoss("ce", weights)
    torch.testing.assert_close(
        SegmentationLoss("dice_ce", weights, (1, 2))(logits, target),
        of_dice(logits, target) + of_ce(logits, target),
    )


@every_loss
def test_arithmetic_is_float32_under_autocast_and_for_half_logits(loss: Loss) -> None:
    logits, target = batch()
    half = logits.detach().to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(half, target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(half.float(), target), rtol=1e-6, atol=1e-7)


@every_loss
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_huge_logits_give_finite_losses_and_gradients(loss: Loss, size: float) -> None:
    logits, target = batch()
    huge = (logits.detach().sign() * size / 4).requires_grad_()
    assert loss(huge, target).isfinite()
    assert gradient(loss, huge, target).isfinite().all()


@every_loss
def test_large_batches_are_summed_exactly_enough(loss: Loss) -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 3, 256, 256, generator=random)
    target = torch.randint(0, 3, (8, 256, 256), generator=random, dtype=torch.uint8)
    torch.testing.assert_close(
        loss(logits, target).double(), loss(logits.double(), target), rtol=1e-5, atol=0
    )


def test_each_part_takes_its_own_settings_alone() -> None:
    logits, target = batch()
    weights, foreground = (1.0, 2.0, 3.0, 4.0), (1, 2)
    of_dice = SegmentationLoss("dice", foreground=foreground)(logits, target)
    of_ce = SegmentationLoss("ce", torch.tensor(weights))(logits, target)
    assert torch.equal(SegmentationLoss("dice", weights, foreground)(logits, target), of_dice)
    assert torch.equal(SegmentationLoss("ce", weights, foreground)(logits, target), of_ce)
    assert of_dice.item() != soft_dice(logits, target).item()
    assert of_ce.item() != cross_entropy(logits, target).item()


@law
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_targets_shrink_as_torch_interpolates(height: int, width: int, low: int, thin: int) -> None:
    low, thin = min(low, height), min(thin, width)
    target = (torch.arange(2 * height * width) % 251).reshape(2, height, width).to(torch.uint8)
    reference = functional.interpolate(target[:, None], (low, thin), mode="nearest")[:, 0]
    torch.testing.assert_close(shrink_target(target, low, thin), reference)


def test_deep_supervision_of_one_level_is_the_loss() -> None:
    logits, target = batch()
    torch.testing.assert_close(deep_supervision(dice_ce, [logits], target), dice_ce(logits, target))


def test_deep_supervision_weighs_each_level_half_of_the_one_before() -> None:
    logits, target = batch()
    levels = [logits, logits[..., :5, :4], logits[..., :3, :2]]
    losses = [dice_ce(x, shrink_target(target, *x.shape[2:])) for x in levels]
    expected = (4 * losses[0] + 2 * losses[1] + losses[2]) / 7
    torch.testing.assert_close(deep_supervision(dice_ce, levels, target), expected)


def test_gradient_descent_finds_the_target() -> None:
    _, target = batch()
    logits = torch.zeros(2, 4, 9, 7, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.5)
    for _ in range(40):
        optimizer.zero_grad()
        dice_ce(logits, target).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    counted = target != 255
    assert (logits.argmax(1)[counted] == target[counted]).all()
