"""Index on disk: format, replacement, damage, what it says about itself."""

import dataclasses
import hashlib
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from small_index import CONFIG, file_hashes

from diffjax.images import DescriptorConfig, IndexedPictures
from diffjax.index import Index, IndexConfig, IndexFileError, describe_file, verify
from diffjax.index import _store as store_module

SETTINGS = CONFIG.replace(dim=7)
PICTURES = IndexedPictures(
    folder="/some/where",
    names=("a.png", "é\nü.png", "b\udcff.png", *(f"{i}.png" for i in range(21))),
    skipped={"c.png": "the file is empty (0 bytes)"},
    descriptor=DescriptorConfig(network="nobody's", side=128, scales=(1.0, 0.5)),
    weights="ab" * 32,
)
ALL = 24


@pytest.fixture(scope="module")
def index(given) -> Index:
    return Index.build(
        given.vectors, given.image_ids, config=SETTINGS, pictures=PICTURES
    )


@pytest.fixture(scope="module")
def other(given) -> Index:
    return Index.build(given.vectors, given.image_ids, config=CONFIG)


@pytest.fixture(scope="module")
def saved_once(index, tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("store") / "saved"
    index.save(path)
    return path


@pytest.fixture
def saved(saved_once, tmp_path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(saved_once, tmp_path / "saved"))


def array_file(folder, name) -> pathlib.Path:
    (path,) = folder.glob(f"{name}-*.npy")
    return path


def read_header(folder):
    return json.loads((folder / "index.json").read_text(encoding="ascii"))


def write_header(folder, header):
    """Writes a manifest with a fingerprint that fits, as another version would."""
    header = {k: v for k, v in header.items() if k != "fingerprint"}
    header["fingerprint"] = store_module._header_fingerprint(header)
    (folder / "index.json").write_text(json.dumps(header))


def rewrite(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# What is saved comes back.


@pytest.mark.parametrize("mmap", [False, True])
def test_an_index_comes_back_with_the_same_answers(index, saved, given, mmap):
    opened = Index.open(saved, mmap=mmap)
    for array, expected in zip(
        opened.search(given.queries, top=ALL)[:2],
        index.search(given.queries, top=ALL)[:2],
        strict=True,
    ):
        np.testing.assert_array_equal(array, expected)
    assert (opened.config, opened.pictures) == (index.config, index.pictures)
    assert opened.store.arrays.keys() == index.store.arrays.keys()
    for name, array in index.store.arrays.items():
        np.testing.assert_array_equal(opened.store.arrays[name], array, err_msg=name)
    verify(saved)


def test_optional_arrays_stay_missing_after_loading(given, tmp_path):
    config = CONFIG.replace(pooling="sum")
    index = Index.build(given.vectors, given.image_ids, config=config)
    index.save(str(tmp_path / "deep" / "down"))
    opened = Index.open(str(tmp_path / "deep" / "down"))
    assert (opened.whitening, opened.weights, opened.pictures) == (None, None, None)
    assert (opened.boxes, opened.recall) == (None, None)


def test_rows_solved_beforehand_and_recall_are_kept_on_disk(
    offline_index, given, tmp_path
):
    facts = offline_index.store.facts._replace(recall=0.875)
    store = dataclasses.replace(offline_index.store, facts=facts)
    Index(store, offline_index.config).save(tmp_path / "index")
    opened = Index.open(tmp_path / "index")
    assert opened.recall == 0.875
    assert opened.store.facts == facts
    expected = offline_index.search(given.queries, top=ALL)
    result = opened.search(given.queries, top=ALL)
    np.testing.assert_array_equal(result.scores, expected.scores)


def test_saving_twice_gives_the_same_bytes_whatever_was_there(index, saved, tmp_path):
    before = file_hashes(saved)
    assert len(before) == 1 + len(index.store.arrays)
    index.save(saved)
    index.save(tmp_path / "other")
    assert file_hashes(saved) == file_hashes(tmp_path / "other") == before
    # Also over itself, where its arrays are mapped.
    for mmap in (False, True):
        Index.open(saved, mmap=mmap).save(saved)
        assert file_hashes(saved) == before


def test_another_index_replaces_the_one_in_a_folder(other, saved):
    other.save(saved)
    assert len(file_hashes(saved)) == 1 + len(other.store.arrays)
    assert Index.open(saved).config == CONFIG


@pytest.mark.parametrize("function", ["write_array", "write_atomically", "commit"])
def test_a_save_that_fails_leaves_the_old_index(other, saved, monkeypatch, function):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    before = describe_file(saved)
    with monkeypatch.context() as patch:
        patch.setattr(store_module, function, fail)
        with pytest.raises(OSError, match="No space left"):
            other.save(saved)
    assert describe_file(saved) == before
    verify(saved)
    assert Index.open(saved).config == SETTINGS
    other.save(saved)  # Nothing of the failed one is left after the next.
    assert len(file_hashes(saved)) == 1 + len(other.store.arrays)


HASH = "0123456789abcdef"


def test_leftovers_of_killed_programs_and_earlier_versions_are_removed(other, tmp_path):
    left = (
        *(f"vectors-{HASH}.npy", f"vectors-{HASH}.npy.part", "index.json.7.part"),
        *("index.lock", f"lists-{HASH}.json", f"affinity-{HASH}.npy.part"),
        # Earlier versions.
        *("arrays-0123.safetensors", "arrays.7.part", ".tmpAb12Cd", "mapped.lock"),
        *("mapped.json", f"edges-{HASH}.npy.affinity", f"bounds-{HASH}.npy"),
    )
    for name in left:
        (tmp_path / name).touch()
    with pytest.raises(IndexFileError, match=r"earlier format \(mapped.json\): build "):
        Index.open(tmp_path)
    (tmp_path / "mapped.json").unlink()
    with pytest.raises(IndexFileError, match=r"holds no index \(index.json is missing"):
        Index.open(tmp_path)
    other.save(tmp_path)
    assert len(file_hashes(tmp_path)) == 1 + len(other.store.arrays)
    verify(tmp_path)


def test_a_folder_of_something_else_is_refused_and_left_alone(index, tmp_path):
    for name in ("thesis.tex", f"vectors-{HASH}.npy.part", "arrays.7.part"):
        (tmp_path / name).write_text("precious")
    with pytest.raises(ValueError, match=r"got 'thesis.tex' in it: name another place"):
        index.save(tmp_path)
    with pytest.raises(ValueError, match="must be a folder, got a file: name another"):
        index.save(tmp_path / "thesis.tex")
    assert len(file_hashes(tmp_path)) == 3
    assert {p.read_text() for p in tmp_path.iterdir()} == {"precious"}


def test_extracted_regions_may_lie_beside_an_index(index, tmp_path):
    (tmp_path / "extracted").mkdir()
    (tmp_path / "extracted" / "regions").touch()
    (tmp_path / "regions.json").write_text("{}")
    index.save(tmp_path)
    assert (tmp_path / "extracted" / "regions").exists()
    assert (tmp_path / "regions.json").read_text() == "{}"


def test_a_place_that_can_not_be_written_is_an_error_of_the_system(index, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        index.save(tmp_path / "file" / "index")


# Damage.


def cut(folder, name="vectors"):
    path = array_file(folder, name)
    path.write_bytes(path.read_bytes()[:-100])


def extend(folder):
    path = array_file(folder, "vectors")
    path.write_bytes(path.read_bytes() + b"0")


def spoil_array_header(folder):
    path = array_file(folder, "vectors")
    data = bytearray(path.read_bytes())
    data[20] ^= 255
    path.write_bytes(data)


def drop_array(folder):
    header = read_header(folder)
    del header["arrays"]["degrees"]
    write_header(folder, header)


def point_outside(folder):
    header = read_header(folder)
    header["arrays"]["degrees"]["name"] = "../degrees.npy"
    write_header(folder, header)


def change_shape(folder):
    header = read_header(folder)
    header["arrays"]["degrees"]["shape"] = [7]
    write_header(folder, header)


def refuse_settings(folder):
    header = read_header(folder)
    header["config"]["search"] |= {"solver": "chebyshev", "keep_best": True}
    write_header(folder, header)


def future_settings(folder):
    header = read_header(folder)
    header["config"]["graph"]["colour"] = "red"
    write_header(folder, header)


def edit_header(old, new):
    return lambda folder: rewrite(folder / "index.json", old, new)


DAMAGES = {
    "array cut short": (cut, "is cut short or edited .* bytes, not"),
    "array longer": (extend, "is cut short or edited .* bytes, not"),
    "array gone": (lambda f: array_file(f, "degrees").unlink(), "npy is missing"),
    "header of an array": (spoil_array_header, r"vectors-.*npy is damaged"),
    "array not named": (drop_array, "names no array 'degrees'"),
    "array elsewhere": (point_outside, "is damaged .*outside of the folder"),
    "array of another shape": (change_shape, r"degrees-.* is damaged .*float32 \[86"),
    "nothing": (lambda f: (f / "index.json").unlink(), "holds no index"),
    "a setting edited": (edit_header('"alpha": 0.9', '"alpha": 0.8'), "was edited"),
    "a name edited": (edit_header("a.png", "x.png"), "was edited"),
    "settings refused": (refuse_settings, "has settings .*keep_best"),
    "settings of a later version": (future_settings, "has settings .*colour"),
    "another version": (
        edit_header('"version": 4', '"version": 1'),
        "is version 1 of 'diffjax index', this program reads version 4",
    ),
    "a version to come": (
        lambda f: (f / "index.json").write_text(
            '{"format": "diffjax index", "version": 9, "elsewhere": true}'
        ),
        "is version 9 of 'diffjax index'",
    ),
    "the format before": (
        lambda f: (f / "index.json").write_text(
            '{"format": "diffjax index", "version": 3, "arrays": {"name": "a"}}'
        ),
        "is version 3 of 'diffjax index', this program reads version 4",
    ),
    "a mapped index of before": (
        lambda f: (f / "index.json").rename(f / "mapped.json"),
        r"holds an index of an earlier format \(mapped.json\)",
    ),
    "something else": (
        edit_header("diffjax index", "recipe"),
        "is version 4 of 'recipe'",
    ),
    **{
        f"garbage {text[:9]!r}": (
            lambda f, text=text: (f / "index.json").write_bytes(text),
            "is damaged",
        )
        for text in (b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b"{}", b"[" * 10**5)
    },
    "no fingerprint": (edit_header('"fingerprint"', '"finger"'), "is damaged"),
}
# `verify` compares bytes with hashes, and reads no settings.
UNSEEN_BY_VERIFY = ("has settings .*keep_best", "has settings .*colour")


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_index_is_refused_with_the_remedy(saved, index, damage, message):
    damage(saved)
    for read in (Index.open, describe_file, verify):
        if read is verify and message in UNSEEN_BY_VERIFY:
            continue
        if read is verify and message.startswith("degrees"):
            continue
        with pytest.raises(IndexFileError) as caught:
            read(saved)
        said = str(caught.value)
        assert said.startswith(str(saved))
        assert "\n" not in said
        assert said.endswith((": build the index again.", ": build one."))
        if read is describe_file or message != r"vectors-.*npy is damaged":
            assert caught.match(message)
        else:  # Its hash is compared first.
            assert caught.match(r"vectors-.*npy was changed")
    index.save(saved)  # And that is possible.
    verify(saved)
    np.testing.assert_array_equal(
        Index.open(saved).store.arrays["vectors"], index.store.arrays["vectors"]
    )


def flip(folder, name):
    """Changes the highest bits of the last number of an array."""
    path = array_file(folder, name)
    data = bytearray(path.read_bytes())
    data[-1] ^= 0b01000000
    path.write_bytes(data)


def sign(folder, name):
    """Makes the manifest of an index that of its changed array."""
    header, path = read_header(folder), array_file(folder, name)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    header["arrays"][name] |= {"sha256": digest, "bytes": path.stat().st_size}
    write_header(folder, header)


@pytest.mark.parametrize("name", ["vectors", "similarities", "projection"])
def test_a_changed_number_is_seen_where_it_is_loaded_or_verified(saved, index, name):
    flip(saved, name)
    for read in (lambda path: Index.open(path, mmap=False), verify):
        with pytest.raises(IndexFileError, match=rf"{name}-.* was changed .*: build t"):
            read(saved)
    # Mapped arrays are not read.
    Index.open(saved, mmap=True)
    describe_file(saved)
    index.save(saved)
    verify(saved)


@pytest.mark.parametrize(
    "name",
    [
        *("order", "inverse_order", "image_starts", "indices"),
        *("graph_columns", "graph_starts"),
    ],
)
def test_indices_out_of_range_are_refused_on_loading(saved, name):
    flip(saved, name)
    sign(saved, name)
    message = rf"is damaged \({name} holds numbers that point nowhere\): build the inde"
    with pytest.raises(IndexFileError, match=message):
        Index.open(saved, mmap=False)
    Index.open(saved, mmap=True)  # Mapped arrays are not read.


def test_regions_that_are_named_twice_are_seen_on_loading(saved):
    path = array_file(saved, "order")
    order = np.load(path)
    order[1] = order[0]
    np.save(path, order)
    sign(saved, "order")
    with pytest.raises(IndexFileError, match="order holds numbers that point nowhere"):
        Index.open(saved)


def test_unknown_arrays_are_ignored(index, saved, given):
    # A later version may add arrays without another format.
    header = read_header(saved)
    np.save(saved / "labels.npy", np.arange(3))
    size = (saved / "labels.npy").stat().st_size
    header["arrays"]["labels"] = {"name": "labels.npy", "bytes": size, "sha256": "0"}
    header["colour"] = "red"
    write_header(saved, header)
    for mmap in (False, True):
        opened = Index.open(saved, mmap=mmap)
        assert "labels" not in opened.store.arrays
        expected = index.search(given.queries, top=ALL)
        result = opened.search(given.queries, top=ALL)
        np.testing.assert_array_equal(result.images, expected.images)


@pytest.mark.parametrize("name", store_module.REQUIRED)
def test_missing_arrays_are_refused(saved, name):
    header = read_header(saved)
    del header["arrays"][name]
    write_header(saved, header)
    with pytest.raises(IndexFileError, match=rf"names no array '{name}': build the in"):
        Index.open(saved)


@pytest.mark.parametrize("place", ["nowhere", "file"])
def test_a_missing_index_is_an_error(tmp_path, place):
    (tmp_path / "file").touch()
    for read in (Index.open, describe_file, verify):
        with pytest.raises(IndexFileError, match=f"{place} holds no index"):
            read(tmp_path / place)


@pytest.mark.usefixtures("x64")
def test_an_index_in_double_precision_needs_it_to_be_opened(given, tmp_path):
    # Also with a path it is built in memory, and saved.
    doubles = given.vectors.astype(np.float64)
    index = Index.build(doubles, config=CONFIG, path=tmp_path / "index")
    assert index.vectors.dtype == np.float64
    assert index.store.arrays["graph_weights"].dtype == np.float64
    with (
        jax.enable_x64(False),
        pytest.raises(ValueError, match="float64: convert it, or turn on"),
    ):
        Index.open(tmp_path / "index")


# What an index says about itself.


def test_contents_of_an_index_are_described_without_loading_it(saved):
    said = describe_file(str(saved))
    assert said["images"] == "24"
    assert said["regions"] == "86, 3.6 an image"
    assert said["dimensions"] == "7"
    assert said["neighbours"] == "12 of each region"
    assert said["version"] == "4"
    assert said["skipped"] == "c.png"
    assert said["pictures from"] == "/some/where"
    assert "alpha 0.9" in said["search settings"]
    # As they are used.
    assert "probes 0, " in said["search settings"]
    assert "method exact" in said["graph settings"]
    assert "clusters" not in said
    assert "(float32)" in said["size"]


def test_description_has_clusters_and_recall(given, tmp_path):
    config = CONFIG.replace(method="clusters", clusters=7, storage="float16")
    Index.build(given.vectors, config=config, path=tmp_path / "index")
    said = describe_file(tmp_path / "index")
    assert said["clusters"] == "7"
    assert "of the true ones (on a sample)" in said["neighbours"]
    assert "probes 64, " in said["search settings"]
    assert "(float16)" in said["size"]
    assert said["dimensions"] == "12"


def test_manifest_describes_the_index_and_holds_no_time(index, saved):
    header = read_header(saved)
    assert header.keys() == {
        *("format", "version", "generation", "fingerprint", "arrays", "config"),
        *("pictures", "recall", "offline", "source"),
    }
    assert (header["version"], header["generation"]) == (4, 1)
    assert header["arrays"].keys() == index.store.arrays.keys()
    for name, entry in header["arrays"].items():
        path = saved / entry["name"]
        assert entry["bytes"] == path.stat().st_size
        array = np.load(path)
        assert (entry["dtype"], entry["shape"]) == (array.dtype.str, [*array.shape])
        assert entry["name"].startswith(f"{name}-")
    assert header["config"] == dataclasses.asdict(SETTINGS)


def test_the_fingerprint_follows_vectors_and_settings(index, tmp_path):
    def fingerprint(store):
        Index(store, index.config).save(tmp_path / "index")
        return describe_file(tmp_path / "index")["fingerprint"]

    def with_facts(**changes):
        facts = index.store.facts._replace(**changes)
        return dataclasses.replace(index.store, facts=facts)

    moved = {"vectors": -index.store.arrays["vectors"]}
    stores = (
        index.store,
        with_facts(config=SETTINGS.replace(lam=2.0)),
        with_facts(pictures=PICTURES._replace(weights="cd" * 32)),
        dataclasses.replace(index.store, arrays={**index.store.arrays, **moved}),
    )
    assert len({fingerprint(store) for store in stores}) == 4
    assert fingerprint(index.store) == fingerprint(index.store)


def test_the_fingerprint_of_vectors_ignores_settings(given, index, other, saved):
    whole = Index.build(given.vectors, given.image_ids, config=CONFIG.replace(k=5))
    assert whole.fingerprint == other.fingerprint
    assert Index.open(saved).fingerprint == index.fingerprint
    assert index.fingerprint != other.fingerprint  # It is of whitened vectors.
    moved = np.array(given.vectors)
    moved[3, 2] += 0.01
    for vectors, ids in ((moved, given.image_ids), (given.vectors, None)):
        changed = Index.build(vectors, ids, config=IndexConfig.of(k=5, query_k=5))
        assert changed.fingerprint != other.fingerprint
