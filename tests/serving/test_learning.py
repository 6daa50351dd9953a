"""The whole road through the API: draw, train, predict, correct, train again, take away."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from multiprocessing import Pipe, get_context
from pathlib import Path
from tempfile import SpooledTemporaryFile
from threading import Thread
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.builders import bundle_info, class_map, random_segmenter, save_run
from tests.serving.test_folder import (
    STUDIOS,
    _closed,  # noqa: F401
    bare,
    browser,
    get_mask,
    images,
    pairs,
    put_mask,
)
from unetseg.bundle import Rule, join_bundles, keep_in_bundle, read_info
from unetseg.config import TrainConfig
from unetseg.data.files.image import read_image
from unetseg.data.files.pages import MaskSet
from unetseg.data.files.pngs import png_bytes
from unetseg.data.files.tiffs import write_tiff
from unetseg.data.sample import draw_sample
from unetseg.errors import MachineError
from unetseg.prediction import manifest
from unetseg.prediction.predictor import Predictor
from unetseg.serving import learning, processes, runs
from unetseg.serving.app import told_before
from unetseg.serving.processes import predict_apart
from unetseg.serving.studio import meaning
from unetseg.storage import new_run_folder, write_json
from unetseg.training import checkpoint, run_log


def wait(client: TestClient, until: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    for _ in range(400):
        state: dict[str, Any] = client.get("/app/api/state").json()
        if until(state):
            return state
        time.sleep(0.4)
    raise AssertionError(state)


def trained(state: dict[str, Any]) -> bool:
    return state["training"]["status"] in {"done", "failed", "stopped"}


def told(kind: str) -> list[Any]:
    return [facts for _, name, facts in STUDIOS[-1].events.after(0) if name == kind]


@pytest.mark.long
def test_draw_train_predict_correct_and_train_again(tmp_path: Path) -> None:
    drawn = draw_sample(tmp_path / "sample", count=8, size=96)
    root = tmp_path / "photos"
    (drawn / "images").rename(root)
    client = browser(root)
    for truth in sorted((drawn / "masks").iterdir())[:4]:
        mask = np.asarray(read_image(truth)[..., 0] > 0, np.uint8)
        assert put_mask(client, images(client)[truth.stem], mask).status_code == 200
    first = train_once(client)
    one = predict_rest(client)
    mask = get_mask(client, one["id"], "?of=predicted").copy()
    assert set(np.unique(mask)) <= {0, 1}
    mask[:8] = 1
    assert put_mask(client, one, mask).json()["mask"] == "drawn"
    again = images(client)[Path(one["name"]).stem]
    assert (again["fresh"], 0 <= again["dice"] < 1) == (True, True)
    answer = client.post("/app/api/train", json={"budget": 5, "from_present": True})
    assert answer.status_code == 202
    state = wait(client, trained)
    assert state["training"]["status"] == "done", state["training"]
    assert state["model"]["run"] != first["run"]
    assert state["model"]["before"]["run"] == first["run"]
    assert 0 <= state["model"]["before"]["dice"] <= 1
    archive = ZipFile(BytesIO(client.get("/app/api/masks.zip").content))
    assert len(archive.namelist()) == 5
    found = findings(client)
    assert {"severity", "summary", "fix", "files"} <= set(found[0])


def train_once(client: TestClient) -> dict[str, Any]:
    plan = client.get("/app/api/plan?budget=6").json()
    assert plan["parameters"] > 1000
    assert any(word.startswith("patch") for word in plan["words"])
    assert client.post("/app/api/train", json={"budget": 6}).json()["status"] == "running"
    assert client.post("/app/api/train", json={"budget": 6}).status_code == 409
    state = wait(client, trained)
    assert state["training"]["status"] == "done", state["training"]
    model: dict[str, Any] = state["model"]
    assert (model["images"], model["before"], state["resumable"]) == (3, None, False)
    assert 0 <= model["dice"] <= 1
    assert told("training")[-1]["share"] == 1
    assert told("epoch")[-1]["run"] == model["run"]
    preview = told("epoch")[-1]["preview"]
    assert client.get(f"/app/{preview}").headers["content-type"] == "image/png"
    assert told("trained")[-1]["run"] == model["run"]
    return model


def predict_rest(client: TestClient) -> dict[str, Any]:
    rest = [one["id"] for one in images(client).values() if one["mask"] == "none"]
    assert client.post("/app/api/predict", json={"ids": rest}).json()["total"] == 4
    wait(client, lambda state: state["predicting"] is None)
    predicted = [one for one in images(client).values() if one["predicted"]]
    assert {event["id"] for event in told("predicted")} - {None} == {one["id"] for one in predicted}
    assert len(predicted) == 4
    assert 0 <= predicted[0]["uncertainty"] <= 1
    objects = client.get(f"/app/api/images/{predicted[0]['id']}/objects").json()
    assert objects["count"] == predicted[0]["objects"] == len(objects["rows"])
    one: dict[str, Any] = predicted[0]
    return one


def findings(client: TestClient) -> Any:
    for _ in range(100):
        answer = client.get("/app/api/findings")
        if answer.status_code == 200:
            return answer.json()
        assert answer.status_code == 202
        time.sleep(0.1)
    raise AssertionError(answer)


@pytest.mark.slow
def test_a_training_is_stopped_and_goes_on(tmp_path: Path) -> None:
    root = draw_sample(tmp_path / "cells", count=6, size=96)
    client = browser(root)
    assert client.post("/app/api/train/stop").status_code == 409
    assert client.post("/app/api/train/resume").status_code == 409
    client.post("/app/api/train", json={"budget": 300})
    wait(client, lambda state: state["training"]["step"] > 1 or trained(state))
    assert client.post("/app/api/train/stop").json()["status"] == "stopping"
    state = wait(client, trained)
    assert (state["training"]["status"], state["resumable"]) == ("stopped", True)
    steps = state["training"]["step"]
    STUDIOS.pop().close()
    client = browser(root)  # another server, later
    assert client.get("/app/api/state").json()["resumable"]
    assert client.post("/app/api/train/resume").status_code == 202
    wait(client, lambda state: state["training"]["step"] > steps or trained(state))
    assert client.post("/app/api/folder", json={"path": ""}).status_code == 409
    client.post("/app/api/train/stop")
    assert wait(client, trained)["training"]["status"] == "stopped"


SERVER = """
import sys, time
from pathlib import Path
from unetseg.serving.learning import Events, Learning

if __name__ == "__main__":
    learner = Learning(Path(sys.argv[1]), Path(sys.argv[2]), Events())
    learner.train(300, from_present=False)
    while learner.training["step"] < 2:
        time.sleep(0.1)
    print("trains", flush=True)
    time.sleep(600)
"""


def test_a_training_whose_server_was_killed_saves_its_state_and_can_go_on(tmp_path: Path) -> None:
    data = draw_sample(tmp_path / "cells", count=6, size=96)
    (tmp_path / "server.py").write_text(SERVER)
    command = [sys.executable, str(tmp_path / "server.py"), str(data), str(tmp_path / "runs")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"trains\n"
        server.kill()
        _, told = server.communicate(timeout=60)  # once the training lets go of both
    assert b"Traceback" not in told
    later = learning.Learning(data, tmp_path / "runs", learning.Events())
    assert later.is_resumable


def test_a_training_without_masks_is_refused(tmp_path: Path) -> None:
    root = pairs(tmp_path / "pairs")
    for path in (root / "masks").iterdir():
        path.unlink()
    client = browser(root)
    answer = client.post("/app/api/train", json={"budget": 10})
    assert (answer.status_code, "2 masks" in answer.text) == (422, True)
    assert client.post("/app/api/predict", json={"ids": "all"}).status_code == 422
    answer = client.post("/app/api/predict", json={"ids": []})
    assert (answer.status_code, "no image" in answer.text) == (422, True)


def test_classes_of_a_network_are_those_of_the_folder_by_their_codes() -> None:
    made, folder = class_map(0, 2, 7), class_map(0, 1, 2)
    assert list(meaning(made, folder)[:3]) == [0, 2, 2]  # 7 by its name, "class 2"
    assert set(meaning(made, folder)[3:]) == {255}


def test_masks_of_one_stem_are_all_in_the_archive(tmp_path: Path) -> None:
    root = tmp_path / "stems"
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    rows = ["image,mask"]
    for number, suffix in enumerate((".png", ".jpg", ".png", ".jpg")):
        name = f"{number // 2}{suffix}"
        Image.new("RGB", (64, 48), (number, 90, 7)).save(root / "images" / name)
        mask = np.zeros((48, 64), np.uint8)
        mask[number : number + 20, :30] = 255
        Image.fromarray(mask).save(root / "masks" / f"m{number}.png")
        rows.append(f"images/{name},masks/m{number}.png")
    (root / "pairs.csv").write_text("\n".join(rows))
    client = browser(root)
    archive = ZipFile(BytesIO(client.get("/app/api/masks.zip").content))
    assert len(set(archive.namelist())) == 4


def test_old_masks_of_images_elsewhere_are_in_the_archive(tmp_path: Path) -> None:
    root = pairs(tmp_path / "pairs")
    elsewhere = (root / "images").rename(tmp_path / "elsewhere")
    rows = [f"{elsewhere / f'{n}.png'},masks/{n}_mask.png" for n in range(4)]
    (root / "pairs.csv").write_text("\n".join(["image,mask", *rows]))
    os.utime(root / "masks" / "0_mask.png", (0, 0))  # a ZIP knows no time before 1980
    archive = ZipFile(BytesIO(browser(root).get("/app/api/masks.zip").content))
    assert sorted(archive.namelist()) == [f"{n}.png" for n in range(4)]


def test_all_files_of_a_mask_are_in_the_archive(tmp_path: Path) -> None:
    root = pairs(tmp_path / "pairs")
    client, folder = browser(root), STUDIOS[-1].opened
    one = next(iter(folder.entries.values()))
    files = tuple(root / "masks" / f"{number}_mask.png" for number in range(2))
    folder.entries[one.id] = replace(one, mask=MaskSet(files, (1, 1)))
    archive = ZipFile(BytesIO(client.get("/app/api/masks.zip").content))
    of_one = ["images/0/0_mask.png", "images/0/1_mask.png"]
    assert archive.namelist() == [*of_one, *(f"images/{number}.png" for number in (1, 2, 3))]


def test_a_folder_without_images_has_an_empty_archive(tmp_path: Path) -> None:
    answer = browser(bare(tmp_path / "new", 0)).get("/app/api/masks.zip")
    assert answer.status_code == 200, answer.text
    assert ZipFile(BytesIO(answer.content)).namelist() == []


def test_images_to_look_at_are_uploaded_and_nothing_else(tmp_path: Path) -> None:
    root = pairs(tmp_path / "pairs")
    client = browser(root)
    content = png_bytes(np.zeros((20, 30, 3), np.uint8))
    sent = [("files", ("../../x.png", content)), ("files", ("b.png", content))]
    reading = iter(STUDIOS[-1].opened.entries.values())  # as another request does meanwhile
    first, second = client.post("/app/api/uploads", files=sent).json()
    assert len(list(reading)) == 5
    assert (first["name"], first["uploaded"], first["width"]) == ("x.png", True, 30)
    assert client.get(f"/app/api/images/{second['id']}/thumbnail.jpg").status_code == 200
    assert put_mask(client, first, np.zeros((20, 30), np.uint8)).status_code == 422
    assert client.get("/app/api/state").json()["images"] == 5
    assert not list(tmp_path.glob("*.png"))
    for name, bad in (("a.png", b"no image"), ("a.html", content), ("a.png", content[:40])):
        answer = client.post("/app/api/uploads", files=[("files", (name, bad))])
        assert answer.status_code == 415
    write_tiff(tmp_path / "secret.tif", np.full((20, 30), 7, np.uint8))
    names_another = f"""<VRTDataset rasterXSize="30" rasterYSize="20"><VRTRasterBand dataType="Byte"
        band="1"><SimpleSource><SourceFilename>{tmp_path}/secret.tif</SourceFilename></SimpleSource>
        </VRTRasterBand></VRTDataset>"""
    whole = [("files", ("fine.png", content)), ("files", ("u.png", names_another.encode()))]
    assert client.post("/app/api/uploads", files=whole).status_code == 415
    kept = list(Path(STUDIOS[-1].uploads.name).iterdir())
    assert len(kept) == 2


def test_an_archive_for_which_there_is_no_room_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = browser(pairs(tmp_path / "pairs"))

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ZipFile, "write", fail)
    assert client.get("/app/api/masks.zip").status_code == 507
    assert not list(Path(STUDIOS[-1].uploads.name).iterdir())


def test_a_training_that_begins_has_not_the_curve_of_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = browser(pairs(tmp_path / "pairs"))
    learner = STUDIOS[-1].learner
    ended = learner.out / "ended"
    write_json(ended / "env.json", {"data": str(learner.data)})
    (ended / "log.jsonl").write_text('{"event": "validation", "step": 10}\n')
    assert [kind for kind, _ in told_before(STUDIOS[-1])] == ["epoch"]
    with monkeypatch.context() as patched:
        patched.setattr(learner, "_processes", {})
        patched.setattr(learner, "_start", lambda what, *_: learner._processes.update({what: 0}))
        assert client.post("/app/api/train", json={"budget": 60}).status_code == 202
        assert [kind for kind, _ in told_before(STUDIOS[-1])] == ["training"]


@pytest.mark.parametrize(
    ("where", "name"), [(shutil, "copyfileobj"), (SpooledTemporaryFile, "write")]
)
def test_where_the_disk_is_full_no_image_is_kept(
    where: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = browser(pairs(tmp_path / "pairs"))
    content = png_bytes(np.zeros((20, 30, 3), np.uint8))
    write, written = getattr(where, name), []

    def second_fails(*args: Any) -> Any:
        written.append(args)
        if len(written) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*args)

    monkeypatch.setattr(where, name, second_fails)
    answer = client.post("/app/api/uploads", files=[("files", ("a.png", content))] * 2)
    assert (answer.status_code, "TMPDIR" in answer.text) == (507, True)
    assert not list(Path(STUDIOS[-1].uploads.name).iterdir())


def test_events_are_told_as_they_happen(tmp_path: Path) -> None:
    client = browser(pairs(tmp_path / "pairs"))
    STUDIOS[-1].events.tell("before", n=1)
    client.app.state.door.is_draining = False  # type: ignore[attr-defined]

    def draw_and_end() -> None:
        time.sleep(0.5)
        put_mask(client, images(client)["1"], np.zeros((48, 64), np.uint8))
        time.sleep(0.5)
        client.app.state.door.is_draining = True  # type: ignore[attr-defined]

    Thread(target=draw_and_end).start()
    text = client.get("/app/api/events").text
    events = [line for line in text.split("\n\n") if line.startswith("event: changed")]
    assert len(events) == 1
    assert json.loads(events[0].partition("data: ")[2])["id"] == images(client)["1"]["id"]
    assert "before" not in text


def test_masks_are_those_of_the_network_as_it_is(tmp_path: Path) -> None:
    """Weights are saved while it trains, rules for its masks at the end."""
    root, run_folder = pairs(tmp_path / "pairs"), tmp_path / "runs" / "cells"
    client, info = browser(root, out=run_folder.parent), bundle_info()
    wanted = {entry.id: entry.image for entry in STUDIOS[-1].opened.entries.values()}
    rules = {"postprocess": (Rule(class_index=1, smallest=20),)}
    message: dict[str, Any] = {}
    for change in ("first", "other weights", "rules"):
        if change == "rules":
            weights = read_info(run_folder / "model" / "model.json").weights_sha256
            keep_in_bundle(run_folder, weights, **rules)
        else:
            save_run(run_folder, info, random_segmenter(info, seed=len(change)))
        write_json(run_folder / "env.json", {"data": str(root.resolve())})
        assert not any(one["predicted"] for one in images(client).values()), change
        if message:  # a process is followed where it writes, whatever came since
            learning._Predicting(STUDIOS[-1].learner, list(wanted)).follow(message)
        ours, theirs = Pipe(duplex=False)
        with ours, theirs:
            predict_apart(theirs, run_folder, [(path, Path(key)) for key, path in wanted.items()])
            message = ours.recv()
        predictor = Predictor(run_folder)
        for key, path in wanted.items():
            expected = predictor.predict(path) > 0
            assert (get_mask(client, key, "?of=predicted") == expected).all(), change
        left = [path for path in (run_folder / "predictions").iterdir() if path.is_dir()]
        assert left == [message["manifest"].parent], change  # those of earlier weights are gone
    assert [facts["id"] for facts in told("predicted")] == [*wanted] * 2


def test_a_process_that_does_not_begin_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser(pairs(tmp_path / "pairs"))
    learner = STUDIOS[-1].learner

    def fail(_process: object) -> None:
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(get_context("spawn").Process, "start", fail)
    with pytest.raises(OSError, match="memory"):
        learner.train(5, from_present=False)
    assert not learner.is_busy


def test_folders_of_other_programs_among_the_runs_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "runs" / "other").mkdir(parents=True)
    (tmp_path / "runs" / "other" / "env.json").write_text("[]")
    client = browser(pairs(tmp_path / "pairs"), out=tmp_path / "runs")
    assert client.get("/app/api/state").json()["model"] is None


def test_the_folds_of_an_ensemble_learn_from_all_but_the_test_images(tmp_path: Path) -> None:
    root, home = pairs(tmp_path / "pairs"), tmp_path / "runs" / "folds"
    join_bundles([save_run(home / f"fold_{number}") for number in range(2)], home / "model")
    splits = {"a": "val", "b": "val", "c": "val", "d": "test"}
    rows = [{"name": name, "hash": name, "split": split} for name, split in splits.items()]
    write_json(home / "splits.json", {"pairs": rows})
    write_json(home / "env.json", {"data": str(root.resolve())})
    client = browser(root, out=home.parent)
    assert client.get("/app/api/state").json()["model"]["images"] == 3


def test_a_network_whose_splits_are_lost_is_there_all_the_same(tmp_path: Path) -> None:
    root, home = pairs(tmp_path / "pairs"), save_run(tmp_path / "runs" / "one")
    write_json(home / "env.json", {"data": str(root.resolve())})
    client = browser(root, out=home.parent)
    assert client.get("/app/api/state").json()["model"]["images"] == 0


def test_files_of_a_run_are_called_as_those_who_write_them_call_them() -> None:
    assert (runs.LOG, processes.STATE) == (run_log.LOG, checkpoint.STATE)
    assert runs.MANIFEST == manifest.NAME


@pytest.mark.parametrize("name", ["cells", "(new) cells", "[1] photos", "-x", "..."])
def test_a_run_is_called_after_its_folder_whatever_that_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    learner = learning.Learning(tmp_path / name, tmp_path / "runs", learning.Events())
    begun: list[str] = []
    monkeypatch.setattr(learner, "_begin", lambda run, _config, *, resume: begun.append(run))
    learner.train(5, from_present=False)
    assert new_run_folder(tmp_path / "runs", begun[0]).name == begun[0]


def test_what_failed_is_told_to_a_page_that_did_not_hear_it(tmp_path: Path) -> None:
    client = browser(pairs(tmp_path / "pairs"), out=tmp_path / "runs")
    assert client.get("/app/api/state").json()["failed"] is None
    work = learning._Training(STUDIOS[-1].learner, tmp_path / "runs" / "a", TrainConfig())
    work.over({"message": "the disk is full", "fix": "Free space."}, stopped=False)
    failed = client.get("/app/api/state").json()["failed"]
    assert (failed["message"], failed["fix"]) == ("the disk is full", "Free space.")
    assert failed["number"] == STUDIOS[-1].events.last


def cannot_save(pipe: Any) -> None:
    """A training that is stopped where the disk is full."""

    def fail(*_: object) -> None:
        raise MachineError("the disk is full", fix="Free space.")

    signal.signal(signal.SIGTERM, fail)
    pipe.send({"step": 1})
    time.sleep(60)


def test_a_training_that_cannot_be_saved_when_it_is_stopped_has_failed(tmp_path: Path) -> None:
    learner = learning.Learning(tmp_path / "cells", tmp_path / "runs", learning.Events())
    learner.training = {"status": "running", "step": 0}
    work = learning._Training(learner, tmp_path / "runs" / "a", TrainConfig())
    learner._start("training", work, (cannot_save,))
    for wanted in ({"running"}, {"failed", "stopped"}):
        for _ in range(600):
            if learner.training["step"] and learner.training["status"] in wanted:
                break
            time.sleep(0.1)
        if wanted == {"running"}:
            learner.stop()
    assert (learner.training["status"], learner.training["error"]) == ("failed", "the disk is full")
