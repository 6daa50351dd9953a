"""Writes docs/cli.md, the reference of the command line, from the commands themselves.

    python docs/make_cli.py

`make docs` says the same, and tests/test_docs.py holds the page current.
"""

import inspect
import re
from collections import Counter
from pathlib import Path

from cyclopts import App

from unetseg.cli.app import app, lab

PAGE = Path(__file__).with_name("cli.md")
INTRODUCTION = """\
# Command line

Written by `make docs` from the commands: edit their docstrings and `unetseg/config.py`,
not this page.

Every setting can stand in three places, the later wins: in a `--config FILE.yaml`
(`epochs: 20`), in the environment (`UNETSEG_EPOCHS=20`), as a flag (`--epochs 20`).
Groups of settings that several commands share stand once, at the end.

Errors name the first files at fault, how many there are, and the fix. Exit codes: 0 ok, 1 a bug,
2 a wrong setting, 3 the machine, 4 part of the work failed, 5 the data, 6 the loss diverged,
7 out of memory, 8 a damaged or foreign model, 128 + its number stopped by a signal (130 Ctrl-C,
138 SIGUSR1, 143 SIGTERM).
"""
OWN = {"Arguments", "Parameters"}
"""Groups that every command has for itself."""

Groups = dict[str, list[str]]
"""Title of a group of settings → what explains each of them."""


def page() -> str:
    """The whole page, in Markdown."""
    verbs = {verb: app[verb] for verb in app if verb[0] != "-" and app[verb] is not lab}
    verbs |= {f"lab {verb}": lab[verb] for verb in lab if verb[0] != "-"}
    del verbs["evaluate"]  # another name of eval
    groups = {verb: settings(command) for verb, command in verbs.items()}
    times = Counter(title for titles in groups.values() for title in titles)
    shared: Groups = {}
    for titles in groups.values():
        for title, lines in titles.items():
            if title not in OWN and times[title] > 1 and len(lines) > len(shared.get(title, [])):
                shared[title] = lines

    parts = [INTRODUCTION]
    for verb, command in verbs.items():
        parts += [f"## unetseg {verb}\n", described(command)]
        for title, lines in groups[verb].items():
            parts.append(group(title, lines, shared.get(title, [])))
    parts.append("## Settings that several commands share\n")
    parts += [f"### {title}\n\n" + "\n".join(lines) + "\n" for title, lines in shared.items()]
    return "\n".join(parts)


def described(command: App) -> str:
    """What a command does, in the words of its docstring, with its examples."""
    docstring = inspect.getdoc(command.default_command) or ""
    text, _, _ = docstring.partition("\nParameters\n---")
    text, *examples = re.split(r"^Examples?:\s+", text, flags=re.MULTILINE)
    return text.strip() + "\n" + "".join(f"\n```\n{lines.strip()}\n```\n" for lines in examples)


def settings(command: App) -> Groups:
    """The settings of a command by group, as cyclopts explains them."""
    blocks = re.split(r"^\*\*(.+)\*\*:\n", command.generate_docs(), flags=re.MULTILINE)[1:]
    explained = (
        re.findall(r"^\* (?:.+\n?)(?:    .+\n?)*", lines, re.MULTILINE) for lines in blocks[1::2]
    )
    return {
        title: [line.strip() for line in lines]
        for title, lines in zip(blocks[::2], explained, strict=True)
    }


def group(title: str, lines: list[str], shared: list[str]) -> str:
    """A group of a command's settings: in full, or a link to the end of the page."""
    if lines == shared:
        return f"**[{title}](#{title.lower()})**: all\n"
    if set(lines) < set(shared):
        flags = ", ".join(f"`{line.split('`')[1].split(',')[0].split()[0]}`" for line in lines)
        return f"**[{title}](#{title.lower()})**: {flags}\n"
    return f"**{title}**\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
