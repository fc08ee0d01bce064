"""Descriptors and k-NN graphs that the paper's authors released, in MATLAB files."""

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

_LENGTH_TOLERANCE = 1e-2  # By how much the length of a vector may differ from 1.


class ReleasedDescriptors(NamedTuple):
    """Whitened unit descriptors of a collection and its queries, on the host.

    Attributes:
        vectors: Region vectors of the database, image by image.
        image_ids: Image of each, from 0 upwards; the order is that of the ground truth.
        query_vectors: Region vectors of the queries, query by query.
        query_ids: Query of each, from 0 upwards.
        global_vectors: One vector per database image.
        global_queries: One vector per query.
    """

    vectors: Float[np.ndarray, "n d"]
    image_ids: Int[np.ndarray, " n"]
    query_vectors: Float[np.ndarray, "r d"]
    query_ids: Int[np.ndarray, " r"]
    global_vectors: Float[np.ndarray, "m d"]
    global_queries: Float[np.ndarray, "q d"]


class _StackedCell(NamedTuple):
    """One cell array of the file: vectors, and whose they are."""

    vectors: Float[np.ndarray, "n d"]
    ids: Int[np.ndarray, " n"]
    cells: int


def read_released_descriptors(path: str | os.PathLike[str]) -> ReleasedDescriptors:
    """Reads NAME_MODEL.mat, as oxford5k_siamac.mat or instre_resnet.mat.

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
            none; it names the first such image or query, counted from 0.
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
    # Both hold on to the numbers of the file, which may be many gigabytes.
    del contents
    parts = {}
    for name in tuple(cells):
        parts[name] = _stack_cell(path, name, cells.pop(name))
    regions, queries, images, wholes = parts.values()
    for name, part in parts.items():
        if part.vectors.shape[1] != regions.vectors.shape[1]:
            raise ValueError(
                f"{path}: {name} must have the {regions.vectors.shape[1]} dimensions "
                f"of reg.V, got {part.vectors.shape[1]}."
            )
    for name, part, other in (("V", images, regions), ("Q", wholes, queries)):
        what = "images" if name == "V" else "queries"
        if part.cells != other.cells:
            raise ValueError(
                f"{path}: glob.{name} must have the {other.cells} {what} of "
                f"reg.{name}, got {part.cells}."
            )
        if len(part.vectors) != part.cells:
            several = int(np.flatnonzero(np.diff(part.ids) == 0)[0])
            raise ValueError(
                f"{path}: glob.{name} must have one vector per cell, got "
                f"{np.count_nonzero(part.ids == part.ids[several])} in "
                f"{_owner_text(name, int(part.ids[several]))}."
            )
    return ReleasedDescriptors(
        vectors=regions.vectors,
        image_ids=regions.ids,
        query_vectors=queries.vectors,
        query_ids=queries.ids,
        global_vectors=images.vectors,
        global_queries=wholes.vectors,
    )


def check_descriptor_counts(
    released: ReleasedDescriptors, *, num_images: int, num_queries: int
) -> None:
    """Refuses descriptors that are not those of a ground truth, as far as counts tell.

    Args:
        released: From `read_released_descriptors`.
        num_images: Database images of the ground truth.
        num_queries: Its queries.

    Raises:
        ValueError: With both numbers, if they differ.
    """
    counts = (
        ("images", len(released.global_vectors), num_images),
        ("queries", len(released.global_queries), num_queries),
    )
    for what, here, wanted in counts:
        if here != wanted:
            raise ValueError(
                f"released must be of the {wanted} {what} of the ground truth, got "
                f"descriptors of {here}: those of another data set?"
            )


def _get_cell(
    path: pathlib.Path, contents: dict[str, Any], struct: str, field: str
) -> list[Any]:
    """The matrices of a cell, which is a row or a column."""
    parent = contents.get(struct)
    if not isinstance(parent, dict):
        raise missing_variable_error(path, struct, "struct", contents)
    cell = parent.get(field)
    if not isinstance(cell, list):
        raise missing_variable_error(path, f"{struct}.{field}", "cell", parent)
    if not cell or any(isinstance(one, list) for one in cell):
        raise ValueError(
            f"{path}: {struct}.{field} must be one row of cells, got "
            f"{describe_value(cell) if cell else 'none'}."
        )
    return cell


def _stack_cell(path: pathlib.Path, name: str, cell: list[Any]) -> _StackedCell:
    """Lays the matrices of a cell in a row, one vector per row; it empties the cell."""
    dim = len(cell[0]) if isinstance(cell[0], np.ndarray) else 0
    for place, matrix in enumerate(cell):
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
            f"{_owner_text(name, place)}."
        )
    counts = [matrix.shape[1] for matrix in cell]
    ids = np.repeat(np.arange(len(cell), dtype=np.int32), counts)
    vectors = np.empty((len(ids), dim), np.float32)
    ends = np.cumsum(counts)
    for place, end in enumerate(ends):
        vectors[end - counts[place] : end] = cell[place].T
        cell[place] = None
    squares = np.einsum("nd,nd->n", vectors, vectors)
    # Written so that NaN fails, too.
    bad = np.flatnonzero(~(np.abs(np.sqrt(squares) - 1) <= _LENGTH_TOLERANCE))
    if bad.size:
        length = np.sqrt(squares[bad[0]])
        rule = "of unit length" if np.isfinite(length) else "finite"
        raise ValueError(
            f"{path}: {name} must have vectors that are {rule}, got {bad.size} of "
            f"{len(vectors)} that are not, first one of length {length:.4g} in "
            f"{_owner_text(name, int(ids[bad[0]]))}."
        )
    return _StackedCell(vectors, ids, len(cell))


def _owner_text(name: str, place: int) -> str:
    return f"{'image' if name.endswith('V') else 'query'} {place}"


_SIMILARITY_TOLERANCE = 1e-2  # By how much the length of a vector may differ from 1.
_ROWS_AT_A_TIME = 65536  # As many lists are ordered at a time.


def read_knn_graph(path: str | os.PathLike[str]) -> Neighbors:
    """Reads NAME_knn_kgraph_MODEL.mat, approximate neighbours of all regions.

    The file has `knn_`, one list of k numbers from 1 per column, and `s_`, *minus* the
    inner products. Where a region is not in its own list it is put in, with similarity
    1, and no neighbour is dropped for it: if any list lacks its own region there are
    k + 1 columns, the last of which is an empty slot in the lists that do not.

    Args:
        path: The file, of any version of MATLAB.

    Returns:
        Neighbours, numbers from 0 and inner products, most similar first, ties by lower
        index.

    Raises:
        ValueError: If the file is damaged or of another layout, a number is not that of
            a region or twice in a list, or `s_` can't be minus the inner products of
            unit vectors; it names the first such region, counted from 0.
        OSError: If the file can't be read.

    References:
        Dong, Moses and Li, WWW 2011, for how they were found; for the layout the
        authors' https://github.com/ahmetius/diffusion-retrieval.
    """
    path = pathlib.Path(path)
    contents = read_matlab(path)
    for name in ("knn_", "s_"):
        array = contents.get(name)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
            raise missing_variable_error(path, name, "matrix", contents)
    # A column of MATLAB's is a row here, so that this copies nothing.
    numbers, negated = contents.pop("knn_").T, contents.pop("s_").T
    if numbers.shape != negated.shape or numbers.ndim != 2 or not numbers.size:
        raise ValueError(
            f"{path}: knn_ and s_ must be k x n alike, got "
            f"{format_shape(numbers.T)} and "
            f"{format_shape(negated.T)}."
        )
    n, k = numbers.shape
    _check_neighbor_lists(path, numbers, negated)
    # One more column than may be needed: an empty slot, or the region itself.
    indices = np.full((n, k + 1), -1, np.int32)
    similarities = np.zeros((n, k + 1), np.float32)
    for start in range(0, n, _ROWS_AT_A_TIME):
        rows = slice(start, start + _ROWS_AT_A_TIME)
        indices[rows, :k] = numbers[rows] - 1
        similarities[rows, :k] = -negated[rows]
        _add_self_and_sort(indices[rows], similarities[rows], first=start)
    used = k + 1 if (indices[:, k] >= 0).any() else k
    return Neighbors(
        jnp.asarray(indices[:, :used]), jnp.asarray(similarities[:, :used])
    )


def _add_self_and_sort(
    indices: Int[np.ndarray, "n k"], similarities: Float[np.ndarray, "n k"], *, first
) -> None:
    """Puts the own region, if it is missing, into the last slot, and sorts in place."""
    own = np.arange(first, first + len(indices), dtype=np.int32)
    missing = ~(indices == own[:, None]).any(axis=1)
    indices[missing, -1] = own[missing]
    similarities[missing, -1] = 1
    # An empty slot comes last.
    order = np.lexsort((indices, np.where(indices < 0, np.inf, -similarities)))
    indices[:] = np.take_along_axis(indices, order, axis=1)
    similarities[:] = np.take_along_axis(similarities, order, axis=1)


def _check_neighbor_lists(path, numbers, negated) -> None:
    n = len(numbers)
    for start in range(0, n, _ROWS_AT_A_TIME):
        rows = slice(start, start + _ROWS_AT_A_TIME)
        lists, values = numbers[rows], negated[rows]
        # Written so that NaN fails, too.
        strange = ~((lists >= 1) & (lists <= n) & (lists == np.rint(lists)))
        _refuse_bad_region(
            path, f"knn_ must have whole numbers of 1..{n}", strange, lists, start
        )
        strange = ~(np.abs(values) <= 1 + _SIMILARITY_TOLERANCE)
        _refuse_bad_region(
            path, "s_ must be inner products of unit vectors", strange, values, start
        )
        ordered = np.sort(lists, axis=1)
        twice = np.zeros(lists.shape, bool)
        twice[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
        _refuse_bad_region(
            path, "knn_ must have a number once in a list", twice, ordered, start
        )
    if np.sum(negated, dtype=np.float64) > 0:
        raise ValueError(
            f"{path}: s_ must be minus the inner products, got {negated.mean():.3g} in "
            "the mean, as if they were not negated."
        )


def _refuse_bad_region(path, rule, bad, values, start) -> None:
    rows = np.flatnonzero(bad.any(axis=1))
    if rows.size:
        value = values[rows[0]][bad[rows[0]]][0]
        raise ValueError(f"{path}: {rule}, got {value} for region {start + rows[0]}.")
