"""An index: region vectors, their graph, and the search on it."""

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax.data import Box, PictureSource
from diffjax.diffusion import diffuse, query_vectors
from diffjax.features import Described, describe_pictures
from diffjax.graph import affinity, compress, knn, normalize
from diffjax.pooling import gmp_weights, pool
from diffjax.regions import Whitening, fit_pca_whitening, l2_normalize, whiten
from diffjax.types import Graph, Neighbors, SearchResult, Solution

from ._blocks import Answers, Block, best_images, join_answers, prepare, split_queries
from ._config import IndexConfig
from ._given import Ids, QueryIds, QueryVectors, Vectors, check_rows, row_ids
from ._pictures import PictureInfo, describer, network_name
from ._storage import IndexFileError, Parts, read_parts, write_parts


class Regions(NamedTuple):
    """Regions of query pictures, before whitening.

    Attributes:
        vectors: One row per region.
        query_ids: Picture of every row.
    """

    vectors: Float[np.ndarray, "r c"]
    query_ids: Int[np.ndarray, " r"]


@dataclasses.dataclass(frozen=True)
class Index:
    """A collection that can be searched by diffusion; made by `build` or `load`.

    Attributes:
        vectors: Unit region vectors, whitened where the settings say so.
        image_ids: Image of every region, from 0 upwards.
        neighbors: The nearest of every region, with raw similarities.
        graph: S, normalised and compressed.
        weights: Pooling weight of every region; None is sum pooling.
        whitening: What was fitted on the collection; None where vectors stay as given.
        config: The settings, as they were asked for.
        pictures: Where the vectors came from; None for vectors handed over.
    """

    vectors: Float[Array, "n p"]
    image_ids: Int[np.ndarray, " n"]
    neighbors: Neighbors
    graph: Graph
    weights: Float[Array, " n"] | None
    whitening: Whitening | None
    config: IndexConfig
    pictures: PictureInfo | None = None

    @classmethod
    def build(
        cls,
        vectors: Vectors,
        image_ids: Ids | None = None,
        *,
        config: IndexConfig | None = None,
        pictures: PictureInfo | None = None,
    ) -> "Index":
        """Builds the index of a collection.

        Args:
            vectors: Region vectors, one row each, of any length above 0: they are
                L2-normalised first. float32; float64 with `jax_enable_x64`.
            image_ids: Image of every region: 0, 1, 2, ... without going back or
                skipping; None if each row is an image.
            config: Settings; None for the defaults of `IndexConfig`.
            pictures: Where the vectors came from, if from pictures.

        Returns:
            The index. Warns where `k`, `query_k` or `dim` is more than the collection
            can give, and takes what it can.

        Raises:
            ValueError: If vectors are not finite, zero, of the wrong type or none at
                all, or the ids are not as above; it names the first bad row.
        """
        config = config or IndexConfig()
        check_rows("vectors", vectors)
        n = vectors.shape[0]
        if n == 0:
            raise ValueError("vectors must be at least one, got none.")
        ids = row_ids("image_ids", image_ids, rows=n)
        units = l2_normalize(jnp.asarray(vectors))
        whitening = None
        if config.dim is not None:
            whitening = _fit(np.asarray(units), config.dim)
            units = units if whitening is None else whiten(units, whitening)
        _warn_of_small("k", config.k, n)
        _warn_of_small("query_k", config.query_k, n)
        parts = Parts(
            vectors=units,
            image_ids=ids,
            neighbors=knn(units, min(config.k, n)),
            whitening=whitening,
            config=config,
            pictures=pictures,
        )
        return cls._assemble(parts)

    @classmethod
    def _assemble(cls, parts: Parts) -> "Index":
        """Derives what is not stored: graph and weights."""
        config = parts.config
        edges = affinity(parts.neighbors, gamma=config.gamma)
        weights = None
        if config.pooling == "gmp":
            weights = gmp_weights(parts.vectors, parts.image_ids, lam=config.lam)
        return cls(
            vectors=parts.vectors,
            image_ids=parts.image_ids,
            neighbors=parts.neighbors,
            graph=normalize(compress(edges)),
            weights=weights,
            whitening=parts.whitening,
            config=config,
            pictures=parts.pictures,
        )

    @property
    def num_images(self) -> int:
        """The number of images m."""
        return int(self.image_ids[-1]) + 1

    def search(
        self, queries: QueryVectors, query_ids: QueryIds | None = None, *, top: int = 10
    ) -> SearchResult:
        """Finds the best images of every query.

        Args:
            queries: Region vectors of the queries, as the database's were given to
                `build`: they are normalised and whitened here.
            query_ids: Query of every row: 0, 1, 2, ...; None if each row is a query.
            top: Answers per query; more than there are images gives all of them.

        Returns:
            Images and scores, best first, ties by lower image, and the diffusion behind
            them. Warns where a query's residual is above `warn_residual`.

        Raises:
            ValueError: If vectors or ids are bad as in `build`, dimensions differ from
                the database's, or `top` is below 1.
        """
        if top < 1:
            raise ValueError(f"top must be at least 1, got {top}.")
        self._check_queries(queries)
        ids = row_ids("query_ids", query_ids, rows=queries.shape[0])
        blocks = split_queries(np.asarray(queries), ids)
        found = join_answers([self._answer(b, top=top) for b in blocks], blocks)
        self._warn_of_residuals(found.solution)
        return found

    def _answer(self, block: Block, *, top: int) -> Answers:
        y = query_vectors(
            self.vectors,
            prepare(block.vectors, block.real, self.whitening),
            block.query_ids,
            k=min(self.config.query_k, self.vectors.shape[0]),
            gamma=self.config.gamma,
            rule=self.config.rule,
            num_queries=block.columns,
        )
        solution = diffuse(
            self.graph,
            y,
            alpha=self.config.alpha,
            rtol=self.config.rtol,
            max_steps=self.config.max_steps,
            solver=self.config.solver,
        )
        scores = pool(
            solution.value,
            self.image_ids,
            weights=self.weights,
            num_images=self.num_images,
        )
        return best_images(scores, solution, top=top)

    def prepare(self, queries: QueryVectors) -> Float[Array, "r p"]:
        """Normalises and whitens vectors as the database's were.

        Raises:
            ValueError: If they are not finite, zero, or of another dimension or type.
        """
        self._check_queries(queries)
        real = np.ones(queries.shape[0], np.bool_)
        return prepare(queries, real, self.whitening)

    def _check_queries(self, queries: QueryVectors) -> None:
        check_rows("queries", queries)
        given = self.vectors if self.whitening is None else self.whitening.projection.T
        if queries.shape[1] != given.shape[1]:
            raise ValueError(
                f"queries must have the {given.shape[1]} dimensions of the index, got "
                f"{queries.shape[1]}."
            )
        if queries.dtype != self.vectors.dtype:
            raise ValueError(
                f"queries must be {self.vectors.dtype} as the index, got "
                f"{queries.dtype}."
            )

    def search_picture(
        self, picture: PictureSource, *, box: Box | None = None, top: int = 10
    ) -> SearchResult:
        """Finds the best images for a picture, or for what a box in it shows.

        Args:
            picture: Path, Pillow image or uint8 pixels [h, w, 3].
            box: (x0, y0, x1, y1) in pixels of the upright picture; None for all of it.
            top: Answers wanted.

        Returns:
            As `search`, for one query.

        Raises:
            ValueError: If the index is not of pictures or of another network's, the
                picture can't be read, or the box is not in it.
        """
        return self.search(*self.describe([picture], boxes=[box]), top=top)

    def describe(
        self,
        pictures: Sequence[PictureSource],
        *,
        boxes: Sequence[Box | None] | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> "Regions":
        """Describes query pictures as the pictures of the index were.

        Args:
            pictures: Paths, Pillow images or uint8 pixels [h, w, 3].
            boxes: What of each is asked for, see `search_picture`; None for all of all.
            progress: As for `index_folder`.

        Returns:
            Their region vectors, ready for `search(*regions)`.

        Raises:
            ValueError: As `search_picture`; it names the first picture that can't be
                read.
        """
        if not pictures:
            raise ValueError("pictures must be at least one, got none.")
        if self.pictures is None:
            raise ValueError(
                "the index must be one of pictures, got one of vectors: search it with "
                "vectors."
            )
        if self.pictures.network != network_name():
            raise ValueError(
                f"the index was made with {self.pictures.network}, here is "
                f"{network_name()}: build it again."
            )
        side = self.pictures.side
        found: dict[int, np.ndarray] = {}
        describe = describer(side)
        for result in describe_pictures(
            pictures, describe, boxes=boxes, side=side, batch_size=describe.batch_size
        ):
            if not isinstance(result, Described):
                source = pictures[result.position]
                name = source if isinstance(source, str | os.PathLike) else "picture"
                raise ValueError(f"{name}: {result.reason}")
            found[result.position] = result.vectors
            if progress:
                progress("describing queries", len(found), len(pictures))
        each = [found[position] for position in range(len(pictures))]
        ids = np.repeat(np.arange(len(each), dtype=np.int32), [len(v) for v in each])
        return Regions(np.concatenate(each), ids)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the index in a folder, all of it or nothing.

        Args:
            path: Folder; made if it is not there. An index in it is replaced.

        Raises:
            ValueError: If the folder holds something else.
            OSError: If it can't be written; what it held is then untouched.
        """
        write_parts(
            pathlib.Path(path),
            Parts(
                vectors=self.vectors,
                image_ids=self.image_ids,
                neighbors=self.neighbors,
                whitening=self.whitening,
                config=self.config,
                pictures=self.pictures,
            ),
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Index":
        """Loads an index that `save` wrote.

        Raises:
            IndexFileError: If there is none, or it is cut short, edited or of another
                version; `verify` also compares every byte.
        """
        parts = read_parts(pathlib.Path(path))
        try:
            return cls._assemble(parts)
        except ValueError as error:
            raise IndexFileError(
                f"{path} is damaged ({error}): build the index again."
            ) from error

    def _warn_of_residuals(self, solution: Solution) -> None:
        residual = np.asarray(solution.residual)
        # Not "above": a residual that is not a number must warn, too.
        bad = np.flatnonzero(~(residual <= self.config.warn_residual))
        if bad.size:
            warnings.warn(
                f"{bad.size} of {residual.size} queries are far from solved, the worst "
                f"with relative residual {residual[bad].max():.2g}: raise max_steps "
                f"above {self.config.max_steps} or lower alpha.",
                stacklevel=3,
            )


def _fit(vectors: np.ndarray, dim: int) -> Whitening | None:
    """Fits the whitening; None for vectors that do not differ."""
    try:
        whitening = fit_pca_whitening(vectors, dim=dim)
    except ValueError as error:  # Else they are fit for it: checked before.
        warnings.warn(f"vectors are not whitened: {error}", stacklevel=3)
        return None
    got = whitening.projection.shape[1]
    if got < dim:
        warnings.warn(
            f"dim {dim} is more than the {got} dimensions that {len(vectors)} vectors "
            f"span: using {got}.",
            stacklevel=3,
        )
    return whitening


def _warn_of_small(name: str, k: int, n: int) -> None:
    if k > n:
        warnings.warn(
            f"{name} {k} is more than the {n} regions of the collection: using {n}.",
            stacklevel=3,
        )
