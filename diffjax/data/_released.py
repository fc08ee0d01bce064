"""The descriptors and graphs that the paper's authors released, in MATLAB files."""

import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from diffjax.matlab import kind_text, other_layout, read_matlab

_UNIT = 1e-2  # By how much the length of a vector may differ from 1.


class Released(NamedTuple):
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


class _Part(NamedTuple):
    """One cell array of the file: vectors, and whose they are."""

    vectors: Float[np.ndarray, "n d"]
    ids: Int[np.ndarray, " n"]
    cells: int


def read_descriptors(path: str | os.PathLike[str]) -> Released:
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
        f"{struct}.{field}": _cell(path, contents, struct, field)
        for struct in ("reg", "glob")
        for field in ("V", "Q")
    }
    # Both hold on to the numbers of the file, which may be many gigabytes.
    del contents
    parts = {}
    for name in tuple(cells):
        parts[name] = _part(path, name, cells.pop(name))
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
                f"{_whose(name, int(part.ids[several]))}."
            )
    return Released(
        vectors=regions.vectors,
        image_ids=regions.ids,
        query_vectors=queries.vectors,
        query_ids=queries.ids,
        global_vectors=images.vectors,
        global_queries=wholes.vectors,
    )


def check_against(released: Released, *, num_images: int, num_queries: int) -> None:
    """Refuses descriptors that are not those of a ground truth, as far as counts tell.

    Args:
        released: From `read_descriptors`.
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


def _cell(
    path: pathlib.Path, contents: dict[str, Any], struct: str, field: str
) -> list[Any]:
    """The matrices of a cell, which is a row or a column."""
    parent = contents.get(struct)
    if not isinstance(parent, dict):
        raise other_layout(path, struct, "struct", contents)
    cell = parent.get(field)
    if not isinstance(cell, list):
        raise other_layout(path, f"{struct}.{field}", "cell", parent)
    if not cell or any(isinstance(one, list) for one in cell):
        raise ValueError(
            f"{path}: {struct}.{field} must be one row of cells, got "
            f"{kind_text(cell) if cell else 'none'}."
        )
    return cell


def _part(path: pathlib.Path, name: str, cell: list[Any]) -> _Part:
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
            f"{path}: {name} must have {rule}, got {kind_text(matrix)} for "
            f"{_whose(name, place)}."
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
    bad = np.flatnonzero(~(np.abs(np.sqrt(squares) - 1) <= _UNIT))
    if bad.size:
        length = np.sqrt(squares[bad[0]])
        rule = "of unit length" if np.isfinite(length) else "finite"
        raise ValueError(
            f"{path}: {name} must have vectors that are {rule}, got {bad.size} of "
            f"{len(vectors)} that are not, first one of length {length:.4g} in "
            f"{_whose(name, int(ids[bad[0]]))}."
        )
    return _Part(vectors, ids, len(cell))


def _whose(name: str, place: int) -> str:
    return f"{'image' if name.endswith('V') else 'query'} {place}"
