"""Calls in processes of their own, which have not computed before."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def apart(function: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    """Calls a function in a process of its own, and waits for what it gives.

    Args:
        function: Of a module, so that the other process finds it.
        arguments: Handed over.
        settings: Handed over by name.

    Returns:
        What the function gives.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(function, *arguments, **settings).result()
