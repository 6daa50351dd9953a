"""Every error that a user can cause, with what came, what was expected and the fix.

The tree (the number is the exit code of the command line):

    UnetsegError                     1
    ├── ConfigError                  2   a setting or argument is wrong
    ├── MachineError                 3   a package, device or folder is not usable
    ├── PartialError                 4   some of the work was done, some failed
    ├── DataError                    5   the images or masks are not usable
    │   ├── PairingError                 images and masks do not match up
    │   ├── ImageError                   an image cannot be read or has the wrong bands
    │   └── MaskError                    a mask cannot be read or its values make no sense
    ├── DivergedError                6   the loss stopped being a number
    ├── OutOfMemoryError             7   the machine's memory does not hold the work
    ├── BundleError                  8   a checkpoint or bundle is missing, damaged or foreign
    └── StoppedError               130   stopped by a signal (128 + its number)
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from unetseg.text import printable


class UnetsegError(Exception):
    """An answer to the user: a summary, all offenders, and the fix.

    It is data before it is text: programs look at `code`, `paths` and `came`, never at the words.

    Args:
        summary: One sentence: what came and what was expected.
        offenders: Every file or setting at fault, one line each; never only the first.
        fix: What to do, as a command where there is one.
        code: What went wrong, one word for programs, such as "empty-file"; else that of the class.
        paths: The files it is about.
        came: What came, where a program wants it: the pixels of a decompression bomb.
        commands: Ready commands, one for each answer that would do; `fix` is what they do.
    """

    exit_code = 1
    code = "bug"
    told = False
    """Whether another process tells it."""

    def __init__(  # noqa: PLR0913 (an error is data)
        self,
        summary: str,
        offenders: Sequence[object] = (),
        fix: str = "",
        *,
        code: str = "",
        paths: Sequence[Path] = (),
        came: object = None,
        commands: Sequence[str] = (),
    ) -> None:
        self.summary = summary
        self.offenders = [str(offender) for offender in offenders]
        self.fix = fix
        self.code = code or type(self).code
        self.paths = tuple(paths)
        self.came = came
        self.commands = tuple(commands)
        super().__init__(str(self))

    def __str__(self) -> str:
        return self.text()

    def text(self, most: int | None = None) -> str:
        """All of it in lines; with `most`, no more offenders than that, and how many more.

        Whatever names hold, each part is one line without control characters.
        """
        lines = [self.summary, *(f"  - {offender}" for offender in self.offenders[:most])]
        more = len(self.offenders[most:]) if most is not None else 0
        lines += [f"  … and {more} more"] if more else []
        lines += [self.fix] if self.fix else []
        lines += [f"  {command}" for command in self.commands]
        return "\n".join(map(printable, lines))

    @classmethod
    def like(cls, error: "UnetsegError") -> Self:
        """What `error` says, as an error of this class."""
        parts: dict[str, Any] = {
            name: getattr(error, name) for name in ("code", "paths", "came", "commands")
        }
        return cls(error.summary, error.offenders, error.fix, **parts)

    def __reduce__(self) -> tuple[object, ...]:
        """Rebuild from the parts, so that errors cross process borders whole."""
        return type(self), (self.summary, self.offenders, self.fix), self.__dict__


class ConfigError(UnetsegError):
    """A setting or argument is wrong."""

    exit_code = 2
    code = "config"


class MachineError(UnetsegError):
    """A package, device or folder is not usable."""

    exit_code = 3
    code = "machine"


class PartialError(UnetsegError):
    """Some of the work was done, some failed."""

    exit_code = 4
    code = "partial"


class DataError(UnetsegError):
    """The images or masks are not usable."""

    exit_code = 5
    code = "data"


class PairingError(DataError):
    """Images and masks do not match up."""

    code = "pairing"


class ImageError(DataError):
    """An image cannot be read, or has the wrong bands."""

    code = "image"


class MaskError(DataError):
    """A mask cannot be read, or its values make no sense."""

    code = "mask"


class DivergedError(UnetsegError):
    """The loss stopped being a number."""

    exit_code = 6
    code = "diverged"


class OutOfMemoryError(UnetsegError):
    """The machine's memory does not hold the work."""

    exit_code = 7
    code = "out-of-memory"


class BundleError(UnetsegError):
    """A checkpoint or bundle is missing, damaged or foreign."""

    exit_code = 8
    code = "bundle"


class StoppedError(UnetsegError):
    """Training was stopped by a signal, after its state was saved."""

    exit_code = 130
    code = "stopped"


def imported(name: str, extra: str) -> Any:
    """A package that is there only where the extra of `unetseg` was asked for.

    Raises:
        MachineError: it cannot be imported.
    """
    try:
        return import_module(name)
    except ImportError as error:
        fix = f"pip install 'unetseg[{extra}]'"
        raise MachineError(f"this needs {name}, which cannot be imported", [error], fix) from error
