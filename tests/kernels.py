"""The native kernels as tests see them: there, or a plain word why not."""

import functools
import operator
import re

import jax
import pytest

from diffjax.diffusion import _local
from diffjax.diffusion import _matvec as _compressed
from diffjax.diffusion import _solve as _diffuse
from diffjax.graph import _reciprocal as _affinity
from diffjax.native import KernelLibrary, _calls, _library, find_library
from diffjax.native import _calls as _lists
from diffjax.native._library import HANDLERS, target_name

XLA_KERNEL = "cpu_csr_sparse_dense_ffi"
TARGETS = tuple(target_name(*name.split("_", 1)[1].rsplit("_", 1)) for name in HANDLERS)
# Names of kernels come without a promise to exporters; here only lowering counts.
UNPROMISED = [
    jax.export.DisabledSafetyCheck.custom_call(name) for name in (XLA_KERNEL, *TARGETS)
]
needed = pytest.mark.skipif(
    not find_library().usable,
    reason=f"needs the native kernels: {find_library().description}",
)


def switch(monkeypatch, usable: bool) -> None:
    """Makes the choice for a test."""
    library = (
        find_library() if usable else KernelLibrary(usable=False, description="test")
    )
    for module in (_calls, _library, _lists):
        monkeypatch.setattr(module, "find_library", lambda: library)
    forget()


def forget() -> None:
    """Forgets what was compiled: what depends on the choice is compiled again."""
    for compiled in (
        _diffuse.diffuse_until,
        _local._diffuse_local,
        _compressed._compiled_csr_product,
        _affinity._affinity,
    ):
        operator.methodcaller("clear_cache")(compiled)


def calls(function, *arguments) -> list[str]:
    """Names of the kernels that a program calls, each as often as it is written."""
    # Through a new function, as programs of an old one are remembered.
    text = jax.jit(functools.partial(function)).lower(*arguments).as_text()
    return [
        re.sub(r"_abi\d+$", "", name)
        for name in re.findall(r"custom_call @(\w+)", text)
        if name == XLA_KERNEL or name in TARGETS
    ]
