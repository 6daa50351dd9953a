"""The U-Net: published sizes, exact output sizes, editable skips, and every error's text."""

import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unetseg.config import NetworkConfig
from unetseg.errors import ConfigError
from unetseg.unet.build import CLASSIC, build_unet
from unetseg.unet.model import Geometry, UNet

FULL: dict[str, Any] = {"depth": 4, "width": 64}
SMALL: dict[str, Any] = {"depth": 3, "width": 4}
CLASSIC_PRESET: dict[str, Any] = {"preset": "classic"}


def build(bands: int = 3, classes: int = 2, **settings: Any) -> UNet:
    return build_unet(NetworkConfig(**settings), bands, classes)


def on_meta(bands: int, classes: int, **settings: Any) -> UNet:
    with torch.device("meta"):
        return build(bands, classes, **settings)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def gigaflops(network: UNet, bands: int, side: int) -> float:
    image = torch.zeros(1, bands, side, side, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(image)
    return round(float(counter.get_total_flops()) / 1e9, 1)


# Published sizes


@pytest.mark.parametrize(
    ("bands", "classes", "settings", "expected"),
    [
        (1, 1, CLASSIC_PRESET, 31_030_593),
        (1, 2, CLASSIC_PRESET, 31_030_658),
        (3, 1, CLASSIC_PRESET, 31_031_745),
        (3, 2, CLASSIC_PRESET, 31_031_810),
        (1, 1, FULL, 31_036_481),
        (1, 2, FULL, 31_036_546),
        (3, 1, FULL, 31_037_633),
        (3, 2, FULL, 31_037_698),
        (3, 2, {"depth": 4, "widths": (64, 128, 256, 512, 1024)}, 31_037_698),
        (3, 2, FULL | {"norm": "group"}, 31_037_698),
        (3, 2, FULL | {"norm": "instance"}, 31_037_698),
        (3, 2, {"depth": 4, "width": 32}, 7_763_074),
        (3, 2, {"depth": 4, "width": 16}, 1_942_594),
        (3, 2, {"depth": 4, "width": 8}, 486_562),
        (1, 1, {"depth": 4, "width": 32, "norm": "none"}, 7_759_521),
        (3, 2, FULL | {"skip": ("add",)}, 27_904_258),
        (3, 2, FULL | {"skip": ("none",)}, 27_904_258),
    ],
)
def test_parameters(bands: int, classes: int, settings: dict[str, Any], expected: int) -> None:
    assert parameters(on_meta(bands, classes, **settings)) == expected


def test_concat_costs_one_more_convolution_input_per_level_than_add() -> None:
    concat, add = (parameters(on_meta(3, 2, **FULL, skip=(kind,))) for kind in ("concat", "add"))
    assert concat - add == 9 * (64**2 + 128**2 + 256**2 + 512**2) == 3_133_440


def test_the_classic_has_23_convolutions() -> None:
    modules = list(on_meta(1, 2, preset="classic").modules())
    sizes = [m.kernel_size[0] for m in modules if isinstance(m, nn.Conv2d)]
    assert sizes.count(3) == 18
    assert sizes.count(1) == 1
    assert sum(isinstance(m, nn.ConvTranspose2d) for m in modules) == 4


@pytest.mark.parametrize(
    ("bands", "settings", "side", "expected"),
    [
        (1, CLASSIC_PRESET, 572, 300.9),
        (3, FULL, 512, 385.4),
        (3, FULL, 256, 96.3),
        (3, FULL | {"skip": ("add",)}, 512, 308.1),
        (3, FULL | {"skip": ("none",)}, 512, 308.1),
    ],
)
def test_arithmetic(bands: int, settings: dict[str, Any], side: int, expected: float) -> None:
    assert gigaflops(on_meta(bands, 2, **settings), bands, side) == expected


def test_a_training_step_is_three_times_a_forward_pass() -> None:
    network, image = on_meta(3, 2, **FULL), torch.zeros(2, 3, 256, 256, device="meta")
    with FlopCounterMode(display=False) as counter:
        network(image).sum().backward()
    assert counter.get_total_flops() / 1e9 == pytest.approx(3 * 2 * 96.3, rel=0.01)


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


def test_the_identity_changes_nothing() -> None:
    network, image = build(**SMALL).eval(), torch.randn(1, 3, 24, 24)
    assert torch.equal(network(image), network(image, lambda skips: list(skips)))


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize(("kind", "matters"), [("concat", True), ("add", True), ("none", False)])
def test_muting_a_skip_matters_where_there_is_one(kind: str, matters: bool, level: int) -> None:
    def mute(skips: list[Tensor]) -> list[Tensor]:
        return [s * (index != level) for index, s in enumerate(skips)]

    network, image = build(**SMALL, skip=(kind,)).eval(), torch.randn(1, 3, 24, 24)
    assert torch.equal(network(image), network(image, mute)) != matters


def test_an_edit_sees_the_skips_from_full_resolution_down() -> None:
    seen: list[tuple[int, ...]] = []

    def look(skips: list[Tensor]) -> list[Tensor]:
        seen.extend(tuple(skip.shape) for skip in skips)
        return skips

    build(**SMALL)(torch.randn(1, 3, 20, 24), look)
    assert seen == [(1, 4, 24, 24), (1, 8, 12, 12), (1, 16, 6, 6)]


def test_kinds_are_given_from_the_top() -> None:
    network = build(**SMALL, skip=("none", "add", "concat")).eval()
    image = torch.randn(1, 3, 24, 24)

    def mute_top(skips: list[Tensor]) -> list[Tensor]:
        return [torch.zeros_like(skips[0]), *skips[1:]]

    assert torch.equal(network(image), network(image, mute_top))
    names = [type(step.skip).__name__ for step in network.decoder.steps]
    assert names == ["NoSkip", "Add", "Concat"]


def test_the_first_channels_of_a_decoder_block_are_the_skip() -> None:
    network, image = build(**SMALL).eval(), torch.randn(1, 3, 24, 24)
    with torch.no_grad():
        network.get_parameter("decoder.steps.0.block.0.weight")[:, :4] = 0
    edited = network(image, lambda skips: [torch.randn_like(skips[0]), *skips[1:]])
    assert torch.equal(network(image), edited)


def test_an_edit_may_not_lose_a_skip() -> None:
    with pytest.raises(ValueError, match="2 skips for 3 levels"):
        build(**SMALL)(torch.randn(1, 3, 24, 24), lambda skips: skips[1:])


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
    assert parameters(heads) == 2 * (8 + 1) + 2 * (16 + 1)


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


def test_add_may_join_widths_that_do_not_double() -> None:
    network = build(depth=2, widths=(4, 10, 7), skip=("add",))
    assert network(torch.randn(1, 3, 12, 12)).shape == (1, 2, 12, 12)


def test_one_image_alone_or_in_a_batch() -> None:
    network, images = build(**SMALL).eval(), torch.randn(3, 3, 17, 31)
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(network(images), alone)


def test_equal_seeds_give_equal_weights() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(build(**SMALL).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


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


def test_our_own_network_does_not_import_smp() -> None:
    program = (
        "import sys; from unetseg.config import NetworkConfig\n"
        "from unetseg.unet.build import build_unet\n"
        "build_unet(NetworkConfig(depth=1, width=1), 1, 2)\n"
        "assert 'segmentation_models_pytorch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# Settings


@pytest.mark.parametrize(
    ("settings", "offender"),
    [
        ({"width": 8}, "depth is 'auto': a number of levels, for example --depth 4"),
        ({"depth": 3}, "width is 'auto': a number of channels, for example --width 32"),
        ({"depth": 3, "widths": (4, 8)}, "widths has 2 numbers: depth 3 takes 4"),
        ({"depth": 1, "widths": (4, 0)}, "widths is (4, 0): every level has at least 1 channel"),
        (SMALL | {"skip": ("add", "none")}, "skip has 2 kinds: 1 for all levels, or 3"),
        (
            SMALL | {"padding": "valid"},
            "padding is 'valid': only --preset classic has valid convolutions",
        ),
        (
            SMALL | {"weights": "imagenet"},
            "weights is 'imagenet': it needs an --encoder, such as resnet34",
        ),
        ({"encoder": "resnet18", "depth": 2}, "depth is 2: an encoder has a depth of 3, 4 or 5"),
        (
            {"encoder": "resnet18", "widths": (1, 2)},
            "widths is (1, 2): the encoder resnet18 brings its own",
        ),
        ({"preset": "classic", "depth": 3}, "depth is 3: preset classic is 4"),
        ({"preset": "classic", "width": 32}, "width is 32: preset classic is 64"),
        ({"preset": "classic", "norm": "group"}, "norm is 'group': preset classic is 'none'"),
        (
            {"preset": "classic", "skip": ("add",)},
            "skip is ('add',): preset classic is ('concat',)",
        ),
        (
            {"preset": "classic", "encoder": "resnet18"},
            "encoder is 'resnet18': preset classic is None",
        ),
    ],
)
def test_settings_that_make_no_network(settings: dict[str, Any], offender: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(**settings)
    assert str(error.value) == (
        f"no network can be built from these settings\n  - {offender}\n"
        "Correct them in the flags or the --config file."
    )


def test_all_problems_are_listed() -> None:
    with pytest.raises(ConfigError) as error:
        build(0, 0, depth=3, widths=(1,), skip=("add", "add"), padding="valid", weights="x")
    assert error.value.offenders == [
        "widths has 1 numbers: depth 3 takes 4",
        "skip has 2 kinds: 1 for all levels, or 3",
        "padding is 'valid': only --preset classic has valid convolutions",
        "weights is 'x': it needs an --encoder, such as resnet34",
        "bands is 0: at least 1",
        "classes is 0: at least 1",
    ]


def test_the_classic_settings_may_be_spelled_out() -> None:
    spelled = NetworkConfig.model_validate({"preset": "classic"} | CLASSIC)
    with torch.device("meta"):
        assert parameters(build_unet(spelled, 1, 2)) == 31_030_658
