"""The command line: verbs registered by import path, settings from config.py, errors as answers."""

import gc
import os
import re
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeGuard

from cyclopts import (
    App,
    CycloptsError,
    MissingArgumentError,
    UnknownOptionError,
    UnusedCliTokensError,
)
from cyclopts.argument import ArgumentCollection
from cyclopts.config import Dict, Env

from unetseg.cli.console import SHOWN, err, patient
from unetseg.errors import ConfigError, UnetsegError
from unetseg.text import visible

if TYPE_CHECKING:
    from pydantic import ValidationError

HELP = """Train a U-Net on a folder of images and masks, and predict masks with it.

unetseg demo                                    see it work in two minutes
unetseg import coco instances.json photos/      from COCO, labelme, CVAT …
unetseg check photos/                           what is wrong, and the fix
unetseg train photos/ --budget 10m --name cells
unetseg eval checkpoints/cells photos/
unetseg predict checkpoints/cells new/ -o masks/
unetseg lab ablate checkpoints/cells photos/    what each skip connection carries

Every setting can also stand in a --config FILE.yaml or in the environment
(UNETSEG_EPOCHS=20); flags win over the environment, and that over the file.
"""

COMMANDS = {
    "demo": "Draw a sample folder, train, evaluate and predict on it.",
    "sample": "Draw a sample folder of image/mask pairs.",
    "import": "Turn annotations of other programs into a folder of pairs.",
    "check": "Say what is wrong with a folder and how to fix it, and the plan for it.",
    "train": "Train a U-Net on a folder of image/mask pairs.",
    "eval": "Score a trained U-Net on a folder of pairs.",
    "compare": "Say which of several trained U-Nets is better, on the same pairs.",
    "report": "Write the page of a run, or set several runs side by side.",
    "curve": "Tell whether more labelled images would help.",
    "predict": "Write masks for images.",
    "serve": "Answer requests over HTTP with masks.",
    "app": "Draw, train, look and correct in the browser.",
    "export": "Write a trained U-Net as one file for other programs.",
    "import-weights": "Turn a checkpoint of milesial/Pytorch-UNet into a trained U-Net.",
    "bench": "Measure how fast this machine is, and where the time goes.",
    "prune": "Take the skips whose switch is off out of a trained U-Net.",
    "doctor": "Say what this machine offers.",
}
LAB = {
    "gradients": "How gradients flow, with and without skips.",
    "ablate": "Break one skip at a time and see what the masks lose.",
    "compare": "Train the same data with different skips, and compare.",
    "landscape": "The surface of the loss around the trained weights.",
    "gates": "What learned skips settled on.",
}
ALIASES = {"eval": ["evaluate"]}
NAMES = {
    "eval": "evaluate",
    "import": "import_",
    "import-weights": "import_weights",
    "app": "in_browser",
}
"""Functions that have not the name of their verb, which Python or the package uses otherwise."""
STDERR = 2
EXIT_USAGE, EXIT_MACHINE = 2, 3
SAYING = 1.0
"""Seconds for another process to say what all end with: torchrun ends all when the first has."""

ANSWERED = (
    CycloptsError,
    ValueError,
    UnetsegError,
    ImportError,
    RuntimeError,
    OSError,
    KeyboardInterrupt,
)

Source = Callable[[App, tuple[str, ...], ArgumentCollection], None]
"""Gives a command settings beside its flags."""

app = App(
    name="unetseg",
    help=HELP,
    help_format="plaintext",
    version_flags=["--version"],
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
for verb, summary in COMMANDS.items():
    module = NAMES.get(verb, verb)
    app.command(f"unetseg.cli.{module}:{module}", name=verb, alias=ALIASES.get(verb), help=summary)
app["compare"].usage = "Usage: unetseg compare [OPTIONS] RUN RUN... DATA"
app["import"].usage = "Usage: unetseg import [OPTIONS] [FORMAT] SRC OUT"
lab = App(name="lab", help="Show what the skip connections do, on your own data.")
for verb, summary in LAB.items():
    lab.command(f"unetseg.cli.lab:{verb}", name=verb, help=summary)
app.command(lab)


def main() -> None:
    """The `unetseg` command; what libraries warn of is answered by us, or of no use here."""
    while (spare := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass  # one that is closed would be the next file that is opened
    os.close(spare)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is getattr(sys, f"__{name}__"):  # else a caller's own
            setattr(sys, name, patient(getattr(sys, name)))
    for name in ("SIGTERM", "SIGHUP", "SIGUSR1"):  # Windows has one of them
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _interrupt)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    exit_code = run(sys.argv[1:])
    gc.freeze()  # else Python looks through all that torch has loaded before it ends, half a second
    sys.exit(exit_code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End as by Ctrl-C, with what is to be cleared away; the second time at once."""
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt(number)


def run(tokens: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        app.config = _sources(tokens)
        _open_help(tokens)
        app(tokens, exit_on_error=False, print_error=False)
    except ANSWERED as error:
        answer = _answer(error)
        if answer is None:
            raise
        if isinstance(error, UnetsegError) and error.told:
            time.sleep(SAYING)
        else:
            err.print(f"error: {visible(answer[0])}", markup=False)
        return answer[1]
    return 0


def _answer(error: BaseException) -> tuple[str, int] | None:
    """What the user is told, and the exit code; None for a bug."""
    match error:
        case CycloptsError():
            return _usage(error), EXIT_USAGE
        case ValueError() if _is_setting(error):
            return _wrong_settings(error), EXIT_USAGE
        case UnetsegError():
            return error.text(SHOWN), error.exit_code
        case KeyboardInterrupt():
            number = next(iter(error.args), signal.SIGINT)
            return f"stopped by {signal.Signals(number).name}", 128 + number
        case ImportError() | RuntimeError() | OSError():
            told = _of_machine(error)
            return (told, EXIT_MACHINE) if told else None
    return None


def _wrong_settings(error: "ValidationError") -> str:
    from unetseg.config import wrong_settings

    return wrong_settings(error)


def _is_setting(error: BaseException | None) -> TypeGuard["ValidationError"]:
    from pydantic import ValidationError

    return isinstance(error, ValidationError)


def _of_machine(error: Exception) -> str:
    """What is told of packages, or of a system, that do not let us work; "" for a bug."""
    if isinstance(error, ImportError) or "operator torchvision::" in str(error):
        fix = "Install torch and torchvision together: uv pip install -c constraints.txt -e ."
        return f"a package is missing or does not fit: {error}\n{fix}"
    if "can't start new thread" in str(error):
        fix = "Raise the limit (ulimit -u, --pids-limit of a container), or end other processes."
        return f"the system lets no more threads begin\n{fix}"
    if "No usable temporary directory" in str(error):
        fix = "Name one by TMPDIR, or give the container one: docker run --tmpfs /tmp"
        return f"there is no folder for temporary files\n{fix}"
    return ""


def _open_help(tokens: Sequence[str]) -> None:
    """Let the verb's docstring, with its examples, be its help, not its line in the list."""
    if tokens and tokens[0] in {*COMMANDS, *chain.from_iterable(ALIASES.values())}:
        app[tokens[0]].help = None
    if tokens[:1] == ["lab"] and tokens[1:] and tokens[1] in LAB:
        lab[tokens[1]].help = None


def _sources(tokens: Sequence[str]) -> list[Source]:
    """Where settings come from beside the flags: the environment, then the --config file."""
    unheard = sorted(name for name in os.environ if re.match("UNETSEG_(NO_|CONFIG$)", name))
    if unheard:  # UNETSEG_NO_EMA=1 would be UNETSEG_EMA=1
        fix = "Write false to the setting itself (UNETSEG_EMA=false), and --config FILE as a flag."
        raise ConfigError("these variables of the environment are no settings", unheard, fix)
    sources: list[Source] = [Env("UNETSEG_", command=False, show=False)]
    for at, token in enumerate(tokens):
        if token == "--config" or token.startswith("--config="):
            path = token.partition("=")[2] or next(iter(tokens[at + 1 :]), "")
            sources.append(_file(path))
    return sources


def _file(path: str) -> Source:
    import yaml

    from unetseg.data.masks.class_list import load_yaml
    from unetseg.storage import is_file

    if not is_file(path):
        raise ConfigError(f"--config {path!r} is no file")
    try:
        content = load_yaml(Path(path).read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--config {path!r} is no YAML file: {reason}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--config {path!r} holds no settings, expected lines like epochs: 20")
    said = {key: value for key, value in _named(content).items() if value is not None}
    if negated := [key for key in said if re.match("no[-_]", key)]:
        told = f"--config {path!r} has flags in the place of settings: {', '.join(negated)}"
        raise ConfigError(told, fix="Write false to the setting itself, such as ema: false")

    return partial(_give, said, path)


def _give(
    said: Mapping[str, Any],
    path: str,
    verb: App,
    commands: tuple[str, ...],
    arguments: ArgumentCollection,
) -> None:
    """As the verb's own: else settings that are called as a command is would be left out."""
    unknown = []
    for key, value in said.items():
        own = reduce(lambda inner, name: {name: inner}, reversed(commands), {key: value})
        try:
            Dict(own, source=path)(verb, commands, arguments)
        except UnknownOptionError as error:
            error.verbose = False  # else with the name of its class
            unknown.append(str(error))
    if unknown:
        raise CycloptsError("\n".join(unknown))


def _named(content: Mapping[Any, Any]) -> dict[str, Any]:
    """The same with text for keys, which may be numbers in YAML."""
    return {str(k): _named(v) if isinstance(v, dict) else v for k, v in content.items()}


def _usage(error: CycloptsError) -> str:
    """One plain line for a command line that does not fit."""
    if _is_setting(error.__cause__):
        return _wrong_settings(error.__cause__)
    argument = error.argument
    if isinstance(error, MissingArgumentError) and argument and not error.keyword:
        name = argument.name
        flag = [name] if name.startswith("-") else []
        words = [*(error.root_input_tokens or ()), *flag, name.strip("-").upper()]
        return f"{name} is missing\n  {shlex.join(['unetseg', *words])}"
    command = " ".join(["unetseg", *(error.command_chain or ())])
    told = str(error)
    if isinstance(error, UnusedCliTokensError):
        told = f"too many words for {command}: {' '.join(error.unused_tokens or ())}"
    return f"{told}\nSee `{command} --help`."
