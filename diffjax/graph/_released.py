"""The approximate graphs that the paper's authors released."""

import os
import pathlib

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from diffjax.matlab import other_layout, read_matlab, shape_text
from diffjax.types import Neighbors

_UNIT = 1e-2  # By how much the length of a vector may differ from 1.
_ROWS = 65536  # As many lists are ordered at a time.


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
            raise other_layout(path, name, "matrix", contents)
    # A column of MATLAB's is a row here, so that this copies nothing.
    numbers, negated = contents.pop("knn_").T, contents.pop("s_").T
    if numbers.shape != negated.shape or numbers.ndim != 2 or not numbers.size:
        raise ValueError(
            f"{path}: knn_ and s_ must be k x n alike, got {shape_text(numbers.T)} and "
            f"{shape_text(negated.T)}."
        )
    n, k = numbers.shape
    _check_lists(path, numbers, negated)
    # One more column than may be needed: an empty slot, or the region itself.
    indices = np.full((n, k + 1), -1, np.int32)
    similarities = np.zeros((n, k + 1), np.float32)
    for start in range(0, n, _ROWS):
        rows = slice(start, start + _ROWS)
        indices[rows, :k] = numbers[rows] - 1
        similarities[rows, :k] = -negated[rows]
        _order(indices[rows], similarities[rows], first=start)
    used = k + 1 if (indices[:, k] >= 0).any() else k
    return Neighbors(
        jnp.asarray(indices[:, :used]), jnp.asarray(similarities[:, :used])
    )


def _order(
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


def _check_lists(path, numbers, negated) -> None:
    n = len(numbers)
    for start in range(0, n, _ROWS):
        rows = slice(start, start + _ROWS)
        lists, values = numbers[rows], negated[rows]
        # Written so that NaN fails, too.
        strange = ~((lists >= 1) & (lists <= n) & (lists == np.rint(lists)))
        _refuse(path, f"knn_ must have whole numbers of 1..{n}", strange, lists, start)
        strange = ~(np.abs(values) <= 1 + _UNIT)
        _refuse(
            path, "s_ must be inner products of unit vectors", strange, values, start
        )
        ordered = np.sort(lists, axis=1)
        twice = np.zeros(lists.shape, bool)
        twice[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
        _refuse(path, "knn_ must have a number once in a list", twice, ordered, start)
    if np.sum(negated, dtype=np.float64) > 0:
        raise ValueError(
            f"{path}: s_ must be minus the inner products, got {negated.mean():.3g} in "
            "the mean, as if they were not negated."
        )


def _refuse(path, rule, bad, values, start) -> None:
    rows = np.flatnonzero(bad.any(axis=1))
    if rows.size:
        value = values[rows[0]][bad[rows[0]]][0]
        raise ValueError(f"{path}: {rule}, got {value} for region {start + rows[0]}.")
