"""Building: published sizes, what every setting makes of the network, and every error's text."""

import subprocess
import sys
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from unetseg.config import NetworkConfig, ShortcutKind, SkipKind
from unetseg.errors import ConfigError
from unetseg.unet.build import CLASSIC, build_unet
from unetseg.unet.model import UNet

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
        (3, 2, {"up": "aligned", "depth": 4, "widths": (64, 128, 256, 512, 512)}, 17_263_042),
        (3, 2, {"depth": 4, "width": 32}, 7_763_074),
        (3, 2, {"depth": 4, "width": 16}, 1_942_594),
        (3, 2, {"depth": 4, "width": 8}, 486_562),
        (1, 1, {"depth": 4, "width": 32, "norm": "none"}, 7_759_521),
        (3, 2, FULL | {"skip": ("add",)}, 27_904_258),
        (3, 2, FULL | {"skip": ("none",)}, 27_904_258),
        (1, 1, {"depth": 4, "width": 32, "norm": "none", "skip": ("nested",)}, 9_041_601),
        (3, 2, FULL | {"skip": ("attention",)}, 31_037_698 + 351_532),
    ],
)
def test_parameters(bands: int, classes: int, settings: dict[str, Any], expected: int) -> None:
    assert parameters(on_meta(bands, classes, **settings)) == expected


def test_concat_costs_one_more_convolution_input_per_level_than_add() -> None:
    concat, add = (parameters(on_meta(3, 2, **FULL, skip=(kind,))) for kind in ("concat", "add"))
    assert concat - add == 9 * (64**2 + 128**2 + 256**2 + 512**2) == 3_133_440


@pytest.mark.parametrize(
    ("kind", "other", "extra"),
    [("learned", "add", 4), ("switch", "concat", 4), ("pruned", "none", 0)],
)
def test_a_learned_or_switched_skip_costs_one_number(kind: str, other: str, extra: int) -> None:
    counts = [parameters(on_meta(3, 2, **FULL, skip=(each,))) for each in (kind, other)]
    assert counts[0] - counts[1] == extra


def test_a_gated_skip_costs_its_two_layers() -> None:
    counts = [parameters(on_meta(3, 2, **FULL, skip=(kind,))) for kind in ("gated", "concat")]
    squeeze = sum((2 * width + 1) * (2 * width // 8) for width in (64, 128, 256, 512))
    excite = sum((2 * width // 8 + 1) * width for width in (64, 128, 256, 512))
    assert counts[0] - counts[1] == squeeze + excite


def test_a_zero_padded_shortcut_and_none_cost_nothing() -> None:
    residual = FULL | {"block": "residual"}
    plain = parameters(on_meta(3, 2, **FULL))
    assert parameters(on_meta(3, 2, **residual, shortcut="zero_pad")) == plain
    assert parameters(on_meta(3, 2, **residual, shortcut="none")) == plain
    assert parameters(on_meta(3, 2, **residual)) > plain


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


# Kinds


def test_kinds_are_given_from_the_top() -> None:
    network = build(**SMALL, skip=("none", "add", "concat")).eval()
    image = torch.randn(1, 3, 24, 24)

    def mute_top(skips: list[Tensor]) -> list[Tensor]:
        return [torch.zeros_like(skips[0]), *skips[1:]]

    assert torch.equal(network(image), network(image, mute_top))
    names = [type(step.skip).__name__ for step in network.decoder.steps]
    assert names == ["NoSkip", "Add", "Concat"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"skip": ("learned",)}, [1.0] * 3),
        ({"block": "residual", "shortcut": "learned"}, [1.0] * 7),
        ({"block": "residual", "shortcut": "rezero"}, [0.0] * 7),
        (
            {"block": "residual", "shortcut": "rezero", "skip": ("learned",), "alpha": 0.5},
            [0.5] * 10,
        ),
    ],
)
def test_alpha_starts_as_settings_say(settings: dict[str, Any], expected: list[float]) -> None:
    assert [p.item() for p in build(**SMALL, **settings).parameters() if not p.ndim] == expected


def test_every_level_has_so_many_blocks() -> None:
    counts = []
    for blocks in (1, 2, 3):
        modules = on_meta(3, 2, **SMALL, blocks_per_level=blocks).modules()
        counts.append(sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in modules))
    assert counts == [14, 28, 42]  # two in each block of seven levels


def test_growth_is_what_each_layer_of_a_dense_block_adds() -> None:
    def grown(**settings: Any) -> list[int]:
        level = on_meta(3, 2, **SMALL, block="dense", **settings).get_submodule("encoder.levels.1")
        return [m.out_channels for m in level.modules() if isinstance(m, nn.Conv2d)]

    assert grown(growth=5) == [5, 5, 5, 5, 8]
    assert grown() == [2, 2, 2, 2, 8]  # a quarter of the level's 8


def test_survival_weighs_the_branch_in_evaluation() -> None:
    settings: dict[str, Any] = {"block": "residual", "depth": 1, "width": 2, "norm": "none"}
    weighed = build(**settings, shortcut="deactivable", survival=0.5).eval()
    residual = build(**settings).eval()
    state = weighed.state_dict()
    residual.load_state_dict(
        {name: tensor / 2 if ".branch.3." in name else tensor for name, tensor in state.items()}
    )
    image = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(weighed(image), residual(image))


def test_a_whole_branch_weighs_as_much_as_that_of_a_plain_residual_block() -> None:
    image, networks = torch.randn(1, 3, 16, 16), []
    whole: dict[str, Any] = {"shortcut": "deactivable", "deactivable": "whole"}
    for settings in (whole, {}):
        torch.manual_seed(0)
        networks.append(build(depth=1, width=4, block="residual", **settings).eval())
    dropping, residual = networks
    torch.testing.assert_close(dropping(image), residual(image))


@pytest.mark.parametrize("alpha", ["nan", "inf"])
def test_alpha_is_a_number(alpha: str) -> None:
    with pytest.raises(ValueError, match="finite"):
        NetworkConfig(alpha=float(alpha))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"blocks_per_level": 2},
        {"norm": "none"},
        {"block": "dense"},
        *({"block": "residual", "shortcut": kind} for kind in get_args(ShortcutKind)),
    ],
)
@pytest.mark.parametrize("level", [0, 2])
def test_a_pruned_level_is_a_closed_switch_without_its_channels(
    level: int, settings: dict[str, Any]
) -> None:
    kinds = ["switch"] * 3
    switched = build(**SMALL, **settings, skip=tuple(kinds)).eval()
    nn.init.constant_(switched.get_parameter(f"decoder.steps.{level}.skip.slow_log_odds"), -1)
    kinds[level] = "pruned"
    pruned = build(**SMALL, **settings, skip=tuple(kinds)).eval()
    state = switched.state_dict()
    # the decoder's own channels come last
    pruned.load_state_dict(
        {
            name: state[name][:, -tensor.shape[1] :] if tensor.ndim == 4 else state[name]
            for name, tensor in pruned.state_dict().items()
        }
    )
    image = torch.randn(1, 3, 24, 24)
    torch.testing.assert_close(pruned(image), switched(image))
    assert parameters(pruned) < parameters(switched)


@pytest.fixture(scope="module")
def mit_image() -> Tensor:
    return torch.randn(1, 3, 32, 32)


@pytest.mark.long
@pytest.mark.parametrize("kind", get_args(SkipKind))
def test_every_kind_with_an_encoder_without_features_at_half_resolution(
    kind: str, mit_image: Tensor
) -> None:
    network = build(3, 5, encoder="mit_b0", depth=3, skip=(kind,)).eval()
    assert network.encoder.widths[1] == 0
    assert type(network.decoder.steps[1].skip).__name__ == "NoSkip"
    assert network(mit_image).shape == (1, 5, 32, 32)
    assert network.openings(mit_image)[1] is None


def test_add_may_join_widths_that_do_not_double() -> None:
    network = build(depth=2, widths=(4, 10, 7), skip=("add",))
    assert network(torch.randn(1, 3, 12, 12)).shape == (1, 2, 12, 12)


@pytest.mark.long
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
        ({"encoder": "resnet18", "skip": ("add",) * 4}, "skip has 4 kinds: 1 for all levels, or 5"),
        (
            SMALL | {"shortcut": "zero_pad"},
            "shortcut is 'zero_pad': only --block residual has shortcuts",
        ),
        (
            SMALL | {"block": "dense", "shortcut": "none"},
            "shortcut is 'none': only --block residual has shortcuts",
        ),
        (SMALL | {"growth": 8}, "growth is 8: only --block dense grows"),
        (
            {"depth": 2, "width": 4, "survival": 0.5},
            "survival is 0.5: only --shortcut deactivable drops branches",
        ),
        (
            SMALL | {"alpha": 0.5},
            "alpha is 0.5: only --skip learned, --shortcut learned or --shortcut rezero has an α",
        ),
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
