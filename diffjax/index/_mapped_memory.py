"""How much memory and disk there is to use."""

import os
import pathlib
import shutil
import sys

_MEMINFO = pathlib.Path("/proc/meminfo")
_STATM = pathlib.Path("/proc/self/statm")
_GROUPS = pathlib.Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """The memory that this process may still take, in bytes.

    The least of what the system can give without swapping, of what is left in the
    control group (a container's limit), and of what is left of the address space.

    Returns:
        Bytes; None where the system does not say.
    """
    known = [_of_system(), *_of_groups(), _of_address_space()]
    return min((each for each in known if each is not None), default=None)


def free_disk(folder: pathlib.Path) -> int:
    """The bytes that may still be written in a folder, or where it will be made."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _of_system() -> int | None:
    if _MEMINFO.is_file():
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:  # Of what there is, where nobody says what is free.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _of_groups() -> list[int]:
    """What is left of each limit of the control group, of both versions."""
    pairs = (
        ("memory.max", "memory.current"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
        ),
    )
    left = []
    for limit, used in pairs:
        try:
            most = (_GROUPS / limit).read_text(encoding="ascii").strip()
            now = (_GROUPS / used).read_text(encoding="ascii").strip()
            if most != "max":
                left.append(max(int(most) - int(now), 0))
        except (OSError, ValueError):
            continue
    return left


def _of_address_space() -> int | None:
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415  # Not on every system.

    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY or not _STATM.is_file():
        return None
    pages = int(_STATM.read_text(encoding="ascii").split()[0])
    return max(most - pages * os.sysconf("SC_PAGE_SIZE"), 0)
