"""An exported file gives the masks of the run it was made of, in whatever runs it."""

import struct
import warnings
from itertools import product
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

import unetseg
from tests.builders import bundle_info, class_map, noise, random_segmenter, save_run
from unetseg.bundle import BundleInfo, join_bundles, save_bundle
from unetseg.cli.app import run as unetseg_command
from unetseg.config import ExportConfig
from unetseg.data.files.image import read_image
from unetseg.data.files.pngs import write_png
from unetseg.data.masks.class_map import ClassMap
from unetseg.errors import BundleError, ConfigError, MachineError
from unetseg.export import export as exporting
from unetseg.export.export import EQUAL, export
from unetseg.prediction.openvino import openvino_core

NETWORKS: dict[str, dict[str, Any]] = {
    "own": {"depth": 3},
    "resnet34": {"encoder": "resnet34", "depth": 3},
    "attention and gated skips": {"skip": ("attention", "gated")},
    "group norm": {"block": "residual", "norm": "group", "up": "bilinear"},
    "nested, instance norm": {"skip": ("nested",), "norm": "instance"},
    "half the size": {"scale": 0.5},
    "classic": {"preset": "classic"},
}
LEVELS = {"uint8": (110.0, 60.0), "uint16": (30000.0, 9000.0)}
"""Mean and deviation of the pixels."""
KINDS = ("onnx", "openvino", "torchscript")
SIDES = ((1, 64, 64), (2, 45, 70), (1, 5, 9), (1, 1, 1))
"""Batches, heights and widths: fitting the network, odd, smaller than it can work on."""


def info_of(network: str, kind: str = "dataset", dtype: str = "uint8", **more: Any) -> BundleInfo:
    mean, std = LEVELS[dtype]
    scaling = {"kind": kind, "mean": (mean,) * 3, "std": (std,) * 3}
    given = {"dtype": dtype, "normalisation": scaling, "tile": 96, **more}
    return bundle_info(NETWORKS[network], **given)


def exported(folder: Path, info: BundleInfo, **settings: Any) -> tuple[Path, Path]:
    """A run of random weights and its file."""
    run = save_run(folder / "run", info)
    return run, export(run, ExportConfig.model_validate(settings)).file


def outputs(file: Path, images: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Masks and probabilities of images N×H×W×C, by the file's own runtime alone, in float32."""
    if file.suffix == ".xml":
        exact = {"INFERENCE_PRECISION_HINT": "f32"}  # it is bfloat16 where the CPU has units for it
        found = openvino_core().compile_model(file, "CPU", exact)(images.transpose(0, 3, 1, 2))
        return found["mask"], found["probabilities"]
    if file.suffix == ".pt":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that TorchScript is no longer worked on
            module = torch.jit.load(file)  # type: ignore[no-untyped-call]
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.int32))
        return module.mask(pixels).numpy(), module(pixels).detach().numpy()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    mask, likely = session.run(None, {"image": images.transpose(0, 3, 1, 2)})
    return mask, likely


QUICK = {("image", "uint16", to) for to in KINDS} | {("dataset", "uint8", "onnx")}
LARGE = {"resnet34": {("dataset", "uint8", "onnx")}, "classic": set[tuple[str, str, str]]()}
"""What does not wait for `make slow`."""
TABLE = [
    pytest.param(
        *(network, *row), marks=[] if row in LARGE.get(network, QUICK) else pytest.mark.slow
    )
    for network in NETWORKS
    for row in product(("dataset", "image"), LEVELS, KINDS)
]


@pytest.fixture(autouse=True)
def measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unetseg.export.export.ROUNDS", 1)


@pytest.mark.long
@pytest.mark.parametrize(("network", "kind", "dtype", "to"), TABLE)
def test_the_file_gives_the_masks_of_the_run(
    network: str, kind: str, dtype: str, to: str, tmp_path: Path
) -> None:
    run, file = exported(tmp_path, info_of(network, kind, dtype, tile=128), to=to)
    model = unetseg.load(run, device="cpu", precision="float32")
    for batch, height, width in SIDES:
        images = noise(batch, height, width, 3, dtype=dtype)
        masks, likely = outputs(file, images)
        wanted = np.stack([model.predict(image) for image in images])
        assert (masks == wanted).mean() >= EQUAL
        exact = np.stack([model.probabilities(image) for image in images])
        np.testing.assert_allclose(likely.transpose(0, 2, 3, 1), exact, atol=1e-4)


@pytest.mark.parametrize("to", KINDS)
def test_predict_takes_the_file_like_a_run(to: str, tmp_path: Path) -> None:
    run, file = exported(tmp_path, info_of("attention and gated skips", "image"), to=to)
    for number in range(2):  # cut into tiles, whose moments are those of the whole image
        write_png(tmp_path / "images" / f"{number}.png", noise(150, 230, 3, seed=number))
    words = ["predict", str(tmp_path / "images"), "--probabilities", "-o"]
    assert unetseg_command([words[0], str(file), *words[1:], str(tmp_path / "of file")]) == 0
    words += [str(tmp_path / "of run"), "--device", "cpu", "--precision", "float32"]
    assert unetseg_command([words[0], str(run), *words[1:]]) == 0
    for name in ("0", "1"):
        mask, wanted = (
            read_image(tmp_path / folder / f"{name}.png") for folder in ("of file", "of run")
        )
        assert (mask == wanted).mean() >= EQUAL


CODINGS: dict[str, ClassMap] = {
    "grey": class_map(0, 255),
    "three greys": class_map(3, 7, 9),
    "16 bit": class_map(0, 1000, 60000, dtype="uint16"),
    "colours": class_map((0, 0, 0), (255, 0, 0), (10, 20, 30), coding="rgb"),
    "palette": class_map(0, 4, coding="palette", palette=tuple(range(256)) * 3),
}


@pytest.mark.parametrize("coding", CODINGS)
def test_masks_have_their_own_codes(coding: str, tmp_path: Path) -> None:
    classes = CODINGS[coding]
    run, file = exported(tmp_path, bundle_info(classes=classes))
    image = noise(40, 50, 3)
    mask, likely = outputs(file, image[None])
    np.testing.assert_array_equal(mask[0], unetseg.load(run, precision="float32").predict(image))
    assert mask.dtype == classes.dtype
    assert likely.shape == (1, len(classes.classes), 40, 50)


CALIBRATED = {"temperature": 2.5, "ece_before": 0.2, "ece": 0.1, "threshold": 0.3, "windows": 4}


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("background", [0, 1])
def test_temperature_and_threshold_are_inside(background: int, to: str, tmp_path: Path) -> None:
    classes = class_map(0, 255, background=background)
    info = bundle_info(classes=classes, calibration=CALIBRATED)
    run, file = exported(tmp_path, info, threshold="auto", to=to)
    image = noise(60, 40, 3)
    mask, likely = outputs(file, image[None])
    wanted = unetseg.load(run, threshold="auto", precision="float32")
    np.testing.assert_array_equal(mask[0], wanted.predict(image))
    np.testing.assert_allclose(likely[0].transpose(1, 2, 0), wanted.probabilities(image), atol=1e-5)
    foreground = likely[0, 1 - background] > 0.3
    np.testing.assert_array_equal(mask[0] == (0, 255)[1 - background], foreground)
    again = unetseg.load(file)
    assert again.threshold == 0.3
    np.testing.assert_array_equal(again.predict(image), mask[0])
    assert unetseg.load(file, threshold=0.5).threshold == 0.5


def test_an_ensemble_is_one_file(tmp_path: Path) -> None:
    runs = []
    for seed in range(3):
        scaling = {"kind": "dataset", "mean": (100.0 + seed,) * 3, "std": (50.0 + seed,) * 3}
        info = bundle_info(normalisation=scaling)
        runs.append(save_run(tmp_path / str(seed), info, random_segmenter(info, seed)))
    join_bundles(runs, tmp_path / "together" / "model")
    file = export(tmp_path / "together").file
    image = noise(50, 60, 3)
    mask, _ = outputs(file, image[None])
    together = unetseg.load(tmp_path / "together", precision="float32")
    np.testing.assert_array_equal(mask[0], together.predict(image))


def test_rules_of_post_processing_are_told_and_added_by_predict(tmp_path: Path) -> None:
    rules = [{"class_index": 1, "fill_holes": True, "smallest": 30}]
    run = save_run(tmp_path / "run", bundle_info(postprocess=rules))
    made = export(run)
    assert made.rules == ("cell: holes filled, components below 30 pixels removed",)
    image = noise(80, 80, 3)
    np.testing.assert_array_equal(
        unetseg.load(made.file).predict(image),
        unetseg.load(run, precision="float32").predict(image),
    )


@pytest.mark.long
def test_the_command_holds_the_file_against_the_users_own_images(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = save_run(tmp_path / "run", bundle_info(classes=class_map(0, 255)))
    words = ["export", str(run), str(data), "-o", str(tmp_path / "cells.onnx"), "--split", "all"]
    assert unetseg_command(words) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "compared on 8 images of split all" in told
    assert "100.000% of the pixels of 16 images" in told
    assert f"next: unetseg predict {tmp_path / 'cells.onnx'} IMAGES -o masks" in told


@pytest.mark.long
def test_8_bit_make_a_smaller_file_with_nearly_the_same_dice(data: Path, tmp_path: Path) -> None:
    classes = class_map(0, 255)
    run = save_run(tmp_path / "run", bundle_info({"depth": 3, "width": 8}, classes))
    exact, small = (
        export(run, ExportConfig(int8=int8, split="all"), data, output=tmp_path / f"{int8}.onnx")
        for int8 in (False, True)
    )
    assert small.bytes[1] < 0.6 * exact.bytes[1]
    assert small.dice is not None
    assert abs(small.dice[0] - small.dice[1]) < 0.005
    assert unetseg.load(small.file).predict(noise(40, 50, 3)).shape == (40, 50)


def test_8_bit_need_images(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs DATA"):
        export(save_run(tmp_path / "run"), ExportConfig(int8=True))


def test_a_file_whose_masks_differ_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unetseg.export import onnx as room

    run = save_run(tmp_path / "run")
    monkeypatch.setattr(room, "_normalised", lambda nodes, _: nodes("Cast", "image", to=1))
    with pytest.raises(BundleError, match=r"of the pixels have the run's code .* wanted"):
        export(run, output=tmp_path / "cells.onnx")
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.long
def test_a_network_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", bundle_info({"encoder": "mit_b0"}))
    with pytest.raises(BundleError, match="cannot be written as one file: view"):
        export(run)


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--to onnx ends with \.onnx"):
        export(save_run(tmp_path / "run"), output=tmp_path / "cells.pt")


def test_a_file_is_not_exported_again(tmp_path: Path) -> None:
    _, file = exported(tmp_path, bundle_info())
    with pytest.raises(BundleError, match="is a file already"):
        export(file)


def test_what_a_file_cannot_do_is_refused(tmp_path: Path) -> None:
    _, file = exported(tmp_path, bundle_info())
    with pytest.raises(ConfigError, match="runs on the processor") as caught:
        unetseg.load(file, precision="bf16", engine="fused")
    assert caught.value.offenders == ["--precision bf16", "--engine fused"]


def test_without_the_packages_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = save_run(tmp_path / "run")
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(MachineError) as caught:
        export(run)
    assert caught.value.fix == "pip install 'unetseg[onnx]'"


# ------------------------------------------------------------------ files of others


def spoilt(file: Path, change: Any) -> Path:
    model = onnx.load(file)
    change(model)
    onnx.save(model, file)
    return file


def loops(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    node.op_type = "Loop"


def of_another_domain(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Relu").domain = "evil"


def reaches_outside(model: onnx.ModelProto) -> None:
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"


def says_nothing(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def has_other_names(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.output[:] = [name.replace("grid", "other") for name in node.output]


def has_no_threshold(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="threshold", value="abc")


def has_other_numbers(model: onnx.ModelProto) -> None:
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.raw_data = weight.raw_data[:-4] + b"\0\0\0@"


def claims_another_network(model: onnx.ModelProto) -> None:
    entry = next(entry for entry in model.metadata_props if entry.key == "model.json")
    entry.value = entry.value.replace('"bands":3', '"bands":4')


@pytest.mark.parametrize(
    "change",
    [
        loops,
        of_another_domain,
        reaches_outside,
        says_nothing,
        has_other_names,
        claims_another_network,
        has_no_threshold,
        has_other_numbers,
    ],
)
def test_a_file_that_is_no_export_is_answered(change: Any, tmp_path: Path) -> None:
    _, file = exported(tmp_path, bundle_info())
    with pytest.raises(BundleError):
        unetseg.load(spoilt(file, change))


class Writes(torch.nn.Module):
    """A network that writes a file when it is run, or read."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Saves()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        saved: torch.Tensor = self.network(image)
        return saved


class Saves(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        torch.save(image, "evil")
        return image


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_that_writes_files_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script = torch.jit.script(Writes())
    text = bundle_info().model_dump_json()
    torch.jit.save(script, tmp_path / "x.pt", _extra_files={"model.json": text})
    with pytest.raises(BundleError, match="does more than a network does") as caught:
        unetseg.load(tmp_path / "x.pt")
    assert caught.value.offenders == ["aten::save"]
    assert not (tmp_path / "evil").exists()


def test_openvino_without_its_weights_is_answered(tmp_path: Path) -> None:
    _, file = exported(tmp_path, bundle_info(), to="openvino")
    file.with_suffix(".bin").unlink()
    with pytest.raises(BundleError, match=r"model\.bin is missing"):
        unetseg.load(file)


def test_openvino_with_other_weights_than_its_own_is_answered(tmp_path: Path) -> None:
    _, file = exported(tmp_path, bundle_info(), to="openvino")
    other = save_run(tmp_path / "other", segmenter=random_segmenter(bundle_info(), 1))
    foreign = export(other, ExportConfig(to="openvino")).file.with_suffix(".bin").read_bytes()
    weights = file.with_suffix(".bin")
    for content in (foreign, weights.read_bytes()[:-8], b"weights"):
        weights.write_bytes(content)
        with pytest.raises(BundleError, match=r"model\.bin are damaged, or not of one") as caught:
            unetseg.load(file)
        assert not caught.value.offenders  # in words of OpenVINO


def test_a_file_that_may_not_be_read_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, file = exported(tmp_path, bundle_info())

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BundleError, match="Permission denied"):
        unetseg.load(file)


def test_torchscript_with_a_damaged_weight_is_answered(tmp_path: Path) -> None:
    _, file = exported(tmp_path, bundle_info(), to="torchscript")
    with ZipFile(file) as archive:
        tensors = [member for member in archive.infolist() if "/data/" in member.filename]
    largest = max(tensors, key=lambda member: member.file_size)
    content = bytearray(file.read_bytes())
    names = content[largest.header_offset + 26 : largest.header_offset + 30]
    begin = largest.header_offset + 30 + sum(struct.unpack("<HH", names))
    content[begin + largest.file_size // 2] ^= 64
    file.write_bytes(content)
    with pytest.raises(BundleError, match="differs from its sum"):
        unetseg.load(file)


@pytest.mark.parametrize("to", KINDS)
def test_weights_that_are_no_numbers_are_refused(to: str, tmp_path: Path) -> None:
    run = unetseg.load(save_run(tmp_path / "run"), device="cpu", precision="float32")
    torch.nn.init.constant_(run.engine.segmenter.network.head.weight, torch.nan)
    kind = exporting.KINDS[to]
    write, _ = kind.network()
    write(tmp_path / f"x{kind.suffix}", run, {"model.json": run.info.model_dump_json()})
    with pytest.raises(BundleError, match="weights that are no numbers"):
        unetseg.load(tmp_path / f"x{kind.suffix}")


def test_what_runs_a_file_is_asked_for_before_the_file_is_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, file = exported(tmp_path, bundle_info())
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MachineError, match="this needs onnxruntime"):
        unetseg.load(file)


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.9, 0.9999])
def test_a_file_that_is_cut_off_is_answered(share: float, to: str, tmp_path: Path) -> None:
    _, file = exported(tmp_path, bundle_info(), to=to)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BundleError):
        unetseg.load(file)


def test_a_further_bundle_in_a_run_folder_has_a_file_of_its_own(tmp_path: Path) -> None:
    info = bundle_info()
    run, file = exported(tmp_path, info)
    (run / "splits.json").write_text('{"pairs": []}')
    save_bundle(run / "pruned", random_segmenter(info, seed=5).state_dict(), info)
    kept = file.read_bytes()
    assert export(run / "pruned").file == run / "pruned.onnx"
    assert file.read_bytes() == kept
    assert export(run / "model").file == file


def test_an_export_for_another_use_has_a_file_of_its_own(tmp_path: Path) -> None:
    run, file = exported(tmp_path, bundle_info())
    kept = file.read_bytes()
    assert export(run, ExportConfig(to="deepness")).file == run / "model-deepness.onnx"
    assert file.read_bytes() == kept
