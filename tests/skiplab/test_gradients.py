"""Gradients: the founding figures, measured as by hand, for stacks, U-Nets and trained runs."""

import csv
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from tests.builders import Heard
from tests.skiplab.builders import tiny
from unetseg.bundle import load_bundle, save_bundle
from unetseg.config import (
    BlockKind,
    DataConfig,
    DeviceConfig,
    GradientsConfig,
    NetworkConfig,
)
from unetseg.data.sample import draw_sample
from unetseg.errors import BundleError, ConfigError, DataError, OutOfMemoryError, UnetsegError
from unetseg.runtime import start
from unetseg.skiplab.gradient_flow import Stack, build_stack, check_depths, of_stacks
from unetseg.skiplab.gradients import at_start, first_layer_table, gradients
from unetseg.skiplab.look import Result, Row
from unetseg.training.fit import train

BASE = tiny()


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(data, BASE, out=tmp_path_factory.mktemp("runs"), name="cells")


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    return shutil.copytree(run, tmp_path / "copy")


def stacks(**config: object) -> list[Row]:
    settings = GradientsConfig.model_validate({"steps": 0} | config)
    return of_stacks(settings, BASE, start(DeviceConfig(device="cpu")))


def check_files(result: Result, *figures: str) -> None:
    """The files are there, and hold what was found."""
    assert {p.name for p in result.folder.iterdir()} == {
        "gradients.csv",
        "gradients.json",
        *(f"{name}.png" for name in figures),
    }
    with (result.folder / "gradients.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["gradient"]) for row in table] == [row["gradient"] for row in result.rows]
    facts = json.loads((result.folder / "gradients.json").read_text())
    assert facts["caption"] == result.caption
    assert facts["first_layer"] == result.summary
    assert {row["verdict"] for row in result.summary} <= {"vanishes", "arrives", "explodes"}


# ------------------------------------------------------------------ stacks


def sizes(rows: Sequence[Row], **columns: object) -> list[float]:
    """First-layer gradients of the mean square of the output, by depth."""
    table = [
        row for row in first_layer_table(at_start(rows), "depth") if columns.items() <= row.items()
    ]
    assert len(table) == 1
    return [size for name, size in table[0].items() if name.startswith("depth")]


@pytest.mark.long
def test_the_founding_figures() -> None:
    plain = stacks(depths=(10, 20, 56, 200), blocks=("plain",), norms=("none",))
    with_torch, with_he = (sizes(plain, init=init) for init in ("torch", "he"))
    assert with_torch[2:] == [0, 0]
    assert {row["verdict"] for row in first_layer_table(plain, "depth")} == {"vanishes"}
    found = [*with_torch[:2], *with_he[2:]]
    for size, published in zip(found, (1.1e-8, 6e-17, 1.6e-4, 2.6e-13), strict=True):
        assert abs(math.log10(size / published)) < 1.2  # the images of those are not recorded


@pytest.mark.long
def test_shortcuts_without_a_norm_explode_and_rezero_keeps_the_gradient() -> None:
    rows = stacks(depths=(10, 56, 200), blocks=("residual",), norms=("none",), inits=("he",))
    exploding = sizes(rows, network="residual, identity")
    assert exploding[0] < 1e2 < 1e6 < exploding[1] < 1e25 < exploding[2]
    kept = sizes(rows, network="residual, rezero")
    assert max(kept) < 3 * min(kept)


def test_at_first_rezero_moves_its_factors_alone() -> None:
    rows = stacks(depths=(10,), blocks=("residual",), shortcuts=("rezero",))
    inside = [row for row in rows if row["stage"].startswith("block")]
    weights = [row for row in inside if row["part"] == "weights"]
    factors = [row for row in inside if row["part"] == "factor"]
    assert len(weights) == 2 * len(factors) > 0
    assert {(row["gradient"], row["stuck_float32"]) for row in weights} == {(0, 1)}
    assert all(row["gradient"] > 0 and row["stuck_float32"] == 0 for row in factors)


@pytest.mark.long
def test_stacks_are_compared_and_drawn(tmp_path: Path) -> None:
    config = GradientsConfig(depths=(4, 10), steps=2, seed=3)
    result = gradients(config, base=BASE, output=tmp_path / "a")
    check_files(result, "gradients", "first_layer", "training")
    assert len(result.summary) == 12  # 3 kinds of block × 2 norms × 2 inits
    assert {row["step"] for row in result.rows} == {0, 2}


@pytest.mark.long
def test_seeds_decide(tmp_path: Path) -> None:
    config = GradientsConfig(depths=(4,), steps=1, blocks=("plain",), norms=("batch",))
    configs = [config.model_copy(update={"seed": seed}) for seed in (1, 1, 2)]
    same, again, other = (
        gradients(one, base=BASE, output=tmp_path / str(at)).rows for at, one in enumerate(configs)
    )
    assert same == again != other


def test_refused_depths_cost_no_time(tmp_path: Path) -> None:
    config = GradientsConfig(blocks=("plain", "dense"), depths=(10, 12))
    with pytest.raises(ConfigError, match="depth 12"):
        gradients(config, base=BASE, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------ laws of a stack


def stack(depth: int, **network: object) -> Stack:
    torch.manual_seed(0)
    return build_stack(NetworkConfig.model_validate(network), depth)


def toy_images() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def first_gradient(network: Stack) -> Tensor:
    weight = network.get_parameter("first.0.weight")
    return torch.autograd.grad(network(toy_images()).square().mean(), weight)[0]


@pytest.mark.parametrize(("block", "depth"), [("plain", 12), ("residual", 20), ("dense", 10)])
def test_a_stack_has_as_many_convolutions_as_it_is_deep(block: BlockKind, depth: int) -> None:
    network = stack(depth, block=block)
    kernels = [m.kernel_size for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert kernels.count((3, 3)) == depth
    assert network(toy_images()).shape == (2, 16, 8, 8)


def test_refused_depths_are_all_listed_with_their_neighbours() -> None:
    with pytest.raises(ConfigError) as caught:
        check_depths([10, 20, 56], "dense")
    assert caught.value.offenders == ["depth 20", "depth 56"]
    assert "--depths 10,18,58" in caught.value.fix
    check_depths([10, 18, 58], "dense")


@pytest.mark.parametrize("init", ["torch", "he", "xavier", "orthogonal"])
def test_all_that_comes_out_is_from_the_image(init: str) -> None:
    network = stack(12, norm="none", init=init)
    assert torch.count_nonzero(network(torch.zeros(1, 3, 8, 8))) == 0
    torch.testing.assert_close(network(2 * toy_images()), 2 * network(toy_images()))


def test_identity_shortcuts_hand_the_gradient_through_unchanged() -> None:
    deep = stack(22, block="residual")
    for block in deep.blocks:
        nn.init.zeros_(block.get_parameter("branch.4.weight"))  # of the last norm: F(x) = 0
    shallow = Stack(deep.first, [], deep.last)
    assert torch.equal(first_gradient(deep), first_gradient(shallow))


def test_without_shortcuts_nothing_comes_through_a_silent_branch() -> None:
    deep = stack(22, block="residual", shortcut="none")
    nn.init.zeros_(deep.blocks[4].get_parameter("branch.4.weight"))
    assert torch.count_nonzero(first_gradient(deep)) == 0


def test_rezero_starts_as_no_block_at_all_and_learns_alpha_first() -> None:
    deep = stack(22, block="residual", shortcut="rezero", norm="none")
    shallow = Stack(deep.first, [], deep.last)
    assert torch.equal(deep(toy_images()), shallow(toy_images()))
    assert torch.equal(first_gradient(deep), first_gradient(shallow))
    named = dict(deep.blocks.named_parameters())
    gradients = torch.autograd.grad(deep(toy_images()).square().mean(), list(named.values()))
    for name, gradient in zip(named, gradients, strict=True):
        assert bool(gradient.any()) == name.endswith("alpha"), name


@pytest.mark.long
def test_a_tower_of_a_hundred_layers_tells_images_apart_with_shortcuts_only() -> None:
    def last_loss(shortcut: str) -> float:
        network = stack(102, block="residual", shortcut=shortcut, norm="none")
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
        loss = torch.tensor(0.0)
        for _ in range(20):
            logits = network(toy_images()).mean((2, 3))
            loss = nn.functional.cross_entropy(logits, torch.tensor([3, 7]))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        return loss.item()

    guessing = math.log(2)  # which of the two labels it is: as far as the last bias comes alone
    assert last_loss("rezero") < 0.5 * guessing
    assert last_loss("none") > 0.9 * guessing


# ------------------------------------------------------------------ U-Nets


def test_unets_with_and_without_skips_learn_the_data(data: Path, tmp_path: Path) -> None:
    config = GradientsConfig(skips=("concat", "none"), steps=5, lr=1e-3)
    result = gradients(config, source=data, base=BASE, output=tmp_path)
    check_files(result, "gradients")
    assert {row["network"] for row in result.rows} == {"concat skips, plain", "no skips, plain"}
    stages = list(dict.fromkeys(row["stage"] for row in result.rows))
    assert stages == ["encoder 0", "encoder 1", "bottom", "decoder 1", "decoder 0", "head"]
    assert {row["step"] for row in result.rows} == {0, 1, 5}


def test_every_step_is_heard_of(data: Path, tmp_path: Path) -> None:
    heard = Heard()
    config = GradientsConfig(steps=3)
    gradients(config, source=data, base=BASE, output=tmp_path, progress=heard)
    assert heard.done == heard.total >= 2 * 4


def test_too_little_memory_is_answered_with_flags_that_there_are(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr("unetseg.skiplab.gradients.follow", fail)
    with pytest.raises(OutOfMemoryError) as caught:
        gradients(GradientsConfig(), source=data, base=BASE, output=tmp_path)
    assert "--width" in caught.value.fix


def test_what_is_asked_for_explicitly_varies_too(data: Path, tmp_path: Path) -> None:
    config = GradientsConfig(
        skips=("add",), steps=0, norms=("none", "group"), shortcuts=("rezero", "identity")
    )
    result = gradients(config, source=data, base=BASE, output=tmp_path)
    found = {(row["norm"], row["network"]) for row in result.rows}
    names = ("plain", "residual, rezero", "residual, identity")
    assert found == {(n, f"add skips, {name}") for n in ("none", "group") for name in names}
    assert {row["init"] for row in result.rows} == {"he"}


# ------------------------------------------------------------------ runs


@pytest.mark.long
def test_a_run_is_seen_fresh_and_trained_with_skips_and_without(run: Path, tmp_path: Path) -> None:
    result = gradients(GradientsConfig(), source=run, base=BASE, output=tmp_path)
    check_files(result, "gradients")
    losses = {(row["weights"], row["skips"]): row["loss"] for row in result.rows}
    assert len(losses) == len(set(losses.values())) == 4
    edges = {(row["stage"], row["name"]): row for row in result.rows if "zeroed" in row["skips"]}
    assert all(row["gradient"] > 0 for row in edges.values())


@pytest.mark.long
def test_zeroing_skips_that_are_not_there_changes_nothing(data: Path, tmp_path: Path) -> None:
    chance = {"block": "residual", "shortcut": "deactivable", "survival": 0.5}
    network = BASE.network.model_copy(update={"skip": ("none",), **chance})
    run = train(data, BASE.model_copy(update={"network": network}), out=tmp_path, name="bare")
    result = gradients(GradientsConfig(), source=run, base=BASE, output=tmp_path / "out")
    whole, zeroed = (
        [row["gradient"] for row in result.rows if row["skips"] == f"skips {how}"]
        for how in ("as they are", "zeroed")
    )
    assert whole == zeroed


@pytest.mark.long
def test_a_run_can_be_shown_other_images(run: Path, data: Path, tmp_path: Path) -> None:
    other = draw_sample(tmp_path / "other", count=6, size=48, seed=9)
    pairs = DataConfig(images=other / "images", masks=other / "masks")
    own, foreign = (
        gradients(GradientsConfig(), source=run, base=base, output=tmp_path / name).rows
        for name, base in (("a", BASE), ("b", BASE.model_copy(update={"data": pairs})))
    )
    assert [row["name"] for row in own] == [row["name"] for row in foreign]
    assert own[0]["loss"] != foreign[0]["loss"]


def settings_of(run: Path, **changes: object) -> None:
    """Change the settings that a run was trained with."""
    file = run / "config.yaml"
    settings = yaml.safe_load(file.read_text()) | changes
    file.write_text(yaml.safe_dump(settings))


def look(run: Path, output: Path, **data: object) -> list[Row]:
    base = BASE.model_copy(update={"data": DataConfig.model_validate(data)})
    return list(gradients(GradientsConfig(), source=run, base=base, output=output).rows)


@pytest.mark.long
def test_images_that_moved_are_those_of_the_training(
    run: Path, copy: Path, data: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(data, tmp_path / "moved")
    for file in (path for path in moved.rglob("*") if path.is_file()):
        file.rename(file.with_name(f"x{file.name}"))  # known by what they hold
    (copy / "env.json").write_text(json.dumps({"data": str(tmp_path / "gone")}))
    found = look(copy, tmp_path / "a", images=moved / "images", masks=moved / "masks")
    assert found == look(run, tmp_path / "b")


@pytest.mark.long
def test_images_held_out_stay_so_whatever_else_is_asked(
    data: Path, tmp_path: Path, run: Path, copy: Path
) -> None:
    settings_of(copy, val_fraction=0.7)
    rows = json.loads((copy / "splits.json").read_text())
    for at, row in enumerate(rows["pairs"]):
        row["split"] = "train" if at == 0 else "val"
    (copy / "splits.json").write_text(json.dumps(rows))
    few = look(copy, tmp_path / "a")
    assert few != look(run, tmp_path / "b")
    assert few == look(copy, tmp_path / "c", snap=True)
    places = {"images": data / "images", "masks": data / "masks"}
    assert few == look(copy, tmp_path / "d", **places)
    for row in rows["pairs"]:
        row["split"] = "val"
    (copy / "splits.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match="is for training"):
        look(copy, tmp_path / "e")


@pytest.mark.long
def test_stray_mask_values_are_snapped_where_asked(run: Path, data: Path, tmp_path: Path) -> None:
    stray = shutil.copytree(data, tmp_path / "stray")
    for file in (stray / "masks").iterdir():
        mask = np.array(Image.open(file))
        mask[0, :8] = 3
        Image.fromarray(mask).save(file)
    places = {"images": stray / "images", "masks": stray / "masks"}
    with pytest.raises(UnetsegError, match="3"):
        look(run, tmp_path / "a", **places)
    assert look(run, tmp_path / "b", snap=True, **places)


@pytest.mark.long
def test_a_run_is_measured_with_its_own_loss(copy: Path, tmp_path: Path) -> None:
    settings_of(copy, loss="ce")
    rows = look(copy, tmp_path / "out")
    assert {row["objective"] for row in rows} == {"ce"} != {BASE.training.loss}


@pytest.mark.long
def test_fresh_weights_are_random_ones(run: Path, copy: Path, tmp_path: Path) -> None:
    segmenter, info = load_bundle(run)
    network = info.network.model_copy(update={"weights": "imagenet"})
    model = next(path.parent for path in copy.rglob("model.json"))
    save_bundle(model, segmenter.state_dict(), info.model_copy(update={"network": network}))
    assert look(copy, tmp_path / "a") == look(run, tmp_path / "b")


@pytest.mark.long
@pytest.mark.parametrize(
    ("file", "content", "answer"),
    [
        (
            "env.json",
            '{"data": "/there/is/nothing"}',
            "nothing, which .*copy was trained on, is not",
        ),
        ("env.json", "{}", "does not say what it was trained on"),
        ("config.yaml", "- a list", "does not say how it was trained"),
        ("plan.json", "{", "does not say how it was trained"),
    ],
)
def test_a_run_that_does_not_know_its_training_says_so(
    file: str, content: str, answer: str, copy: Path, tmp_path: Path
) -> None:
    (copy / file).write_text(content)
    with pytest.raises(BundleError, match=answer):
        look(copy, tmp_path / "out")
