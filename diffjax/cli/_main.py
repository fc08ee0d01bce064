"""Program `diffjax`: runs a command, and prints errors in one line."""

import errno
import importlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

import diffjax.timing  # noqa: F401  # The clock of --timing runs from here on.

from ._parser import parse_command_line

_STOPPED = "stopped; run the same command to go on where it was."
_FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
_FORBIDDEN = errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR


def main() -> None:
    """Runs the program: exit code 0, 1 for a run-time error, 2 for wrong usage."""
    # Before jax is imported: each program from its cache would print a screenful.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.showwarning = _show_warning
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name may hold bytes that are no text, or no letters of this terminal.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        run(sys.argv[1:])
        sys.stdout.flush()  # Here, where what goes wrong is told in a line.
    except KeyboardInterrupt:
        _fail(_STOPPED, code=130)
    except BrokenPipeError:
        # The reader of a pipe went away, as `head` does: nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, ImportError) as error:
        _fail(str(error), code=getattr(error, "exit_code", 1))
    except OSError as error:
        _fail(_describe_os_error(error), code=1)


def run(arguments: list[str]) -> None:
    """Runs the command that a command line names.

    Raises:
        UsageError: If the command line can't be meant.
    """
    name, values = parse_command_line(arguments)
    _import_command(name)(**values)


def _import_command(name: str) -> Callable[..., Any]:
    """Imports the function of a command; Ctrl-C meanwhile ends the program at once.

    An interrupted import leaves half a module behind, and other errors than Ctrl-C.
    """

    def stop(*_: object) -> None:
        print(f"error: {_STOPPED}", file=sys.stderr, flush=True)  # noqa: T201  # Its voice.
        os._exit(130)

    previous_handler = signal.getsignal(signal.SIGINT)
    is_default = previous_handler is signal.default_int_handler
    if is_default:
        signal.signal(signal.SIGINT, stop)
    try:
        return getattr(importlib.import_module("diffjax.cli"), name)
    finally:
        if is_default:
            signal.signal(signal.SIGINT, previous_handler)


def _fail(message: str, *, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)  # noqa: T201  # The program's voice.
    sys.exit(code)


def _describe_os_error(error: OSError) -> str:
    """Text of a system error in one line, with the remedy if there is one."""
    file_prefix = f"{error.filename}: " if error.filename else ""
    text = f"{file_prefix}{error.strerror or error}"
    # By its text, too: a library may hide the number.
    if error.errno in _FULL or any(os.strerror(code) in text for code in _FULL):
        text += "; make room and run the same command: it goes on where it was"
    elif error.errno in _FORBIDDEN:
        text += "; name a place that you may write to"
    return f"{text}."


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)  # noqa: T201  # The program's voice.
