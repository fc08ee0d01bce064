"""An index that is built and searched on the disk, for millions of regions."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from diffjax.graph import Clusters
from diffjax.types import Graph, Neighbors, Whitening, row_starts

from ._blocks import prepare, split_queries
from ._given import Ids, QueryIds, QueryVectors, Vectors, check_rows, row_ids
from ._header import IndexFileError
from ._mapped_build import build_mapped, read_clusters, whitening_of_arrays
from ._mapped_config import MappedConfig, check_as_built
from ._mapped_search import (
    Components,
    ImageRows,
    Seeds,
    find_seeds,
    pool_reached,
    spread_seeds,
)
from ._mapped_storage import config_of, map_arrays, read_mapped_header
from ._mapped_vectors import StoredVectors
from ._search import warn_of_residuals

# Numbers of right-hand sides that are solved on the whole graph at a time.
_NUMBERS_AT_ONCE = 2**24


class MappedResult(NamedTuple):
    """The best images of every query.

    Attributes:
        images: Image numbers, best first; -1 where fewer images are reached.
        scores: Their pooled scores, 0 there.
        regions: For each image the region that adds most to its score, by its row in
            the vectors handed over; -1 where none adds anything.
        residual: Relative residual of each query's diffusion, in the whole graph.
        missed: Share of the scores that lies on regions which were not reached.
        num_steps: Iterations spent on each query.
        reached: Regions that each query has reached.
    """

    images: Int[np.ndarray, "q t"]
    scores: Float[np.ndarray, "q t"]
    regions: Int[np.ndarray, "q t"]
    residual: Float[np.ndarray, " q"]
    missed: Float[np.ndarray, " q"]
    num_steps: Int[np.ndarray, " q"]
    reached: Int[np.ndarray, " q"]


@dataclasses.dataclass(frozen=True, eq=False)
class MappedIndex:
    """A collection on the disk; made by `build`, mapped into memory by `open`.

    Opening reads next to nothing, and a query what it meets: the vectors of near
    clusters and the rows of the regions that it reaches. Regions are numbered by
    cluster inside, so that what is near lies together; answers name regions by their
    rows in the vectors handed over.

    What a search takes (`query_probes`, `query_k`, `query_gamma`, `alpha`, `rule`,
    `solver`, `rtol`, `max_steps`, `keep_best`, `reach`, `warn_residual`) may be changed
    without a build: `dataclasses.replace(index, config=...)`. Other settings say what
    was built, and changing them is refused.

    Attributes:
        vectors: What queries are compared with.
        clusters: Which regions lie together, and the row of each.
        images: Which region is of which image.
        weights: Pooling weight of every region, in the order of the clusters, as all
            that follows; None is sum pooling.
        neighbors: The nearest of every region, with raw similarities.
        graph: S, normalised and compressed.
        components: Connected components of the graph.
        whitening: What was fitted on the collection; None where vectors stay as given.
        config: The settings.
        built: Those of the build; `config` differs in what a search takes, if at all.
        recall: Share of the true nearest neighbours in `neighbors`, on a sample.
        max_degree: Most entries of any row of the graph.
    """

    vectors: StoredVectors
    clusters: Clusters
    images: ImageRows
    weights: Float[np.ndarray, " n"] | None
    neighbors: Neighbors
    graph: Graph
    components: Components
    whitening: Whitening | None
    config: MappedConfig
    built: MappedConfig
    recall: float
    max_degree: int

    def __post_init__(self) -> None:
        """Refuses settings that say something else than what was built."""
        check_as_built(self.config, self.built)

    @classmethod
    def build(
        cls,
        path: str | os.PathLike[str],
        vectors: Vectors,
        image_ids: Ids | None = None,
        *,
        config: MappedConfig | None = None,
        log: Callable[[str], None] | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> "MappedIndex":
        """Builds the index of a collection in a folder, block by block.

        Phases: vectors are checked, whitened, clustered and written in the order of the
        clusters; neighbours are searched for, cluster by cluster; mutual ones become
        the graph; vectors are stored as the search wants them. A build that was stopped
        goes on where it was, in the middle of the neighbours, too, and gives the same
        bytes. `plan` says what memory and disk that takes.

        Similarities of the graph are always those of whole vectors: only what queries
        are compared with is halved or made codes.

        Args:
            path: Folder; made if it is not there. A mapped index in it is replaced once
                the new one is whole.
            vectors: Region vectors, float32 or float16, one row each, of any length
                above 0: they are L2-normalised first. In memory, or mapped by
                `numpy.load(file, mmap_mode="r")`: they are never copied as a whole.
            image_ids: Image of every region: 0, 1, 2, ... without going back or
                skipping; None if each row is an image.
            config: Settings; None for the defaults.
            log: Given the plan, line by line, before anything is done.
            progress: Told (task, done, of).

        Returns:
            The index, opened.

        Raises:
            ValueError: If vectors or ids are bad, naming the first bad row, the folder
                holds something else, another build is running in it, or memory or disk
                are too small for the plan.
            OSError: If something can't be written; the same call goes on there.
        """
        folder = pathlib.Path(path)
        build_mapped(
            folder,
            vectors,
            image_ids,
            config=config or MappedConfig(),
            log=log or no_progress,
            progress=progress or no_progress,
        )
        return cls.open(folder)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "MappedIndex":
        """Maps an index that `build` made.

        All arrays stay with the processor, and answers are computed there, also where
        JAX has an accelerator: moving them there would load all of the graph. Only
        where JAX is told to leave the processor out (`JAX_PLATFORMS`) are the graph and
        the lists copied to the device.

        Raises:
            IndexFileError: If there is none, or it is cut short, edited or of another
                version; `verify` also compares every byte.
            ValueError: If the graph has 2^31 edges or more, and JAX is not set to count
                so many.
        """
        folder = pathlib.Path(path)
        header = read_mapped_header(folder)
        arrays = map_arrays(folder, header)
        processor = _processor()
        try:
            config = config_of(header)
        except ValueError as error:
            raise IndexFileError(
                f"{folder} has settings that are refused ({error}): build the index "
                "again."
            ) from error

        def placed(name: str) -> Array:
            return jax.device_put(arrays[name], processor)

        try:
            rows = next(arrays[n] for n in _STORED if n in arrays)
            return cls(
                vectors=StoredVectors(rows, arrays.get("codebooks")),
                clusters=read_clusters(arrays),
                images=ImageRows(
                    arrays["image_ids"], arrays["image_starts"], arrays["places"]
                ),
                weights=arrays.get("weights"),
                neighbors=Neighbors(placed("indices"), placed("similarities")),
                graph=Graph(
                    indices=placed("columns"),
                    weights=placed("edges"),
                    starts=row_starts(arrays["bounds"], sharding=processor),
                    degrees=placed("degrees"),
                ),
                components=Components(*(arrays[name] for name in Components._fields)),
                whitening=whitening_of_arrays(arrays),
                config=config,
                built=config,
                recall=header["recall"],
                max_degree=header["max_degree"],
            )
        except (KeyError, TypeError, StopIteration) as error:
            raise IndexFileError(
                f"{folder} is damaged ({error!r}): build the index again."
            ) from error

    def __repr__(self) -> str:
        """Says how large the index is, not what is in it."""
        return (
            f"MappedIndex({self.num_images} images, {len(self.images.ids)} regions of "
            f"{self._dim} dimensions as {self.config.storage}, "
            f"{self.graph.weights.size} stored edges)"
        )

    @property
    def num_images(self) -> int:
        """The number of images m."""
        return len(self.images.starts) - 1

    @property
    def _dim(self) -> int:
        return int(self.clusters.centroids.shape[1])

    def search(
        self, queries: QueryVectors, query_ids: QueryIds | None = None, *, top: int = 10
    ) -> MappedResult:
        """Finds the best images of every query.

        Each region of a query is compared with the members of its `query_probes`
        nearest clusters; the `query_k` best sums are the right-hand side, from where
        the diffusion goes to `reach` regions, or through the whole graph where that is
        None. Regions of the answers that are not reached count with the background of
        `densify`. An image of which no region is reached has nothing else, and is
        an answer only where all that is connected with the query is little: of a large
        collection the background is the same for every query, but for its size.

        Args:
            queries: Region vectors of the queries, as the database's were given:
                float32, normalised and whitened here.
            query_ids: Query of every row: 0, 1, 2, ...; None if each row is a query.
            top: Answers per query; more than there are images gives all of them.

        Returns:
            Images and scores, best first, ties by lower image. Warns where a query's
            residual is above `warn_residual` on the whole graph.

        Raises:
            ValueError: If vectors or ids are bad as in `build`, dimensions differ from
                the database's, or `top` is below 1.
        """
        if top < 1:
            raise ValueError(f"top must be at least 1, got {top}.")
        self._check_queries(queries)
        ids = row_ids("query_ids", query_ids, rows=queries.shape[0])
        found = [
            self._answer(block.vectors, block.real, block.query_ids, block.size, top)
            for block in split_queries(np.asarray(queries), ids)
        ]
        joined = MappedResult(*map(np.concatenate, zip(*found, strict=True)))
        warn_of_residuals(joined.residual, self.config.index)
        return joined

    def _answer(self, vectors, real, query_ids, size, top) -> MappedResult:
        regions = np.asarray(prepare(vectors, real, self.whitening))[real]
        settings = self.config.index
        # As many as a power of two, so that few programs are compiled.
        count = 1 << max(size - 1, 0).bit_length()
        seeds = find_seeds(
            self.vectors,
            self.clusters,
            regions,
            query_ids[real],
            probes=self.config.query_probes,
            config=settings,
            num_queries=count,
        )
        step = count
        if settings.reach is None:
            most = max(_NUMBERS_AT_ONCE // len(self.images.ids), 1)
            step = min(count, 1 << (most.bit_length() - 1))
        top, answers = min(top, self.num_images), []
        for start in range(0, size, step):
            part = Seeds(*(each[start : start + step] for each in seeds))
            for spread in spread_seeds(
                self.graph,
                self.components,
                part,
                config=settings,
                max_degree=self.max_degree,
            ):
                best = pool_reached(
                    spread,
                    self.images,
                    self.weights,
                    self.components,
                    np.asarray(self.graph.degrees),
                    top=top,
                )
                answers.append((best, spread))
        return self._join(answers[:size], top)

    def _join(self, answers, top) -> MappedResult:
        def stacked(rows, dtype, *shape):
            return np.array(rows, dtype).reshape(len(answers), *shape)

        return MappedResult(
            images=stacked([best.images for best, _ in answers], np.int32, top),
            scores=stacked([best.scores for best, _ in answers], np.float32, top),
            regions=stacked([best.rows for best, _ in answers], np.int32, top),
            residual=stacked([s.residual for _, s in answers], np.float32),
            missed=stacked([s.missed for _, s in answers], np.float32),
            num_steps=stacked([s.num_steps for _, s in answers], np.int32),
            reached=stacked([len(s.nodes) for _, s in answers], np.int32),
        )

    def _check_queries(self, queries: QueryVectors) -> None:
        if getattr(queries, "dtype", None) == np.float64:
            raise ValueError(
                "queries must be float32, got float64: convert them, by "
                ".astype(numpy.float32)."
            )
        check_rows("queries", queries)
        dim = self._dim
        if self.whitening is not None:
            dim = int(self.whitening.mean.shape[0])
        if queries.shape[1] != dim:
            raise ValueError(
                f"queries must be of the {dim} dimensions of the index, got "
                f"{queries.dtype} {list(queries.shape)}."
            )


_STORED = "codes", "halved", "vectors"


def _processor() -> jax.sharding.Sharding | None:
    """This machine's processor, whose memory a file can be mapped into."""
    try:
        (first, *_) = jax.local_devices(backend="cpu")
    except RuntimeError:  # JAX is told to do without.
        return None
    return jax.sharding.SingleDeviceSharding(first)


def no_progress(*_: Array | str | int) -> None:
    """Takes what nobody wants to hear."""
