"""How much memory and disk there is to use."""

import os
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import NamedTuple

_MEMINFO = pathlib.Path("/proc/meminfo")
_STATM = pathlib.Path("/proc/self/statm")
_GROUPS = pathlib.Path("/sys/fs/cgroup")
_OWN_GROUPS = pathlib.Path("/proc/self/cgroup")


class _Version(NamedTuple):
    """How a version of control groups calls what it says about memory.

    Attributes:
        controller: Name in the list of a process's groups; empty for all controllers.
        root: Folder of all groups.
        limit: File of the most that a group may use.
        used: File of what it uses, files that are cached included.
        cached: What of that are files, in `memory.stat`, groups below included.
    """

    controller: str
    root: str
    limit: str
    used: str
    cached: tuple[str, str]


_VERSIONS = (
    _Version(
        *("", ".", "memory.max", "memory.current"),
        ("inactive_file", "active_file"),
    ),
    _Version(
        *("memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
        ("total_inactive_file", "total_active_file"),
    ),
)


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
    """What is left of the limits of this process's groups and of all above them."""
    left = []
    for version in _VERSIONS:
        for group in _groups_of_process(version):
            try:
                most = (group / version.limit).read_text(encoding="ascii").strip()
                now = (group / version.used).read_text(encoding="ascii").strip()
                if most != "max":
                    used = int(now) - _cached(group, version)
                    left.append(max(int(most) - max(used, 0), 0))
            except (OSError, ValueError):  # The uppermost of them has no limit.
                continue
    return left


def _groups_of_process(version: _Version) -> Iterator[pathlib.Path]:
    """Folders of the group of this process and of those above, as far as seen here.

    A container sees its own group as the uppermost one, whatever the path says.
    """
    root, path = _GROUPS / version.root, pathlib.PurePosixPath("/")
    try:
        lines = _OWN_GROUPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        # A group outside of what is seen here begins with "/..".
        if version.controller in controllers.split(",") and ".." not in name:
            path = pathlib.PurePosixPath(name)
    for group in (path, *path.parents):
        yield root / group.relative_to("/")


def _cached(group: pathlib.Path, version: _Version) -> int:
    """Bytes of files in memory, which make room for whatever else is needed."""
    try:
        text = (group / "memory.stat").read_text(encoding="ascii")
    except OSError:
        return 0
    said = dict(line.split(maxsplit=1) for line in text.splitlines())
    return sum(int(said.get(name, 0)) for name in version.cached)


def _of_address_space() -> int | None:
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415  # Not on every system.

    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY or not _STATM.is_file():
        return None
    pages = int(_STATM.read_text(encoding="ascii").split()[0])
    return max(most - pages * os.sysconf("SC_PAGE_SIZE"), 0)
