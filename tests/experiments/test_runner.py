"""Command line of the experiments: help, cards, quick runs, records."""

import importlib
import os
import pathlib
import subprocess
import sys
import sysconfig

import pytest

from diffjax.report import make_record, read_records
from experiments import __main__ as program
from experiments import _runner
from experiments._runner import print_record, read_command_line, run_from_command_line

ROOT = pathlib.Path(program.__file__).parents[1]
CARDS = sorted(
    path.stem
    for path in (ROOT / "configs").glob("[!_]*.py")
    if path.stem not in {"paper", "schema"}
)
# Experiments that have no settings to choose from, so no card.
WITHOUT_CARD = {
    "distributed_search",
    "mutation",
    "picture",
    "report",
    "reference",
    "tables",
}


def test_help_lists_every_experiment_with_its_card_and_imports_no_jax():
    code = (
        "import runpy, sys; sys.argv[1:] = ['--help']\n"
        "runpy.run_module('experiments', run_name='__main__', alter_sys=True)\n"
        "assert not {'jax', 'numpy', 'tyro'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = {}
    for line in done.stdout.splitlines():
        name, _, text = line.strip().partition(" ")
        if line.startswith("  ") and name in program._FOLDERS:
            lines[name] = text.strip()
    assert set(lines) == set(program._FOLDERS)
    assert all(len(text.split()) >= 3 for text in lines.values())
    card = importlib.import_module("configs.solvers").__doc__ or ""
    assert lines["solvers"] == card.partition("\n")[0].rstrip(".")


def test_an_unknown_experiment_is_answered_with_all_names(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["experiments", "figure9"])
    with pytest.raises(SystemExit, match=r"must be one of .*figure7.*, got 'figure9'"):
        program.main()


def test_every_experiment_has_a_card():
    assert set(CARDS) == set(program._FOLDERS) - WITHOUT_CARD


@pytest.mark.parametrize("name", CARDS)
def test_cards_have_a_docstring_and_full_and_quick_settings(name):
    card = importlib.import_module(f"configs.{name}")
    text = card.__doc__ or ""
    for heading in ("Paper", "Data:", "Cost:", "Command:"):
        assert f"\n{heading}" in text
    assert f"python -m experiments {name}" in text
    full, quick = card.full(), card.quick()
    collections = full.values() if isinstance(full, dict) else [full]
    assert all(type(config) is type(quick) for config in collections)
    assert quick not in collections
    if isinstance(full, dict):
        for collection in full:
            assert f"python -m experiments {name} {collection}" in text


@pytest.mark.parametrize("name", CARDS)
def test_quick_reads_the_quick_settings_of_a_card(name):
    card = importlib.import_module(f"configs.{name}")
    config, quick = read_command_line(name, card, ["--quick"])
    assert quick
    assert config == card.quick()


def test_options_change_settings_of_full_and_quick_runs():
    card = importlib.import_module("configs.table1")
    config, quick = read_command_line("table1", card, ["--k", "7", "--quick"])
    assert (config.k, config.dim, quick) == ((7,), card.quick().dim, True)
    config, quick = read_command_line("table1", card, ["--benchmark", "grocery"])
    assert (config.benchmark, config.k, quick) == ("grocery", card.full().k, False)


def test_a_card_of_several_collections_takes_the_name_of_one():
    card = importlib.import_module("configs.solvers")
    config, _ = read_command_line("solvers", card, ["grocery", "--compared", "3"])
    assert config.benchmark == card.full()["grocery"].benchmark
    assert config.compared == 3
    with pytest.raises(SystemExit, match="--quick must go without 'grocery'"):
        read_command_line("solvers", card, ["grocery", "--quick"])


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Runs an experiment that only notes its folders, from a command line."""
    monkeypatch.setattr(_runner, "enable_compilation_cache", lambda: None)
    monkeypatch.setattr(_runner, "cache_folder", lambda: tmp_path)
    card = importlib.import_module("configs.table1")

    def start(*words, result=None):
        folders = {}

        def run(config, workdir, *, records):
            folders.update(config=config, workdir=workdir, records=records)
            if isinstance(result, Exception):
                raise result
            return make_record("x", settings={}, results=[{"a": 1}], seed=0)

        monkeypatch.setattr(sys, "argv", ["experiments", *words])
        run_from_command_line("table1", card, run)
        return folders

    return start


def test_records_of_quick_runs_and_own_pictures_are_kept_apart(
    command, tmp_path, capsys
):
    assert command()["records"] == _runner.RECORDS
    assert command()["workdir"] == tmp_path / "experiments"
    assert command("--quick")["workdir"] == tmp_path / "experiments-quick"
    quick = command("--quick")["records"]
    assert quick == tmp_path / "experiments-quick" / "records"
    assert quick.is_dir()
    assert f"recorded in {quick}" in capsys.readouterr().out
    folders = command("--benchmark", "folder", "--pictures", "photos")
    assert folders["records"] == pathlib.Path("records")


def test_an_error_ends_the_program_with_its_message(command):
    with pytest.raises(SystemExit, match="error: no such thing"):
        command(result=ValueError("no such thing"))


def test_a_record_is_printed_with_tables_and_caption(capsys):
    results = [
        {"method": "a", "mean_ap": 0.5, "low": 0.4, "high": 0.6},
        {"solver": "cg", "steps": 5},
    ]
    print_record(make_record("this", settings={"k": 3}, results=results, seed=0))
    text = capsys.readouterr().out
    for words in ("50.0 [40.0, 60.0]", "solver", "this: k 3; seed 0"):
        assert words in text


@pytest.mark.full
def test_quick_runs_without_a_card_run_too(tmp_path, monkeypatch):
    """The distributed search in a process of its own, and the mutants."""
    monkeypatch.setenv("DIFFJAX_CACHE", str(tmp_path))
    for name, words in {
        "distributed_search": "3 queries on 1 devices",
        "mutation": "5 of ",
    }.items():
        done = subprocess.run(
            [sys.executable, "-m", "experiments", name, "--quick"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert words in done.stdout


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Folder of all caches, the same for all quick runs."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:.* is more than")
@pytest.mark.parametrize(
    "name", sorted(set(program._FOLDERS) - {"distributed_search", "mutation", "report"})
)
def test_every_experiment_runs_quickly_from_the_command_line(
    name, cache, monkeypatch, capsys
):
    if name == "network_speed":
        pytest.importorskip("torch")
    monkeypatch.setenv("DIFFJAX_CACHE", str(cache))
    monkeypatch.setattr(_runner, "enable_compilation_cache", lambda: None)
    module = importlib.import_module(f"experiments.{program._FOLDERS[name]}.{name}")
    if name == "picture":
        monkeypatch.setattr(module, "enable_compilation_cache", lambda: None)
    monkeypatch.setattr(sys, "argv", ["experiments", "--quick"])
    folder = cache / "experiments-quick" / "records"
    before = set(folder.glob("*"))
    repository = {path: path.stat().st_mtime for path in _runner.RECORDS.iterdir()}
    module.main()
    new_paths = set(folder.glob("*")) - before
    assert {path.suffix for path in new_paths} & {".jsonl", ".png"}
    for path in new_paths:
        if path.suffix == ".jsonl":
            (record,) = read_records(path)
            for entry in record["results"]:
                if {"method", "mean_ap"} <= entry.keys():
                    assert "query_average_precision" in entry
    assert capsys.readouterr().out
    assert repository == {p: p.stat().st_mtime for p in _runner.RECORDS.iterdir()}


def test_a_clone_uses_the_kernels_of_the_installed_package(tmp_path):
    """A copy of the package without its library, and a library installed elsewhere."""
    source = ROOT / "diffjax"
    clone, site = tmp_path / "clone", tmp_path / "site"
    (clone / "diffjax").mkdir(parents=True)
    for path in source.iterdir():
        if path.name != "native":
            (clone / "diffjax" / path.name).symlink_to(path)
    library = f"_kernels{sysconfig.get_config_var('EXT_SUFFIX')}"
    (clone / "diffjax" / "native").mkdir()
    for path in (source / "native").iterdir():
        if path.name != library:
            (clone / "diffjax" / "native" / path.name).symlink_to(path)
    installed = site / "diffjax" / "native" / library
    installed.parent.mkdir(parents=True)
    installed.write_bytes(b"")
    info = site / "diffjax-9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: diffjax\nVersion: 9\n")
    (info / "RECORD").write_text(f"diffjax/native/{library},,\n")
    code = (
        "from diffjax.native import _library as lib\n"
        "print(lib.__file__); print(lib.library_path())"
    )
    # The clone is the folder in which a program starts, so first of the path.
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=clone,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    imported, got = done.stdout.splitlines()
    assert pathlib.Path(imported).parent == clone / "diffjax" / "native"
    assert pathlib.Path(got) == installed
