"""Cache folder of the user, and the compilation cache in it."""

import hashlib
import os
import pathlib
import platform
import warnings
from importlib.metadata import version

import jax

_CPU_INFO = pathlib.Path("/proc/cpuinfo")


def cache_folder() -> pathlib.Path:
    """Folder of all caches: $DIFFJAX_CACHE, else `diffjax` in the user's cache."""
    configured = os.environ.get("DIFFJAX_CACHE")
    if configured:
        return pathlib.Path(configured)
    user_cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(user_cache) / "diffjax"


def enable_compilation_cache() -> None:
    """Keeps compiled programs between runs, separately by jaxlib and processor.

    Home folders are shared between machines, and a program compiled for instructions
    that a processor lacks would crash on it.
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
    # A process killed while writing leaves a partial file; its program is recompiled.
    warnings.filterwarnings("ignore", "Error reading persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Also programs compiled in milliseconds: a search has a dozen of them.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    _quieten_compiler()


def exported_networks_folder() -> pathlib.Path | None:
    """Folder of exported networks beside compiled programs; None outside our cache."""
    folder = jax.config.values["jax_compilation_cache_dir"]
    if folder is None or cache_folder() not in pathlib.Path(folder).parents:
        return None
    return pathlib.Path(folder) / "networks"


def _quieten_compiler() -> None:
    """Silences XLA's warnings, unless a log level is set.

    JAX 0.9 writes one for each program that it takes from the cache.
    """
    level = jax.config.values["jax_logging_level"]
    # Importing JAX sets the variable to 1, warnings and worse, where it was not set.
    if level == "NOTSET" and os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
        jax.config.update("jax_logging_level", "ERROR")
        # Python's loggers have no warnings to leave out; XLA's level stays where it is.
        jax.config.update("jax_logging_level", level)


def _processor_fingerprint() -> str:
    """Hash of the processor's architecture and, on Linux, its features."""
    text = platform.machine() + platform.processor()
    if _CPU_INFO.is_file():
        lines = _CPU_INFO.read_text().splitlines()
        text += next((line for line in lines if line.startswith("flags")), "")
    return hashlib.sha256(text.encode()).hexdigest()[:12]
