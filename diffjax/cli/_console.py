"""Console: output of commands, usage errors, and checks of files to write."""

import pathlib
import sys


class UsageError(ValueError):
    """Error of a command line.

    Attributes:
        exit_code: Exit code of the program.
    """

    exit_code = 2


def check_writable(path: pathlib.Path) -> None:
    """Refuses a path that can't be written, before a long computation."""
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise UsageError(f"{path} must be a file in a folder that exists.")


def say(text: str) -> None:
    """Prints the output of a command."""
    print(text)  # noqa: T201  # The program's answer.


def warn(text: str) -> None:
    """Prints a warning to the error output."""
    print(f"warning: {text}", file=sys.stderr)  # noqa: T201  # The program's voice.
