"""Library of native kernels: loaded, validated and registered once per process."""

import ctypes
import functools
import importlib.metadata
import os
import pathlib
import sysconfig
import warnings
from typing import NamedTuple

import jax

# Version of the exports of the library and of the arguments and results of its calls;
# kernels.cc has the same number.
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
    """State of the native kernels in this process.

    Attributes:
        usable: Whether the kernels can be called.
        description: Which kernels are used, or why JAX's own are, in words.
    """

    usable: bool
    description: str


@functools.cache
def find_library() -> KernelLibrary:
    """Loads the native kernels and registers them with XLA, at the first call.

    They are not used if DIFFJAX_NATIVE is 0 or if they were not built, without a
    warning, and if the built library does not fit this version of the package or of
    JAX, with a warning.
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
    # OSError: not a library for this machine; AttributeError: an export is missing;
    # RuntimeError: XLA refuses it.
    except (OSError, AttributeError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
    warnings.warn(
        f"native kernels are not used ({reason}): install diffjax again to build them, "
        f"or set {ENVIRONMENT_SWITCH}=0 to go without.",
        stacklevel=2,
    )
    return KernelLibrary(usable=False, description=f"JAX's own: {reason}")


def library_path() -> pathlib.Path:
    """Finds the library in this package, or else in an installed one.

    A program that is run from a clone imports the clone's package, whose folder has no
    library unless it was installed in place (`pip install -e`).
    """
    name = f"_kernels{sysconfig.get_config_var('EXT_SUFFIX')}"
    path = pathlib.Path(__file__).with_name(name)
    if path.is_file():
        return path
    for distribution in importlib.metadata.distributions(name="diffjax"):
        for file in distribution.files or ():
            installed = pathlib.Path(str(distribution.locate_file(file)))
            if installed.name == name and installed.is_file():
                return installed
    return path


def target_name(kernel: str, dtype: str) -> str:
    """Name of a kernel in compiled programs.

    It contains the ABI, because cached programs would otherwise call the kernel of
    another version by the same name.
    """
    return f"diffjax_{kernel}_{dtype}_abi{ABI}"


def loaded_target(kernel: str, dtype: str) -> str:
    """Loads the library if necessary and returns the name of one of its kernels.

    Raises:
        RuntimeError: If the kernels are not usable in this process.
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
