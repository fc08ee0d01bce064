"""Finds, checks and registers the library of native kernels, once per process."""

import ctypes
import functools
import os
import pathlib
import sysconfig
import warnings
from typing import NamedTuple

import jax

# Counts up with every change of what the library exports or of what a call takes and
# gives; kernels.cc holds the same number.
ABI = 3
ENVIRONMENT_SWITCH = "DIFFJAX_NATIVE"
HANDLERS = (
    *(
        f"diffjax_{kernel}_{dtype}"
        for kernel in ("csr_product", "csr_cg", "csr_local", "list_rows")
        for dtype in ("float32", "float64")
    ),
    "diffjax_mutual_slots_int32",
)


class KernelLibrary(NamedTuple):
    """What became of the native kernels in this process.

    Attributes:
        usable: Whether they are there to be called.
        description: In words: which are used, or why JAX's own are.
    """

    usable: bool
    description: str


@functools.cache
def find_library() -> KernelLibrary:
    """Loads the native kernels and makes them known to XLA, the first time.

    They are left out if DIFFJAX_NATIVE is 0 and if they were not built, silently; if
    what was built does not fit this version of the package or of JAX, with a warning.
    """
    if os.environ.get(ENVIRONMENT_SWITCH) == "0":
        return KernelLibrary(
            usable=False, description=f"JAX's own: {ENVIRONMENT_SWITCH} is 0"
        )
    path = library_path()
    if not path.is_file():
        return KernelLibrary(
            usable=False,
            description="JAX's own: no C++ compiler when diffjax was installed",
        )
    try:
        return _register(ctypes.CDLL(str(path)))
    # OSError: no such library for this machine; AttributeError: something is missing in
    # it; RuntimeError: XLA does not take it.
    except (OSError, AttributeError, RuntimeError) as error:
        what = str(error).partition("\n")[0]
    warnings.warn(
        f"native kernels are not used ({what}): install diffjax again to build them, "
        f"or set {ENVIRONMENT_SWITCH}=0 to go without.",
        stacklevel=2,
    )
    return KernelLibrary(usable=False, description=f"JAX's own: {what}")


def library_path() -> pathlib.Path:
    """Where the build puts the library."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return pathlib.Path(__file__).with_name(f"_kernels{suffix}")


def target_name(kernel: str, dtype: str) -> str:
    """The name that a kernel has in compiled programs.

    With the ABI in it, because programs are kept between runs and would else find the
    kernel of another version under their name.
    """
    return f"diffjax_{kernel}_{dtype}_abi{ABI}"


def loaded_target(kernel: str, dtype: str) -> str:
    """The name of a kernel that is there: the library is loaded if it was not.

    Raises:
        RuntimeError: If there are no kernels in this process.
    """
    library = find_library()
    if not library.usable:
        raise RuntimeError(
            f"{kernel} must have native kernels, got {library.description}: ask "
            "has_csr_kernel first."
        )
    return target_name(kernel, dtype)


def _register(library: ctypes.CDLL) -> KernelLibrary:
    abi = library.diffjax_abi()
    if abi != ABI:
        raise RuntimeError(f"built for ABI {abi}, where this version has {ABI}")
    for handler in HANDLERS:
        jax.ffi.register_ffi_target(
            f"{handler}_abi{ABI}",
            jax.ffi.pycapsule(getattr(library, handler)),
            platform="cpu",
        )
    library.diffjax_instructions.restype = ctypes.c_char_p
    instructions = library.diffjax_instructions().decode()
    return KernelLibrary(usable=True, description=f"native kernels, {instructions}")
