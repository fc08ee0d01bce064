"""Console: output of commands, usage errors, and checks of files they name."""

import pathlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Help does without it.
    import numpy as np


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


def read_array(path: pathlib.Path) -> "np.ndarray":
    """Maps an array file in NumPy's format, so that only used pages are read.

    Raises:
        ValueError: If the file is no array, or holds objects.
    """
    import tokenize  # noqa: PLC0415  # So does it without this.

    import numpy as np  # noqa: PLC0415  # Help does without it.

    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    # The last for a header that is no Python.
    except (ValueError, EOFError, tokenize.TokenError) as error:
        raise ValueError(
            f"{path} must be an array in NumPy's format (numpy.save), got another "
            f"file ({error})."
        ) from error


def say(text: str) -> None:
    """Prints the output of a command."""
    print(text)  # noqa: T201  # The program's answer.


def warn(text: str) -> None:
    """Prints a warning to the error output."""
    print(f"warning: {text}", file=sys.stderr)  # noqa: T201  # The program's voice.
