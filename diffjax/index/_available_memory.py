"""Available memory and disk: system, control groups, address space, free space."""

import os
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import NamedTuple

_MEMINFO_FILE = pathlib.Path("/proc/meminfo")
_STATM_FILE = pathlib.Path("/proc/self/statm")
_CGROUP_ROOT = pathlib.Path("/sys/fs/cgroup")
_PROCESS_CGROUPS = pathlib.Path("/proc/self/cgroup")


class _CgroupVersion(NamedTuple):
    """File names of one version of Linux control groups (cgroups).

    Attributes:
        controller: Name in the list of a process's groups; empty for all controllers.
        root: Folder of all groups.
        limit: File with the memory limit of a group.
        used: File with the memory in use, cached files included.
        cached: Entries of `memory.stat` for cached files, child groups included.
    """

    controller: str
    root: str
    limit: str
    used: str
    cached: tuple[str, str]


_CGROUP_VERSIONS = (
    _CgroupVersion(
        *("", ".", "memory.max", "memory.current"),
        ("inactive_file", "active_file"),
    ),
    _CgroupVersion(
        *("memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
        ("total_inactive_file", "total_active_file"),
    ),
)


def available_memory() -> int | None:
    """Memory that this process may still allocate, in bytes.

    The minimum of the system's available memory, of the rest of the control groups'
    limits (a container's limit), and of the rest of the address space's limit.

    Returns:
        Bytes; None where the system does not report it.
    """
    limits = [_system_memory(), *_cgroup_memory(), _address_space_memory()]
    return min((limit for limit in limits if limit is not None), default=None)


def free_disk(folder: pathlib.Path) -> int:
    """Free disk space in bytes, of a folder or of its nearest existing parent."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _system_memory() -> int | None:
    if _MEMINFO_FILE.is_file():
        for line in _MEMINFO_FILE.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:  # All of the memory, where the free part is not reported.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _cgroup_memory() -> list[int]:
    """Remaining bytes of the limits of this process's control groups and parents."""
    remaining = []
    for version in _CGROUP_VERSIONS:
        for group in _process_cgroups(version):
            try:
                limit = (group / version.limit).read_text(encoding="ascii").strip()
                usage = (group / version.used).read_text(encoding="ascii").strip()
                if limit != "max":
                    used = int(usage) - _reclaimable_bytes(group, version)
                    remaining.append(max(int(limit) - max(used, 0), 0))
            except (OSError, ValueError):  # The root group has no limit.
                continue
    return remaining


def _process_cgroups(version: _CgroupVersion) -> Iterator[pathlib.Path]:
    """Folders of this process's control group and its parents, as far as visible.

    A container sees its own group as the root, whatever the path says.
    """
    root, path = _CGROUP_ROOT / version.root, pathlib.PurePosixPath("/")
    try:
        lines = _PROCESS_CGROUPS.read_text(
            encoding="utf-8", errors="replace"
        ).splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, _, remainder = line.partition(":")
        controllers, _, name = remainder.partition(":")
        # A group outside of the visible tree begins with "/..".
        if version.controller in controllers.split(",") and ".." not in name:
            path = pathlib.PurePosixPath(name)
    for group in (path, *path.parents):
        yield root / group.relative_to("/")


def _reclaimable_bytes(group: pathlib.Path, version: _CgroupVersion) -> int:
    """Bytes of cached files in a control group, which the system can reclaim."""
    try:
        text = (group / "memory.stat").read_text(encoding="ascii")
    except OSError:
        return 0
    statistics = dict(line.split(maxsplit=1) for line in text.splitlines())
    return sum(int(statistics.get(name, 0)) for name in version.cached)


def _address_space_memory() -> int | None:
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415  # Not on every system.

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or not _STATM_FILE.is_file():
        return None
    pages = int(_STATM_FILE.read_text(encoding="ascii").split()[0])
    return max(limit - pages * os.sysconf("SC_PAGE_SIZE"), 0)
