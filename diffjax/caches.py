"""Where things are kept that can be made again."""

import hashlib
import os
import pathlib
import platform
import warnings
from importlib.metadata import version

import jax

_CPU_INFO = pathlib.Path("/proc/cpuinfo")


def cache_folder() -> pathlib.Path:
    """The folder of all caches: $DIFFJAX_CACHE, else `diffjax` in the user's cache."""
    own = os.environ.get("DIFFJAX_CACHE")
    if own:
        return pathlib.Path(own)
    users = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(users) / "diffjax"


def enable_compilation_cache() -> None:
    """Keeps compiled programs between runs, apart for each jaxlib and processor.

    A program compiled for instructions that another processor lacks would crash there,
    and home folders are shared between machines.
    """
    folder = (
        cache_folder() / "compiled" / f"{version('jaxlib')}-{_processor_fingerprint()}"
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        warnings.warn(
            f"{folder} can't be made ({error.strerror}), so programs are compiled anew "
            "each time: set DIFFJAX_CACHE to a folder that you may write to.",
            stacklevel=2,
        )
        return
    # A program killed while it kept one leaves half of it behind; it is compiled anew.
    warnings.filterwarnings("ignore", "Error reading persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Also those compiled in milliseconds: a search has a dozen of them.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def exported_networks_folder() -> pathlib.Path | None:
    """Where networks are kept beside programs; None where `diffjax` keeps none."""
    folder = jax.config.values["jax_compilation_cache_dir"]
    if folder is None or cache_folder() not in pathlib.Path(folder).parents:
        return None
    return pathlib.Path(folder) / "networks"


def _processor_fingerprint() -> str:
    """Names the processor by architecture and, where the system tells, its features."""
    text = platform.machine() + platform.processor()
    if _CPU_INFO.is_file():
        lines = _CPU_INFO.read_text().splitlines()
        text += next((line for line in lines if line.startswith("flags")), "")
    return hashlib.sha256(text.encode()).hexdigest()[:12]
