import errno
import json
import sys
import warnings
from importlib.metadata import version

import pytest
from photographs import SMALL_FLAGS, Program
from PIL import Image

from diffjax.cli import UsageError
from diffjax.images import PictureError
from diffjax.native import find_library


@pytest.mark.parametrize(
    "command",
    [
        *("", "demo", "index", "extract", "search", "info", "learn", "fetch"),
    ],
)
def test_help_of_every_command(run, command):
    code, out, err = run(*command.split(), "--help")
    assert code == 0
    assert "usage: diffjax" in out
    assert err == ""
    # What Python calls nothing is no word of a command line.
    assert "None" not in out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("serch", "x", "y"), "did you mean search?"),
        (("search", "x", "y", "--tpo", "3"), "did you mean --top?"),
        (("search", "x", "y", "z"), "'z' is one argument too many"),
        (("search", "x"), "required: PICTURE|QUERIES"),
        (("index", "x", "--neighbors", "exact"), "--neighbors is called --method now"),
        (("search", "x", "y", "--reach=9"), "--reach is called --local-nodes now"),
        (("index-vectors", "x"), "index-vectors is called `diffjax index` now"),
        (("search-vectors", "x"), "search-vectors is called `diffjax search` now"),
        (("index", "x", "--method", "quick"), "invalid choice: 'quick'"),
        (("index", "x", "--k", "many"), "invalid int value: 'many'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_one_line_with_the_name_that_was_meant(run, words, complaint):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert complaint in err


def test_the_version_is_that_of_the_package(run):
    assert run("--version") == (0, f"diffjax {version('diffjax')}\n", "")


def test_help_imports_neither_jax_nor_scipy_nor_faiss(program):
    heavy = "jax", "scipy", "faiss", "flax", "PIL"
    after = (
        "import atexit, sys\n"
        f"show = lambda: print([m for m in {heavy} if m in sys.modules])\n"
        "atexit.register(show)"
    )
    for words in (["--help"], ["index", "--help"], ["search", "--help"]):
        ended = program.run(*words, first=after)
        assert (ended.code, ended.err) == (0, "")
        assert ended.out.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "box", [("10,10,150,150",), ("10", "10", "150", "150"), ("10 10, 150 150",)]
)
def test_commas_or_spaces_divide_a_box(run, photographs, photograph_index, box):
    picture = photographs / "rocket" / "1.png"
    words = "search", "--box", *box, photograph_index, picture, "--json"
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    assert json.loads(out)["box"] == [10.0, 10.0, 150.0, 150.0]


def test_a_folder_of_pictures_is_distinguished_from_the_index_beside_it(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine.diffjax").mkdir()
    code, _, err = run("search", tmp_path / "mine", "a.png")
    assert code == 2
    assert f"diffjax search {tmp_path / 'mine.diffjax'} PICTURE" in err


@pytest.mark.filterwarnings("ignore:.* is more than")  # Few pictures here.
def test_index_prints_the_new_index_and_lists_skipped_files(run, photographs, tmp_path):
    (folder := tmp_path / "mine").mkdir()
    for number in range(3):
        source = photographs / "coffee" / f"{number}.png"
        (folder / f"{number}.png").write_bytes(source.read_bytes())
    (folder / "bad\nname.png").write_bytes(b"")
    code, out, err = run("index", folder, *SMALL_FLAGS)
    assert code == 0
    assert "mine.diffjax: 3 pictures" in out
    assert "diffjax search mine.diffjax PICTURE" in out
    assert "pictures skipped: 1" in err
    assert (tmp_path / "mine.diffjax" / "index.json").exists()
    code, _, err = run("index", folder, *SMALL_FLAGS, "--strict")
    assert code == 1
    assert err.startswith("error: ")
    assert "got 1 that can't" in err


def test_search_prints_a_table_or_json(run, photographs, photograph_index):
    picture = photographs / "rocket" / "1.png"
    code, out, err = run("search", photograph_index, picture, "--top", 2)
    assert (code, err) == (0, "")
    rank, _, box, name = out.splitlines()[2].split()
    assert (rank, name) == ("1", "rocket/1.png")
    x0, y0, x1, y1 = map(int, box.split(","))
    assert 0 <= x0 < x1 <= 160
    assert 0 <= y0 < y1 <= 160
    assert len(out.splitlines()) == 4
    code, out, err = run("search", photograph_index, picture, "--top", 2, "--json")
    assert (code, err) == (0, "")
    printed = json.loads(out)
    assert [answer["rank"] for answer in printed["answers"]] == [1, 2]
    assert printed["answers"][0]["picture"] == "rocket/1.png"
    assert printed["answers"][0]["box"] == [x0, y0, x1, y1]


def test_search_prints_seconds_by_step(run, photographs, photograph_index):
    asked = "search", photograph_index, photographs / "rocket" / "1.png", "--top", 2
    code, out, err = run(*asked, "--timing")
    assert (code, err) == (0, "")
    answers, steps = out.split("\n\n")
    assert len(answers.splitlines()) == 4
    named = ["Python", "imports", "index", "network", "search", "in all"]
    heading, _, *rows = steps.splitlines()
    assert heading.split(None, 2)[:2] == ["step", "seconds"]
    assert [row.split("  ")[0] for row in rows] == named
    code, out, _ = run(*asked, "--json", "--timing")
    printed = json.loads(out)["timing"]
    assert [step["name"] for step in printed] == named
    assert "timing" not in json.loads(run(*asked, "--json")[1])


def test_search_writes_a_page(run, photographs, photograph_index, tmp_path):
    page = tmp_path / "answers.html"
    picture = photographs / "rocket" / "1.png"
    box = "10,10,150,150"
    code, out, _ = run(
        "search", photograph_index, picture, "--box", box, "--html", page
    )
    assert code == 0
    assert page.as_uri() in out
    text = page.read_text()
    assert text.count("data:image/jpeg;base64,") >= 10
    assert "rocket/1.png" in text


def test_info_prints_the_contents_of_an_index(run, photograph_index):
    code, out, _ = run("info", photograph_index)
    assert code == 0
    assert "images" in out
    assert "verified" not in out
    (computed,) = [line for line in out.splitlines() if "products here" in line]
    assert computed.endswith(find_library().description)
    code, out, _ = run("info", photograph_index, "--verify")
    assert code == 0
    assert "verified" in out
    # Without an index it says what computes here alone.
    assert run("info") == (0, f"products here  {find_library().description}\n", "")


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("search", "{index}", "{picture}", "--box", "1,2,3"), 2, "got '1,2,3'"),
        (("search", "{index}", "{picture}", "--box", "a,b,c,d"), 2, "got 'a,b,c,d'"),
        (("search", "{index}", "{picture}", "--top", "0"), 2, "at least 1, got 0"),
        (("search", "{index}", "{picture}", "--box=0,0,999,9"), 1, "160 x 160"),
        (("search", "{index}", "{picture}", "--box=5,5,5,9"), 1, "got 5,5,5,9"),
        (("search", "{index}", "nowhere.png"), 1, "nowhere.png"),
        (("search", "nowhere.diffjax", "{picture}"), 1, "holds no index"),
        (("search", "{index}", "{picture}", "--html", "no/such/a.html"), 2, "a.html"),
        (("info", "nowhere.diffjax"), 1, "holds no index"),
        (("info", "--verify"), 2, "--verify needs the INDEX"),
        (("index", "nowhere"), 1, "nowhere"),
        (("index", "."), 1, "."),
    ],
    ids=lambda value: "-".join(value[-2:]) if isinstance(value, tuple) else "",
)
def test_errors_are_printed_in_one_line(
    run, photographs, photograph_index, arguments, code, complaint
):
    paths = {"index": photograph_index, "picture": photographs / "coffee" / "0.png"}
    got, out, err = run(*(a.format(**paths) for a in arguments))
    assert got == code
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert complaint in err


@pytest.mark.parametrize("flags", [("--k", "0"), ("--alpha", "1"), ("--gamma", "x")])
def test_a_setting_out_of_its_range_is_wrong_usage(run, photographs, flags):
    code, _, err = run("index", photographs, *flags)
    assert code == 2
    assert flags[0].strip("-") in err


def test_a_preset_goes_without_other_settings_of_the_graph(run, photographs):
    code, out, err = run("index", photographs, "--preset", "paper", "--k", "7")
    assert (code, out) == (2, "")
    assert err.startswith("error: --preset must go without other settings")
    assert err.count("\n") == 1


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:.* is more than")
def test_a_preset_is_what_the_index_is_built_with(run, photographs, tmp_path):
    words = ("index", photographs, "--out", tmp_path / "index", "--side", "64")
    code, *_ = run(*words, "--preset", "official", "--dim", "8")
    assert code == 0
    _, out, _ = run("info", tmp_path / "index")
    assert "rule official" in out
    assert "dim 8" in out
    assert "keep_best True" in out


def test_an_index_that_was_damaged_is_refused_in_one_line(run, tmp_path):
    (tmp_path / "index.json").write_text('{"format": "diffjax index"')
    Image.new("RGB", (50, 50)).save(tmp_path / "a.png")
    code, _, err = run("search", tmp_path, tmp_path / "a.png")
    assert code == 1
    assert "is damaged" in err
    assert err.count("\n") == 1


FULL = "make room and run the same command: it goes on where it was."
SAID = {
    "full disk": (
        OSError(errno.ENOSPC, "No space", "a/b"),
        1,
        f"a/b: No space; {FULL}",
    ),
    "full disk, no number": (OSError("a: File too large (os error 27)"), 1, FULL),
    "forbidden": (
        PermissionError(errno.EACCES, "Permission denied", "a/b"),
        1,
        "a/b: Permission denied; name a place that you may write to.",
    ),
    "gone": (
        FileNotFoundError(errno.ENOENT, "No such file", "a"),
        1,
        "a: No such file.",
    ),
    "not installed": (ModuleNotFoundError("pip install it."), 1, "pip install it."),
    "bad value": (ValueError("k must be 1."), 1, "k must be 1."),
    "wrong usage": (UsageError("--top must be 1."), 2, "--top must be 1."),
    "Ctrl-C": (
        KeyboardInterrupt(),
        130,
        "stopped; run the same command to go on where it was.",
    ),
}


@pytest.mark.parametrize(("error", "code", "said"), SAID.values(), ids=SAID)
def test_every_failure_is_one_line_with_its_remedy(run, monkeypatch, error, code, said):
    def fail(_):
        raise error

    monkeypatch.setattr("diffjax.cli._main.run", fail)
    got, out, err = run("info")
    assert (got, out) == (code, "")
    assert err.startswith("error: ")
    assert err.endswith(f"{said}\n")
    assert err.count("\n") == 1


def test_an_unknown_data_set_lists_those_that_are_known(run):
    code, out, err = run("fetch", "oxford6k")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "oxford5k, paris6k" in err
    assert "got 'oxford6k'" in err


def test_fetch_names_files_to_place_by_hand(run, monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFJAX_OFFLINE", "1")
    code, out, err = run("fetch", "instre-siamac", "--out", "sets")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "instre_siamac.mat and put it at sets/instre-siamac" in err
    code, _, err = run("fetch", "roxford5k", "--out", "sets")
    assert (code, err.count("\n")) == (1, 1)
    assert "nothing is fetched offline" in err


def test_a_warning_is_one_line(run, monkeypatch):
    def warn(_):
        warnings.warn("k is large.", stacklevel=1)

    monkeypatch.setattr("diffjax.cli._main.run", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run("info") == (0, "", "warning: k is large.\n")


def test_a_name_that_is_no_text_is_printed_all_the_same(run, monkeypatch):
    def name(_):
        sys.stdout.write("\udcff\n")

    monkeypatch.setattr("diffjax.cli._main.run", name)
    assert run("info") == (0, "\\udcff\n", "")


def test_answers_are_printed_although_their_page_fails(
    run, monkeypatch, photographs, photograph_index
):
    def fail(*_, **__):
        raise PictureError("coffee/0.png", "No such file or directory")

    monkeypatch.setattr("diffjax.cli._search.read_picture", fail)
    picture = photographs / "rocket" / "1.png"
    code, out, err = run("search", photograph_index, picture, "--html", "a.html")
    assert code == 1
    assert "rocket/1.png" in out
    assert err == "error: coffee/0.png: No such file or directory\n"


def test_an_unwritable_path_is_an_error_of_one_line(run, photographs, tmp_path):
    (tmp_path / "file").touch()
    code, _, err = run("index", photographs, "--out", "file/index", *SMALL_FLAGS)
    assert code == 1
    assert err.count("\n") == 1
    assert err.endswith("Not a directory; name a place that you may write to.\n")
    code, _, err = run("index", photographs, "--out", "file", *SMALL_FLAGS)
    assert (code, err.count("\n")) == (1, 1)
    assert "must be a folder, got a file: name another place" in err
    assert (tmp_path / "file").read_bytes() == b""


# What an interrupted import of NumPy does: another error comes out of it.
HALF_IMPORTED = """
import importlib, os, time
import_module = importlib.import_module
def interrupted(name, package=None):
    if name != "diffjax.cli":  # Where the command is imported.
        return import_module(name, package)
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(9)
    except KeyboardInterrupt:
        raise RecursionError from None
importlib.import_module = interrupted
"""


def test_ctrl_c_while_the_program_is_loading_is_one_line(program):
    ended = program.run("info", "nowhere", first=HALF_IMPORTED)
    assert ended.code == 130
    assert ended.err == "error: stopped; run the same command to go on where it was.\n"


@pytest.mark.full
def test_a_second_search_compiles_nothing_anew(photographs, photograph_index, tmp_path):
    program = Program(tmp_path)  # With nothing in its cache.
    pictures = [photographs / "rocket" / f"{number}.png" for number in (0, 1)]
    first, second = [
        json.loads(
            program.run("search", photograph_index, p, "--json", "--timing").out
        )["timing"][-1]
        for p in pictures
    ]
    assert (first["compiled"] > 0, first["cached"]) == (True, 0)
    assert second["compiled"] == 0
    assert second["cached"] == first["compiled"]


@pytest.mark.full
def test_a_second_search_imports_no_more_than_it_needs(
    photographs, photograph_index, tmp_path
):
    program = Program(tmp_path)
    heavy = "flax", "faiss", "h5py", "loky", "matplotlib", "optax", "rich", "skimage"
    after = (
        "import atexit, sys\n"
        f"told = lambda: print([m for m in {heavy} if m in sys.modules])\n"
        "atexit.register(told)"
    )
    picture = photographs / "rocket" / "0.png"
    for wanted in ("['flax'", "[]"):
        ended = program.run("search", photograph_index, picture, first=after)
        assert (ended.code, ended.err) == (0, "")
        assert ended.out.splitlines()[-1].startswith(wanted)


def test_a_reader_that_goes_away_is_no_error_to_speak_of(program, photograph_index):
    process = program.start("info", photograph_index)
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 1


def test_help_is_fast_and_imports_no_heavy_module(program):
    ended = program.run("--help")
    assert ended.code == 0
    assert ended.err == ""
