"""Native kernels in tests: switched on or off, skipped if absent, and counted."""

import functools
import operator
import re

import jax
import pytest

from diffjax.diffusion import _local, _matvec, _solve
from diffjax.graph import _reciprocal
from diffjax.native import KernelLibrary, _calls, _library, find_library
from diffjax.native._library import HANDLERS, target_name

XLA_KERNEL = "cpu_csr_sparse_dense_ffi"
TARGETS = tuple(target_name(*name.split("_", 1)[1].rsplit("_", 1)) for name in HANDLERS)
# Exporters are promised no stable kernels; these tests only lower programs.
UNPROMISED = [
    jax.export.DisabledSafetyCheck.custom_call(name) for name in (XLA_KERNEL, *TARGETS)
]
needed = pytest.mark.skipif(
    not find_library().usable,
    reason=f"needs the native kernels: {find_library().description}",
)


def switch(monkeypatch, usable: bool) -> None:
    """Switches the kernels on or off for a test."""
    library = (
        find_library() if usable else KernelLibrary(usable=False, description="test")
    )
    for module in (_calls, _library):
        monkeypatch.setattr(module, "find_library", lambda: library)
    forget()


def forget() -> None:
    """Clears compiled programs that depend on the choice of the kernels."""
    for compiled in (
        _solve.diffuse_until,
        _local._diffuse_local,
        _matvec._compiled_csr_product,
        _reciprocal._affinity,
    ):
        operator.methodcaller("clear_cache")(compiled)


def calls(function, *arguments) -> list[str]:
    """Names of the kernels in a program, one entry per call."""
    # A new function, because the programs of a known one are cached.
    text = jax.jit(functools.partial(function)).lower(*arguments).as_text()
    return [
        re.sub(r"_abi\d+$", "", name)
        for name in re.findall(r"custom_call @(\w+)", text)
        if name == XLA_KERNEL or name in TARGETS
    ]
