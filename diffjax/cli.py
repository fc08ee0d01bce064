"""The program `diffjax`: what surrounds its commands."""

import errno
import importlib
import os
import sys
import warnings


class UsageError(ValueError):
    """A command line that can't be meant; the program ends with exit code 2."""


def main() -> None:
    """Runs the program: exit code 0, 1 for a run-time error, 2 for wrong usage."""
    # Before jax is imported: each program from its cache would print a screenful.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.showwarning = _show_warning
    try:
        importlib.import_module("diffjax.commands").run()
    except UsageError as error:
        _fail(str(error), code=2)
    except KeyboardInterrupt:
        _fail("stopped; run the same command to go on where it was.", code=130)
    except BrokenPipeError:
        # The reader of a pipe went away, as `head` does: nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ValueError as error:
        _fail(str(error), code=1)
    except OSError as error:
        _fail(_said(error), code=1)


def _fail(message: str, *, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)  # noqa: T201  # The program's voice.
    sys.exit(code)


def _said(error: OSError) -> str:
    """Puts what the system said in a line, with the remedy where there is one."""
    where = f"{error.filename}: " if error.filename else ""
    text = f"{where}{error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        text += "; make room and run the same command: it goes on where it was"
    elif error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        text += "; name a place that you may write to"
    return f"{text}."


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)  # noqa: T201  # The program's voice.
