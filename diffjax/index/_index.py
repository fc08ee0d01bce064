"""An index: region vectors, their graph, and the search on it."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax.diffusion import OfflineRows
from diffjax.graph import ReorderedGraph
from diffjax.images import Box, IndexedPictures, PictureSource
from diffjax.pooling import gmp_weights
from diffjax.regions import global_descriptors
from diffjax.types import Graph, Neighbors, SearchResult, Whitening

from ._blocks import Answers, Block, best_images, join_answers, prepare, split_queries
from ._build import make_layout, make_parts, solve_rows
from ._config import IndexConfig
from ._given import Boxes, Ids, QueryIds, QueryVectors, Vectors, check_rows, row_ids
from ._header import IndexFileError
from ._learned import apply_parameters, fingerprint
from ._search import Collection, score_images, warn_of_residuals
from ._storage import Parts, read_parts, write_parts

if TYPE_CHECKING:
    from diffjax.images import QueryRegions
    from diffjax.learning import Parameters


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """A collection that can be searched by diffusion; made by `build` or `load`.

    Attributes:
        vectors: Unit region vectors, whitened where the settings say so.
        image_ids: Image of every region, from 0 upwards.
        neighbors: The nearest of every region, with raw similarities.
        layout: S, normalised and compressed, with its nodes in an order that suits the
            memory, and that order; A where the settings cut short lists out of it
            before they normalise.
        weights: Pooling weight of every region; None is sum pooling.
        whitening: What was fitted on the collection; None where vectors stay as given.
        config: The settings, as they were asked for.
        pictures: Where the vectors came from; None for vectors handed over.
        recall: Share of the true nearest neighbours in `neighbors`, measured on a
            sample of regions; None where all were compared or lists were handed over.
        descriptors: Global descriptors of the images, where short lists need them.
        rows: Solutions made beforehand, where the settings say so.
        boxes: What each region covers, (x0, y0, x1, y1) in pixels of its upright
            picture; None where nobody said.
    """

    vectors: Float[Array, "n p"]
    image_ids: Int[np.ndarray, " n"]
    neighbors: Neighbors
    layout: ReorderedGraph
    weights: Float[Array, " n"] | None
    whitening: Whitening | None
    config: IndexConfig
    pictures: IndexedPictures | None = None
    recall: float | None = None
    descriptors: Float[Array, "m p"] | None = None
    rows: OfflineRows | None = None
    boxes: Float[np.ndarray, "n 4"] | None = None

    @classmethod
    def build(
        cls,
        vectors: Vectors,
        image_ids: Ids | None = None,
        *,
        config: IndexConfig | None = None,
        neighbors: Neighbors | None = None,
        pictures: IndexedPictures | None = None,
        whitening: Whitening | None = None,
        prepared: bool = False,
        boxes: Boxes | None = None,
    ) -> "Index":
        """Builds the index of a collection.

        Args:
            vectors: Region vectors, one row each, of any length above 0: they are
                L2-normalised first. float32; float64 with `jax_enable_x64`.
            image_ids: Image of every region: 0, 1, 2, ... without going back or
                skipping; None if each row is an image.
            config: Settings; None for the defaults of `IndexConfig`.
            neighbors: The nearest of every region, if they are known, with inner
                products of unit vectors; `k` is then as many as they are. None to
                search for them. For a faiss index of these vectors see `knn`.
            pictures: Where the vectors came from, if from pictures.
            whitening: One that was fitted elsewhere, on labelled pairs say, for these
                vectors and for queries; None to fit what the settings ask for.
            prepared: Whether `vectors` have been through `whitening` already, as those
                of a collection too large to hold unwhitened; queries have not.
            boxes: What each region covers, (x0, y0, x1, y1) in pixels, kept for who
                asks where an object is; None if that is not known.

        Returns:
            The index. Warns where `k`, `query_k` or `dim` is more than the collection
            can give, and takes what it can.

        Raises:
            ValueError: If vectors are not finite, zero, of the wrong type or none at
                all, ids or neighbours are not as above; it names the first bad row.
        """
        parts = make_parts(
            vectors,
            image_ids,
            config=config or IndexConfig(),
            neighbors=neighbors,
            pictures=pictures,
            whitening=whitening,
            prepared=prepared,
            boxes=boxes,
        )
        return cls._solved(parts)

    @classmethod
    def _solved(cls, parts: Parts) -> "Index":
        """Derives what is not stored, and solves beforehand where that is asked for."""
        index = cls._assemble(parts)
        if index.config.offline is None:
            return index
        rows = solve_rows(index.graph, parts.neighbors, parts.vectors, index.config)
        return dataclasses.replace(index, rows=rows)

    @classmethod
    def _assemble(cls, parts: Parts) -> "Index":
        """Derives what is not stored: graph, weights and global descriptors."""
        config, vectors, ids = parts.config, parts.vectors, parts.image_ids
        # A list of all images would cut nothing.
        limited = config.shortlist is not None and config.shortlist <= ids[-1]
        early = limited and config.cut == "early"
        return cls(
            vectors=vectors,
            image_ids=ids,
            neighbors=parts.neighbors,
            layout=make_layout(parts, normalized=not early),
            weights=(
                gmp_weights(vectors, ids, lam=config.lam)
                if config.pooling == "gmp"
                else None
            ),
            whitening=parts.whitening,
            config=config,
            pictures=parts.pictures,
            recall=parts.recall,
            descriptors=global_descriptors(vectors, ids) if limited else None,
            rows=parts.rows,
            boxes=parts.boxes,
        )

    def __repr__(self) -> str:
        """Says how large the index is, not what is in it."""
        n, dim = self.vectors.shape
        return (
            f"Index({self.num_images} images, {n} regions of {dim} dimensions, "
            f"{self.layout.graph.weights.size} stored edges)"
        )

    @property
    def num_images(self) -> int:
        """The number of images m."""
        return int(self.image_ids[-1]) + 1

    @functools.cached_property
    def graph(self) -> Graph:
        """The graph of `layout` with its nodes numbered as the regions are."""
        return self.layout.restore_graph()

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
        warn_of_residuals(found.solution.residual, self.config)
        return found

    def _answer(self, block: Block, *, top: int) -> Answers:
        found = score_images(
            Collection(
                vectors=self.vectors,
                image_ids=self.image_ids,
                layout=self.layout,
                weights=self.weights,
                descriptors=self.descriptors,
                rows=self.rows,
            ),
            prepare(block.vectors, block.real, self.whitening),
            block.query_ids,
            config=self.config,
            num_queries=block.columns,
            num_images=self.num_images,
        )
        return best_images(
            found.scores,
            found.solution,
            jnp.asarray(self.image_ids, jnp.int32),
            self.weights,
            top=top,
        )

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
        whitening = self.whitening
        dim = self.vectors.shape[1] if whitening is None else whitening.mean.shape[0]
        if queries.shape[1] != dim:
            raise ValueError(
                f"queries must have the {dim} dimensions of the index, got "
                f"{queries.shape[1]}."
            )
        if queries.dtype != self.vectors.dtype:
            raise ValueError(
                f"queries must be {self.vectors.dtype} as the index, got "
                f"{queries.dtype}."
            )

    def search_picture(
        self,
        picture: PictureSource,
        *,
        box: Box | None = None,
        top: int = 10,
        weights: str | os.PathLike[str] | None = None,
    ) -> SearchResult:
        """Finds the best images for a picture, or for what a box in it shows.

        Args:
            picture: Path, Pillow image or uint8 pixels [h, w, 3].
            box: (x0, y0, x1, y1) in pixels of the upright picture; None for all of it.
            top: Answers wanted.
            weights: Where the network's file of weights lies now; None is where it was
                when the index was built.

        Returns:
            As `search`, for one query.

        Raises:
            ValueError: If the index is not of pictures or of another network's, the
                picture can't be read, or the box is not in it.
        """
        found = self.describe([picture], boxes=[box], weights=weights)
        return self.search(*found, top=top)

    def describe(
        self,
        pictures: Sequence[PictureSource],
        *,
        boxes: Sequence[Box | None] | None = None,
        weights: str | os.PathLike[str] | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> "QueryRegions":
        """Describes query pictures as the pictures of the index were.

        Args:
            pictures: Paths, Pillow images or uint8 pixels [h, w, 3].
            boxes: What of each is asked for, see `search_picture`; None for all of all.
            weights: As for `search_picture`.
            progress: As for `index_folder`.

        Returns:
            Their region vectors, ready for `search(*regions)`.

        Raises:
            ValueError: As `search_picture`; it names the first picture that can't be
                read.
        """
        # With it come the networks and Flax, which searches by vectors do without.
        from diffjax.images import describe_queries  # noqa: PLC0415

        return describe_queries(
            self.pictures,
            pictures,
            boxes=boxes,
            weights=weights,
            progress=progress,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves the index in a folder, all of it or nothing.

        Args:
            path: Folder; made if it is not there. An index in it is replaced.

        Raises:
            ValueError: If the folder holds something else.
            OSError: If it can't be written; what it held is then untouched.
        """
        write_parts(pathlib.Path(path), self._parts())

    def _parts(self) -> Parts:
        return Parts(
            vectors=self.vectors,
            image_ids=self.image_ids,
            neighbors=self.neighbors,
            whitening=self.whitening,
            config=self.config,
            pictures=self.pictures,
            recall=self.recall,
            order=self.layout.order,
            rows=self.rows,
            boxes=self.boxes,
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the vectors, of which image each is, and of their whitening.

        It is the same for all settings of the graph and of the search, so parameters
        that were learned on the index know it by that.
        """
        return fingerprint(self.vectors, self.image_ids, self.whitening)

    def with_parameters(self, parameters: "Parameters") -> "Index":
        """Makes the index that searches with learned parameters.

        alpha, gamma, lambda, the query's exponent and the bias take the place of the
        settings; a projection moves the vectors, whose neighbours are searched anew,
        and queries with them.

        Args:
            parameters: What `learning.fit` found on this index.

        Returns:
            A new index, which can be saved as any other.

        Raises:
            ValueError: If a parameter is outside its range, the projection is not of
                the index's dimensions, or there are weights of scales or of graphs,
                which an index does not have: `learning.score_images` takes them.
        """
        return self._solved(apply_parameters(self._parts(), parameters))

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
