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
    """Runs git with a made-up author and without the user's settings."""
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


def test_records_are_read_back_in_order(tmp_path):
    path = tmp_path / "made" / "on_demand.jsonl"
    wanted = [{"b": i, "a": [1.5, None, True, "é\n"]} for i in range(3)]
    for record in wanted:
        append_record(path, record)
    assert read_records(path) == wanted
    assert path.read_text().splitlines()[0].startswith('{"b": ')


def test_a_record_holds_its_arguments_and_the_environment(tmp_path):
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
    system = environment()
    assert system["versions"]["jax"] == jax.__version__
    assert system["versions"]["numpy"] == np.__version__
    assert system["versions"]["python"] == platform.python_version()
    assert set(system["versions"]) == {
        *("diffjax", "faiss", "flax", "jax", "jaxlib", "numpy", "python"),
        *("opencv", "pillow", "scikit-image"),
    }
    assert system["device"] == jax.devices()[0].device_kind
    assert system["device_count"] == jax.device_count()
    assert system["cpu_count"] == os.cpu_count()
    assert system["time"].endswith("+00:00")


def test_environment_names_no_machine_and_no_folder():
    system = environment()
    assert set(system) == {
        *("versions", "device", "device_count", "cpu_count", "commit", "time")
    }
    assert os.sep not in json.dumps(system | {"device": None})


def test_missing_package_has_no_version():
    assert records._package_version("there-is-no-such-package") is None


def test_commit_is_that_of_the_tree(clone):
    assert records._commit(clone) == git(clone, "rev-parse", "HEAD")


def test_a_tag_does_not_replace_the_commit(clone):
    git(clone, "tag", "-a", "v1", "-m", "one")
    assert records._commit(clone) == git(clone, "rev-parse", "HEAD")


def test_changed_tree_is_marked_dirty(clone):
    (clone / "code.py").write_text("2\n")
    assert records._commit(clone) == git(clone, "rev-parse", "HEAD") + "-dirty"


def test_a_record_does_not_make_the_tree_of_the_next_one_dirty(clone):
    (clone / "results.jsonl").write_text("{}\n")
    git(clone, "add", ".")
    git(clone, "commit", "-m", "record")
    (clone / "results.jsonl").write_text("{}\n{}\n")
    assert records._commit(clone) == git(clone, "rev-parse", "HEAD")


def test_folder_inside_a_foreign_repository_has_no_commit(clone):
    (clone / "site-packages").mkdir()
    assert records._commit(clone / "site-packages") is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused_with_their_path(tmp_path, bad):
    path = tmp_path / "records.jsonl"
    with pytest.raises(ValueError, match=r"record\.results\[1\]\.mean_ap must be fin"):
        append_record(path, {"results": [RESULT, {"mean_ap": bad}]})
    assert not path.exists()


@pytest.mark.parametrize("bad", [np.float32(0.5), np.ones(2), {1, 2}, b"bytes"])
def test_values_other_than_json_are_refused(bad):
    with pytest.raises(ValueError, match=r"record\.settings\.k must be a JSON value"):
        make_record("demo", settings={"k": bad}, results=[RESULT], seed=0)


def test_keys_other_than_text_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must have text as keys, got 1"):
        append_record(tmp_path / "records.jsonl", {"results": {1: 2}})


def test_an_experiment_without_results_is_refused():
    with pytest.raises(ValueError, match="results must hold at least one entry"):
        make_record("demo", settings={}, results=[], seed=0)


def test_keys_of_a_record_keep_their_order(tmp_path):
    append_record(tmp_path / "x.jsonl", {"b": 1, "a": {"z": 1, "c": 2}})
    (record,) = read_records(tmp_path / "x.jsonl")
    assert list(record) == ["b", "a"]
    assert list(record["a"]) == ["z", "c"]


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


@pytest.mark.parametrize("size", [1, 5, -1], ids=["brace", "middle", "newline"])
def test_cut_last_line_is_refused_by_number_when_read_and_appended(tmp_path, size):
    path = tmp_path / "records.jsonl"
    append_record(path, {"whole": 1})
    first = path.read_bytes()
    append_record(path, {"cut": 2})
    second = path.read_bytes()[len(first) :]
    path.write_bytes(first + second[:size])
    with pytest.raises(ValueError, match="line 2 must end in a newline"):
        read_records(path)
    with pytest.raises(ValueError, match="line 2 must end in a newline"):
        append_record(path, {"more": 3})
    assert path.read_bytes() == first + second[:size]


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
