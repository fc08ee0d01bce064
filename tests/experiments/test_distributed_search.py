import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.diffusion import diffuse, query_vectors
from diffjax.graph import affinity, knn, normalize
from diffjax.pooling import pool
from experiments.speed import distributed_search
from experiments.speed.distributed_search import SearchConfig, _read


@pytest.fixture
def config(collection, tmp_path) -> SearchConfig:
    """The collection in two files, its vectors three times too long."""
    vectors = 3 * collection.vectors.astype(np.float32)
    arrays = {
        "first": vectors[:11],
        "second": vectors[11:],
        "queries": collection.queries.astype(np.float32),
        "query_ids": collection.query_ids,
        "image_ids": collection.image_ids,
    }
    paths = {name: tmp_path / f"{name}.npy" for name in arrays}
    for name, array in arrays.items():
        np.save(paths[name], array)
    return SearchConfig(
        vectors=(paths["first"], paths["second"]),
        queries=paths["queries"],
        query_ids=paths["query_ids"],
        image_ids=paths["image_ids"],
        out=tmp_path / "answers.npz",
        k=9,
        query_k=9,
        top=4,
    )


@pytest.mark.full
def test_files_give_the_answers_of_arrays(config, collection):
    distributed_search.run(config)
    got = np.load(config.out)
    x = jnp.asarray(collection.vectors, jnp.float32)
    z = jnp.asarray(collection.queries, jnp.float32)
    graph = normalize(affinity(knn(x, 9)))
    f = diffuse(graph, query_vectors(x, z, collection.query_ids, k=9))
    scores, images = jax.lax.top_k(pool(f.value, collection.image_ids).T, 4)
    np.testing.assert_array_equal(got["images"], images)
    np.testing.assert_allclose(got["scores"], scores, rtol=2e-5)
    np.testing.assert_array_equal(got["num_steps"], f.num_steps)


def test_rows_are_numbered_one_file_after_the_other():
    files = [np.arange(0, 4), np.arange(4, 5), np.arange(5, 9)]
    for start in range(9):
        for stop in range(start, 10):
            rows = _read(files, slice(start, stop))
            np.testing.assert_array_equal(rows, np.arange(9)[start:stop])


def test_errors_name_what_is_wrong_with_files(config, tmp_path):
    wrong = tmp_path / "wrong.npy"
    change = dataclasses.replace

    def check_refused(array, changed, message):
        np.save(wrong, array)
        with pytest.raises(ValueError, match=message):
            distributed_search.run(changed)

    second = change(config, vectors=(config.vectors[0], wrong))
    check_refused(
        np.ones((3, 5)), second, r"as many columns in all files, got \[12, 5\]"
    )
    check_refused(
        np.zeros((3, 12)), second, "must have a length above 0, got none in row 11"
    )
    check_refused(
        np.ones(3), second, r"must hold an array of 2 dimensions .*, got \[3\]"
    )
    few = change(config, image_ids=wrong)
    check_refused(np.arange(5), few, "image_ids must be as many as vectors, .*: 5")
