"""The command line: help, settings from file, environment and flags, errors as one plain answer."""

import os
import subprocess
import sys
import tempfile
import threading
import time
import webbrowser
from pathlib import Path
from typing import Any

import pytest

from tests.builders import save_run
from unetseg.cli import console
from unetseg.cli.app import COMMANDS, main, run
from unetseg.config import BenchConfig, EvalConfig, PredictConfig, Settings, TrainConfig
from unetseg.errors import (
    BundleError,
    ConfigError,
    DataError,
    DivergedError,
    MachineError,
    MaskError,
    OutOfMemoryError,
    PartialError,
    StoppedError,
    UnetsegError,
)
from unetseg.serving import server
from unetseg.training import fit

Capture = pytest.CaptureFixture[str]


def real(*tokens: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A real command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "unetseg", *tokens],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | environment,
    )


def refusal(capsys: Capture, *tokens: str) -> str:
    """The error of a command line that is wrong; it goes to standard error alone."""
    capsys.readouterr()
    assert run(tokens) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    return captured.err.removeprefix("error: ").strip()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """The settings that reach training, which itself does not run."""
    configs: list[TrainConfig] = []

    def note(data: Path, config: TrainConfig, **_: Any) -> Path:
        configs.append(config)
        return data

    monkeypatch.setattr(fit, "train", note)
    return configs


# ------------------------------------------------------------------ help


def test_help_lists_the_verbs_and_imports_neither_torch_nor_numpy() -> None:
    script = (
        "import sys; from unetseg.cli.app import run; code = run(['--help']);"
        "print(code, sorted({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "0 []"
    for verb in COMMANDS:
        assert f" {verb} " in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80


@pytest.mark.long
@pytest.mark.parametrize("verb", [*COMMANDS, "evaluate"])
def test_the_help_of_a_verb_has_an_example(verb: str, capsys: Capture) -> None:
    assert run([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    _, _, examples = shown.partition("Example")
    assert f"unetseg {'eval' if verb == 'evaluate' else verb}" in examples.split("╭")[0]


@pytest.mark.parametrize("settings", [TrainConfig, EvalConfig, PredictConfig, BenchConfig])
def test_every_setting_says_what_it_is(settings: type[Settings]) -> None:
    for name, field in settings.model_fields.items():
        if isinstance(field.default, Settings):
            test_every_setting_says_what_it_is(type(field.default))
        else:
            assert (field.description or "").endswith((".", ")")), name


def test_version_and_no_words_at_all(capsys: Capture) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == "0.1.0"
    assert run([]) == 0
    assert "unetseg train" in capsys.readouterr().out


# ------------------------------------------------------------------ wrong settings


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        (
            "--norm bach",
            "--norm 'bach': must be 'batch', 'group', 'instance' or 'none' (did you mean batch?)",
        ),
        ("--epochs 0", "--epochs '0': must be greater than or equal to 1"),
        ("-e 0", "--epochs '0': must be greater than or equal to 1"),
        ("--lr x", "--lr 'x': must be a valid number or 'auto'"),
        ("--lr aut", "--lr 'aut': must be a valid number or 'auto' (did you mean auto?)"),
        ("--batch 0", "--batch '0': must be greater than or equal to 1 or 'auto'"),
        ("--budget 10x", "--budget '10x': '10x' is no duration: write 90s, 10m or 1h30m"),
        ("--budget 0s", "--budget '0s': must be greater than 0"),
        ("--val-fraction 1", "--val-fraction '1': must be less than 1"),
        (
            "--skip concat,ad",
            "--skip 'ad': must be 'concat', 'add', 'none', 'learned', 'gated', 'attention', "
            "'switch' or 'nested' (did you mean add?)",
        ),
        ("--widths 8,a", "--widths 'a': must be a valid integer"),
        ("--ignore x", "--ignore 'x': must be a valid integer"),
    ],
)
def test_a_wrong_setting_gives_one_plain_line(flags: str, answer: str, capsys: Capture) -> None:
    assert refusal(capsys, "train", "photos", *flags.split()) == answer


def test_every_wrong_setting_is_listed(capsys: Capture) -> None:
    lines = refusal(capsys, "train", "photos", "--norm", "bach", "--epochs", "0").splitlines()
    assert [line.split()[0] for line in lines] == ["--norm", "--epochs"]


def test_unknown_words_name_the_nearest(capsys: Capture) -> None:
    assert "Did you mean --epochs?" in refusal(capsys, "train", "photos", "--epohs", "3")
    assert 'Did you mean "train"?' in refusal(capsys, "trian", "photos")
    answer = refusal(capsys, "check", "photos", "more", "words")
    assert answer == "too many words for unetseg check: more words\nSee `unetseg check --help`."
    assert "See `unetseg lab ablate --help`" in refusal(capsys, "lab", "ablate", "--smaples", "3")


def test_the_help_of_check_leaves_the_training_to_that_of_train(capsys: Capture) -> None:
    assert run(["check", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--val-fraction" in shown
    assert "--epochs" not in shown
    assert refusal(capsys, "check", "photos", "--epochs", "0").startswith("--epochs")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["train"], "DATA"),
        (["predict", "run"], "--output"),
        (["sample", "x", "--size", "big"], "--size"),
        (["demo", "--budget", "10x"], "--budget '10x'"),
        (["train", "photos", "--config", "no.yaml"], "--config 'no.yaml' is no file"),
        (["train", "photos", "--config", "x" * 300], "is no file"),
        (["import-weights", "x" * 300], "is no file"),
        (["train", "photos", "--config"], "--config"),
        (["train", "photos", "--name", "../up"], "--name '../up'"),
    ],
)
def test_what_is_missing_or_wrong_is_named(words: list[str], named: str, capsys: Capture) -> None:
    assert named in refusal(capsys, *words)


def test_what_is_missing_is_answered_with_a_command(capsys: Capture) -> None:
    answer = refusal(capsys, "predict", "my run", "new/")
    assert answer == "--output is missing\n  unetseg predict 'my run' new/ --output OUTPUT"
    assert refusal(capsys, "train", "-e", "3") == "DATA is missing\n  unetseg train -e 3 DATA"
    assert "-o requires an argument" in refusal(capsys, "predict", "run", "new/", "-o")


def test_a_system_without_threads_to_spare_is_told(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    assert run(["sample", str(tmp_path / "cells"), "--count", "4", "--size", "64"]) == 0
    monkeypatch.setattr(threading.Thread, "start", start)
    assert run(["check", str(tmp_path / "cells")]) == 3
    assert "the system lets no more threads begin" in capsys.readouterr().err


def test_a_system_without_a_folder_for_temporary_files_is_told(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    trained = save_run(tmp_path / "run")
    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert run(["export", str(trained), "--to", "torchscript"]) == 3
    assert "--tmpfs /tmp" in capsys.readouterr().err


def test_a_real_refusal() -> None:
    done = real("train", "photos", "--norm", "bach")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "did you mean batch?" in done.stderr


def test_brackets_in_words_are_text(capsys: Capture) -> None:
    answer = refusal(capsys, "train", "photos", "--norm", "[bold]bach[/]")
    assert "[bold]bach[/]" in answer


# ------------------------------------------------------------------ where settings come from


def test_flags_win_over_the_environment_and_that_over_the_file(
    asked: list[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("epochs: 3\nbatch: 3\nlr: 0.3\nbudget: 1h30m\nskip: [concat, add]\n")
    monkeypatch.setenv("UNETSEG_BATCH", "4")
    monkeypatch.setenv("UNETSEG_LR", "0.4")
    assert run(["train", "photos", "--config", str(file), "--lr", "0.5"]) == 0
    training = asked[0].training
    assert (training.epochs, training.batch, training.lr) == (3, 4, 0.5)
    assert training.budget == 5400
    assert asked[0].network.skip == ("concat", "add")
    assert capsys.readouterr().out.endswith("next: unetseg eval photos photos\n")


def test_short_letters_and_lists_with_commas(asked: list[TrainConfig]) -> None:
    flags = "-e 5 -b 4 -l 3e-4 -s 0.5 --skip concat,add --widths 8,16,32 --ignore -1 --no-ema"
    assert run(["train", "photos", *flags.split()]) == 0
    settings = asked[0]
    assert settings.training.epochs == 5
    assert (settings.training.batch, settings.training.lr) == (4, 3e-4)
    assert settings.network.scale == 0.5
    assert settings.network.skip == ("concat", "add")
    assert settings.network.widths == (8, 16, 32)
    assert settings.data.ignore == (-1,)
    assert settings.training.ema is False


@pytest.mark.parametrize(
    "flags", ["--ignore 255,-1", "--ignore 255 --ignore -1", "--ignore=255,-1"]
)
def test_ignored_values_in_every_spelling(flags: str, asked: list[TrainConfig]) -> None:
    assert run(["train", "photos", *flags.split()]) == 0
    assert asked[0].data.ignore == (255, -1)


def test_without_flags_the_defaults_hold(asked: list[TrainConfig]) -> None:
    assert run(["train", "photos"]) == 0
    assert asked == [TrainConfig()]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("epohs: 3\n", "epohs"),
        ("norm: bach\n", "did you mean batch?"),
        ("epochs: [3\n", "is no YAML file"),
        ("just words\n", "holds no settings"),
        ("!!python/object/apply:os.system ['exit 9']\n", "is no YAML file"),
        ("train:\n  epochs: 3\n", "[train][epochs]"),
        ("no-ema: true\n", "no-ema"),
        ("0: background\n1: cell\n", "[0]"),
    ],
)
def test_a_wrong_file_of_settings_is_named(
    content: str, named: str, tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(content)
    answer = refusal(capsys, "train", "photos", "--config", str(file))
    assert named in answer
    assert len(answer.splitlines()) <= 1 + content.count("\n")


def test_every_unknown_setting_of_a_file_is_named(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("epohs: 3\nepochs: 3\nwhatever:\n  inner: 1\n")
    lines = refusal(capsys, "train", "photos", "--config", str(file)).splitlines()
    assert [line.split('"')[1] for line in lines[:-1]] == ["[epohs]", "[whatever][inner]"]
    assert lines[-1] == "See `unetseg train --help`."


@pytest.mark.parametrize("name", ["UNETSEG_NO_EMA", "UNETSEG_CONFIG"])
def test_what_the_environment_cannot_say_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch, asked: list[TrainConfig], capsys: Capture
) -> None:
    monkeypatch.setenv(name, "1")
    assert f"  - {name}\n" in refusal(capsys, "train", "photos")
    assert not asked


def test_a_file_that_is_no_text_is_named(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(b"\xff\xfe\x00\x9f")
    assert "is no YAML file" in refusal(capsys, "train", "photos", "--config", str(file))


def test_an_empty_file_of_settings_changes_nothing(
    asked: list[TrainConfig], tmp_path: Path
) -> None:
    (tmp_path / "settings.yaml").touch()
    assert run(["train", "photos", f"--config={tmp_path / 'settings.yaml'}"]) == 0
    assert asked == [TrainConfig()]


def test_a_wrong_environment_is_named(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("UNETSEG_NORM", "bach")
    assert "--norm 'bach'" in refusal(capsys, "train", "photos")


# ------------------------------------------------------------------ exit codes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnetsegError("x"), 1),
        (ConfigError("x"), 2),
        (MachineError("x"), 3),
        (ImportError("x"), 3),
        (PartialError("x"), 4),
        (DataError("x"), 5),
        (MaskError("x"), 5),
        (DivergedError("x"), 6),
        (OutOfMemoryError("x"), 7),
        (BundleError("x"), 8),
        (KeyboardInterrupt(), 130),
        (StoppedError("x"), 130),
    ],
)
def test_every_error_has_its_exit_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(fit, "train", fail)
    assert run(["train", "photos"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(fit, "train", fail)
    with pytest.raises(ZeroDivisionError):
        run(["train", "photos"])


@pytest.mark.parametrize(("count", "last"), [(2, ""), (5, ""), (7, "  … and 2 more\n")])
def test_an_answer_lists_the_first_offenders_and_the_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, count: int, last: str
) -> None:
    files = [f"a[{number}].png" for number in range(count)]

    def fail(*_: Any, **__: Any) -> None:
        raise DataError("files are bad", files, "Fix them.")

    monkeypatch.setattr(fit, "train", fail)
    run(["train", "photos"])
    shown = "".join(f"  - {file}\n" for file in files[:5])
    assert capsys.readouterr().err == f"error: files are bad\n{shown}{last}Fix them.\n"


def test_main_exits_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["unetseg", "trian"])
    with pytest.raises(SystemExit) as exit_code:
        main()
    assert exit_code.value.code == 2


@pytest.mark.long
def test_no_folder_is_a_data_error(tmp_path: Path) -> None:
    done = real("check", str(tmp_path / "nothing"), UNETSEG_CACHE_FOLDER=str(tmp_path))
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith(f"error: there is no folder {tmp_path / 'nothing'}")


# ------------------------------------------------------------------ progress


@pytest.mark.parametrize("make", [console.Lines, console.Bars])
def test_progress_says_messages_and_survives_a_stop(
    make: type[console.Lines | console.Bars], capsys: Capture
) -> None:
    progress = make()
    progress.start("reading", 3)
    progress.advance("reading", file="[x].png", loss=0.25)
    progress.say("half [of] it")
    progress.stop()
    progress.finish("reading")
    assert "half [of] it" in capsys.readouterr().out


def test_lines_are_few(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = console.Lines()
    progress.start("training", 1000)
    for _ in range(1000):
        now[0] += 0.1
        progress.advance("training", loss=0.5)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == int(100 // console.QUIET_SECONDS)
    assert lines[0].startswith("training 15%")
    assert lines[0].endswith("loss 0.5")


def test_the_time_that_is_left_does_not_count_what_was_done_before(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = console.Lines()
    progress.start("training", 1000)
    progress.advance("training", 400)  # of a run that goes on
    for _ in range(300):
        now[0] += 0.5
        progress.advance("training")
    assert "training 70%, 2 min 30 s left" in capsys.readouterr().out.splitlines()[-1]


def test_the_app_answers_while_the_browser_is_open(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers, is_answered = threading.Event(), threading.Event()

    def look(_address: str) -> bool:
        if answers.wait(5):
            is_answered.set()
        return True

    def serve(_app: Any, listener: Any) -> None:
        answers.set()
        listener.close()

    monkeypatch.setattr(webbrowser, "open", look)
    monkeypatch.setattr(server, "run", serve)
    assert run(["app", "--root", str(tmp_path), "--port", "0"]) == 0
    assert is_answered.wait(5)
