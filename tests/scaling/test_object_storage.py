"""Images and masks on an S3 server of this machine: the masks of local folders, each once."""

import errno
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tifffile
from PIL import Image

from tests.builders import bundle_info, noise, random_segmenter, save_run
from tests.faults.test_prediction import POISON, finish, start
from unetseg.cli.app import run
from unetseg.errors import MachineError
from unetseg.scaling.object_storage import Place, Stage

s3fs = pytest.importorskip("s3fs", reason="s3fs is an extra")
moto = pytest.importorskip("moto.server", reason="moto is for development")

Capture = pytest.CaptureFixture[str]
CPU = ["--device", "cpu", "--precision", "float32"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    one = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    one.start()
    host, port = one.get_host_and_port()
    yield f"http://{host}:{port}"
    one.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """An empty bucket, and the surroundings that lead to it."""
    import boto3

    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server,
    }.items():
        monkeypatch.setenv(name, value)
    return boto3.resource("s3").create_bucket(Bucket=f"b{abs(hash(request.node.name))}")


def draw(folder: Path, count: int) -> Path:
    for number in range(count):
        path = folder / f"{number % 2}" / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(40, 40 + 8 * (number % 3), 3, seed=number)).save(path)
    return folder


def upload(bucket: Any, folder: Path, prefix: str) -> str:
    for path in folder.rglob("*.*"):
        bucket.upload_file(str(path), f"{prefix}/{path.relative_to(folder).as_posix()}")
    return f"s3://{bucket.name}/{prefix}"


def stored(bucket: Any, prefix: str) -> dict[str, bytes]:
    """The objects below a prefix, by the rest of their names."""
    return {
        one.key.removeprefix(f"{prefix}/"): one.get()["Body"].read()
        for one in bucket.objects.filter(Prefix=f"{prefix}/")
    }


def masks(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name.endswith(".png")}


def local(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}


def predict(*words: object) -> int:
    return run(["predict", *map(str, words), *CPU])


def test_from_a_bucket_to_a_bucket_and_on_with_what_is_missing(
    tmp_path: Path, bucket: Any, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, folder = save_run(tmp_path / "run"), draw(tmp_path / "in", 40)
    (folder / "0" / "004.png").write_bytes(b"no image")
    source, out = upload(bucket, folder, "scans"), f"s3://{bucket.name}/masks"
    assert predict(trained, folder, "-o", tmp_path / "whole") == 4
    capsys.readouterr()
    assert predict(trained, source, "-o", out) == 4
    told = capsys.readouterr().err
    assert "no mask for 1 image, 39 have one" in told
    assert f"{source}/0/004.png" in told
    assert f"listed in {out}/failures.jsonl" in told
    there = stored(bucket, "masks")
    assert masks(there) == masks(local(tmp_path / "whole"))
    (row,) = map(json.loads, there["failures.jsonl"].decode().splitlines())
    assert row["image"] == f"{source}/0/004.png"
    (journal,) = (text for name, text in there.items() if name.startswith("predictions/"))
    assert "unetseg-" not in journal.decode()
    assert f"{source}/0/002.png" in journal.decode()

    assert predict(trained, source, "-o", out) == 2
    assert "--existing skip" in capsys.readouterr().err
    bucket.Object("masks/1/003.png").delete()
    bucket.put_object(Key="scans/0/004.png", Body=(folder / "0" / "002.png").read_bytes())
    fetched: list[str] = []
    fetch = Place.fetch

    def counted(place: Place, name: str | Path, to: Path) -> None:
        fetched.append(str(name))
        fetch(place, name, to)

    monkeypatch.setattr(Place, "fetch", counted)
    assert predict(trained, source, "-o", out, "--existing", "skip") == 0
    assert "there already: 38 masks" in capsys.readouterr().out
    assert {name for name in fetched if name.endswith(".png")} == {"1/003.png", "0/004.png"}
    assert len(masks(stored(bucket, "masks"))) == 40
    assert predict(trained, source, "-o", out, "--existing", "skip", "--tta") == 2
    assert "tta: False there, True here" in capsys.readouterr().err
    assert predict(trained, source, "-o", out, "--existing", "overwrite") == 0


def test_from_a_folder_to_a_bucket_in_shards_and_from_a_bucket_to_a_folder(
    tmp_path: Path, bucket: Any
) -> None:
    trained, folder = save_run(tmp_path / "run"), draw(tmp_path / "in", 12)
    assert predict(trained, folder, "-o", tmp_path / "whole") == 0
    out = f"s3://{bucket.name}/masks"
    for number in range(2):
        assert predict(trained, folder, "-o", out, "--shard", f"{number}/2") == 0
    expected = masks(local(tmp_path / "whole"))
    assert masks(stored(bucket, "masks")) == expected
    source = upload(bucket, folder, "scans")
    assert predict(trained, source, "-o", tmp_path / "out") == 0
    assert masks(local(tmp_path / "out")) == expected
    assert predict(trained, source, "-o", tmp_path / "out", "--existing", "skip") == 0


def test_images_and_masks_may_lie_within_one_another_but_not_in_one_place(
    tmp_path: Path, bucket: Any, capsys: Capture
) -> None:
    trained = save_run(tmp_path / "run")
    source = upload(bucket, draw(tmp_path / "in", 4), "project/images")
    for out in (f"s3://{bucket.name}/project", f"{source}/masks"):
        assert predict(trained, source, "-o", out) == 0
        capsys.readouterr()
        assert predict(trained, source, "-o", out, "--existing", "skip") == 0
        assert "there already: 4 masks" in capsys.readouterr().out
    before = stored(bucket, "project/images")
    assert predict(trained, source, "-o", source, "--existing", "overwrite") == 2
    assert "masks would take the place of images in s3://" in capsys.readouterr().err
    assert stored(bucket, "project/images") == before


def test_masks_of_another_model_never_pass_for_those_that_could_not_be_put(
    tmp_path: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    first, second = save_run(tmp_path / "a"), tmp_path / "b"
    save_run(second, None, random_segmenter(bundle_info(), seed=1))
    source, out = upload(bucket, draw(tmp_path / "in", 6), "scans"), f"s3://{bucket.name}/masks"
    assert predict(second, tmp_path / "in", "-o", tmp_path / "whole") == 0
    assert predict(first, source, "-o", out) == 0
    with monkeypatch.context() as away:
        away.setattr(Stage, "_put_masks", lambda *_: (_ for _ in ()).throw(OSError("away")))
        assert predict(second, source, "-o", out, "--existing", "overwrite") == 3
    assert predict(second, source, "-o", out, "--existing", "skip") == 2
    assert "made otherwise" in capsys.readouterr().err
    assert predict(second, source, "-o", out, "--existing", "overwrite") == 0
    assert masks(stored(bucket, "masks")) == masks(local(tmp_path / "whole"))


@pytest.mark.row(50)
@pytest.mark.long
def test_an_object_that_kills_its_process_is_put_aside(tmp_path: Path, bucket: Any) -> None:
    trained, folder = save_run(tmp_path / "run"), draw(tmp_path / "in", 6)
    source, out = upload(bucket, folder, "scans"), Path(f"s3://{bucket.name}/masks")
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(POISON)
    finish(start(trained, Path(source), out, path=tmp_path / "path"), -signal.SIGSEGV)
    for _ in range(2):
        skip = ["--existing", "skip"]
        told = finish(start(trained, Path(source), out, *skip, path=tmp_path / "path"), 4)
        assert "no mask for 1 image, 5 have one" in told
        assert f"{source}/1/003.png ended the process that read it, twice" in told
    assert len(masks(stored(bucket, "masks"))) == 5


def test_what_cannot_be_reached_or_is_not_there_is_told(
    tmp_path: Path, bucket: Any, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, out = save_run(tmp_path / "run"), f"s3://{bucket.name}/masks"
    assert predict(trained, f"s3://{bucket.name}/none", "-o", out) == 5
    assert "there is no image in s3://" in capsys.readouterr().err
    assert predict(trained, "s3://a/x", "s3://a/y", "-o", out) == 2
    assert "images are in several places" in capsys.readouterr().err
    assert predict(trained, "s3://no-such-bucket/x", "-o", out) in {3, 5}
    capsys.readouterr()
    assert predict(trained, "nosuch://a/x", "-o", out) == 3
    assert "nosuch://a/x is no address" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    assert predict(trained, "gs://a/x", "-o", out) == 3
    told = capsys.readouterr().err
    assert "gs://a/x needs a package that is not installed" in told
    assert "gcsfs" in told
    assert "unetseg[s3]" not in told


def test_the_extra_of_s3_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MachineError, match="this needs s3fs") as caught:
        Place("s3://bucket/masks")
    assert caught.value.fix == "pip install 'unetseg[s3]'"


def test_pages_of_a_stack_that_are_there_are_refused_or_skipped(
    tmp_path: Path, bucket: Any, capsys: Capture
) -> None:
    trained = save_run(tmp_path / "run")
    (tmp_path / "in").mkdir()
    pages = noise(6, 40, 48)
    stack = tmp_path / "in" / "stack.tif"
    tifffile.imwrite(stack, pages, metadata=None, photometric="minisblack")
    source, out = upload(bucket, tmp_path / "in", "scans"), f"s3://{bucket.name}/masks"
    assert predict(trained, source, "-o", out) == 0
    before = masks(stored(bucket, "masks"))
    assert set(before) == {f"stack_{page}.png" for page in range(1, 7)}
    assert predict(trained, source, "-o", out) == 2
    capsys.readouterr()
    assert predict(trained, source, "-o", out, "--existing", "skip") == 0
    assert "there already: 6 masks" in capsys.readouterr().out
    assert predict(trained, source, "-o", out, "--existing", "skip", "--tta") == 2
    assert masks(stored(bucket, "masks")) == before


def test_overlays_are_told_by_their_address(tmp_path: Path, bucket: Any, capsys: Capture) -> None:
    trained, folder = save_run(tmp_path / "run"), draw(tmp_path / "in", 2)
    out = f"s3://{bucket.name}/masks"
    capsys.readouterr()
    assert predict(trained, folder, "-o", out, "--overlay") == 0
    assert f"next: look at {out}/*_overlay.*" in capsys.readouterr().out


@pytest.mark.parametrize("denied", ["scans", "scans/1"])
def test_a_prefix_that_may_not_be_listed_is_told(
    tmp_path: Path, bucket: Any, capsys: Capture, monkeypatch: pytest.MonkeyPatch, denied: str
) -> None:
    trained, source = save_run(tmp_path / "run"), upload(bucket, draw(tmp_path / "in", 4), "scans")
    listed = s3fs.S3FileSystem._lsdir

    async def guarded(files: Any, path: str, *more: Any, **named: Any) -> Any:
        if path == f"{bucket.name}/{denied}":
            raise PermissionError("Access Denied")
        return await listed(files, path, *more, **named)

    monkeypatch.setattr(s3fs.S3FileSystem, "_lsdir", guarded)
    assert predict(trained, source, "-o", f"s3://{bucket.name}/masks") == 3
    assert "a place cannot be reached: Access Denied" in capsys.readouterr().err
    assert not masks(stored(bucket, "masks"))


def test_ready_commands_name_the_address_of_the_images(
    tmp_path: Path, bucket: Any, capsys: Capture
) -> None:
    trained, out = save_run(tmp_path / "run"), f"s3://{bucket.name}/masks"
    source = upload(bucket, draw(tmp_path / "in", 2), "scans")
    assert predict(trained, source, "-o", out) == 0
    capsys.readouterr()
    assert predict(trained, source, "-o", out, "--existing", "skip", "--tta") == 2
    assert capsys.readouterr().err.count(f"unetseg predict {trained} {source} -o {out} --") == 2


def test_that_this_machine_has_no_room_for_images_is_told(
    tmp_path: Path, bucket: Any, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, source = save_run(tmp_path / "run"), upload(bucket, draw(tmp_path / "in", 2), "scans")
    fetch = Place.fetch

    def full(place: Place, name: str | Path, to: Path) -> None:
        if str(name).endswith(".png"):
            raise OSError(errno.ENOSPC, "No space left on device")
        fetch(place, name, to)

    monkeypatch.setattr(Place, "fetch", full)
    assert predict(trained, source, "-o", f"s3://{bucket.name}/masks") == 3
    told = capsys.readouterr().err
    assert "by TMPDIR" in told
    assert "credentials" not in told


def test_a_hidden_prefix_is_not_listed(
    tmp_path: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, source = save_run(tmp_path / "run"), upload(bucket, draw(tmp_path / "in", 2), "scans")
    bucket.put_object(Key="scans/.private/x.png", Body=b"x")
    listed = s3fs.S3FileSystem._lsdir

    async def guarded(files: Any, path: str, *more: Any, **named: Any) -> Any:
        if path.endswith("/.private"):
            raise PermissionError("Access Denied")
        return await listed(files, path, *more, **named)

    monkeypatch.setattr(s3fs.S3FileSystem, "_lsdir", guarded)
    assert predict(trained, source, "-o", f"s3://{bucket.name}/masks") == 0
    assert len(masks(stored(bucket, "masks"))) == 2
