"""Which command a command line names, and what it binds."""

import functools
import importlib
import sys
from collections.abc import Callable

import tyro
from tyro.conf import FlagCreatePairsOff

from ._usage import UsageError

_NAMES = (
    *("demo", "index", "extract", "search", "learn", "info", "fetch"),
    *("index-vectors", "search-vectors"),
)
_SETTINGS = (FlagCreatePairsOff,)


def find_commands() -> dict[str, Callable[..., None]]:
    """Imports the command that is named, or all of them where the help needs them."""
    named = [name for name in sys.argv[1:2] if name in _NAMES]
    commands = importlib.import_module("diffjax.commands")
    return {name: getattr(commands, name.replace("-", "_")) for name in named or _NAMES}


def run() -> None:
    """Reads the command line and runs the command that it names."""
    commands = {name: _put_off(each) for name, each in find_commands().items()}
    try:
        if len(commands) == 1:
            ((name, command),) = commands.items()
            chosen = tyro.cli(
                command, prog=f"diffjax {name}", args=sys.argv[2:], config=_SETTINGS
            )
        else:
            chosen = tyro.extras.subcommand_cli_from_dict(
                commands,
                prog="diffjax",
                description=(
                    "Searches pictures for small objects, by diffusion on the graph of "
                    "picture regions. Start with: diffjax demo"
                ),
                config=_SETTINGS,
            )
    except ValueError as error:  # A setting that is out of its range.
        raise UsageError(str(error)) from error
    chosen()


def _put_off(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """Makes what binds a command's arguments: they are all read before it runs."""

    @functools.wraps(command)
    def bind(*args: object, **kwargs: object) -> Callable[[], None]:
        return functools.partial(command, *args, **kwargs)

    return bind
