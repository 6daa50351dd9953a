"""The U-Net: exact output sizes, editable skips, openings, and the machines it runs on."""

import itertools
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unetseg.config import NetworkConfig, SkipKind
from unetseg.errors import ConfigError
from unetseg.unet.build import build_unet
from unetseg.unet.model import Geometry, UNet

SMALL: dict[str, Any] = {"depth": 3, "width": 4}


def build(bands: int = 3, classes: int = 2, **settings: Any) -> UNet:
    return build_unet(NetworkConfig(**settings), bands, classes)


def on_meta(bands: int, classes: int, **settings: Any) -> UNet:
    with torch.device("meta"):
        return build(bands, classes, **settings)


# Sizes of images


@pytest.mark.parametrize("settings", [{}, {"norm": "instance"}, {"block": "residual"}])
@pytest.mark.parametrize(
    "size", [(1, 1), (1, 40), (40, 1), (2, 3), (8, 8), (16, 16), (17, 31), (33, 64), (64, 48)]
)
def test_logits_are_as_large_as_the_image(size: tuple[int, int], settings: dict[str, Any]) -> None:
    network = build(3, 5, **SMALL, **settings)
    image = torch.randn(1, 3, *size)
    assert network(image).shape == (1, 5, *size)
    assert network.eval()(image).shape == (1, 5, *size)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_any_depth(depth: int) -> None:
    assert build(2, 3, depth=depth, width=2)(torch.randn(2, 2, 19, 50)).shape == (2, 3, 19, 50)


@pytest.mark.parametrize(
    ("size", "whole", "mode"),
    [((17, 31), (24, 32), "reflect"), ((1, 1), (16, 16), "edge"), ((3, 2), (16, 16), "edge")],
)
def test_an_image_is_continued_to_the_right_and_below(
    size: tuple[int, int], whole: tuple[int, int], mode: Any
) -> None:
    network, image = build(**SMALL).eval(), torch.randn(1, 3, *size)
    pads = [(0, 0), (0, 0), (0, whole[0] - size[0]), (0, whole[1] - size[1])]
    continued = torch.from_numpy(np.pad(image.numpy(), pads, mode=mode))
    assert continued.shape[-2:] == whole
    expected = network(continued)[..., : size[0], : size[1]]
    torch.testing.assert_close(network(image), expected)


def test_each_axis_is_mirrored_where_it_is_long_enough() -> None:
    network, image = build(**SMALL).eval(), torch.randn(1, 3, 1, 20)
    rows = np.pad(image.numpy(), [(0, 0), (0, 0), (0, 15), (0, 0)], mode="edge")
    whole = np.pad(rows, [(0, 0), (0, 0), (0, 0), (0, 4)], mode="reflect")
    torch.testing.assert_close(network(image), network(torch.from_numpy(whole))[..., :1, :20])


@pytest.mark.parametrize(("side", "expected"), [(572, 388), (188, 4), (573, 389), (185, 1)])
def test_valid_convolutions_lose_92_pixels_on_each_side(side: int, expected: int) -> None:
    network = on_meta(1, 2, preset="classic")
    assert network.geometry.margin == 92
    logits = network(torch.zeros(1, 1, side, 572, device="meta"))
    assert logits.shape == (1, 2, expected, 388)


@pytest.mark.parametrize(("side", "fitting"), [(572, 572), (571, 572), (573, 588), (1, 92)])
def test_sides_that_the_classic_works_on(side: int, fitting: int) -> None:
    assert Geometry(4, valid=True).fitting(side) == fitting


def test_tiles_of_the_classic_agree_with_the_whole() -> None:
    torch.manual_seed(0)
    network, image = build(1, 2, preset="classic").eval(), torch.randn(1, 1, 220, 204)
    with torch.no_grad():
        whole, tile = network(image), network(image[..., 16:204, 16:])
    torch.testing.assert_close(tile, whole[..., 16:20, 16:], atol=1e-4, rtol=1e-4)


def test_valid_convolutions_refuse_an_image_of_which_nothing_is_left() -> None:
    with pytest.raises(ConfigError) as error:
        on_meta(1, 2, preset="classic")(torch.zeros(1, 1, 184, 300, device="meta"))
    assert str(error.value) == (
        "an image of 184×300 pixels is too small for valid convolutions, which take at least "
        "185×185\nUse --padding same and preset unet, or larger images."
    )


# Skips


@pytest.mark.parametrize("kind", get_args(SkipKind))
def test_the_identity_changes_nothing(kind: str) -> None:
    network, image = build(**SMALL, skip=(kind,)).eval(), torch.randn(1, 3, 24, 24)
    assert torch.equal(network(image), network(image, lambda skips: list(skips)))


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("kind", get_args(SkipKind))
def test_muting_a_skip_matters_where_there_is_one(kind: str, level: int) -> None:
    def mute(skips: list[Tensor]) -> list[Tensor]:
        return [s * (index != level) for index, s in enumerate(skips)]

    network, image = build(**SMALL, skip=(kind,)).eval(), torch.randn(1, 3, 24, 24)
    assert torch.equal(network(image), network(image, mute)) == (kind == "none")


def test_an_edit_sees_the_skips_from_full_resolution_down() -> None:
    seen: list[tuple[int, ...]] = []

    def look(skips: list[Tensor]) -> list[Tensor]:
        seen.extend(tuple(skip.shape) for skip in skips)
        return skips

    build(**SMALL)(torch.randn(1, 3, 20, 24), look)
    assert seen == [(1, 4, 24, 24), (1, 8, 12, 12), (1, 16, 6, 6)]


def test_the_first_channels_of_a_decoder_block_are_the_skip() -> None:
    network, image = build(**SMALL).eval(), torch.randn(1, 3, 24, 24)
    with torch.no_grad():
        network.get_parameter("decoder.steps.0.block.0.weight")[:, :4] = 0
    edited = network(image, lambda skips: [torch.randn_like(skips[0]), *skips[1:]])
    assert torch.equal(network(image), edited)


def test_an_edit_may_not_lose_a_skip() -> None:
    with pytest.raises(ValueError, match="2 skips for 3 levels"):
        build(**SMALL)(torch.randn(1, 3, 24, 24), lambda skips: skips[1:])


# Openings


def adaptive(kind: str, **settings: Any) -> UNet:
    """A network whose gates do not let everything through, nor the same on every level."""
    torch.manual_seed(0)
    network = build(**SMALL, skip=(kind,), init="torch", **settings).eval()
    for name, parameter in network.named_parameters():
        if ".excite." in name or ".psi." in name or name.endswith("alpha"):
            nn.init.normal_(parameter)
    if kind == "switch":
        nn.init.constant_(network.get_parameter("decoder.steps.1.skip.slow_log_odds"), -1)
    return network


@pytest.mark.parametrize("kind", ["concat", "add", "none", "nested"])
def test_fixed_skips_have_no_openings(kind: str) -> None:
    assert build(**SMALL, skip=(kind,)).openings(torch.randn(2, 3, 24, 24)) == [None] * 3


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        ("learned", [(), (), ()]),
        ("switch", [(), (), ()]),
        ("gated", [(2, 4, 1, 1), (2, 8, 1, 1), (2, 16, 1, 1)]),
        ("attention", [(2, 1, 24, 32), (2, 1, 12, 16), (2, 1, 6, 8)]),
    ],
)
def test_openings_are_as_large_as_what_they_decide_on(
    kind: str, shapes: list[tuple[int, ...]]
) -> None:
    openings = adaptive(kind).openings(torch.randn(2, 3, 17, 31))  # continued to 24 × 32
    assert [None if each is None else tuple(each.shape) for each in openings] == shapes


def test_mixed_skips_have_openings_where_they_learn() -> None:
    network = build(**SMALL, skip=("attention", "concat", "learned"))
    openings = network.openings(torch.randn(1, 3, 24, 24))
    assert [opening is None for opening in openings] == [False, True, False]


@pytest.mark.parametrize("block", ["plain", "residual", "dense"])
@pytest.mark.parametrize(
    ("kind", "fixed"),
    [("learned", "add"), ("gated", "concat"), ("attention", "concat"), ("switch", "concat")],
)
def test_features_times_openings_are_what_the_decoder_gets(
    kind: str, fixed: str, block: str
) -> None:
    """A network with fixed skips and the same weights, its features weighed by hand."""
    network, image = adaptive(kind, block=block), torch.randn(2, 3, 24, 24)
    by_hand = build(**SMALL, skip=(fixed,), block=block).eval()
    assert not by_hand.load_state_dict(network.state_dict(), strict=False).missing_keys
    openings = network.openings(image)

    def weigh(skips: list[Tensor]) -> list[Tensor]:
        pairs = zip(skips, openings, strict=True)
        return [skip if opening is None else opening * skip for skip, opening in pairs]

    torch.testing.assert_close(network(image), by_hand(image, weigh))
    assert not torch.allclose(network(image), by_hand(image))


def test_where_attention_is_0_the_feature_does_not_matter() -> None:
    network, image = adaptive("attention"), torch.randn(1, 3, 24, 24)
    nn.init.zeros_(network.get_parameter("decoder.steps.1.skip.psi.1.weight"))
    nn.init.constant_(network.get_parameter("decoder.steps.1.skip.psi.1.bias"), -200)
    opening = network.openings(image)[1]
    assert opening is not None
    assert not opening.any()
    noise = network(image, lambda skips: [skips[0], torch.randn_like(skips[1]), skips[2]])
    assert torch.equal(network(image), noise)


# Training


@pytest.mark.parametrize("size", [(24, 40), (17, 31), (1, 1)])
def test_deep_supervision_has_logits_of_every_decoder_level(size: tuple[int, int]) -> None:
    network = build(3, 5, **SMALL, deep_supervision=True)
    shapes = [tuple(each.shape) for each in network.all_logits(torch.randn(2, 3, *size))]
    height, width = size
    halves = [(-(-height // 2**i), -(-width // 2**i)) for i in range(3)]
    assert shapes == [(2, 5, *half) for half in halves]


def test_the_first_of_all_logits_is_what_forward_returns() -> None:
    network, image = build(**SMALL, deep_supervision=True).eval(), torch.randn(1, 3, 17, 31)
    torch.testing.assert_close(network.all_logits(image)[0], network(image))


def test_without_deep_supervision_there_is_one_head() -> None:
    network = build(**SMALL)
    assert len(network.all_logits(torch.randn(1, 3, 24, 24))) == 1
    assert not network.coarse_heads
    heads = build(**SMALL, deep_supervision=True).coarse_heads
    assert sum(p.numel() for p in heads.parameters()) == 2 * (8 + 1) + 2 * (16 + 1)


def test_one_image_alone_or_in_a_batch() -> None:
    network, images = build(**SMALL).eval(), torch.randn(3, 3, 17, 31)
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(network(images), alone)


@pytest.mark.parametrize(
    ("block", "skip", "norm", "up"),
    list(
        itertools.product(
            ("plain", "residual"),
            ("concat", "add", "none"),
            ("batch", "group", "instance", "none"),
            ("transpose", "bilinear"),
        )
    ),
)
def test_the_gradient_reaches_every_parameter(block: str, skip: str, norm: str, up: str) -> None:
    torch.manual_seed(0)
    kinds: dict[str, Any] = {"block": block, "skip": (skip,), "norm": norm, "up": up}
    network = build(**kinds, depth=2, width=8, deep_supervision=True)
    logits = network.all_logits(torch.randn(2, 3, 24, 24))
    loss = torch.stack([(each * torch.randn_like(each)).sum() for each in logits]).sum()
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    for (name, _), gradient in zip(network.named_parameters(), gradients, strict=True):
        assert gradient.any(), name


# Machines


def test_channels_last_gives_the_same_logits() -> None:
    network, image = build(**SMALL).eval(), torch.randn(2, 3, 17, 31)
    expected = network(image)
    # torch's own types do not know this overload of Module.to
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    logits = network(image.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bf16_autocast(dtype: torch.dtype) -> None:
    network, image = build(**SMALL), torch.randn(2, 3, 17, 31, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(image)
    assert logits.shape == (2, 2, 17, 31)
    assert logits.isfinite().all()


@pytest.mark.parametrize("size", [(32, 32), (17, 31)])
def test_export(size: tuple[int, int]) -> None:
    network, image = build(**SMALL).eval(), torch.randn(1, 3, *size)
    program = torch.export.export(network, (image,))
    torch.testing.assert_close(program.module()(image), network(image))
