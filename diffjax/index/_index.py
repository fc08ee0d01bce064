"""Index of a collection: build, open, search, save."""

import dataclasses
import functools
import hashlib
import os
import pathlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from diffjax._arguments import check_not_downcast
from diffjax.diffusion import OfflineRows
from diffjax.graph import Clusters, Components, ReorderedGraph, find_components
from diffjax.images import Box, IndexedPictures, PictureSource
from diffjax.progress import no_progress
from diffjax.regions import l2_normalize
from diffjax.retrieve import Collection, SearchConfig, retrieve
from diffjax.types import Graph, Neighbors, SearchResult, Whitening, row_starts

from ._build import build_in_memory
from ._build_disk import build_on_disk
from ._config import IndexConfig
from ._ids import Ids, ImageId, ids_from_arrays, number_images, numbers_of
from ._query_blocks import QueryBlock, join_results, prepare, split_queries
from ._store import Store, check_destination, read_store, write_store
from ._validation import (
    Boxes,
    QueryIds,
    VectorRows,
    read_vectors,
    row_ids,
)

if TYPE_CHECKING:
    from diffjax.images import QueryRegions
    from diffjax.learning import Parameters

# Most queries that a warning lists.
_SHOWN_QUERIES = 10
# Learned parameters that take the place of settings.
_LEARNED_SETTINGS = "alpha", "gamma", "lam", "query_gamma", "bias"


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """Index of region vectors that is searched by diffusion; see `build` and `open`.

    An index never changes. Its arrays lie in memory or in mapped files; nothing of JAX
    is started before the first search, so a process may open an index and then fork.

    Attributes:
        store: Arrays and facts of the index.
        config: Settings, as they were asked for.
    """

    store: Store
    config: IndexConfig

    @classmethod
    def build(
        cls,
        vectors: Any,
        ids: Any | None = None,
        *,
        config: IndexConfig | None = None,
        path: str | os.PathLike[str] | None = None,
        neighbors: Neighbors | None = None,
        pictures: IndexedPictures | None = None,
        whitening: Whitening | None = None,
        prepared: bool = False,
        boxes: Boxes | None = None,
        log: Callable[[str], None] | None = None,
        progress: Callable[[str, int, int], None] | None = None,
        **renamed: Any,
    ) -> "Index":
        """Builds the index of a collection, in memory or on disk.

        With `path`, vectors are read, checked, whitened, compared and written block by
        block. A build that was stopped continues where it was when it is called again,
        and gives the same bytes. Approximate neighbours of `nn-descent`, the `sharded`
        search, float64, `neighbors`, `prepared` and solutions made beforehand need all
        vectors in memory; their index is then built there, and saved.

        Args:
            vectors: Region vectors [n, d], of any length above 0: they are normalised.
                Of any real type and byte order, in memory, in a data frame, or mapped
                by `numpy.load(file, mmap_mode="r")`. They become float32, or float64
                if they are float64 and `jax_enable_x64` is set.
            ids: Id of the image of every region: integers, strings or UUIDs, in any
                order and with gaps. Regions with equal ids are of one image. Images are
                numbered as their ids first appear, and their regions follow each other.
                None if each row is an image.
            config: Settings; None for the defaults of `IndexConfig`.
            path: Folder for an index on disk; None builds in memory.
            neighbors: Nearest regions of every region, if known, with inner products of
                unit vectors; they replace `k`. None searches them. For a faiss index of
                these vectors see `knn`.
            pictures: Pictures that the vectors were computed from, if any.
            whitening: Whitening fitted elsewhere, such as on labelled pairs, for these
                vectors and for queries; None fits the whitening of the settings.
            prepared: Whether `vectors` are normalised and whitened already.
            boxes: Box of each region, (x0, y0, x1, y1) in pixels of its picture.
            log: Called with each line of the plan of a build on disk, before it begins.
            progress: Called with the task, how much of it is done, and of how much.
            **renamed: Parameters of earlier versions, which are refused.

        Returns:
            The index. Warns where `k`, `query_k` or `dim` is more than the collection
            can give, and takes what it can.

        Raises:
            ValueError: If vectors are not finite, zero, no real numbers or none at
                all (naming the first bad row), ids or neighbours are not as above, the
                folder holds something else or another build is running in it, or memory
                or disk are too small for the plan.
            OSError: If a file can't be written; the same call continues there.
        """
        if "image_ids" in renamed:
            raise TypeError("build takes ids, as image_ids is called now.")
        if renamed:
            raise TypeError(f"build has no parameter {min(renamed)!r}.")
        config = config or IndexConfig()
        rows = VectorRows("vectors", vectors)
        images = number_images(ids, rows=len(rows))
        rows = rows.reorder(images.region_order)
        in_memory = {
            "neighbors": neighbors,
            "pictures": pictures,
            "whitening": whitening,
            "prepared": prepared,
            "boxes": boxes,
        }
        if path is None:
            return cls._of(build_in_memory(rows, images, config=config, **in_memory))
        folder = pathlib.Path(path)
        by_block = (
            (neighbors is None and whitening is None and not prepared)
            and config.graph.method not in ("nn-descent", "sharded")
            and not config.is_offline
            and rows.dtype != np.float64
        )
        if by_block:
            build_on_disk(
                *(folder, rows, images),
                config=config,
                pictures=pictures,
                boxes=boxes,
                log=log or _no_log,
                progress=progress or no_progress,
            )
        else:
            check_destination(folder)
            store = build_in_memory(rows, images, config=config, **in_memory)
            write_store(folder, store)
        return cls.open(folder)

    @classmethod
    def _of(cls, store: Store) -> "Index":
        return cls(store, store.facts.config)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, mmap: bool | None = None) -> "Index":
        """Opens an index on disk.

        Args:
            path: Folder that `build` or `save` wrote.
            mmap: Map arrays from their files, and read what a search needs when it
                needs it, instead of loading all; None maps an index that is larger than
                a quarter of the available memory. Mapped arrays stay with the
                processor, also where JAX has an accelerator.

        Raises:
            IndexFileError: If there is no index, or it is cut short, edited or of
                another version, or a byte of an array that is loaded was changed;
                `verify` also reads those that are mapped.
            ValueError: If it is in double precision, and JAX is not.
        """
        store = read_store(pathlib.Path(path), mmap=mmap)
        check_not_downcast("the index", store.arrays["vectors"])
        return cls._of(store)

    @classmethod
    def load(cls, *_: Any, **__: Any) -> "Index":
        """Raises an error that names `open`, its new name."""
        raise AttributeError("Index.load is called Index.open now.")

    def __repr__(self) -> str:
        """Text with the size of the index."""
        arrays = self.store.arrays
        stored = self.config.graph.storage
        stored = "" if stored == "float32" else f" as {stored}"
        location = ", mapped from disk" if self.store.is_mapped else ""
        return (
            f"Index({self.num_images} images, {len(arrays['order'])} regions of "
            f"{self.store.dim} dimensions{stored}, "
            f"{len(arrays['graph_columns'])} stored edges{location})"
        )

    @property
    def num_images(self) -> int:
        """The number of images m."""
        return len(self.store.arrays["image_starts"]) - 1

    @property
    def num_regions(self) -> int:
        """The number of regions n."""
        return len(self.store.arrays["order"])

    @functools.cached_property
    def image_ids(self) -> Int[np.ndarray, " n"]:
        """Image of every region, from 0 upwards."""
        counts = np.diff(self.store.arrays["image_starts"])
        return np.repeat(np.arange(len(counts), dtype=np.int32), counts)

    @functools.cached_property
    def unique_ids(self) -> Ids:
        """Id of every image, as given to `build`: names of pictures, or its numbers."""
        ids = ids_from_arrays(self.store.arrays)
        if ids is None and self.pictures is not None:
            return np.array([*self.pictures.names, None], object)[:-1]
        return np.arange(self.num_images) if ids is None else ids

    @property
    def ids(self) -> Shaped[np.ndarray, " n"]:
        """Id of the image of every region."""
        return self.unique_ids[self.image_ids]

    def images_of(self, ids: Iterable[ImageId]) -> Int[np.ndarray, " w"]:
        """Numbers of the images with some ids.

        Raises:
            ValueError: If ids are not in the index, listing them.
        """
        return numbers_of("ids", ids, self.unique_ids)

    @property
    def pictures(self) -> IndexedPictures | None:
        """Pictures that the vectors were computed from; None without pictures."""
        return self.store.facts.pictures

    @property
    def recall(self) -> float | None:
        """Recall of the neighbour lists, on a sample; None for an exact search."""
        return self.store.facts.recall

    @property
    def boxes(self) -> Float[np.ndarray, "n 4"] | None:
        """Box of every region in pixels of its picture; None without boxes."""
        return self.store.arrays.get("boxes")

    @functools.cached_property
    def whitening(self) -> Whitening | None:
        """Whitening of vectors and queries; None without whitening."""
        arrays = self.store.arrays
        if "mean" not in arrays:
            return None
        return Whitening(*(self._put(arrays[name]) for name in Whitening._fields))

    @functools.cached_property
    def vectors(self) -> Float[Array, "n p"]:
        """Unit vectors of the regions, whitened; a copy in the order of the regions."""
        rows = self.store.read_vectors(0, self.num_regions)
        return self._put(rows[self.store.arrays["inverse_order"]])

    @functools.cached_property
    def neighbors(self) -> Neighbors:
        """Nearest regions of every region, a copy in the order of the regions."""
        arrays = self.store.arrays
        inverse = arrays["inverse_order"]
        nodes = arrays["indices"][inverse]
        indices = np.where(nodes >= 0, arrays["order"][nodes], -1).astype(np.int32)
        similarities = arrays["similarities"][inverse]
        return Neighbors(self._put(indices), self._put(similarities))

    @functools.cached_property
    def graph(self) -> Graph:
        """Normalised graph S, a copy with its nodes in the order of the regions."""
        arrays = self.store.arrays
        order, inverse = self._put(arrays["order"]), self._put(arrays["inverse_order"])
        return ReorderedGraph(self._graph, order, inverse).restore_graph()

    @functools.cached_property
    def weights(self) -> Float[Array, " n"] | None:
        """Pooling weight of every region; None for sum pooling."""
        arrays = self.store.arrays
        if "weights" not in arrays:
            return None
        return self._put(arrays["weights"][arrays["inverse_order"]])

    def search(
        self,
        queries: Any,
        query_ids: QueryIds | None = None,
        *,
        top: int = 10,
        config: SearchConfig | None = None,
    ) -> SearchResult:
        """Finds the best images of every query.

        Args:
            queries: Region vectors of the queries, as the collection's were given to
                `build`: they are normalised and whitened here.
            query_ids: Query of every row: 0, 1, 2, ...; None if each row is a query.
            top: Answers per query; more than there are images gives all of them.
            config: Settings of this search; None for those of the index.

        Returns:
            Images and scores, best first, ties by lower image, and the diffusion behind
            them. Warns where a query's residual is above `warn_residual`, and where no
            region is similar to a query, whose images are then -1.

        Raises:
            ValueError: If vectors or ids are bad as in `build`, dimensions or type
                differ from the collection's, `top` is below 1, or the settings need
                what the index does not have: clusters, or solutions made beforehand
                with another alpha.
        """
        if top < 1:
            raise ValueError(f"top must be at least 1, got {top}.")
        rows = self._read_queries(queries)
        ids = row_ids("query_ids", query_ids, rows=len(rows))
        search = self._resolve(config or self.config.search)
        collection = self._collection(search)
        blocks = split_queries(rows, ids)
        results = [self._search_block(collection, b, search, top) for b in blocks]
        result = _without_order_of_zeros(join_results(results, blocks))
        _warn_of_residuals(result.solution.residual, search)
        images = np.asarray(result.images)
        return result._replace(
            ids=[self.unique_ids[i[i >= 0]].tolist() for i in images]
        )

    def _search_block(
        self, collection: Collection, block: QueryBlock, search: SearchConfig, top: int
    ) -> SearchResult:
        graph = self.config.graph
        gamma = graph.gamma if search.query_gamma is None else search.query_gamma
        return retrieve(
            collection,
            prepare(block.vectors, block.mask, self.whitening),
            block.query_ids,
            config=search,
            gamma=gamma,
            bias=graph.bias,
            num_queries=block.num_columns,
            top=top,
        )

    def _resolve(self, search: SearchConfig) -> SearchConfig:
        """Resolves settings that depend on the index, and validates them."""
        clustered, offline = "centroids" in self.store.arrays, self.store.facts.offline
        search = search.resolve(
            self.num_regions, clustered=clustered, offline=offline is not None
        )
        if search.probes and not clustered:
            raise ValueError(
                f"probes must be 0 in an index without clusters, got {search.probes}: "
                "build it with method 'clusters'."
            )
        if offline is not None:
            for name, value in offline.items():
                if getattr(search, name) != value:
                    raise ValueError(
                        f"{name} must be {value}, with which solutions were made "
                        f"beforehand, got {getattr(search, name)}: build another index."
                    )
            if search.shortlist is not None or search.local_nodes:
                raise ValueError(
                    "shortlist and local_nodes must not be set in an index whose "
                    "solutions were made beforehand: build another index."
                )
        return search

    def _collection(self, search: SearchConfig) -> Collection:
        """Arrays that a search with these settings reads."""
        arrays = self.store.arrays
        decoded = arrays["vectors"].dtype in (np.float32, np.float64)
        return Collection(
            vectors=self._node_vectors if decoded and not search.probes else None,
            graph=self._graph,
            image_ids=self._image_ids,
            num_images=self.num_images,
            weights=self._put_cached("weights"),
            order=arrays["order"],
            inverse_order=self._put_cached("inverse_order"),
            image_starts=arrays["image_starts"],
            read_vectors=self.store.read_vectors,
            clusters=self._clusters if search.probes else None,
            components=self._components if search.local_nodes else None,
            max_degree=self._max_degree,
            descriptors=self._descriptors if search.shortlist else None,
            offline_rows=self._offline_rows,
        )

    @functools.cached_property
    def _device(self) -> jax.sharding.Sharding | None:
        """Device of the arrays: the processor, without a copy, for mapped ones."""
        if not self.store.is_mapped:
            return None
        try:
            (first, *_) = jax.local_devices(backend="cpu")
        except RuntimeError:  # JAX is configured without it.
            return None
        default = jax.config.values["jax_default_device"] or jax.local_devices()[0]
        # Arrays that are bound to a device compile programs of their own.
        return None if default == first else jax.sharding.SingleDeviceSharding(first)

    def _put(self, array: np.ndarray) -> Array:
        """Copies an array to the device of the index; no copy if it is there."""
        check_not_downcast("the index", array)
        return jax.device_put(array, self._device)

    @functools.cached_property
    def _device_arrays(self) -> dict[str, Array]:
        return {}

    def _put_cached(self, name: str) -> Array | None:
        if name not in self.store.arrays:
            return None
        if name not in self._device_arrays:
            self._device_arrays[name] = self._put(self.store.arrays[name])
        return self._device_arrays[name]

    @functools.cached_property
    def _node_vectors(self) -> Float[Array, "n p"]:
        return self._put(self.store.arrays["vectors"])

    @functools.cached_property
    def _image_ids(self) -> Int[Array, " n"]:
        return self._put(self.image_ids)

    @functools.cached_property
    def _graph(self) -> Graph:
        arrays = self.store.arrays
        return Graph(
            indices=self._put(arrays["graph_columns"]),
            weights=self._put(arrays["graph_weights"]),
            starts=row_starts(arrays["graph_starts"], sharding=self._device),
            degrees=self._put(arrays["degrees"]),
        )

    @functools.cached_property
    def _max_degree(self) -> int:
        return int(np.diff(self.store.arrays["graph_starts"]).max(initial=0))

    @functools.cached_property
    def _clusters(self) -> Clusters | None:
        arrays = self.store.arrays
        if "centroids" not in arrays:
            return None
        return Clusters(arrays["centroids"], arrays["cluster_starts"], arrays["order"])

    @functools.cached_property
    def _components(self) -> Components:
        arrays = self.store.arrays
        names = {name: f"component_{name}" for name in Components._fields}
        if all(name in arrays for name in names.values()):
            return Components(**{k: arrays[v] for k, v in names.items()})
        return find_components(
            arrays["graph_columns"], arrays["graph_starts"], arrays["degrees"]
        )

    @functools.cached_property
    def _descriptors(self) -> Float[Array, "m p"]:
        """Global descriptors of the images: normalised sums of their regions."""
        arrays, step = self.store.arrays, 2**16
        sums = None
        for start in range(0, self.num_regions, step):
            rows = self.store.read_vectors(start, start + step)
            if sums is None:
                sums = np.zeros((self.num_images, rows.shape[1]), rows.dtype)
            np.add.at(sums, self.image_ids[arrays["order"][start : start + step]], rows)
        return l2_normalize(self._put(np.asarray(sums)))

    @functools.cached_property
    def _offline_rows(self) -> OfflineRows | None:
        if "offline_indices" not in self.store.arrays:
            return None
        arrays = self.store.arrays
        return OfflineRows(
            *(self._put(arrays[f"offline_{name}"]) for name in OfflineRows._fields)
        )

    def prepare(self, queries: Any) -> Float[Array, "r p"]:
        """Normalises and whitens query vectors as those of the collection.

        Args:
            queries: Region vectors of the queries, as given to `search`.

        Returns:
            Prepared vectors, one row per region.

        Raises:
            ValueError: If a vector is zero or not finite, or dimensions differ from the
                collection's.
        """
        rows = self._read_queries(queries)
        return prepare(rows, np.ones(len(rows), np.bool_), self.whitening)

    def _read_queries(self, queries: Any) -> Float[np.ndarray, "r c"]:
        """Reads queries in the precision of the index."""
        arrays = self.store.arrays
        dim = arrays["mean"].shape[0] if "mean" in arrays else self.store.dim
        is_double = arrays["vectors"].dtype == np.float64
        dtype = np.float64 if is_double else np.float32
        rows = read_vectors("queries", queries, dtype=dtype)
        if rows.shape[1] != dim:
            raise ValueError(
                f"queries must have the {dim} dimensions of the index, got "
                f"{rows.shape[1]}."
            )
        return rows

    def search_picture(
        self,
        picture: PictureSource,
        *,
        box: Box | None = None,
        top: int = 10,
        weights: str | os.PathLike[str] | None = None,
        config: SearchConfig | None = None,
    ) -> SearchResult:
        """Finds the best images for a query picture, or for a box in it.

        Args:
            picture: Path, Pillow image or uint8 pixels [h, w, 3].
            box: (x0, y0, x1, y1) in pixels of the upright picture; None for all of it.
            top: Number of answers.
            weights: Path of the network's weights file; None is its path when the index
                was built.
            config: Settings of this search; None for those of the index.

        Returns:
            As `search`, for one query.

        Raises:
            ValueError: If the index is not of pictures or of another network's, the
                picture can't be read, or the box is not in it.
        """
        regions = self.describe([picture], boxes=[box], weights=weights)
        return self.search(*regions, top=top, config=config)

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
            boxes: Box in each, see `search_picture`; None for all of all.
            weights: As for `search_picture`.
            progress: As for `index_folder`.

        Returns:
            Their region vectors, ready for `search(*regions)`.

        Raises:
            ValueError: As `search_picture`; it names the first picture that can't be
                read.
        """
        # It imports the networks and Flax, which searches by vectors do not need.
        from diffjax.images import describe_queries  # noqa: PLC0415

        return describe_queries(
            *(self.pictures, pictures),
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
        write_store(pathlib.Path(path), self.store)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the vectors, of their images, and of the whitening.

        It does not depend on settings of graph and search, so it identifies the index
        that parameters were learned on.
        """
        digest = hashlib.sha256()
        arrays = [self.vectors, np.asarray(self.image_ids, np.int64)]
        for array in (*arrays, *(self.whitening or ())):
            host = np.ascontiguousarray(array)
            digest.update(f"{host.dtype} {host.shape}".encode())
            digest.update(host.data)
        return digest.hexdigest()

    def with_parameters(self, parameters: "Parameters") -> "Index":
        """Builds an index with learned parameters from this one, in memory.

        alpha, gamma, lambda, the query's exponent and the bias replace the settings. A
        projection is applied to vectors and queries, and neighbours are searched again.

        Args:
            parameters: Parameters that `learning.fit` learned on this index.

        Returns:
            A new index, which can be saved.

        Raises:
            ValueError: If a parameter is outside its range, the projection is not of
                the index's dimensions, vectors are stored in less than single
                precision, or there are weights of scales or of graphs, which an index
                does not have: `learning.score_images` takes them.
        """
        # Learning imports optax, which a search without parameters does not need.
        from diffjax.learning import check_parameters, project_vectors  # noqa: PLC0415

        check_parameters(parameters)
        for name in ("scale_weights", "mixture"):
            if getattr(parameters, name) is not None:
                raise ValueError(
                    "parameters must be of one graph without weights of scales for an "
                    f"index, got {name}: learning.score_images takes them."
                )
        if self.config.graph.storage != "float32":
            raise ValueError(
                "storage must be 'float32' for learned parameters, got "
                f"{self.config.graph.storage!r}: build the index with whole vectors."
            )
        learned = {name: getattr(parameters, name) for name in _LEARNED_SETTINGS}
        learned: dict[str, float | None] = {
            name: float(v) for name, v in learned.items() if v is not None
        }
        if parameters.projection is None:
            learned["probes"] = None  # Given neighbour lists have no clusters.
        config = self.config.replace(**{"query_gamma": None, **learned})
        unchanged = {"pictures": self.pictures, "prepared": True, "boxes": self.boxes}
        if parameters.projection is None:
            unchanged |= {"neighbors": self.neighbors, "whitening": self.whitening}
            index = Index.build(self.vectors, self.ids, config=config, **unchanged)
            facts = index.store.facts._replace(recall=self.recall, config=config)
            return Index._of(dataclasses.replace(index.store, facts=facts))
        dim = self.store.dim
        if parameters.projection.shape[1] != dim:
            raise ValueError(
                f"projection must be of the {dim} dimensions of the index, got "
                f"{parameters.projection.shape[1]}: were the parameters learned on "
                "another?"
            )
        projection = jnp.asarray(parameters.projection, self.vectors.dtype)
        moved = project_vectors(self.vectors, projection)
        whitening = _compose(self.whitening, projection)
        return Index.build(
            moved, self.ids, config=config, whitening=whitening, **unchanged
        )


def _compose(whitening: Whitening | None, projection: Float[Array, "p d"]) -> Whitening:
    """Composes a whitening and a projection into one whitening."""
    if whitening is None:
        mean = jnp.zeros(projection.shape[1], projection.dtype)
        return Whitening(mean=mean, projection=projection.T)
    product = jnp.matmul(whitening.projection, projection.T, precision="highest")
    return whitening._replace(projection=product)


def _without_order_of_zeros(result: SearchResult) -> SearchResult:
    """Result without images of queries whose scores are all 0; warns the caller.

    No region is similar to such a query, so an order of images would mean nothing.
    """
    scores, images = np.asarray(result.scores), np.asarray(result.images)
    is_empty = (scores == 0).all(axis=1) & (images >= 0).any(axis=1)
    if not is_empty.any():
        return result
    numbers = ", ".join(map(str, np.flatnonzero(is_empty)[:_SHOWN_QUERIES]))
    warnings.warn(
        f"{is_empty.sum()} of {len(is_empty)} queries are near no region of the "
        f"collection and get no answers: {numbers}"
        f"{', ...' if is_empty.sum() > _SHOWN_QUERIES else ''}.",
        stacklevel=3,
    )
    # By device_put: JAX 0.12 compiles a program for each shape given to asarray.
    cleared = np.where(is_empty[:, None], -1, images)
    regions = np.where(is_empty[:, None], -1, np.asarray(result.regions))
    return result._replace(
        images=jax.device_put(cleared.astype(images.dtype)),
        regions=jax.device_put(regions.astype(images.dtype)),
    )


def _warn_of_residuals(
    residual: Float[Array | np.ndarray, " q"], search: SearchConfig
) -> None:
    """Warns the caller of `search` of queries with a large residual."""
    residual = np.asarray(residual)
    # A local solve leaves out, by design, the edges to nodes that it does not reach.
    limit = np.inf if search.local_nodes else search.warn_residual
    # Not "above": NaN must warn, too.
    unsolved = np.flatnonzero(~(residual <= limit))
    if not unsolved.size:
        return
    largest = residual[unsolved].max()
    remedy = f"raise max_steps above {search.max_steps} or lower alpha."
    if not np.isfinite(largest):
        remedy = "look for numbers too large or too small in vectors or settings."
    warnings.warn(
        f"{unsolved.size} of {residual.size} queries are far from solved, the worst "
        f"with relative residual {largest:.2g}: {remedy}",
        stacklevel=3,
    )


def _no_log(_: str) -> None:
    """Log callback that does nothing."""
