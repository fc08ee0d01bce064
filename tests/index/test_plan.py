import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from diffjax.index import Index, IndexConfig, plan
from diffjax.index import _available_memory as memory_module
from diffjax.index import _plan as plan_module

GIB = 2**30


def slope(sizes, costs):
    return np.polyfit(np.log(sizes), np.log(costs), 1)[0]


@pytest.mark.parametrize("storage", ["float32", "float16", "pq"])
def test_bytes_grow_with_the_number_of_vectors_and_no_faster(storage):
    sizes = [200_000, 600_000, 2_200_000, 20_000_000]
    plans = [plan(n, 128, config=IndexConfig.of(storage=storage)) for n in sizes]
    assert slope(sizes, [got.written for got in plans]) < 1.01
    for number in range(4):
        held = [got.phases[number].held for got in plans]
        assert slope(sizes, held) < 1.1
        assert held == sorted(held)


def test_memory_is_less_than_the_vectors_and_lists_and_half_of_them():
    got = plan(2_200_000, 128)
    data = got.vectors + got.lists
    assert (got.vectors, got.lists) == (2_200_000 * 512, 2_200_000 * 400)
    for phase in got.phases:
        assert phase.held + phase.mapped < 1.5 * data
    # All of them are compared with a sample for recall, however they are stored.
    assert got.phases[-1].mapped == got.vectors


def test_says_what_each_phase_takes():
    lines = plan(2_200_000, 128).lines()
    assert [line.split(":")[0] for line in lines[:4]] == [
        *("prepare", "neighbours", "graph", "store"),
    ]
    assert "2.41 GiB" not in lines[0]
    assert lines[-1] == "for 1.05 GiB of vectors, 839.2 MiB of lists"


def test_says_when_there_may_be_more_edges_than_are_counted_by_default():
    assert not [line for line in plan(2**31 // 50, 8).lines() if "edges" in line]
    (line,) = [line for line in plan(50_000_000, 8).lines() if "edges" in line]
    assert line.startswith("at most 2,500,000,000 edges: 2^31 and more need jax_en")


def test_the_plan_is_reported_before_work_starts(tmp_path):
    told = []
    vectors = np.ones((4, 2), np.float32)
    vectors[2] = np.nan
    with pytest.raises(ValueError, match="row 2"):
        Index.build(vectors, path=tmp_path / "index", log=told.append)
    assert told == plan(4, 2).lines()


@pytest.mark.parametrize("short", ["memory", "disk"])
def test_a_plan_that_does_not_fit_is_refused_before_writing(
    tmp_path, monkeypatch, short
):
    vectors = np.ones((4, 2), np.float32)
    if short == "memory":
        monkeypatch.setattr(plan_module, "available_memory", lambda: 2**20)
        message = r"needs 6\d\.\d+ MiB of memory, and there are 1 MiB: take a smaller k"
    else:
        monkeypatch.setattr(plan_module, "free_disk", lambda _: 100)
        message = r"of disk, and there are 100 B: take a smaller k"
    with pytest.raises(ValueError, match=message):
        Index.build(vectors, path=tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_without_known_limits_no_plan_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module, "available_memory", lambda: None)
    config = IndexConfig.of(k=4, query_k=4, pooling="sum")
    vectors = np.eye(4, dtype=np.float32)
    assert Index.build(vectors, config=config, path=tmp_path / "index").num_images == 4


def test_the_least_of_all_limits_counts(tmp_path, monkeypatch):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000000 kB\nMemAvailable:    4194304 kB\n")
    monkeypatch.setattr(memory_module, "_MEMINFO_FILE", meminfo)
    monkeypatch.setattr(memory_module, "_CGROUP_ROOT", tmp_path)
    monkeypatch.setattr(memory_module, "_PROCESS_CGROUPS", tmp_path / "none")
    assert memory_module.available_memory() == 4 * GIB
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5\n")
    assert memory_module.available_memory() == 4 * GIB
    (tmp_path / "memory.max").write_text(f"{3 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{GIB}\n")
    assert memory_module.available_memory() == 2 * GIB
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(f"{GIB}\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("0\n")
    assert memory_module.available_memory() == GIB


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """An empty folder of control groups, of a process that is in /service/own."""
    own = tmp_path / "cgroup"
    own.write_text("4:cpu,memory:/service/own\n1:name=systemd:/\n0::/service/own\n")
    monkeypatch.setattr(memory_module, "_CGROUP_ROOT", tmp_path / "groups")
    monkeypatch.setattr(memory_module, "_PROCESS_CGROUPS", own)
    monkeypatch.setattr(memory_module, "_system_memory", lambda: 9 * GIB)
    monkeypatch.setattr(memory_module, "_address_space_memory", lambda: None)
    return tmp_path / "groups"


def write_group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(f"{text}\n")


@pytest.mark.parametrize("version", [1, 2])
def test_files_in_memory_are_not_counted_as_used(groups, version):
    if version == 2:
        stat = f"anon {GIB}\ninactive_file {GIB}\nactive_file {GIB // 2}"
        write_group(groups, max=4 * GIB, current=3 * GIB, stat=stat)
    else:
        # Without "total" it is what the group has beside the groups below.
        stat = f"active_file 7\ntotal_inactive_file {GIB}\ntotal_active_file {GIB // 2}"
        write_group(
            groups / "memory",
            limit_in_bytes=4 * GIB,
            usage_in_bytes=3 * GIB,
            stat=stat,
        )
    assert memory_module.available_memory() == 2.5 * GIB


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("limited", ["", "service", "service/own"])
def test_the_limits_of_a_process_are_those_of_its_group_and_above(
    groups, version, limited
):
    names = ("max", "current") if version == 2 else ("limit_in_bytes", "usage_in_bytes")
    root = groups if version == 2 else groups / "memory"
    wide = "max" if version == 2 else 2**63 - 4096
    for place in "", "service", "service/own", "other":
        most = {limited: 4 * GIB, "other": GIB}.get(place, wide)
        write_group(root / place, **dict(zip(names, (most, GIB), strict=True)))
    assert memory_module.available_memory() == 3 * GIB


def test_a_group_that_is_not_seen_here_leaves_the_uppermost(groups):
    memory_module._PROCESS_CGROUPS.write_text("0::/../elsewhere\n")
    write_group(groups, max=4 * GIB, current=GIB)
    write_group(groups.parent / "elsewhere", max=GIB, current=0)
    assert memory_module.available_memory() == 3 * GIB


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the limit")
def test_a_limit_of_the_address_space_is_seen():
    code = (
        "import resource; "
        "from diffjax.index._available_memory import available_memory; "
        "resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36)); "
        "resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34)); "
        "print(available_memory())"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 2**34


_MEASURED = """
    import pathlib, re, sys
    import numpy as np
    from diffjax.index import Index, IndexConfig

    def peak():
        status = pathlib.Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) * 1024

    vectors = np.load({path!r}, mmap_mode="r")
    config = IndexConfig.of(**{settings!r})
    # What is imported and compiled is no part of the plan.
    Index.build(vectors[:3000], config=config, path={small!r})
    before = peak()
    Index.build(vectors, config=config, path={large!r})
    print(peak() - before)
"""


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("method", ["clusters", "exact"])
def test_a_build_takes_no_more_than_was_planned(tmp_path, method):
    n, dim = 60_000, 32
    settings = {"k": 20, "method": method, "clusters": 250, "neighbor_probes": 4}
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, dim))[rng.integers(500, size=n)]
    vectors = vectors + 0.5 * rng.normal(size=vectors.shape)
    path = tmp_path / "vectors.npy"
    np.save(path, vectors.astype(np.float32))
    code = textwrap.dedent(_MEASURED).format(
        path=str(path),
        small=str(tmp_path / "small"),
        large=str(tmp_path / "large"),
        settings=settings,
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    got = plan(n, dim, config=IndexConfig.of(**settings))
    most = max(phase.held + phase.mapped for phase in got.phases)
    assert int(re.findall(r"\d+", done.stdout)[-1]) < 1.2 * most
