import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from diffjax._sharding import flat_mesh
from diffjax.diffusion import diffuse, query_vectors
from diffjax.distributed import (
    _sharded_rows,
    build_graph,
    process_rows,
    row_mask,
    row_mesh,
    search,
    shard_rows,
)
from diffjax.graph import affinity, compress, knn, knn_dense, normalize
from diffjax.pooling import pool


@pytest.mark.parametrize(
    ("n", "owners", "rows"),
    [
        (10, (0, 1), slice(0, 5)),
        (10, (1, 0), slice(5, 10)),
        (11, (1, 0), slice(6, 11)),  # Six and five.
        (10, (1, 2, 3, 0), slice(9, 10)),  # Three, three, three and one.
        (10, (1, 0, 0, 2), slice(3, 9)),
        (2, (1, 1, 2, 0), slice(2, 2)),  # One each, and none is left.
    ],
)
def test_devices_have_equal_numbers_of_rows_and_the_last_ones_fewer(n, owners, rows):
    positions = _sharded_rows._contiguous_positions(owners, 0)
    num_devices = len(owners)
    assert _sharded_rows._rows_of_devices(n, positions, num_devices=num_devices) == rows


def test_every_row_belongs_to_one_process():
    owners = 0, 0, 1, 2
    for n in range(1, 20):
        rows = []
        for process in range(3):
            positions = _sharded_rows._contiguous_positions(owners, process)
            rows_of_device = _sharded_rows._rows_of_devices(n, positions, num_devices=4)
            rows += range(n)[rows_of_device]
        assert rows == list(range(n))


@pytest.mark.parametrize(
    ("owners", "positions"),
    [((0, 1, 0), r"\[0, 2\] of 3"), ((1, 2), r"\[\] of 2: use")],
)
def test_devices_of_a_process_must_be_next_to_each_other(owners, positions):
    message = f"got those of this one at positions {positions}"
    with pytest.raises(ValueError, match=message):
        _sharded_rows._contiguous_positions(owners, 0)


def test_rows_are_padded_at_the_end():
    mesh = row_mesh()
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_array_equal(shard_rows(rows, 3, mesh), rows)
    np.testing.assert_array_equal(row_mask(3, mesh), [True] * 3)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: process_rows(0, row_mesh()), r"n must be in 1\.\.2\^31 - 1, got 0"),
        (
            lambda: process_rows(2**31, row_mesh()),
            r"n must be in 1\.\.2\^31 - 1, got 2147",
        ),
        (
            lambda: shard_rows(np.zeros((3, 2), np.float32), 4, row_mesh()),
            "rows must be rows 0 to 4 of 4, 4 of them, got 3",
        ),
        (
            lambda: shard_rows(np.array([[0.0], [np.nan]], np.float32), 2, row_mesh()),
            "rows must be finite, got NaN or infinity in 1 of 2 rows, first in row 1",
        ),
        (lambda: shard_rows(np.zeros((2, 1)), 2, row_mesh()), "rows must be float32"),
        (
            lambda: shard_rows(np.array([1, 2**33]), 2, row_mesh()),
            r"rows must be in -2147483648\.\.2147483647 here, got 1\.\.8589934592",
        ),
        (
            lambda: build_graph(jnp.eye(3), 3, k=4, mesh=row_mesh()),
            r"k must be in 1\.\.",
        ),
    ],
)
def test_rejects_rows(function, message):
    with pytest.raises(ValueError, match=message):
        function()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, r"k must be in 1\.\.3 \(n\), got 0"),
        ({"top": 0}, "top must be at least 1, got 0"),
        ({"num_images": 3}, "image_ids and num_images must be given together"),
        (
            {"weights": jnp.ones(2)},
            r"weights must be one per row of vectors, 3, got",
        ),
        (
            {"image_ids": jnp.arange(4), "num_images": 4},
            r"image_ids must be one per row of vectors, 3, got \[4\]: shard them by",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_rejects_a_search(settings, message):
    mesh, vectors = row_mesh(), jnp.eye(3)
    graph = build_graph(vectors, 3, k=2, mesh=mesh)
    with pytest.raises(ValueError, match=message):
        search(
            graph, vectors, 3, np.eye(3, dtype="f4"), mesh=mesh, **{"k": 1, **settings}
        )


def test_a_compressed_graph_has_no_rows_to_share_out():
    lists = knn(np.eye(4, dtype=np.float32), 2)
    with pytest.raises(ValueError, match="graph must be in the padded form to be spre"):
        normalize(compress(affinity(lists)), mesh=row_mesh())


def test_a_short_list_and_a_mesh_do_not_go_together():
    nodes = jnp.zeros((3, 2), jnp.int32)
    with pytest.raises(ValueError, match="nodes must be None where rows are padded or"):
        query_vectors(jnp.eye(3), jnp.eye(3), k=1, nodes=nodes, mesh=row_mesh())


@pytest.mark.usefixtures("unchecked")
def test_a_mask_has_an_entry_for_each_vector():
    with pytest.raises(ValueError, match="where must have one entry per vector, 3, g"):
        query_vectors(jnp.eye(3), jnp.eye(3), k=1, where=jnp.ones(2, bool))


def test_one_program_on_a_mesh_of_one_device_follows_the_formulas(collection):
    # From vectors to scores, where processes have a program for every step.
    n, image_ids = len(collection.vectors), jnp.asarray(collection.image_ids)
    mesh = flat_mesh(np.array(jax.devices()[:1]))

    @jax.jit
    def score(vectors, queries):
        mask = jnp.arange(n) < n
        lists = knn_dense(vectors, 9, where=mask, mesh=mesh)
        graph = normalize(affinity(lists, mesh=mesh), mesh=mesh)
        y = query_vectors(vectors, queries, k=9, where=mask, mesh=mesh)
        f = diffuse(graph, y, max_steps=200, mesh=mesh).value
        return pool(f, image_ids, num_images=24, mesh=mesh)

    scores = score(
        jnp.asarray(collection.vectors, jnp.float32),
        jnp.asarray(collection.queries, jnp.float32),
    )
    vectors, queries = collection.vectors, collection.queries
    y = [oracle.query_vector(vectors, [z], 9, 3.0, "paper") for z in queries]
    s = oracle.normalized(oracle.affinity(vectors, 9, 3.0))
    f = oracle.diffusion(s, np.transpose(y), 0.99)
    expected = oracle.pooled(f, collection.image_ids, np.ones(n))
    np.testing.assert_allclose(scores, expected, rtol=1e-3)
