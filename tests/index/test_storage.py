import dataclasses
import json
import pathlib

import numpy as np
import pytest

from diffjax.images import DescriptorConfig, IndexedPictures
from diffjax.index import (
    Index,
    IndexConfig,
    IndexFileError,
    _header,
    _storage,
    describe_file,
    verify,
)

CONFIG = IndexConfig(k=12, query_k=8, dim=6)
PICTURES = IndexedPictures(
    folder="/some/where",
    names=("a.png", "é\nü.png", "b\udcff.png", *(f"{i}.png" for i in range(21))),
    skipped={"c.png": "the file is empty (0 bytes)"},
    descriptor=DescriptorConfig(network="nobody's", side=128, scales=(1.0, 0.5)),
    weights="ab" * 32,
)


@pytest.fixture(scope="module")
def given():
    """Forty unit vectors of 24 images and three query vectors."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(43, 9)).astype(np.float32)
    return vectors[:40], np.minimum(np.arange(40), 23), vectors[40:]


@pytest.fixture(scope="module")
def index(given) -> Index:
    return Index.build(*given[:2], config=CONFIG, pictures=PICTURES)


@pytest.fixture
def saved(index, tmp_path) -> pathlib.Path:
    index.save(tmp_path / "saved")
    return tmp_path / "saved"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def arrays(folder) -> pathlib.Path:
    (path,) = folder.glob("arrays-*.safetensors")
    return path


def rewrite(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_an_index_comes_back_with_the_same_answers(index, saved, given):
    loaded = Index.load(saved)
    for found, wanted in zip(
        loaded.search(given[2])[:2], index.search(given[2])[:2], strict=True
    ):
        np.testing.assert_array_equal(found, wanted)
    for name in ("config", "pictures"):
        assert getattr(loaded, name) == getattr(index, name)
    assert loaded.whitening is not None
    assert index.whitening is not None
    for part, other in zip(loaded.whitening, index.whitening, strict=True):
        np.testing.assert_array_equal(part, other)
    verify(saved)


def test_an_index_that_was_not_whitened_comes_back_with_the_same_answers(
    given, tmp_path
):
    config = dataclasses.replace(CONFIG, dim=None, pooling="sum")
    index = Index.build(*given[:2], config=config)
    index.save(str(tmp_path / "deep" / "down"))
    loaded = Index.load(str(tmp_path / "deep" / "down"))
    assert (loaded.whitening, loaded.weights, loaded.pictures) == (None, None, None)
    found, wanted = (i.search(given[2]).scores for i in (loaded, index))
    np.testing.assert_array_equal(found, wanted)


def test_saving_twice_gives_the_same_bytes_whatever_was_there(index, saved, tmp_path):
    before = contents(saved)
    assert len(before) == 2
    index.save(saved)
    index.save(tmp_path / "other")
    assert contents(saved) == contents(tmp_path / "other") == before
    Index.load(saved).save(saved)
    assert contents(saved) == before


def test_another_index_replaces_the_one_in_a_folder(given, saved):
    config = dataclasses.replace(CONFIG, k=5)
    Index.build(*given[:2], config=config).save(saved)
    assert len(contents(saved)) == 2
    assert Index.load(saved).config.k == 5


@pytest.mark.parametrize(
    ("module", "function"),
    [(_storage, "write_safetensors"), (_header, "write_atomically")],
)
def test_a_save_that_fails_leaves_the_old_index(
    index, saved, given, monkeypatch, module, function
):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    before = describe_file(saved)
    other = Index.build(*given[:2], config=dataclasses.replace(CONFIG, k=5))
    with monkeypatch.context() as patch:
        patch.setattr(module, function, fail)
        with pytest.raises(OSError, match="No space left"):
            other.save(saved)
    assert describe_file(saved) == before
    verify(saved)
    assert Index.load(saved).config.k == 12
    other.save(saved)  # Nothing of the failed one is left after the next.
    assert len(contents(saved)) == 2


def test_what_a_killed_program_left_is_cleared_away(index, tmp_path):
    # Killed between arrays and JSON, and while writing either.
    left = (
        "arrays-0123.safetensors",
        "arrays.7.part",
        "index.json.7.part",
        ".tmpAb12Cd",
    )
    for name in left:
        (tmp_path / name).touch()
    with pytest.raises(IndexFileError, match=r"holds no index \(index.json is missing"):
        Index.load(tmp_path)
    index.save(tmp_path)
    assert contents(tmp_path).keys() == {"index.json", arrays(tmp_path).name}


def test_a_folder_of_something_else_is_refused_and_left_alone(index, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    (tmp_path / "arrays.7.part").write_text("precious")
    with pytest.raises(ValueError, match=r"got 'thesis.tex' in it: name another place"):
        index.save(tmp_path)
    with pytest.raises(ValueError, match="must be a folder, got a file: name another"):
        index.save(tmp_path / "thesis.tex")
    assert set(contents(tmp_path).values()) == {b"precious"}


def test_a_place_that_can_not_be_written_is_an_error_of_the_system(index, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        index.save(tmp_path / "file" / "index")


def cut(folder):
    arrays(folder).write_bytes(arrays(folder).read_bytes()[:-100])


def extend(folder):
    arrays(folder).write_bytes(arrays(folder).read_bytes() + b"0")


def spoil_header(folder):
    data = bytearray(arrays(folder).read_bytes())
    data[20] ^= 255
    arrays(folder).write_bytes(data)


DAMAGES = {
    "arrays cut short": (cut, "is cut short or edited .* bytes, not"),
    "arrays longer": (extend, "is cut short or edited .* bytes, not"),
    "arrays gone": (lambda f: arrays(f).unlink(), "safetensors is missing"),
    "arrays' header": (spoil_header, "is damaged .*header"),
    "nothing": (lambda f: (f / "index.json").unlink(), "holds no index"),
    "a setting edited": (
        lambda f: rewrite(f / "index.json", '"alpha": 0.99', '"alpha": 0.98'),
        "was edited",
    ),
    "a name edited": (
        lambda f: rewrite(f / "index.json", "a.png", "x.png"),
        "was edited",
    ),
    "another version": (
        lambda f: rewrite(f / "index.json", '"version": 3', '"version": 1'),
        "is version 1 of 'diffjax index', this program reads version 3",
    ),
    "a version to come": (
        lambda f: (f / "index.json").write_text(
            '{"format": "diffjax index", "version": 9, "elsewhere": true}'
        ),
        "is version 9 of 'diffjax index'",
    ),
    "something else": (
        lambda f: rewrite(f / "index.json", "diffjax index", "recipe"),
        "is version 3 of 'recipe'",
    ),
    **{
        f"garbage {text[:9]!r}": (
            lambda f, text=text: (f / "index.json").write_bytes(text),
            "is damaged",
        )
        for text in (b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b"{}", b"[" * 10**5)
    },
    "no fingerprint": (
        lambda f: rewrite(f / "index.json", '"fingerprint"', '"finger"'),
        "is damaged",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_index_is_refused_in_a_line_that_says_what_to_do(
    saved, index, damage, message
):
    damage(saved)
    for read in (Index.load, describe_file, verify):
        with pytest.raises(IndexFileError) as caught:
            read(saved)
        said = str(caught.value)
        assert said.startswith(str(saved))
        assert "\n" not in said
        assert said.endswith((": build the index again.", ": build one."))
        if (read, message) != (verify, "is damaged .*header"):
            assert caught.match(message)
    index.save(saved)  # And that is possible.
    verify(saved)


def flip(folder, name):
    """Changes the highest bits of the last number of an array."""
    data = bytearray(arrays(folder).read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    end = start + json.loads(data[8:start])[name]["data_offsets"][1]
    data[end - 1] ^= 0b01000000
    arrays(folder).write_bytes(data)


@pytest.mark.parametrize("name", ["vectors", "similarities", "projection"])
def test_only_verify_sees_that_a_number_was_changed(saved, name):
    flip(saved, name)
    Index.load(saved)
    describe_file(saved)
    with pytest.raises(IndexFileError, match=r"was changed .*: build the index again"):
        verify(saved)


@pytest.mark.parametrize("name", ["indices", "image_ids"])
def test_numbers_that_point_nowhere_are_seen_on_loading(saved, name):
    flip(saved, name)
    with pytest.raises(IndexFileError, match=r"is damaged .*: build the index again"):
        Index.load(saved)


@pytest.mark.parametrize("place", ["nowhere", "file"])
def test_where_there_is_no_index_it_says_so(tmp_path, place):
    (tmp_path / "file").touch()
    for read in (Index.load, describe_file, verify):
        with pytest.raises(IndexFileError, match=f"{place} holds no index"):
            read(tmp_path / place)


@pytest.mark.usefixtures("x64")
def test_an_index_in_double_precision_needs_it_to_be_loaded(given, tmp_path):
    import jax

    config = IndexConfig(k=12, query_k=8)
    Index.build(given[0].astype(np.float64), config=config).save(tmp_path)
    assert Index.load(tmp_path).vectors.dtype == np.float64
    with (
        jax.enable_x64(False),
        pytest.raises(ValueError, match="float64: convert it, or turn on"),
    ):
        Index.load(tmp_path)


def test_what_is_in_an_index_is_said_without_loading_it(saved):
    said = describe_file(str(saved))
    assert said["images"] == "24"
    assert said["regions"] == "40, 1.7 an image"
    assert said["dimensions"] == "6"
    assert said["neighbours"] == "12 of each region"
    assert said["skipped"] == "c.png"
    assert said["pictures from"] == "/some/where"
    assert "alpha 0.99" in said["settings"]


def test_the_json_says_what_the_index_is_and_holds_no_time(saved):
    header = json.loads((saved / "index.json").read_text(encoding="ascii"))
    assert header.keys() == {
        *("format", "version", "fingerprint", "arrays", "config", "pictures"),
        "recall",
    }
    assert header["arrays"]["bytes"] == arrays(saved).stat().st_size
    assert header["config"] == dataclasses.asdict(CONFIG)


def test_the_fingerprint_follows_vectors_and_settings(given, index, saved, tmp_path):
    def fingerprint(other):
        other.save(tmp_path / "other")
        return describe_file(tmp_path / "other")["fingerprint"]

    own = describe_file(saved)["fingerprint"]
    assert fingerprint(index) == own
    settings = dataclasses.replace(index, config=dataclasses.replace(CONFIG, lam=2.0))
    vectors = dataclasses.replace(index, vectors=-index.vectors)
    pictures = dataclasses.replace(index, pictures=PICTURES._replace(weights="cd" * 32))
    assert len({own, *map(fingerprint, (settings, vectors, pictures))}) == 4
