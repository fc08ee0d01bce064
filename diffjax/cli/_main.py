"""Program `diffjax`: commands, error lines and exit codes."""

import errno
import functools
import importlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Callable

import diffjax.timing  # noqa: F401  # The clock of --timing runs from here on.

from ._usage import UsageError

_STOPPED = "stopped; run the same command to go on where it was."
_FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
_FORBIDDEN = errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR
_COMMAND_NAMES = (
    *("demo", "index", "extract", "search", "learn", "info", "fetch"),
    *("index-vectors", "search-vectors"),
)


def find_commands() -> dict[str, Callable[..., None]]:
    """Imports the command that is named, or all of them where the help needs them."""
    named = [name for name in sys.argv[1:2] if name in _COMMAND_NAMES]
    commands = importlib.import_module("diffjax.cli")
    return {
        name: getattr(commands, name.replace("-", "_"))
        for name in named or _COMMAND_NAMES
    }


def run() -> None:
    """Reads the command line and runs the command that it names."""
    import tyro  # noqa: PLC0415  # Where Ctrl-C is looked after.

    options = (tyro.conf.FlagCreatePairsOff,)
    commands = {name: _defer_call(each) for name, each in find_commands().items()}
    try:
        if len(commands) == 1:
            ((name, command),) = commands.items()
            chosen = tyro.cli(
                command, prog=f"diffjax {name}", args=sys.argv[2:], config=options
            )
        else:
            chosen = tyro.extras.subcommand_cli_from_dict(
                commands,
                prog="diffjax",
                description=(
                    "Searches pictures for small objects, by diffusion on the graph of "
                    "picture regions. Start with: diffjax demo"
                ),
                config=options,
            )
    except ValueError as error:  # A setting that is out of its range.
        raise UsageError(str(error)) from error
    chosen()


def _defer_call(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """Makes what binds a command's arguments: they are all read before it runs."""

    @functools.wraps(command)
    def bind(*args: object, **kwargs: object) -> Callable[[], None]:
        return functools.partial(command, *args, **kwargs)

    return bind


def main() -> None:
    """Runs the program: exit code 0, 1 for a run-time error, 2 for wrong usage."""
    # Before jax is imported: each program from its cache would print a screenful.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.showwarning = _show_warning
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name may hold bytes that are no text, or no letters of this terminal.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _import_commands()
        run()
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


def _import_commands() -> None:
    """Imports the command that is named; Ctrl-C meanwhile ends the program at once.

    An interrupted import leaves half a module behind, and other errors than Ctrl-C.
    """

    def stop(*_: object) -> None:
        print(f"error: {_STOPPED}", file=sys.stderr, flush=True)  # noqa: T201  # Its voice.
        os._exit(130)

    before = signal.getsignal(signal.SIGINT)
    usual = before is signal.default_int_handler
    if usual:
        signal.signal(signal.SIGINT, stop)
    try:
        importlib.import_module("tyro")
        find_commands()
    finally:
        if usual:
            signal.signal(signal.SIGINT, before)


def _fail(message: str, *, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)  # noqa: T201  # The program's voice.
    sys.exit(code)


def _describe_os_error(error: OSError) -> str:
    """Puts what the system said in a line, with the remedy where there is one."""
    where = f"{error.filename}: " if error.filename else ""
    text = f"{where}{error.strerror or error}"
    # By its text, too: a library may hide the number.
    if error.errno in _FULL or any(os.strerror(code) in text for code in _FULL):
        text += "; make room and run the same command: it goes on where it was"
    elif error.errno in _FORBIDDEN:
        text += "; name a place that you may write to"
    return f"{text}."


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)  # noqa: T201  # The program's voice.
