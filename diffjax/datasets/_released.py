"""Descriptors and k-NN graphs released by the paper's authors, in MATLAB files."""

import os
import pathlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from diffjax.matlab import (
    describe_value,
    format_shape,
    missing_variable_error,
    read_matlab,
)
from diffjax.types import Neighbors

_UNIT_TOLERANCE = 1e-2  # Tolerance of unit lengths and of inner products up to 1.
_BLOCK_ROWS = 65536  # Neighbour lists that are sorted at a time.


class ReleasedDescriptors(NamedTuple):
    """Whitened unit descriptors of a collection and its queries, as NumPy arrays.

    Attributes:
        vectors: Region vectors of the database, sorted by image.
        image_ids: Image of each region, from 0, in the order of the ground truth.
        query_vectors: Region vectors of the queries, sorted by query.
        query_ids: Query of each query region, from 0.
        global_vectors: Global vector of each database image.
        global_queries: Global vector of each query.
    """

    vectors: Float[np.ndarray, "n d"]
    image_ids: Int[np.ndarray, " n"]
    query_vectors: Float[np.ndarray, "r d"]
    query_ids: Int[np.ndarray, " r"]
    global_vectors: Float[np.ndarray, "m d"]
    global_queries: Float[np.ndarray, "q d"]


class _StackedCell(NamedTuple):
    """Vectors of one cell array, with the number of their cell."""

    vectors: Float[np.ndarray, "n d"]
    ids: Int[np.ndarray, " n"]
    num_cells: int


def read_released_descriptors(path: str | os.PathLike[str]) -> ReleasedDescriptors:
    """Reads released descriptors: oxford5k_siamac.mat, instre_resnet.mat and so on.

    The file has two structs, `reg` and `glob`, each with a cell `V` of one d x regions
    matrix per database image and a cell `Q` of one per query; in `glob` every matrix
    is one vector.

    Args:
        path: The file, of any version of MATLAB.

    Returns:
        The vectors in float32.

    Raises:
        ValueError: If the file is damaged or of another layout, or its vectors are not
            finite, not of one dimension or not of unit length to 0.01, or an image has
            none. It names the first such image or query, counted from 0.
        OSError: If the file can't be read.

    References:
        Iscen et al., CVPR 2017, https://arxiv.org/abs/1611.05113, for what they are;
        for the layout the authors' https://github.com/ahmetius/diffusion-retrieval.
    """
    path = pathlib.Path(path)
    contents = read_matlab(path)
    cells = {
        f"{struct}.{field}": _get_cell(path, contents, struct, field)
        for struct in ("reg", "glob")
        for field in ("V", "Q")
    }
    # Frees the arrays of the file one by one: they may take many gigabytes.
    del contents
    stacks = {}
    for name in tuple(cells):
        stacks[name] = _stack_cell(path, name, cells.pop(name))
    regions, queries, global_images, global_queries = stacks.values()
    for name, stack in stacks.items():
        if stack.vectors.shape[1] != regions.vectors.shape[1]:
            raise ValueError(
                f"{path}: {name} must have the {regions.vectors.shape[1]} dimensions "
                f"of reg.V, got {stack.vectors.shape[1]}."
            )
    for name, stack, local in (
        ("V", global_images, regions),
        ("Q", global_queries, queries),
    ):
        kind = "images" if name == "V" else "queries"
        if stack.num_cells != local.num_cells:
            raise ValueError(
                f"{path}: glob.{name} must have the {local.num_cells} {kind} of "
                f"reg.{name}, got {stack.num_cells}."
            )
        if len(stack.vectors) != stack.num_cells:
            repeated = stack.ids[np.flatnonzero(np.diff(stack.ids) == 0)[0]]
            raise ValueError(
                f"{path}: glob.{name} must have one vector per cell, got "
                f"{np.count_nonzero(stack.ids == repeated)} in "
                f"{_owner_text(name, int(repeated))}."
            )
    return ReleasedDescriptors(
        vectors=regions.vectors,
        image_ids=regions.ids,
        query_vectors=queries.vectors,
        query_ids=queries.ids,
        global_vectors=global_images.vectors,
        global_queries=global_queries.vectors,
    )


def check_descriptor_counts(
    released: ReleasedDescriptors, *, num_images: int, num_queries: int
) -> None:
    """Refuses descriptors whose numbers of images and queries are not as expected.

    Args:
        released: From `read_released_descriptors`.
        num_images: Database images of the ground truth.
        num_queries: Queries of the ground truth.

    Raises:
        ValueError: With both numbers, if they differ.
    """
    counts = (
        ("images", len(released.global_vectors), num_images),
        ("queries", len(released.global_queries), num_queries),
    )
    for kind, count, expected in counts:
        if count != expected:
            raise ValueError(
                f"released must be of the {expected} {kind} of the ground truth, got "
                f"descriptors of {count}: those of another data set?"
            )


def _get_cell(
    path: pathlib.Path, contents: dict[str, Any], struct: str, field: str
) -> list[Any]:
    """Matrices of a cell array, which is a row or a column."""
    parent = contents.get(struct)
    if not isinstance(parent, dict):
        raise missing_variable_error(path, struct, "struct", contents)
    cell = parent.get(field)
    if not isinstance(cell, list):
        raise missing_variable_error(path, f"{struct}.{field}", "cell", parent)
    if not cell or any(isinstance(matrix, list) for matrix in cell):
        raise ValueError(
            f"{path}: {struct}.{field} must be one row of cells, got "
            f"{describe_value(cell) if cell else 'none'}."
        )
    return cell


def _stack_cell(path: pathlib.Path, name: str, cell: list[Any]) -> _StackedCell:
    """Stacks the matrices of a cell, one vector per row; empties the cell."""
    dim = len(cell[0]) if isinstance(cell[0], np.ndarray) else 0
    for number, matrix in enumerate(cell):
        if not isinstance(matrix, np.ndarray) or matrix.dtype.kind != "f":
            rule = "matrices of floating point"
        elif not matrix.size:
            rule = "a vector at least in every cell"
        elif matrix.ndim != 2 or len(matrix) != dim:
            rule = f"matrices of {dim} rows"
        else:
            continue
        raise ValueError(
            f"{path}: {name} must have {rule}, got {describe_value(matrix)} for "
            f"{_owner_text(name, number)}."
        )
    counts = [matrix.shape[1] for matrix in cell]
    ids = np.repeat(np.arange(len(cell), dtype=np.int32), counts)
    vectors = np.empty((len(ids), dim), np.float32)
    ends = np.cumsum(counts)
    for number, end in enumerate(ends):
        vectors[end - counts[number] : end] = cell[number].T
        cell[number] = None
    squares = np.einsum("nd,nd->n", vectors, vectors)
    # In this form NaN is refused, too.
    invalid_rows = np.flatnonzero(~(np.abs(np.sqrt(squares) - 1) <= _UNIT_TOLERANCE))
    if invalid_rows.size:
        length = np.sqrt(squares[invalid_rows[0]])
        rule = "of unit length" if np.isfinite(length) else "finite"
        raise ValueError(
            f"{path}: {name} must have vectors that are {rule}, got "
            f"{invalid_rows.size} of {len(vectors)} that are not, first one of length "
            f"{length:.4g} in {_owner_text(name, int(ids[invalid_rows[0]]))}."
        )
    return _StackedCell(vectors, ids, len(cell))


def _owner_text(name: str, number: int) -> str:
    return f"{'image' if name.endswith('V') else 'query'} {number}"


def read_knn_graph(path: str | os.PathLike[str]) -> Neighbors:
    """Reads a released k-NN graph of all regions, NAME_knn_kgraph_MODEL.mat.

    The file has `knn_`, one list of k numbers from 1 per column, and `s_`, *minus* the
    inner products. A region that is missing in its own list is added with similarity 1,
    and no neighbour is dropped for it: if any list lacks its region, all have k + 1
    columns, the last of which is an empty slot in the other lists.

    Args:
        path: The file, of any version of MATLAB.

    Returns:
        Indices from 0 and inner products, most similar first, ties by lower index.

    Raises:
        ValueError: If the file is damaged or of another layout, a number is not that of
            a region or is twice in a list, or `s_` can't be minus the inner products of
            unit vectors. It names the first such region, counted from 0.
        OSError: If the file can't be read.

    References:
        Dong, Moses and Li, WWW 2011, for the algorithm; for the layout the
        authors' https://github.com/ahmetius/diffusion-retrieval.
    """
    path = pathlib.Path(path)
    contents = read_matlab(path)
    for name in ("knn_", "s_"):
        array = contents.get(name)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
            raise missing_variable_error(path, name, "matrix", contents)
    # MATLAB's arrays are stored by columns, so that the transpose is no copy.
    numbers, negated = contents.pop("knn_").T, contents.pop("s_").T
    if numbers.shape != negated.shape or numbers.ndim != 2 or not numbers.size:
        raise ValueError(
            f"{path}: knn_ and s_ must be k x n alike, got "
            f"{format_shape(numbers.T)} and "
            f"{format_shape(negated.T)}."
        )
    n, k = numbers.shape
    _check_released_knn(path, numbers, negated)
    # One more column, for an empty slot or the region itself.
    indices = np.full((n, k + 1), -1, np.int32)
    similarities = np.zeros((n, k + 1), np.float32)
    for start in range(0, n, _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        indices[rows, :k] = numbers[rows] - 1
        similarities[rows, :k] = -negated[rows]
        _add_self_and_sort(indices[rows], similarities[rows], first=start)
    num_columns = k + 1 if (indices[:, k] >= 0).any() else k
    return Neighbors(
        jnp.asarray(indices[:, :num_columns]),
        jnp.asarray(similarities[:, :num_columns]),
    )


def _add_self_and_sort(
    indices: Int[np.ndarray, "n k"], similarities: Float[np.ndarray, "n k"], *, first
) -> None:
    """Writes a missing region of its own list into the last slot; sorts in place."""
    regions = np.arange(first, first + len(indices), dtype=np.int32)
    missing = ~(indices == regions[:, None]).any(axis=1)
    indices[missing, -1] = regions[missing]
    similarities[missing, -1] = 1
    # Empty slots come last.
    order = np.lexsort((indices, np.where(indices < 0, np.inf, -similarities)))
    indices[:] = np.take_along_axis(indices, order, axis=1)
    similarities[:] = np.take_along_axis(similarities, order, axis=1)


def _check_released_knn(path, numbers, negated) -> None:
    n = len(numbers)
    for start in range(0, n, _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        lists, values = numbers[rows], negated[rows]
        # In this form NaN is refused, too.
        is_invalid = ~((lists >= 1) & (lists <= n) & (lists == np.rint(lists)))
        _raise_for_first_region(
            path, f"knn_ must have whole numbers of 1..{n}", is_invalid, lists, start
        )
        is_invalid = ~(np.abs(values) <= 1 + _UNIT_TOLERANCE)
        _raise_for_first_region(
            path, "s_ must be inner products of unit vectors", is_invalid, values, start
        )
        ordered = np.sort(lists, axis=1)
        is_repeated = np.zeros(lists.shape, bool)
        is_repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
        _raise_for_first_region(
            path, "knn_ must have a number once in a list", is_repeated, ordered, start
        )
    if np.sum(negated, dtype=np.float64) > 0:
        raise ValueError(
            f"{path}: s_ must be minus the inner products, got {negated.mean():.3g} in "
            "the mean, as if they were not negated."
        )


def _raise_for_first_region(path, rule, invalid_rows, values, start) -> None:
    rows = np.flatnonzero(invalid_rows.any(axis=1))
    if rows.size:
        value = values[rows[0]][invalid_rows[rows[0]]][0]
        raise ValueError(f"{path}: {rule}, got {value} for region {start + rows[0]}.")
