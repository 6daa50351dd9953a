"""A checkpoint of milesial/Pytorch-UNet becomes a bundle whose masks are those of its network.

The network here is written from what is known of it: its layers, their names, and what is done with
an image before and after.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unetseg
from tests.builders import blotches, used_norms
from unetseg.cli.app import run as unetseg_command
from unetseg.errors import BundleError, ConfigError
from unetseg.export.pytorch_unet import import_weights

WIDTHS = (4, 8, 16, 32, 64)


class Named(nn.Module):
    """A module that holds another under a name."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def twice(inputs: int, outputs: int, middle: int | None = None, *, bias: bool = False) -> Named:
    middle = middle or outputs
    layers = nn.Sequential(
        nn.Conv2d(inputs, middle, 3, padding=1, bias=bias),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        nn.Conv2d(middle, outputs, 3, padding=1, bias=bias),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
    return Named(double_conv=layers)


class Theirs(nn.Module):
    """Four times down and up, with the names that its checkpoints have."""

    def __init__(self, bands: int = 3, classes: int = 2, *, bilinear: bool, bias: bool) -> None:
        super().__init__()
        widths = [*WIDTHS[:-1], WIDTHS[-1] // 2] if bilinear else [*WIDTHS]
        self.bilinear = bilinear
        self.inc = twice(bands, widths[0], bias=bias)
        for n in range(1, 5):
            block = nn.Sequential(nn.MaxPool2d(2), twice(widths[n - 1], widths[n], bias=bias))
            self.add_module(f"down{n}", Named(maxpool_conv=block))
        for n in range(1, 5):
            wide = WIDTHS[5 - n]
            out, middle = (wide // 4, wide // 2) if bilinear and n < 4 else (wide // 2, None)
            parts: dict[str, nn.Module] = {"conv": twice(wide, out, middle, bias=bias)}
            if not bilinear:
                parts["up"] = nn.ConvTranspose2d(wide, wide // 2, 2, stride=2)
            self.add_module(f"up{n}", Named(**parts))
        self.outc = Named(conv=nn.Conv2d(WIDTHS[0], classes, 1))

    def part(self, name: str) -> Any:
        return self.get_submodule(name)

    def forward(self, image: Tensor) -> Tensor:
        features = [self.part("inc.double_conv")(image)]
        for n in range(1, 5):
            pool, block = self.part(f"down{n}.maxpool_conv")
            features.append(block.double_conv(pool(features[-1])))
        below = features.pop()
        for n in range(1, 5):
            if self.bilinear:
                up = F.interpolate(below, scale_factor=2, mode="bilinear", align_corners=True)
            else:
                up = self.part(f"up{n}.up")(below)
            skip = features.pop()
            down, right = (a - b for a, b in zip(skip.shape[2:], up.shape[2:], strict=True))
            up = F.pad(up, (right // 2, right - right // 2, down // 2, down - down // 2))
            below = self.part(f"up{n}.conv.double_conv")(torch.cat([skip, up], 1))
        logits: Tensor = self.part("outc.conv")(below)
        return logits


def saved(folder: Path, values: Any = (0, 255), **how: Any) -> tuple[Path, Theirs]:
    """A checkpoint of random weights."""
    torch.manual_seed(0)
    network = Theirs(**({"bilinear": False, "bias": False} | how)).eval()
    used_norms(network)
    bands = network.part("inc.double_conv.0").in_channels
    with torch.inference_mode():  # all classes are to be found
        image = torch.from_numpy(blotches(64, 96, bands)).permute(2, 0, 1)[None].float() / 255
        logits = network(image)[0].flatten(1)
        network.part("outc.conv").bias -= logits.median(1).values
    state: dict[str, Any] = dict(network.state_dict())
    if values is not None:
        state["mask_values"] = list(values)
    torch.save(state, folder / "checkpoint_epoch5.pth")
    return folder / "checkpoint_epoch5.pth", network


def indexes(network: Theirs, image: np.ndarray) -> np.ndarray:
    """The classes of an image H×W×C, at its own scale."""
    with torch.inference_mode():
        logits = network(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0]
    if len(logits) == 1:
        return np.asarray((logits[0].sigmoid() > 0.5).int().numpy())
    return np.asarray(logits.argmax(0).numpy())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_masks_are_theirs(classes: int, bilinear: bool, bias: bool, tmp_path: Path) -> None:
    values = [0, 255] if classes < 3 else [0, 7, 300]
    file, network = saved(tmp_path, values, classes=classes, bilinear=bilinear, bias=bias)
    import_weights(file, tmp_path / "bundle", scale=1.0)
    how = {"device": "cpu", "precision": "float32", "engine": "eager"}
    model = unetseg.load(tmp_path / "bundle", **how)
    image = blotches(64, 96)
    wanted = indexes(network, image)
    assert len(np.unique(wanted)) > 1
    logits = network(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0].detach()
    found = model.engine.logits(model.pixels(image))
    torch.testing.assert_close(found[-len(logits) :], logits, rtol=1e-3, atol=1e-6)
    first, second, *_ = found.sort(0, descending=True).values
    is_clear = (first - second > 1e-6).numpy()  # where logits are equal, rounding decides
    assert is_clear.mean() > 0.2
    assert (model.predict(image) == np.array(values)[wanted])[is_clear].all()


def test_other_sides_differ_at_the_right_and_lower_border_alone(tmp_path: Path) -> None:
    file, network = saved(tmp_path)
    import_weights(file, tmp_path / "bundle", scale=1.0)
    model = unetseg.load(tmp_path / "bundle", device="cpu", precision="float32")
    image = blotches(301, 310)
    same = model.predict(image) == np.array([0, 255])[indexes(network, image)]
    assert same[:192, :192].all()
    assert same.mean() > 0.95


def test_colours_are_kept(tmp_path: Path) -> None:
    values = [[0, 0, 0], [255, 0, 0]]
    file, network = saved(tmp_path, values)
    import_weights(file, tmp_path / "bundle", scale=1.0)
    image = blotches(64, 64)
    model = unetseg.load(tmp_path / "bundle", device="cpu", precision="float32")
    mask = model.predict(image)
    np.testing.assert_array_equal(mask, np.array(values)[indexes(network, image)])


def test_the_command_tells_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, _ = saved(tmp_path, None, bands=1)
    words = ["import-weights", str(file), "-o", str(tmp_path / "my cars")]
    assert unetseg_command(words) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "1 bands of uint8, classes: background 0, foreground 1" in told
    assert "at 0.5 of their size" in told
    assert told.endswith(f"next: unetseg predict '{tmp_path / 'my cars'}' IMAGES -o masks")
    assert unetseg.load(tmp_path / "my cars").predict(blotches(50, 70, 1)).shape == (50, 70)
    assert unetseg_command(words) == 2  # it is there already
    assert unetseg_command([*words, "--scale", "2"]) == 2
    assert unetseg_command(["import-weights", str(tmp_path / "none.pth")]) == 2


def test_a_folder_that_is_there_is_refused(tmp_path: Path) -> None:
    file, _ = saved(tmp_path)
    with pytest.raises(ConfigError, match="is there already"):
        import_weights(file, tmp_path)


class Evil:
    """What is run when a pickle of it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("evil"),)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"inc.double_conv.0.weight": Evil()}, "cannot be read as a checkpoint"),
        ([1, 2], "no weights by name"),
        ({"conv.weight": torch.zeros(1)}, "is not of milesial/Pytorch-UNet"),
        (
            dict.fromkeys(("inc.double_conv.0.weight", "outc.conv.bias"), torch.zeros(1)),
            "is not of milesial/Pytorch-UNet",
        ),
    ],
)
def test_other_files_are_answered(
    state: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(BundleError, match=told):
        import_weights(tmp_path / "x.pth", tmp_path / "bundle")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("values", [[0], [0, 1, 2], "ab", [[0, 0], [1, 1]], [0, 0]])
def test_values_that_are_no_classes_are_answered(values: Any, tmp_path: Path) -> None:
    file, _ = saved(tmp_path, values)
    with pytest.raises(BundleError, match="mask_values are no classes"):
        import_weights(file, tmp_path / "bundle")


def test_all_that_is_missing_unknown_or_of_another_shape_is_listed(tmp_path: Path) -> None:
    file, _ = saved(tmp_path)
    state = torch.load(file, weights_only=True)
    del state["up1.conv.double_conv.0.weight"]
    state["extra"] = torch.zeros(1)
    state["up2.up.bias"] = torch.zeros(5)
    torch.save(state, file)
    with pytest.raises(BundleError) as caught:
        import_weights(file, tmp_path / "bundle")
    assert caught.value.offenders == [
        "up2.up.bias: (5,), expected (16,)",
        "up1.conv.double_conv.0.weight: missing",
        "extra: unknown",
    ]


def test_a_level_that_is_missing_is_told_as_that(tmp_path: Path) -> None:
    file, _ = saved(tmp_path)
    state = torch.load(file, weights_only=True)
    torch.save({name: value for name, value in state.items() if "down4." not in name}, file)
    with pytest.raises(BundleError, match="another network than milesial") as caught:
        import_weights(file, tmp_path / "bundle")
    missing = "down4.maxpool_conv.1.double_conv.0.weight: missing"
    assert missing in caught.value.offenders
