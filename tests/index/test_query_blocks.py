"""Blocks of queries: few shapes, padding that goes away again."""

from typing import Any

import numpy as np
import pytest

from diffjax.diffusion import LocalSolution
from diffjax.index._query_blocks import join_results, split_queries
from diffjax.types import SearchResult, Solution


def blocks_of(counts, dim=3):
    ids = np.repeat(np.arange(len(counts)), counts)
    vectors = np.arange(1.0, len(ids) * dim + 1, dtype=np.float32).reshape(-1, dim)
    return vectors, ids.astype(np.int32), split_queries(vectors, ids.astype(np.int32))


@pytest.mark.parametrize("counts", [[], [1], [3, 1, 2], [1] * 64, [2, 1] * 65, [40, 1]])
def test_blocks_hold_all_regions_in_one_of_a_few_shapes(counts):
    vectors, ids, blocks = blocks_of(counts)
    assert len(blocks) == max(-(-len(counts) // 64), 1)
    assert sum(block.num_queries for block in blocks) == len(counts)
    rows = [block.vectors[block.mask] for block in blocks]
    np.testing.assert_array_equal(np.concatenate(rows), vectors)
    firsts = np.cumsum([0, *(block.num_queries for block in blocks)])
    numbers = [
        block.query_ids[block.mask] + first
        for block, first in zip(blocks, firsts, strict=False)
    ]
    np.testing.assert_array_equal(np.concatenate(numbers), ids)
    for block in blocks:
        size = len(block.vectors)
        assert size >= 16
        assert size & (size - 1) == 0
        assert (block.vectors[~block.mask] == 0).all()
        assert block.num_columns % 8 == 0
        assert block.num_columns >= max(block.num_queries, 8)
        assert (np.diff(block.query_ids) >= 0).all()


def result_of(block, n: int, *, local: bool) -> SearchResult:
    """Result whose numbers are those of the queries, padding included."""
    columns: Any = np.arange(block.num_columns, dtype=np.float32)
    rows: Any = np.tile(columns[:, None], (1, 4))
    counts = columns.astype(np.int32)
    flags = columns >= 0
    if local:
        solution = LocalSolution(
            rows.astype(np.int32), rows, columns, columns, columns, counts, flags
        )
    else:
        value: Any = np.tile(columns, (n, 1))
        solution = Solution(value, columns, counts, flags)
    return SearchResult(rows.astype(np.int32), rows, solution, rows.astype(np.int32))


@pytest.mark.parametrize("local", [False, True])
def test_padding_is_gone_after_blocks_are_joined(unchecked, local):
    _, _, blocks = blocks_of([1] * 70)
    results = [result_of(block, 9, local=local) for block in blocks]
    joined = join_results(results, blocks)
    expected = np.append(np.arange(64), np.arange(6))
    for array in (joined.images, joined.scores, joined.regions):
        np.testing.assert_array_equal(array[:, 2], expected)
    np.testing.assert_array_equal(joined.solution.residual, expected)
    np.testing.assert_array_equal(joined.solution.num_steps, expected)
    if local:
        np.testing.assert_array_equal(joined.solution.nodes[:, 3], expected)
    else:
        np.testing.assert_array_equal(joined.solution.value[8], expected)
