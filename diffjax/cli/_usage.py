"""Output of commands, and command lines that can't be meant."""

import pathlib
import sys


class UsageError(ValueError):
    """A command line that can't be meant.

    Attributes:
        exit_code: Exit code of the program.
    """

    exit_code = 2


def check_writable(path: pathlib.Path) -> None:
    """Refuses a file that can't be written before minutes are spent on it."""
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise UsageError(f"{path} must be a file in a folder that exists.")


def say(text: str) -> None:
    """Prints a command's answer."""
    print(text)  # noqa: T201  # The program's answer.


def warn(text: str) -> None:
    """Prints what is not as it should be."""
    print(f"warning: {text}", file=sys.stderr)  # noqa: T201  # The program's voice.
