"""Folders in the app: what is seen is what the commands see, and what is drawn is what is read."""

import errno
import os
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from unetseg.data.facts.survey import survey
from unetseg.data.files.geotiff import RasterWriter
from unetseg.data.files.image import read_image
from unetseg.data.files.pngs import write_png
from unetseg.data.files.tiffs import write_tiff
from unetseg.data.masks.mask_file import MaskFile, read_mask
from unetseg.errors import MachineError
from unetseg.locks import locked
from unetseg.serving import drawing
from unetseg.serving.app import app_router
from unetseg.serving.door import Limits
from unetseg.serving.folder import Folder, renamed
from unetseg.serving.server import build_app
from unetseg.serving.studio import Studio
from unetseg.storage import write_json

RANDOM = np.random.default_rng(0)
CELL, CROSS = np.zeros((48, 64), np.uint8), np.zeros((48, 64), np.uint8)
CELL[10:30, 20:50] = 1
CROSS[20:24] = CROSS[:, 30:34] = 1


STUDIOS: list[Studio] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Let go of all files that a test has opened."""
    yield
    while STUDIOS:
        STUDIOS.pop().close()


def browser(folder: Path, out: Path | None = None) -> TestClient:
    STUDIOS.append(Studio(folder.parent, folder, out))
    app = build_app([app_router(STUDIOS[-1])], Limits())
    client = TestClient(app, base_url="http://127.0.0.1")
    client.get("/app/api/state")  # who comes first draws
    return client


def drawn_image(kind: str = "uint8", bands: int = 3) -> NDArray[Any]:
    return RANDOM.integers(0, 250, (48, 64, bands)).astype(kind)


def bare(folder: Path, count: int = 5) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        write_png(folder / f"photo {number}.png", drawn_image())
    return folder


def pairs(root: Path, values: tuple[Any, ...] = (0, 255), **more: Any) -> Path:
    for number in range(4):
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / "masks").mkdir(exist_ok=True)
        write_png(root / "images" / f"{number}.png", drawn_image())
        mask = np.array(values, np.uint8)[np.roll(CELL, number)]
        write_png(root / "masks" / f"{number}_mask.png", mask, **more)
    write_png(root / "images" / "9.png", drawn_image())
    return root


def images(client: TestClient) -> dict[str, Any]:
    return {Path(one["name"]).stem: one for one in client.get("/app/api/images").json()}


def get_mask(client: TestClient, key: str, query: str = "") -> NDArray[np.uint8]:
    answer = client.get(f"/app/api/images/{key}/mask.png{query}")
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(BytesIO(answer.content)))


def put_mask(client: TestClient, image: dict[str, Any], mask: NDArray[Any], query: str = "") -> Any:
    address = f"/app/api/images/{image['id']}/mask.png?revision={image['revision']}{query}"
    return client.put(address, content=zlib.compress(mask.tobytes()))


@pytest.mark.parametrize("place", ["", "images", "day 1"])
def test_a_mask_drawn_in_a_folder_of_bare_images_is_what_the_commands_see(
    tmp_path: Path, place: str
) -> None:
    root = tmp_path / "new"
    bare(root / place)
    if place == "day 1":
        bare(root / "day 2")
    client = browser(root)
    state = client.get("/app/api/state").json()
    assert (state["images"], state["masks"], state["writer"]) == (
        10 if "day" in place else 5,
        0,
        True,
    )
    wanted = [{"name": "ground", "colour": [0, 0, 0]}, {"name": "cell", "colour": [9, 200, 30]}]
    assert client.put("/app/api/classes", json=wanted).status_code == 200
    image, classes = images(client)["photo 3"], state_classes(client)
    answer = put_mask(client, image, CELL)
    assert answer.json()["mask"] == "drawn"
    known = survey(root)
    assert [pair.image.stem for pair in known.pairs.pairs] == ["photo 3"]
    assert known.class_map.names == ("ground", "cell")
    assert known.class_map.classes[1].colour == (9, 200, 30)
    mask = known.pairs.pairs[0].mask
    assert isinstance(mask, Path)
    assert (read_image(mask)[..., 0] == CELL).all()
    # A server that is started anew sees the same.
    STUDIOS.pop().close()
    again = browser(root)
    assert state_classes(again) == classes
    assert images(again)["photo 3"]["mask"] == "drawn"
    assert (get_mask(again, image["id"]) == CELL).all()


SAID = "unpaired: skip\nimages: .\nmasks: masks\nclasses: {soil: 0, root: 1}\nbackground: "


@pytest.mark.parametrize(
    ("said", "first", "names", "expected"),
    [
        ("", 0, ["soil", "root"], 0),
        ("", 0, ["cell", "background"], 1),
        ("root", 1, ["soil", "root"], 1),
        ("1", 1, ["soil", "root"], 1),
        ("none", None, ["soil", "root"], None),
        ("root", 1, ["earth", "stone"], 0),
    ],
)
def test_masks_are_begun_on_the_background_that_is_said_or_on_the_first_class(
    tmp_path: Path, said: str, first: int | None, names: list[str], expected: int | None
) -> None:
    root = bare(tmp_path / "new", count=2)
    if said:
        (root / "masks").mkdir()
        (root / "dataset.yaml").write_text(SAID + said)
    client = browser(root)
    assert client.get("/app/api/state").json()["background"] == first
    wanted = [{"name": name, "colour": [number, 9, 9]} for number, name in enumerate(names)]
    assert client.put("/app/api/classes", json=wanted).status_code == 200
    assert client.get("/app/api/state").json()["background"] == expected
    assert put_mask(client, images(client)["photo 1"], CELL).status_code == 200
    assert survey(root).class_map.background == expected


def state_classes(client: TestClient) -> Any:
    return client.get("/app/api/state").json()["classes"]


@pytest.mark.parametrize("address", ["/", "/app"])
def test_shorter_addresses_lead_to_the_page(tmp_path: Path, address: str) -> None:
    answer = browser(bare(tmp_path / "new", count=1)).get(address)
    assert answer.url.path == "/app/"
    assert "<title>unetseg</title>" in answer.text


@pytest.mark.parametrize("name", ["", " ", "cell\n- wall", "a\x1b[31m"])
def test_a_class_has_a_name_that_can_be_written(tmp_path: Path, name: str) -> None:
    client = browser(bare(tmp_path / "new", count=2))
    before = state_classes(client)
    wanted = [{"name": each, "colour": [1, 9, 9]} for each in ("background", name)]
    assert client.put("/app/api/classes", json=wanted).status_code == 422
    assert state_classes(client) == before


PALETTE = [c for n in range(256) for c in (n, 255 - n, 7 * n % 256)]


@pytest.mark.parametrize(
    ("values", "more"),
    [
        ((0, 255), {}),
        ((0, 1), {}),
        ((0, 15), {"palette": PALETTE}),
        (((0, 0, 0), (200, 30, 5)), {}),
    ],
    ids=["0/255", "0/1", "palette", "rgb"],
)
def test_masks_keep_the_coding_of_their_folder(
    tmp_path: Path, values: tuple[Any, ...], more: Any
) -> None:
    root = pairs(tmp_path / "pairs", values, **more)
    client, before = browser(root), survey(root).class_map
    for name in ("2", "9"):  # one that has a mask, one that has none
        image = images(client)[name]
        answer = put_mask(client, image, CROSS)
        assert answer.json()["mask"] == ("corrected" if name == "2" else "drawn")
        assert (get_mask(client, image["id"]) == CROSS).all()
        path = root / "masks" / f"{name}_mask.png"
        raw = read_mask(path)
        assert (raw.coding, raw.palette) == (before.coding, before.palette)
        assert (before.encode(raw.pixels) == CROSS).all()
    assert survey(root).class_map == before
    assert len(survey(root).pairs.pairs) == 5
    given = root / ".unetseg" / "given" / "masks" / "2_mask.png"
    assert (before.encode(read_mask(given).pixels) == np.roll(CELL, 2)).all()


@pytest.mark.parametrize("suffix", [".gif", ".bmp", ".jpg"])
def test_a_corrected_mask_of_another_format_becomes_a_png(tmp_path: Path, suffix: str) -> None:
    root = pairs(tmp_path / "pairs")
    for path in (root / "masks").iterdir():
        Image.open(path).save(path.with_suffix(suffix))
        path.unlink()
    client, before = browser(root), survey(root)
    image = images(client)["2"]
    assert put_mask(client, image, CROSS).json()["mask"] == "corrected"
    assert sorted(path.name for path in (root / "masks").glob("2*")) == ["2_mask.png"]
    assert (root / ".unetseg" / "given" / "masks" / f"2_mask{suffix}").is_file()
    after = survey(root)
    assert [pair.name for pair in after.pairs.pairs] == [pair.name for pair in before.pairs.pairs]
    raw = read_mask(root / "masks" / "2_mask.png")
    assert (after.class_map.encode(raw.pixels) == CROSS).all()


def test_a_photograph_is_never_overwritten(tmp_path: Path) -> None:
    root = tmp_path / "mixed"
    root.mkdir()
    for number in range(4):
        write_png(root / f"{number}.png", drawn_image())
        Image.fromarray(np.roll(CELL, number) * 255).save(root / f"{number}.gif")
    client, before = browser(root), (root / "0.png").read_bytes()
    image = next(iter(client.get("/app/api/images").json()))
    answer = put_mask(client, image, CROSS)
    assert (answer.status_code, "there already" in answer.text) == (422, True)
    assert (root / "0.png").read_bytes() == before
    assert (root / "0.gif").is_file()


def test_a_first_mask_beside_masks_of_another_format_is_a_png(tmp_path: Path) -> None:
    root = pairs(tmp_path / "pairs")
    for path in (root / "masks").iterdir():
        Image.open(path).save(path.with_suffix(".gif"))
        path.unlink()
    client = browser(root)
    assert put_mask(client, images(client)["9"], CROSS).status_code == 200
    assert (read_image(root / "masks" / "9_mask.png")[..., 0] == CROSS * 255).all()
    assert len(survey(root).pairs.pairs) == 5


def test_no_noise_of_jpegs_gets_into_corrected_masks(tmp_path: Path) -> None:
    root = pairs(tmp_path / "pairs")
    for path in (root / "masks").iterdir():
        Image.open(path).save(path.with_suffix(".jpg"), quality=60)
        path.unlink()
    client = browser(root)
    for image in images(client).values():
        assert put_mask(client, image, CROSS).status_code == 200
    assert {len(np.unique(read_image(p))) for p in (root / "masks").iterdir()} == {2}
    assert survey(root).class_map.names == ("background", "foreground")


def test_a_corrected_geotiff_keeps_its_nodata_value(tmp_path: Path) -> None:
    root = tmp_path / "tiffs"
    for number in range(4):
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / "masks").mkdir(exist_ok=True)
        write_png(root / "images" / f"{number}.png", drawn_image())
        mask = np.roll(CELL, number)
        mask[:3] = 99
        with RasterWriter(
            root / "masks" / f"{number}.tif", 48, 64, 1, np.uint8, nodata=99
        ) as writer:
            writer.write(0, mask)
    client, before = browser(root), survey(root).class_map
    assert put_mask(client, images(client)["1"], CROSS).status_code == 200
    assert survey(root).class_map == before
    with MaskFile(root / "masks" / "1.tif") as file:
        assert file.nodata == 99


@pytest.mark.parametrize("codes", ["[1, 2]", "several"])
def test_a_new_class_takes_no_code_that_means_something(tmp_path: Path, codes: str) -> None:
    root = pairs(tmp_path / "pairs", (0, 1))
    lines = "classes:\n  background: 0\n  road: 1\n"
    if codes == "[1, 2]":  # two codes of one class
        (root / "classes.txt").write_text("0 background\n1 road\n2 road\n")
    else:
        lines += "splits:\n  val: ['001', '1']\n  test: ['2']\n  train: ['*']\n"
        (root / "dataset.yaml").write_text(lines)
        shutil.copy(root / "images" / "1.png", root / "images" / "old_001.png")  # has no mask
    client = browser(root)
    there = [{"name": one["name"], "colour": one["colour"]} for one in state_classes(client)]
    more = [*there, {"name": "dust", "colour": [1, 2, 3]}]
    answer = client.put("/app/api/classes", json=more)
    if codes == "[1, 2]":
        assert (answer.status_code, len(state_classes(client))) == (422, 2)
        assert not (root / "dataset.yaml").exists()
        return
    assert [one["code"] for one in answer.json()] == [0, 1, 2]
    assert {p.name: p.split for p in survey(root).pairs.pairs}["2_mask"[:1]] == "test"
    assert "'001'" in (root / "dataset.yaml").read_text()


def test_ids_are_of_one_folder_alone(tmp_path: Path) -> None:
    first, second = pairs(tmp_path / "a"), pairs(tmp_path / "b")
    client = browser(first)
    one = images(client)["9"]
    assert client.post("/app/api/folder", json={"path": "b"}).status_code == 200
    assert put_mask(client, one, CELL).status_code == 404
    assert not (second / "masks" / "9_mask.png").exists()


def test_files_that_go_meanwhile_are_told(tmp_path: Path) -> None:
    root = pairs(tmp_path / "pairs")
    client = browser(root)
    image = images(client)["1"]
    (root / "masks" / "1_mask.png").unlink()
    (root / "images" / "1.png").unlink()
    for what in ("mask.png", "info", "tiles/0/0/0.jpg", "thumbnail.jpg?of=own"):
        answer = client.get(f"/app/api/images/{image['id']}/{what}")
        assert (answer.status_code, "1" in answer.json()["error"]["message"]) == (422, True)
    assert len(images(client)) == 5


def test_pixels_that_keep_their_class_keep_their_value(tmp_path: Path) -> None:
    root = tmp_path / "objects"
    for number in range(12):
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / "masks").mkdir(exist_ok=True)
        write_png(root / "images" / f"{number}.png", drawn_image())
        numbers = np.arange(48 * 64).reshape(48, 64) // 200 + 1
        write_tiff(root / "masks" / f"{number}.tif", (numbers * (CELL > 0)).astype(np.uint16))
    client = browser(root)
    assert [one["name"] for one in state_classes(client)][:1] == ["background"]
    image = images(client)["3"]
    new = get_mask(client, image["id"]).copy()
    new[40:] = 1
    assert put_mask(client, image, new).status_code == 200
    after = read_mask(root / "masks" / "3.tif").pixels
    assert (after[:40] == (numbers * (CELL > 0))[:40]).all()
    assert (after[40:] > 0).all()


def test_a_mask_outside_the_folder_is_corrected_and_comes_back(tmp_path: Path) -> None:
    root = pairs(tmp_path / "pairs")
    (root / "images" / "9.png").unlink()
    elsewhere = (root / "masks").rename(tmp_path / "elsewhere")
    rows = [f"images/{n}.png,{elsewhere / f'{n}_mask.png'}" for n in range(4)]
    (root / "pairs.csv").write_text("\n".join(["image,mask", *rows]))
    client = browser(root)
    image, mask = images(client)["1"], elsewhere / "1_mask.png"
    given = mask.read_bytes()
    saved = put_mask(client, image, CROSS)
    assert saved.json()["mask"] == "corrected", saved.text
    assert (read_image(mask)[..., 0] == CROSS * 255).all()
    revision = saved.json()["revision"]
    answer = client.delete(f"/app/api/images/{image['id']}/mask?revision={revision}")
    assert (answer.status_code, answer.json()["mask"]) == (200, "given")
    assert mask.read_bytes() == given


def test_a_mask_that_somebody_else_wrote_is_not_overwritten(tmp_path: Path) -> None:
    client = browser(pairs(tmp_path / "pairs"))
    image = images(client)["1"]
    first = put_mask(client, image, CROSS).json()
    late = put_mask(client, image, CELL)
    assert (late.status_code, "changed" in late.text) == (409, True)
    assert (get_mask(client, image["id"]) == CROSS).all()
    assert put_mask(client, image | first, CELL).status_code == 200


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_a_given_mask_comes_back(tmp_path: Path, suffix: str) -> None:
    root = pairs(tmp_path / "pairs")
    for path in (root / "masks").iterdir():
        Image.open(path).save(path.with_suffix(suffix))
        if suffix != ".png":
            path.unlink()
    given = (root / "masks" / f"1_mask{suffix}").read_bytes()
    client = browser(root)
    image = images(client)["1"]
    revision = put_mask(client, image, CROSS).json()["revision"]
    answer = client.delete(f"/app/api/images/{image['id']}/mask?revision={revision}")
    assert answer.json()["mask"] == "given"
    assert [path.name for path in (root / "masks").glob("1_*")] == [f"1_mask{suffix}"]
    assert (root / "masks" / f"1_mask{suffix}").read_bytes() == given
    assert (get_mask(client, image["id"]) == np.roll(CELL, 1)).all()


def test_only_masks_that_were_drawn_here_are_taken_away(tmp_path: Path) -> None:
    root = pairs(tmp_path / "pairs")
    client = browser(root)
    given, new = images(client)["1"], images(client)["9"]
    refused = client.delete(f"/app/api/images/{given['id']}/mask?revision={given['revision']}")
    assert refused.status_code == 422
    revision = put_mask(client, new, CELL).json()["revision"]
    assert client.delete(f"/app/api/images/{new['id']}/mask?revision={revision}").status_code == 200
    assert not (root / "masks" / "9_mask.png").exists()
    assert images(client)["9"]["mask"] == "none"
    assert images(client)["1"]["mask"] == "given"


def test_one_draws_and_the_others_look(tmp_path: Path) -> None:
    root = pairs(tmp_path / "pairs")
    first = browser(root)
    second = TestClient(first.app, base_url="http://127.0.0.1")
    assert second.get("/app/api/state").json()["writer"] is False
    assert put_mask(second, images(second)["1"], CELL).status_code == 423
    other_server = browser(root)
    told = other_server.get("/app/api/state").json()
    assert (told["writer"], "works in" in told["writer_note"]) == (False, True)
    assert put_mask(other_server, images(other_server)["1"], CELL).status_code == 423
    assert put_mask(first, images(first)["1"], CELL).status_code == 200


def test_a_folder_in_use_opens_to_look_at(tmp_path: Path) -> None:
    root = pairs(tmp_path / "pairs")
    with locked(root):
        told = browser(root).get("/app/api/state").json()
    assert (told["writer"], told["images"], told["masks"]) == (False, 5, 4)


@pytest.mark.parametrize("change", ["size", "class", "kind", "window"])
def test_masks_that_do_not_fit_are_refused(tmp_path: Path, change: str) -> None:
    client = browser(pairs(tmp_path / "pairs"))
    image, mask, query = images(client)["1"], CELL, ""
    if change == "size":
        mask = CELL[:40]
    if change == "class":
        mask = CELL * 7
    if change == "kind":
        mask = CELL.astype(np.uint16)
    if change == "window":
        query = "&x=60&y=0&width=64&height=48"
    answer = put_mask(client, image, mask, query)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"]
    assert (get_mask(client, image["id"]) == np.roll(CELL, 1)).all()


def test_a_window_of_a_mask_is_drawn_and_the_rest_stays(tmp_path: Path) -> None:
    client = browser(pairs(tmp_path / "pairs"))
    image, expected = images(client)["1"], np.roll(CELL, 1)
    expected[5:15, 40:60] = CROSS[5:15, 40:60]
    window = "&x=40&y=5&width=20&height=10"
    assert put_mask(client, image, CROSS[5:15, 40:60], window).status_code == 200
    assert (get_mask(client, image["id"]) == expected).all()
    part = get_mask(client, image["id"], "?x=40&y=5&width=20&height=10")
    assert (part == expected[5:15, 40:60]).all()


def test_classes_are_appended_once_masks_exist(tmp_path: Path) -> None:
    root = pairs(tmp_path / "pairs")
    client = browser(root)
    there = [{"name": one["name"], "colour": one["colour"]} for one in state_classes(client)]
    other = [{"name": "other", "colour": [1, 2, 3]}, *there]
    assert client.put("/app/api/classes", json=other).status_code == 422
    more = [*there, {"name": "dust", "colour": [1, 2, 3]}]
    told = client.put("/app/api/classes", json=more).json()
    assert [one["name"] for one in told][2] == "dust"
    assert put_mask(client, images(client)["9"], CELL * 2).status_code == 200
    assert survey(root).class_map.names[2] == "dust"
    assert len(survey(root).pairs.pairs) == 5


def test_why_a_folder_cannot_be_checked_is_told(tmp_path: Path) -> None:
    root = pairs(tmp_path / "pairs")
    client = browser(root)

    def findings() -> Any:
        for _ in range(200):
            answer = client.get("/app/api/findings")
            if answer.status_code != 202:
                return answer
            time.sleep(0.05)
        raise AssertionError(answer)

    (root / "dataset.yaml").write_text("maks: masks\n")
    answer = findings()
    assert (answer.status_code, "dataset.yaml" in answer.text) == (422, True)
    (root / "dataset.yaml").unlink()
    assert findings().status_code == 200


def test_the_page_is_told_the_same_things_where_no_folder_is_open(tmp_path: Path) -> None:
    STUDIOS.extend([Studio(tmp_path), Studio(tmp_path, bare(tmp_path / "new"))])
    nothing, something = (studio.state("me") for studio in STUDIOS)
    assert nothing.keys() == something.keys()
    assert (nothing["images"], nothing["masks"], nothing["model"]) == (0, 0, None)


def test_folders_below_the_root_are_listed_and_no_others(tmp_path: Path) -> None:
    pairs(tmp_path / "root" / "a")
    bare(tmp_path / "root" / "b" / "c")
    bare(tmp_path / "secret")
    STUDIOS.append(Studio(tmp_path / "root"))
    app = build_app([app_router(STUDIOS[0])], Limits())
    client = TestClient(app, base_url="http://127.0.0.1")
    assert client.get("/app/api/state").json()["folder"] is None
    listed = client.get("/app/api/folders").json()["folders"]
    assert [(one["name"], one["images"]) for one in listed] == [("a", 9), ("b", 5)]
    for path in ("..", "../secret", "/etc", "a/../../secret"):
        assert client.get("/app/api/folders", params={"path": path}).status_code == 404
        assert client.post("/app/api/folder", json={"path": path}).status_code == 404
    assert client.post("/app/api/folder", json={"path": "b/c"}).json()["images"] == 5


@pytest.mark.parametrize(
    "query",
    ["plan?budget=0", "plan?budget=nan", "plan?budget=1e99", "folders?path=%00"],
)
def test_values_that_make_no_sense_are_refused(tmp_path: Path, query: str) -> None:
    answer = browser(pairs(tmp_path / "pairs")).get(f"/app/api/{query}")
    assert answer.status_code in {404, 422}
    assert answer.json()["error"]["message"]


def test_a_folder_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = browser(pairs(tmp_path / "pairs"))
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)  # root may read everything
    opened = client.post("/app/api/folder", json={"path": "pairs"})
    for answer in (client.get("/app/api/folders"), opened):
        assert (answer.status_code, "cannot be read" in answer.text) == (403, True)
    assert client.get("/app/api/state").json()["images"] == 5
    assert client.get("/app/api/folders", params={"path": "a" * 5000}).status_code == 404


@pytest.mark.parametrize("name", ["../studio.py", "%2e%2e%2fstudio.py", "..%5cstudio.py", "x.js"])
def test_the_page_gives_nothing_but_its_own_files(tmp_path: Path, name: str) -> None:
    client = browser(pairs(tmp_path / "pairs"))
    assert client.get(f"/app/{name}").status_code == 404


def test_of_a_name_that_no_file_can_have_there_is_none(tmp_path: Path) -> None:
    client = browser(pairs(tmp_path / "pairs"), tmp_path / "runs")
    write_json(tmp_path / "runs" / "a" / "env.json", {"data": str(tmp_path / "pairs")})
    for name in ("a" * 5000, f"api/previews/{'a' * 5000}.png"):
        assert client.get(f"/app/{name}").status_code == 404


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text are those of Linux")
def test_names_that_are_no_text_are_listed_and_drawn_on(tmp_path: Path) -> None:
    root = bare(tmp_path / "photos", count=1)
    (root / "photo 0.png").rename(Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.png")))
    client = browser(root)
    (told,) = client.get("/app/api/images").json()
    assert client.get("/app/api/state").json()["images"] == 1
    assert client.get(f"/app/api/images/{told['id']}/info").json()["width"] == 64
    answer = put_mask(client, told, CELL)
    assert answer.status_code == 200, answer.text
    assert (get_mask(client, told["id"]) == CELL).all()
    archive = client.get("/app/api/masks.zip")
    assert archive.status_code == 200, archive.text
    assert ZipFile(BytesIO(archive.content)).namelist() == ["caf\ufffd.png"]


def test_indexes_come_as_bytes_where_they_are_asked_for(tmp_path: Path) -> None:
    client = browser(pairs(tmp_path / "pairs"))
    one = images(client)["1"]
    query = f"/app/api/images/{one['id']}/mask.png?of=own&x=3&y=5&width=40&height=20"
    answer = client.get(query, headers={"accept": "application/octet-stream"})
    index = np.frombuffer(answer.content, np.uint8).reshape(20, 40)
    assert (index == get_mask(client, one["id"])[5:25, 3:43]).all()
    assert index.any()


def test_a_folder_that_cannot_be_opened_leaves_the_open_one_as_it_is(tmp_path: Path) -> None:
    root = pairs(tmp_path / "pairs")
    (bare(tmp_path / "other") / "dataset.yaml").write_text("maks: masks\n")
    client = browser(root)
    answer = client.post("/app/api/folder", json={"path": "other"})
    assert (answer.status_code, "dataset.yaml" in answer.text) == (422, True)
    assert client.get("/app/api/state").json()["images"] == 5
    assert put_mask(client, images(client)["9"], CELL).status_code == 200


@pytest.mark.parametrize(
    ("image", "mask", "other", "expected"),
    [
        ("a", "mask_a", "c", "mask_c"),
        ("0", "2024_0", "7", "2024_7"),
        ("k", "k_mask", "b", "b_mask"),
    ],
)
def test_the_name_of_an_image_is_a_word_in_that_of_its_mask(
    image: str, mask: str, other: str, expected: str
) -> None:
    assert renamed(image, mask, other) == expected


def test_a_first_mask_is_named_so_that_it_pairs(tmp_path: Path) -> None:
    root = tmp_path / "letters"
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate("abc"):
        write_png(root / "images" / f"{name}.png", drawn_image())
        if name != "c":
            write_png(root / "masks" / f"mask_{name}.png", np.roll(CELL, number) * 255)
    client = browser(root)
    assert put_mask(client, images(client)["c"], CROSS).status_code == 200
    assert (root / "masks" / "mask_c.png").is_file()
    assert len(survey(root).pairs.pairs) == 3


def test_a_disk_that_is_full_leaves_a_given_mask_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pairs(tmp_path / "pairs")
    client, mask = browser(root), root / "masks" / "1_mask.png"
    given = mask.read_bytes()

    def fail(*_paths: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copy2", fail)
    answer = put_mask(client, images(client)["1"], CROSS)
    assert (answer.status_code, "Free space" in answer.text) == (507, True)
    assert mask.read_bytes() == given
    assert not [path for path in (root / ".unetseg").rglob("*") if path.is_file()]


def test_a_mask_whose_first_correction_failed_is_kept_as_it_is_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pairs(tmp_path / "pairs")
    client, mask = browser(root), root / "masks" / "1_mask.png"

    def fail(*_: object) -> None:
        raise MachineError("the disk is full", fix="Free space.")

    with monkeypatch.context() as patched:
        patched.setattr(drawing, "write_rows", fail)
        assert put_mask(client, images(client)["1"], CROSS).status_code == 500
    mended = (root / "masks" / "0_mask.png").read_bytes()  # by another program
    mask.write_bytes(mended)
    assert put_mask(client, images(client)["1"], CROSS).status_code == 200
    assert (root / ".unetseg" / "given" / "masks" / "1_mask.png").read_bytes() == mended


def test_a_given_mask_stays_kept_where_its_first_correction_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pairs(tmp_path / "pairs")
    client, given = browser(root), (root / "masks" / "1_mask.png").read_bytes()

    def end(*_: object) -> None:
        raise MachineError("the disk is full", fix="Free space.")

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "saved", end)
        assert put_mask(client, images(client)["1"], CROSS).status_code == 500
    STUDIOS.pop().close()
    client = browser(root)
    assert put_mask(client, images(client)["1"], CELL).status_code == 200
    assert (root / ".unetseg" / "given" / "masks" / "1_mask.png").read_bytes() == given
