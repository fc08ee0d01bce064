import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matlab_files import write_5, write_73

from diffjax.datasets import (
    ReleasedDescriptors,
    check_descriptor_counts,
    read_knn_graph,
    read_released_descriptors,
)
from diffjax.graph import affinity, knn, normalize
from diffjax.index import Index, IndexConfig

DIM = 8
K = 6
REGIONS, QUERY_REGIONS = (3, 1, 4, 2), (2, 1)

both = pytest.mark.parametrize("write", [write_5, write_73], ids=["v5", "v7.3"])


def unit(columns):
    """Columns of unit length: vectors are columns in MATLAB."""
    return columns / np.linalg.norm(columns, axis=0)


def units(rng, count):
    return unit(rng.normal(size=(DIM, count)).astype(np.float32))


@pytest.fixture
def contents():
    """Variables of a small file of 4 images and 2 queries."""
    rng = np.random.default_rng(0)
    return {
        "reg": {
            "V": [units(rng, count) for count in REGIONS],
            "Q": [units(rng, count) for count in QUERY_REGIONS],
        },
        "glob": {
            "V": [units(rng, 1) for _ in REGIONS],
            "Q": [units(rng, 1) for _ in QUERY_REGIONS],
        },
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / "oxford5k_siamac.mat"


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_descriptors_are_rows_with_ids_in_the_order_of_the_cells(
    path, contents, write, dtype
):
    given = {
        struct: {f: [matrix.astype(dtype) for matrix in c] for f, c in cells.items()}
        for struct, cells in contents.items()
    }
    write(path, given)
    got = read_released_descriptors(path)
    expected = contents["reg"]["V"], contents["reg"]["Q"]
    expected += contents["glob"]["V"], contents["glob"]["Q"]
    arrays = got.vectors, got.query_vectors, got.global_vectors, got.global_queries
    for array, cells in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(array, np.concatenate(cells, axis=1).T)
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
    np.testing.assert_array_equal(got.image_ids, [0, 0, 0, 1, 2, 2, 2, 2, 3, 3])
    np.testing.assert_array_equal(got.query_ids, [0, 0, 1])


@both
def test_columns_of_cells_and_single_images_are_read(path, contents, write):
    row = {s: {f: c[:1] for f, c in cells.items()} for s, cells in contents.items()}
    column = {
        s: {f: [[one] for one in c] for f, c in cells.items()}
        for s, cells in contents.items()
    }
    write(path, row)
    assert read_released_descriptors(path).image_ids.tolist() == [0, 0, 0]
    write(path, column)
    assert (
        read_released_descriptors(path).image_ids.tolist()
        == np.repeat(range(4), REGIONS).tolist()
    )


def test_counts_of_another_ground_truth_are_refused_with_both_numbers(path, contents):
    write_5(path, contents)
    released = read_released_descriptors(path)
    check_descriptor_counts(released, num_images=4, num_queries=2)
    with pytest.raises(ValueError, match=r"the 5063 images of the .*descriptors of 4:"):
        check_descriptor_counts(released, num_images=5063, num_queries=2)
    with pytest.raises(ValueError, match=r"the 55 queries of the .* descriptors of 2:"):
        check_descriptor_counts(released, num_images=4, num_queries=55)


def swap(cell, position, matrix):
    cell[position] = matrix


HALF = np.full((DIM, 1), 0.5, np.float32)  # Of length sqrt(8) / 2 = 1.414.
BAD = {
    "longer": (
        lambda c: swap(c["reg"]["V"], 2, np.concatenate([HALF] * 2, axis=1)),
        r"reg.V must have .* unit length, got 2 of 8 .* length 1.414 in image 2\.",
    ),
    "a little longer": (
        lambda c: swap(c["glob"]["Q"], 1, c["glob"]["Q"][1] * 1.02),
        r"glob.Q must have .* unit length, got 1 of 2 .* length 1.02 in query 1\.",
    ),
    "NaN": (
        lambda c: swap(c["reg"]["Q"], 0, HALF * np.nan),
        r"reg.Q must have vectors that are finite, .* length nan in query 0\.",
    ),
    "no region": (
        lambda c: swap(c["reg"]["V"], 1, np.zeros((DIM, 0), np.float32)),
        r"reg.V must have a vector at least .* got float32 8 x 0 for image 1\.",
    ),
    "empty cell": (
        lambda c: swap(c["reg"]["V"], 0, np.zeros((0, 0))),
        r"reg.V must have a vector at least .* got float64 0 x 0 for image 0\.",
    ),
    "other dimension": (
        lambda c: swap(c["reg"]["V"], 3, np.ones((1, 1))),
        r"reg.V must have matrices of 8 rows, got float64 1 x 1 for image 3\.",
    ),
    "other dimension of all": (
        lambda c: c["glob"].update(Q=[np.ones((1, 1))] * 2),
        r"glob.Q must have the 8 dimensions of reg.V, got 1\.",
    ),
    "bytes": (
        lambda c: swap(c["reg"]["Q"], 1, np.ones((DIM, 1), np.uint8)),
        r"reg.Q must have matrices of floating point, got uint8 8 x 1 for query 1\.",
    ),
    "text": (
        lambda c: swap(c["reg"]["V"], 0, "all_souls"),
        r"reg.V must have matrices of floating point, got text for image 0\.",
    ),
    "one image less": (
        lambda c: c["glob"].update(V=c["glob"]["V"][:3]),
        r"glob.V must have the 4 images of reg.V, got 3\.",
    ),
    "one query less": (
        lambda c: c["glob"].update(Q=c["glob"]["Q"][:1]),
        r"glob.Q must have the 2 queries of reg.Q, got 1\.",
    ),
    "two globals": (
        lambda c: swap(c["glob"]["V"], 2, c["reg"]["V"][0]),
        r"glob.V must have one vector per cell, got 3 in image 2\.",
    ),
    "a matrix": (
        lambda c: c["reg"].update(V=c["reg"]["V"][0]),
        r"the cell reg.V, got .*V \(float32 8 x 3\)",
    ),
    "no struct": (
        lambda c: c.pop("glob"),
        r"it must have the struct glob, got reg \(struct\)\.",
    ),
    "no cell": (
        lambda c: c["glob"].pop("Q"),
        r"it must have the cell glob.Q, got V \(cell of 4\)\.",
    ),
    "no images": (
        lambda c: c["reg"].update(V=[]),
        r"reg.V must be one row of cells, got none\.",
    ),
    "rows of cells": (
        lambda c: c["reg"].update(V=[c["reg"]["V"][:2]] * 2),
        r"reg.V must be one row of cells, got cell of 2\.",
    ),
}


@both
@pytest.mark.parametrize(("change", "said"), BAD.values(), ids=BAD)
def test_invalid_descriptors_are_refused_in_a_line(path, contents, write, change, said):
    change(contents)
    write(path, contents)
    with pytest.raises(ValueError, match=said) as caught:
        read_released_descriptors(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_is_refused_with_its_content(path):
    write_5(path, {"gnd": {"ok": np.ones((1, 3))}, "imlist": ["a", "b"]})
    said = r"got gnd \(struct\), imlist \(cell of 2\)\.$"
    with pytest.raises(ValueError, match=f"the struct reg, {said}"):
        read_released_descriptors(path)
    with pytest.raises(ValueError, match=f"the matrix knn_, {said}"):
        read_knn_graph(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="no MATLAB file"):
        read_released_descriptors(path)
    with pytest.raises(FileNotFoundError):
        read_knn_graph(path.with_name("absent.mat"))


def graph_file(write, path, indices, similarities, *, dtype=np.int32):
    """Writes neighbour lists in the layout of the release; returns the path."""
    write(path, {"knn_": (indices + 1).T.astype(dtype), "s_": -similarities.T})
    return path


@pytest.fixture
def exact():
    """Six nearest neighbours of 40 vectors, themselves first."""
    vectors = units(np.random.default_rng(1), 40).T
    neighbors = knn(vectors, 6)
    return np.asarray(neighbors.indices), np.asarray(neighbors.similarities)


@both
@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.float64])
def test_lists_with_their_own_region_are_unchanged(path, exact, write, dtype):
    got = read_knn_graph(graph_file(write, path, *exact, dtype=dtype))
    np.testing.assert_array_equal(got.indices, exact[0])
    np.testing.assert_array_equal(got.similarities, exact[1])
    assert (got.indices.dtype, got.similarities.dtype) == (jnp.int32, jnp.float32)


@both
def test_lists_without_their_own_region_get_it(path, exact, write):
    others = exact[0][:, 1:], exact[1][:, 1:]
    got = read_knn_graph(graph_file(write, path, *others))
    np.testing.assert_array_equal(got.indices, exact[0])
    np.testing.assert_allclose(got.similarities, exact[1], atol=1e-6)


def test_only_lists_without_their_own_region_become_longer(path, exact):
    indices, similarities = (array.copy() for array in exact)
    # Region 7 lacks itself and has one more neighbour, of similarity 0.
    indices[7] = [*indices[7, 1:], 99]
    similarities[7] = [*similarities[7, 1:], 0]
    indices[7, -1] = next(i for i in range(40) if i not in {*exact[0][7]})
    got = read_knn_graph(graph_file(write_5, path, indices, similarities))
    result, weights = np.asarray(got.indices), np.asarray(got.similarities)
    assert result.shape == (40, 7)
    is_longer = np.arange(40) == 7
    np.testing.assert_array_equal(result[:, -1] == -1, ~is_longer)
    np.testing.assert_array_equal(weights[~is_longer, -1], 0)
    np.testing.assert_array_equal(result[7, 0], 7)
    assert np.isin(indices[7], result[7]).all()
    np.testing.assert_array_equal(result[~is_longer, :6], exact[0][~is_longer])


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 999), has_self=st.booleans())
def test_the_order_of_a_list_does_not_matter(tmp_path_factory, seed, has_self):
    rng = np.random.default_rng(seed)
    neighbors = knn(units(rng, 12).T, 5)
    lists = np.asarray(neighbors.indices), np.asarray(neighbors.similarities)
    shuffled = rng.permuted(
        np.tile(np.arange(0 if has_self else 1, 5), (12, 1)), axis=1
    )
    path = tmp_path_factory.mktemp("graph") / "graph.mat"
    mixed = (np.take_along_axis(array, shuffled, axis=1) for array in lists)
    got = read_knn_graph(graph_file(write_5, path, *mixed))
    np.testing.assert_array_equal(got.indices, lists[0])


def test_equal_similarities_are_ordered_by_index_in_all_blocks(path, monkeypatch):
    monkeypatch.setattr("diffjax.datasets._released._BLOCK_ROWS", 4)
    indices = np.array([[(i + 2) % 10, i, (i + 1) % 10] for i in range(10)])
    similarities = np.tile(np.array([[0.5, 1, 0.5]], np.float32), (10, 1))
    got = read_knn_graph(graph_file(write_5, path, indices, similarities))
    expected = [[i, *sorted([(i + 1) % 10, (i + 2) % 10])] for i in range(10)]
    np.testing.assert_array_equal(got.indices, expected)
    np.testing.assert_array_equal(got.similarities, [[1, 0.5, 0.5]] * 10)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda i, s: (i.__setitem__((3, 2), 40), s), "1..40, got 41 for region 3"),
        (lambda i, s: (i.__setitem__((3, 2), -1), s), "1..40, got 0 for region 3"),
        (lambda i, s: (i.__setitem__((5, 4), i[5, 2]), s), "once .* for region 5"),
        (lambda i, s: (i, s.__setitem__((9, 1), np.nan)), "unit .* nan for region 9"),
        (lambda i, s: (i, s.__setitem__((9, 1), 2.5)), r"unit .* -2.5 for region 9"),
        (lambda i, s: (i, np.negative(s, out=s)), "minus the .* 0.* not negated"),
    ],
)
def test_an_invalid_graph_is_refused_with_the_region(
    path, exact, monkeypatch, change, said
):
    monkeypatch.setattr("diffjax.datasets._released._BLOCK_ROWS", 4)
    indices, similarities = (array.copy() for array in exact)
    change(indices, similarities)
    with pytest.raises(ValueError, match=said) as caught:
        read_knn_graph(graph_file(write_5, path, indices, similarities))
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("shape", [(5, 40), (6, 39), (0, 0)])
def test_lists_and_similarities_of_different_shapes_are_refused(path, exact, shape):
    write_5(path, {"knn_": exact[0].T + 1, "s_": np.zeros(shape)})
    said = f"knn_ and s_ must be k x n alike, got 6 x 40 and {shape[0]} x {shape[1]}"
    with pytest.raises(ValueError, match=said):
        read_knn_graph(path)
    write_5(path, {"knn_": exact[0].T + 1j, "s_": exact[1].T})
    with pytest.raises(ValueError, match=r"the matrix knn_, got knn_ \(complex128"):
        read_knn_graph(path)


@pytest.fixture(
    scope="module",
    params=[write_73, pytest.param(write_5, marks=pytest.mark.full)],
    ids=["v7.3", "v5"],
)
def planted(request, tmp_path_factory):
    """Released files of 30 images: 0..4 show the object of query 0, 5..9 that of 1.

    The object is one of an image's three regions, and turns by 0.4 rad from image to
    image: the last of five has nothing in common with the query (cos 1.6 = -0.03).
    """
    rng = np.random.default_rng(3)
    axes, _ = np.linalg.qr(rng.normal(size=(32, 4)))
    images = [unit(rng.normal(size=(32, 3))) for _ in range(30)]
    for image in range(10):
        number, angle = image // 5, 0.4 * (image % 5)
        images[image][:, 1] = axes[:, [number, 2 + number]] @ [
            np.cos(angle),
            np.sin(angle),
        ]
    queries = [axes[:, [number]] for number in range(2)]
    global_vectors = [unit(image.sum(1, keepdims=True)) for image in images]
    folder = tmp_path_factory.mktemp("released")
    request.param(
        folder / "oxford105k_siamac.mat",
        {
            "reg": {"V": images, "Q": queries},
            "glob": {"V": global_vectors, "Q": queries},
        },
    )
    vectors = np.concatenate(images, axis=1).T.astype(np.float32)
    # As of kgraph: without the region itself.
    lists = (np.asarray(array)[:, 1:] for array in knn(vectors, K))
    graph_file(request.param, folder / "oxford105k_knn_kgraph_siamac.mat", *lists)
    released = read_released_descriptors(folder / "oxford105k_siamac.mat")
    return released, read_knn_graph(folder / "oxford105k_knn_kgraph_siamac.mat")


def test_a_released_collection_is_searched_by_its_released_graph(planted):
    released, neighbors = planted
    index = Index.build(
        released.vectors,
        released.image_ids,
        config=IndexConfig.of(query_k=2, alpha=0.9),
        neighbors=neighbors,
    )
    assert index.config.graph.k == K
    result = index.search(released.query_vectors, released.query_ids, top=5)
    expected = np.arange(10).reshape(2, 5)
    np.testing.assert_array_equal(np.sort(result.images, axis=1), expected)
    # Nearest neighbours of global vectors do not find them.
    nearest = np.argsort(-released.global_vectors @ released.global_queries.T, axis=0)[
        :5
    ]
    assert (np.sort(nearest.T, axis=1) != expected).any()


def test_the_released_graph_has_an_affinity_like_any_other(planted):
    released, neighbors = planted
    graph = normalize(affinity(neighbors))
    exact = normalize(affinity(knn(released.vectors, K)))
    np.testing.assert_allclose(
        graph.to_scipy().toarray(), exact.to_scipy().toarray(), atol=1e-5
    )


def test_the_graph_of_another_collection_is_refused_by_the_index(planted):
    released, neighbors = planted
    with pytest.raises(ValueError, match=r"neighbors must have .* \[89, k\], got \[90"):
        Index.build(released.vectors[:-1], neighbors=neighbors)


def test_the_shapes_are_those_of_the_annotations(planted):
    released, _ = planted
    assert isinstance(released, ReleasedDescriptors)
    assert [array.shape for array in released] == [
        (90, 32),
        (90,),
        (2, 32),
        (2,),
        (30, 32),
        (2, 32),
    ]
