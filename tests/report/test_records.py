import errno
import json
import os
import platform
import shutil
import subprocess

import jax
import numpy as np
import pytest

from diffjax.report import _records as records
from diffjax.report import append_record, environment, make_record, read_records

RESULT = {"method": "global k-NN", "mean_ap": 0.5, "low": 0.4, "high": 0.6}


def git(folder, *words):
    """Runs git as nobody in particular, away from this user's settings."""
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    program = shutil.which("git")
    if program is None:
        pytest.skip("needs git")
    done = subprocess.run(
        [program, "-C", str(folder), *who, *words],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/"},
    )
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path):
    """A repository with one committed file."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "code.py").write_text("1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def test_what_is_appended_is_read_back_in_order(tmp_path):
    path = tmp_path / "made" / "on_demand.jsonl"
    wanted = [{"b": i, "a": [1.5, None, True, "é\n"]} for i in range(3)]
    for record in wanted:
        append_record(path, record)
    assert read_records(path) == wanted
    assert path.read_text().splitlines()[0].startswith('{"b": ')


def test_record_holds_what_was_given_and_where_it_was_computed(tmp_path):
    record = make_record("demo", settings={"k": 50}, results=[RESULT], seed=7)
    append_record(tmp_path / "demo.jsonl", record)
    (read,) = read_records(tmp_path / "demo.jsonl")
    assert read == record
    assert set(read) == {"experiment", "settings", "seed", "environment", "results"}
    assert (read["experiment"], read["settings"], read["seed"]) == (
        "demo",
        {"k": 50},
        7,
    )
    assert read["results"] == [RESULT]


def test_environment_names_versions_and_devices():
    got = environment()
    assert got["versions"]["jax"] == jax.__version__
    assert got["versions"]["numpy"] == np.__version__
    assert got["versions"]["python"] == platform.python_version()
    assert set(got["versions"]) == {
        *("diffjax", "faiss", "flax", "jax", "jaxlib", "numpy", "python"),
        *("opencv", "pillow", "scikit-image"),
    }
    assert got["device"] == jax.devices()[0].device_kind
    assert got["device_count"] == jax.device_count()
    assert got["cpu_count"] == os.cpu_count()
    assert got["time"].endswith("+00:00")


def test_environment_names_no_machine_and_no_folder():
    got = environment()
    assert set(got) == {
        *("versions", "device", "device_count", "cpu_count", "commit", "time")
    }
    assert os.sep not in json.dumps(got | {"device": None})


def test_missing_package_has_no_version():
    assert records._package_version("there-is-no-such-package") is None


def test_commit_is_that_of_the_tree(clone):
    assert records._commit(clone) == git(clone, "rev-parse", "HEAD")


def test_tag_does_not_take_the_commits_place(clone):
    git(clone, "tag", "-a", "v1", "-m", "one")
    assert records._commit(clone) == git(clone, "rev-parse", "HEAD")


def test_changed_tree_is_marked_dirty(clone):
    (clone / "code.py").write_text("2\n")
    assert records._commit(clone) == git(clone, "rev-parse", "HEAD") + "-dirty"


def test_a_record_does_not_make_the_tree_of_the_next_one_dirty(clone):
    (clone / "found.jsonl").write_text("{}\n")
    git(clone, "add", ".")
    git(clone, "commit", "-m", "record")
    (clone / "found.jsonl").write_text("{}\n{}\n")
    assert records._commit(clone) == git(clone, "rev-parse", "HEAD")


def test_folder_inside_a_foreign_repository_has_no_commit(clone):
    (clone / "site-packages").mkdir()
    assert records._commit(clone / "site-packages") is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_refuses_what_is_not_finite_and_names_its_place(tmp_path, bad):
    path = tmp_path / "records.jsonl"
    with pytest.raises(ValueError, match=r"record\.results\[1\]\.mean_ap must be fin"):
        append_record(path, {"results": [RESULT, {"mean_ap": bad}]})
    assert not path.exists()


@pytest.mark.parametrize("bad", [np.float32(0.5), np.ones(2), {1, 2}, b"bytes"])
def test_refuses_what_json_does_not_know(bad):
    with pytest.raises(ValueError, match=r"record\.settings\.k must be a JSON value"):
        make_record("demo", settings={"k": bad}, results=[RESULT], seed=0)


def test_refuses_keys_that_are_no_text(tmp_path):
    with pytest.raises(ValueError, match="must have text as keys, got 1"):
        append_record(tmp_path / "records.jsonl", {"results": {1: 2}})


def test_refuses_an_experiment_without_results():
    with pytest.raises(ValueError, match="results must hold at least one entry"):
        make_record("demo", settings={}, results=[], seed=0)


def test_what_a_result_has_keeps_its_order(tmp_path):
    append_record(tmp_path / "x.jsonl", {"b": 1, "a": {"z": 1, "c": 2}})
    (found,) = read_records(tmp_path / "x.jsonl")
    assert list(found) == ["b", "a"]
    assert list(found["a"]) == ["z", "c"]


def test_a_full_disk_leaves_the_records_as_they_were(tmp_path, monkeypatch):
    path = tmp_path / "x.jsonl"
    append_record(path, {"a": 1})
    before = path.read_bytes()

    def fill(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fill)
        with pytest.raises(OSError, match=r"No space left on device: '.*x.jsonl'"):
            append_record(path, {"a": 2})
    assert path.read_bytes() == before
    append_record(path, {"a": 3})
    assert read_records(path) == [{"a": 1}, {"a": 3}]


@pytest.mark.parametrize("kept", [1, 5, -1], ids=["brace", "middle", "newline"])
def test_cut_last_line_is_refused_by_number_when_read_and_appended(tmp_path, kept):
    path = tmp_path / "records.jsonl"
    append_record(path, {"whole": 1})
    first = path.read_bytes()
    append_record(path, {"cut": 2})
    second = path.read_bytes()[len(first) :]
    path.write_bytes(first + second[:kept])
    with pytest.raises(ValueError, match="line 2 must end in a newline"):
        read_records(path)
    with pytest.raises(ValueError, match="line 2 must end in a newline"):
        append_record(path, {"more": 3})
    assert path.read_bytes() == first + second[:kept]


@pytest.mark.parametrize("line", ["{]", "", '{"a": NaN}', "[1, 2]", '{"a": 1e999}'])
def test_damaged_line_is_refused_by_number(tmp_path, line):
    path = tmp_path / "records.jsonl"
    path.write_text('{"a": 1}\n' + line + '\n{"a": 1}\n')
    with pytest.raises(ValueError, match=r"records\.jsonl line 2 must be a"):
        read_records(path)


def test_empty_file_has_no_records(tmp_path):
    (tmp_path / "records.jsonl").touch()
    assert read_records(tmp_path / "records.jsonl") == []


def test_costs_are_recorded_where_they_were_measured(tmp_path):
    words = {"settings": {}, "results": [RESULT], "seed": 0}
    record = make_record("demo", **words, seconds=1.5, peak_memory=2**31)
    append_record(tmp_path / "demo.jsonl", record)
    assert read_records(tmp_path / "demo.jsonl") == [record]
    assert (record["seconds"], record["peak_memory_bytes"]) == (1.5, 2**31)
    assert "seconds" not in make_record("demo", **words, peak_memory=1)
    assert "peak_memory_bytes" not in make_record("demo", **words, seconds=0.0)


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ({"seconds": -1.0}, "seconds must be at least 0"),
        ({"peak_memory": -1}, "peak_memory_bytes must be at least 0"),
        ({"seconds": float("nan")}, r"record\.seconds must be finite"),
    ],
)
def test_costs_out_of_range_are_refused(words, rule):
    with pytest.raises(ValueError, match=rule):
        make_record("demo", settings={}, results=[RESULT], seed=0, **words)
