"""What `bench` measures with and against: products, drawn pairs, engines side by side."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.builders import bundle_info, noise, save_run
from unetseg import bench
from unetseg.bench import (
    Subject,
    draw_pairs,
    find_material,
    fitting_product,
    measure_engines,
    open_subject,
)
from unetseg.config import BenchConfig, NetworkConfig, PairsConfig, RuntimeConfig
from unetseg.data.facts.survey import survey
from unetseg.data.files.image import read_image
from unetseg.data.files.pngs import write_png
from unetseg.errors import ImageError, MachineError
from unetseg.prediction.engine import Engine

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of matrices that a busy machine is done with at once."""
    monkeypatch.setitem(bench.LARGEST_PRODUCT, "cpu", bench.SMALLEST_PRODUCT)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("bench")
    config, network = BenchConfig(size=64, count=4), NetworkConfig(width=4, depth=2)
    return open_subject(None, config, network, RuntimeConfig(device="cpu"), folder)


# ------------------------------------------------------------------ ceilings


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_one(dtype: torch.dtype) -> None:
    multiply, gflop = fitting_product(CPU, dtype)
    assert isinstance(multiply, partial)
    left, right, product = (matrix.double() for matrix in multiply.args)
    error = (product - left @ right).norm() / product.norm()
    assert error < (1e-5 if dtype == torch.float32 else 1e-2)
    assert gflop == 2 * bench.SMALLEST_PRODUCT**3 / 1e9


def test_the_product_is_as_large_as_the_time_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench.LARGEST_PRODUCT, "cpu", 1024)
    for longest, side in ((0.0, bench.SMALLEST_PRODUCT), (60.0, 1024)):
        monkeypatch.setattr(bench, "LONGEST_PRODUCT", longest)
        assert fitting_product(CPU, torch.float32)[1] == 2 * side**3 / 1e9


# ------------------------------------------------------------------ images and pairs


@pytest.mark.parametrize(
    ("bands", "dtype"), [(3, "uint8"), (1, "uint8"), (4, "uint8"), (13, "int16"), (2, "float32")]
)
def test_drawn_pairs_are_of_their_kind_and_can_be_trained_on(
    bands: int, dtype: str, tmp_path: Path
) -> None:
    known = survey(draw_pairs(tmp_path, 8, 300, bands, dtype))
    assert (known.bands, known.dtype, len(known.pairs.pairs)) == (bands, dtype, 8)
    assert min(known.class_pixels("all")) > 0
    images = [read_image(pair.image) for pair in known.pairs.pairs]
    assert {image.shape for image in images} == {(300, 300, bands)}
    assert len({image.tobytes() for image in images}) == 8


def test_material_is_images_from_all_over_the_list(tmp_path: Path) -> None:
    images = sorted((draw_pairs(tmp_path, 9, 32, 3, "uint8") / "images").iterdir())
    assert find_material(tmp_path, 3, PairsConfig()) == [images[0], images[3], images[6]]
    assert find_material(tmp_path / "images", 1000, PairsConfig()) == images
    where = PairsConfig(images=Path("images/*.png"), masks=Path("masks"))
    assert find_material(tmp_path, 3, where) == [images[0], images[3], images[6]]
    with pytest.raises(ImageError, match="there is no"):
        find_material(tmp_path / "nothing", 3, PairsConfig())


def test_a_run_is_measured_with_images_of_its_kind(tmp_path: Path) -> None:
    info = bundle_info(bands=5, dtype="int16")
    run = save_run(tmp_path / "run", info)
    (tmp_path / "work").mkdir()
    found = open_subject(
        run, BenchConfig(size=40, count=2), NetworkConfig(), RuntimeConfig(), tmp_path / "work"
    )
    assert found.predictor.info.network == info.network
    images = [read_image(path) for path in found.images]
    assert [(each.shape, each.dtype.name) for each in images] == [((40, 40, 5), "int16")] * 2


@pytest.mark.parametrize(("size", "side"), [((50, 70), 50), ((20, 70), 32), ((60, 1100), 60)])
def test_squares_are_as_large_as_the_images(
    size: tuple[int, int], side: int, tmp_path: Path
) -> None:
    write_png(tmp_path / "new" / "a.png", noise(*size, 3))
    (tmp_path / "work").mkdir()
    config = BenchConfig(data=tmp_path / "new", count=2)
    found = open_subject(
        save_run(tmp_path / "run"), config, NetworkConfig(), RuntimeConfig(), tmp_path / "work"
    )
    assert found.side == side


# ------------------------------------------------------------------ engines


def test_shares_are_of_the_ceiling(subject: Subject) -> None:
    rows = measure_engines(subject, ["eager", "fused"], 2, seconds=0.1)
    best = {row.what: row.gflops or 0 for row in rows if row.stage == bench.PRODUCT}
    engines = [row for row in rows if row.stage == "network, batch of 2"]
    assert {row.what for row in engines} >= {"eager float32"}
    for row in engines:
        assert row.share is not None
        assert row.per_second is not None
        assert row.share * best[row.what.split()[1]] == pytest.approx(row.gflops)
        assert row.gflops == pytest.approx(row.per_second * subject.cost.gflop)
        assert row.word.startswith("ready in ")


def refusing(*names: str) -> type[Engine]:
    class Refusing(Engine):
        def __init__(self, *args: Any, engine: str, **settings: Any) -> None:
            if engine in names:
                raise MachineError(f"{engine} is not installed")
            super().__init__(*args, engine=engine, **settings)

    return Refusing


def test_engines_that_do_not_run_are_told(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "Engine", refusing("openvino"))
    rows = measure_engines(subject, ["eager", "openvino"], 2, seconds=0.1)
    refused = next(row for row in rows if row.what.split()[0] == "openvino")
    assert (refused.per_second, refused.word) == (None, "openvino is not installed")
    monkeypatch.setattr(bench, "Engine", refusing("eager", "fused"))
    with pytest.raises(MachineError, match="no engine runs here") as caught:
        measure_engines(subject, ["fused"], 2, seconds=0.1)
    assert any(line.endswith(": fused is not installed") for line in caught.value.offenders)
