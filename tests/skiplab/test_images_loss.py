"""Laws of the loss on images: what it weighs, and that batching does not matter."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import update_bn

from tests.builders import bundle_info
from unetseg.bundle import build_segmenter
from unetseg.data.masks.class_map import IGNORED
from unetseg.errors import DataError
from unetseg.runtime import Machine
from unetseg.skiplab.images_loss import images_loss, recompute_statistics
from unetseg.skiplab.subject import Subject, View
from unetseg.training.losses import dice_ce
from unetseg.unet.segmenter import image_statistics

CPU = Machine(torch.device("cpu"), torch.float32, "CPU")


def subject_of(*views: View, norm: str = "batch") -> Subject:
    """A U-Net with random weights that looks at `views` of three bands and two classes."""
    torch.manual_seed(0)
    info = bundle_info({"norm": norm})
    return Subject(Path("run"), build_segmenter(info).eval(), info, CPU, "val", views)


def random_view(name: str, height: int, width: int, ignored: int = 0) -> View:
    """Random pixels and truth, the first `ignored` rows without a truth."""
    rng = np.random.default_rng(len(name) + height)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    truth = rng.integers(0, 2, (height, width), dtype=np.uint8)
    truth[:ignored] = IGNORED
    statistics = image_statistics(torch.from_numpy(image.transpose(2, 0, 1)[None].copy()))
    return View(name, image, truth, statistics)


def test_the_loss_is_that_of_each_image_weighed_by_its_counted_pixels() -> None:
    views = (
        random_view("a", 32, 32),
        random_view("b", 48, 32, ignored=40),
        random_view("c", 32, 32),
    )
    subject = subject_of(*views)
    expected, pixels = 0.0, 0
    for view in views:
        counted = int((view.truth != IGNORED).sum())
        with torch.no_grad():
            logits = subject.segmenter(view.tensor, view.statistics)
        loss = dice_ce(logits, torch.from_numpy(view.truth[None]), foreground=(1,))
        expected, pixels = expected + counted * loss.item(), pixels + counted
    assert images_loss(subject)(subject.segmenter) == pytest.approx(expected / pixels, rel=1e-5)


def test_the_loss_does_not_depend_on_how_images_are_batched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject = subject_of(*(random_view("v" * i, 32, 32) for i in range(1, 6)))
    together = images_loss(subject)
    monkeypatch.setattr("unetseg.skiplab.images_loss.PIXELS_AT_ONCE", 2 * 32 * 32)
    apart = images_loss(subject)
    assert [len(batch.shares) for batch in together.batches] == [5]
    assert [len(batch.shares) for batch in apart.batches] == [2, 2, 1]
    assert apart(subject.segmenter) == pytest.approx(together(subject.segmenter), rel=1e-5)


def test_images_without_truth_have_no_loss() -> None:
    with pytest.raises(DataError, match="every pixel of these images is ignored"):
        images_loss(subject_of(random_view("a", 32, 32, ignored=32)))


def test_statistics_are_recomputed_as_torch_does_it() -> None:
    subject = subject_of(random_view("a", 32, 32), random_view("b", 32, 64))
    ours, theirs = deepcopy(subject.segmenter), deepcopy(subject.segmenter)
    batches = images_loss(subject).batches
    recompute_statistics(ours, batches)
    update_bn([(batch.image,) for batch in batches], theirs)
    assert not any(module.training for module in ours.modules())
    assert len(batches) == 2
    for (name, buffer), other in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(buffer, other, msg=name)
