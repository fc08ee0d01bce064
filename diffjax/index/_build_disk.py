"""Build of an index on disk, block by block, in phases that can be resumed.

A file's name holds a hash of everything that it depends on, and a file gets it when it
is complete. So an existing file is valid, and a stopped build continues where it was.
"""

import contextlib
import hashlib
import itertools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from diffjax._io import write_atomically
from diffjax.graph import (
    CLUSTER_BLOCK_ROWS,
    ClusterNeighbors,
    Clusters,
    cluster_vectors,
    default_cluster_count,
    find_components,
    mutual_rows,
    refine_neighbors,
    row_blocks,
    search_clusters,
)
from diffjax.images import IndexedPictures
from diffjax.types import check_countable

from ._array_files import (
    RowsFile,
    count_partial_rows,
    lock_folder,
    map_array,
    partial_path,
    release_pages,
    write_array,
)
from ._build import (
    check_code_bytes,
    fit_whitening,
    invert_permutation,
    starts_of_images,
    train_codebooks,
    warn_if_fewer_regions,
)
from ._config import GraphConfig, IndexConfig
from ._ids import NumberedImages, ids_to_arrays
from ._plan import EDGE_ROWS, check_memory_and_disk, plan
from ._prepared_rows import (
    PreparedRows,
    Progress,
    check_and_hash_vectors,
    weigh_regions,
)
from ._store import (
    LOCK,
    MANIFEST,
    Facts,
    IndexFileError,
    check_destination,
    commit,
    fingerprint,
    read_facts,
    read_manifest,
    remove_damaged,
    remove_unnamed,
)
from ._validation import Boxes, VectorRows, check_boxes

# Rows of lists between two syncs to disk; after a stop so many are searched again.
_ROWS_PER_SYNC = 2**16
# Rows per block of an exact neighbour search.
_EXACT_BLOCK_ROWS = 1024
# Vectors on which recall is measured.
_RECALL_SAMPLE = 200
_LIST_TYPES = {"indices": np.int32, "similarities": np.float32}

FilesByName = dict[str, pathlib.Path]


class _Build:
    """State of a build in a folder: settings, progress callback, finished files."""

    def __init__(
        self,
        folder: pathlib.Path,
        rows: PreparedRows,
        image_ids: Int[np.ndarray, " n"],
        graph: GraphConfig,
        progress: Progress,
    ) -> None:
        """Creates the state that all phases share."""
        self.folder, self.rows, self.image_ids = folder, rows, image_ids
        self.graph, self.progress = graph, progress
        self.n = len(image_ids)
        self.k = min(graph.k, self.n)
        self.files: FilesByName = {}

    def path(self, name: str, digest: str) -> pathlib.Path:
        """Path of an array's file."""
        return self.folder / f"{name}-{digest}.npy"

    def map_written(self, name: str) -> np.ndarray:
        """Maps an array that an earlier phase has written."""
        return map_array(self.files[name])

    def write(self, name: str, digest: str, make: Callable[[], np.ndarray]) -> None:
        """Writes an array, unless an earlier run has written its file."""
        self.files[name] = self.path(name, digest)
        if not self.files[name].exists():
            write_array(self.files[name], make())

    @property
    def clusters(self) -> Clusters:
        """Clusters of the vectors, mapped."""
        return Clusters(
            self.map_written("centroids"),
            self.map_written("cluster_starts"),
            self.map_written("order"),
        )


def build_on_disk(
    folder: pathlib.Path,
    vectors: VectorRows,
    images: NumberedImages,
    *,
    config: IndexConfig,
    pictures: IndexedPictures | None = None,
    boxes: Boxes | None = None,
    log: Callable[[str], None],
    progress: Progress,
) -> None:
    """Builds an index in a folder; see `Index.build`."""
    n, dim = vectors.shape
    if n == 0 or dim == 0:
        raise ValueError(f"vectors must be at least one, got {list(vectors.shape)}.")
    if boxes is not None:
        boxes = check_boxes(boxes, rows=n, order=images.region_order)
    check_code_bytes(config.graph, min(config.graph.dim or dim, dim))
    check_destination(folder)
    build_plan = plan(n, dim, given_bytes=vectors.itemsize, config=config)
    for line in build_plan.lines():
        log(line)
    check_memory_and_disk(build_plan, folder, written_bytes=_unfinished_bytes(folder))
    folder.mkdir(parents=True, exist_ok=True)
    facts = Facts(config=config, pictures=pictures)
    with lock_folder(folder, LOCK):
        _build(folder, vectors, images, boxes, facts=facts, progress=progress)


def _build(
    folder: pathlib.Path,
    vectors: VectorRows,
    images: NumberedImages,
    boxes: Float[np.ndarray, "n 4"] | None,
    *,
    facts: Facts,
    progress: Progress,
) -> None:
    """Runs all phases of a build, in a locked folder."""
    n, image_ids = len(vectors), images.image_ids
    graph = facts.config.resolve(n).graph
    checked = check_and_hash_vectors(
        vectors, fit=graph.dim is not None, progress=progress
    )
    given = {"image_ids": image_ids, **ids_to_arrays(images.unique_ids)}
    if boxes is not None:
        given["boxes"] = boxes
    digests = {n: hashlib.sha256(a.tobytes()).hexdigest() for n, a in given.items()}
    source = [checked.digest, *digests.values()]
    facts = facts._replace(source=tuple(source))
    if _is_built(folder, facts):
        return
    warn_if_fewer_regions("k", graph.k, n)
    warn_if_fewer_regions("query_k", facts.config.search.query_k, n)
    whitening = None
    if checked.running_covariance is not None:
        whitening = fit_whitening(checked.running_covariance, graph)
    build = _Build(folder, PreparedRows(vectors, whitening), image_ids, graph, progress)
    # Few vectors keep fewer dimensions than were asked for.
    check_code_bytes(graph, build.rows.dim)
    prepared = fingerprint(
        *source,
        *(graph.dim, graph.whitening, graph.shrinkage, build.k),
        *(graph.method, graph.clusters, graph.seed),
    )
    _write_vectors(build, prepared)
    if graph.pooling == "gmp":
        build.write(
            "weights",
            fingerprint(prepared, graph.lam),
            lambda: weigh_regions(
                build.rows, image_ids, lam=graph.lam, progress=progress
            )[build.map_written("order")],
        )
    for name, array in given.items():
        if name != "image_ids":  # Stored as `image_starts`.
            build.write(name, fingerprint(digests[name]), lambda array=array: array)
    listed = fingerprint(prepared, graph.neighbor_probes)
    _search_neighbors(build, listed)
    _write_graph(build, fingerprint(listed, graph.gamma, graph.bias))
    release_pages(vectors.base)
    if graph.method == "clusters":
        progress("measuring recall", 0, 1)
        share = _measure_recall(build)
        facts = facts._replace(recall=share)
        progress("measuring recall", 1, 1)
    _store_vectors(build, prepared)
    commit(folder, build.files, facts, progress)


def _unfinished_bytes(folder: pathlib.Path) -> int:
    """Bytes that a stopped build has written; 0 if the folder holds an index."""
    if not folder.is_dir() or (folder / MANIFEST).exists():
        return 0
    total = 0
    for path in folder.iterdir():
        # Removed by another running build, which the lock reports later.
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _is_built(folder: pathlib.Path, facts: Facts) -> bool:
    """Whether the folder holds the index of these vectors with these settings.

    If so, files of unfinished builds are removed; damaged files always are.
    """
    remove_damaged(folder)
    try:
        header = read_manifest(folder)
        stored = read_facts(folder, header)
    except IndexFileError:
        return False
    is_same = stored._replace(recall=None) == facts
    if is_same:
        remove_unnamed(folder, header)
    return is_same


def _write_vectors(build: _Build, digest: str) -> None:
    """Writes prepared vectors in the order of the nodes, with order and whitening."""
    whitening = build.rows.whitening
    if whitening is not None:
        for name, array in whitening._asdict().items():
            build.write(name, digest, lambda array=array: np.asarray(array))
    build.write("image_starts", digest, lambda: starts_of_images(build.image_ids))
    if build.graph.method == "clusters":
        _write_clusters(build, digest)
    else:
        build.write("order", digest, lambda: np.arange(build.n, dtype=np.int32))
    build.write(
        "inverse_order", digest, lambda: invert_permutation(build.map_written("order"))
    )
    build.files["vectors"] = build.path("vectors", digest)
    if not build.files["vectors"].exists():
        order = build.map_written("order")
        with RowsFile(build.files["vectors"], np.float32, build.rows.dim) as file:
            for start in range(0, build.n, CLUSTER_BLOCK_ROWS):
                file.append(build.rows(order[start : start + CLUSTER_BLOCK_ROWS]))
                done = min(start + CLUSTER_BLOCK_ROWS, build.n)
                build.progress("writing vectors", done, build.n)


def _write_clusters(build: _Build, digest: str) -> None:
    names = "centroids", "cluster_starts", "order"
    for name in names:
        build.files[name] = build.path(name, digest)
    if all(build.files[name].exists() for name in names):
        return
    count = build.graph.clusters or default_cluster_count(build.n, build.k)
    clusters = cluster_vectors(
        build.rows,
        build.n,
        count=min(count, build.n),
        seed=build.graph.seed,
        progress=lambda done: build.progress("finding clusters", done, build.n),
    )
    write_array(build.files["centroids"], clusters.centroids)
    write_array(build.files["cluster_starts"], clusters.starts.astype(np.int64))
    write_array(build.files["order"], clusters.order.astype(np.int32))


def _search_neighbors(build: _Build, digest: str) -> None:
    """Searches the neighbours of all nodes, and writes their lists block by block."""
    lists = {name: build.path(name, digest) for name in _LIST_TYPES}
    build.files |= lists
    if all(path.exists() for path in lists.values()):
        return
    vectors = build.map_written("vectors")
    journal = build.folder / f"lists-{digest}.json"
    if build.graph.method != "clusters":
        starts = np.append(np.arange(0, build.n, _EXACT_BLOCK_ROWS), build.n)

        def search_blocks(first: int) -> Iterator[ClusterNeighbors]:
            return _search_exactly(vectors, starts[first:], build.k)

        _write_lists(
            *(build, search_blocks, lists, journal),
            starts=starts,
            task="finding neighbours",
        )
        return
    clusters, probes = build.clusters, build.graph.neighbor_probes

    def draft_blocks(first: int) -> Iterator[ClusterNeighbors]:
        return search_clusters(vectors, clusters, build.k, probes=probes, first=first)

    drafts = {"indices": build.path("drafts", digest)}
    if not drafts["indices"].exists():
        drafts_journal = build.folder / f"lists-drafts-{digest}.json"
        starts = clusters.starts
        _write_lists(
            *(build, draft_blocks, drafts, drafts_journal),
            starts=starts,
            task="finding neighbours",
        )
    drafted = map_array(drafts["indices"])

    def refine_blocks(first: int) -> Iterator[ClusterNeighbors]:
        return refine_neighbors(vectors, clusters, drafted, first=first)

    _write_lists(
        *(build, refine_blocks, lists, journal),
        starts=clusters.starts,
        task="refining neighbours",
    )
    drafts["indices"].unlink()


def _search_exactly(
    vectors: Float[np.ndarray, "n p"], starts: Int[np.ndarray, " starts"], k: int
) -> Iterator[ClusterNeighbors]:
    """Searches exact neighbours of all rows, block by block, by faiss."""
    import faiss  # noqa: PLC0415  # Slow to import, and only a build needs it.

    for start, stop in itertools.pairwise(starts):
        queries = np.ascontiguousarray(vectors[start:stop])
        similarities, indices = faiss.knn(
            queries, vectors, k, faiss.METRIC_INNER_PRODUCT
        )
        indices = indices.astype(np.int32)
        nodes = np.arange(start, stop, dtype=np.int32)
        # A vector that duplicates displace from its own list takes the last slot.
        displaced = np.flatnonzero(~(indices == nodes[:, None]).any(axis=1))
        indices[displaced, -1] = nodes[displaced]
        similarities[displaced, -1] = np.einsum(
            "nd,nd->n", queries[displaced], queries[displaced]
        )
        yield ClusterNeighbors(int(start), indices, similarities)


def _write_lists(
    build: _Build,
    search: Callable[[int], Iterator[ClusterNeighbors]],
    files: FilesByName,
    journal: pathlib.Path,
    *,
    starts: Int[np.ndarray, " starts"],
    task: str,
) -> None:
    """Writes the neighbour lists that a search yields, from the first missing block.

    Args:
        build: The build.
        search: Search that begins at a block.
        files: Paths of `indices` and perhaps `similarities`.
        journal: File with the number of rows that are synced to disk.
        starts: Start of each block, and the end.
        task: Name of the phase.
    """
    n = int(starts[-1])
    done = synced = _synced_rows(journal, files)
    with contextlib.ExitStack() as stack:
        writers = {
            name: stack.enter_context(
                RowsFile(path, _LIST_TYPES[name], build.k, rows=done)
            )
            for name, path in files.items()
        }
        for block in search(int(np.searchsorted(starts, done))):
            for name, writer in writers.items():
                writer.append(getattr(block, name))
            done = block.start + len(block.indices)
            if done - synced >= _ROWS_PER_SYNC or done == n:
                for writer in writers.values():
                    writer.sync()
                write_atomically(journal, json.dumps({"rows": done}).encode())
                synced = done
            build.progress(task, done, n)


def _synced_rows(journal: pathlib.Path, files: FilesByName) -> int:
    """Number of rows of all lists that are synced to disk."""
    try:
        rows = int(json.loads(journal.read_bytes())["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # There is no journal, or it is damaged.
    for path in files.values():
        if path.exists():  # Finished, while the other list was not.
            path.replace(partial_path(path))
        if count_partial_rows(path) < rows:
            return 0
    return rows


def _write_graph(build: _Build, digest: str) -> None:
    """Writes S, its degrees and its components; see `affinity` and `normalize`."""
    names = (
        *("graph_columns", "graph_weights", "degrees", "component_labels"),
        *("component_degree_sums", "component_nodes", "component_starts"),
        "graph_starts",
    )
    for name in names:
        build.files[name] = build.path(name, digest)
    if all(build.files[name].exists() for name in names):
        return
    raw = build.path("affinity", digest)
    starts, degrees = _write_affinity(build, raw)
    _normalize_weights(build, map_array(raw), starts, degrees)
    raw.unlink()
    components = find_components(build.map_written("graph_columns"), starts, degrees)
    for name, array in components._asdict().items():
        write_array(build.files[f"component_{name}"], array)
    write_array(build.files["degrees"], degrees)
    is_narrow = starts[-1] <= np.iinfo(np.int32).max
    narrow = starts.astype(np.int32) if is_narrow else starts
    write_array(build.files["graph_starts"], narrow)


def _write_affinity(
    build: _Build, path: pathlib.Path
) -> tuple[Int[np.ndarray, " starts"], Float[np.ndarray, " n"]]:
    """Writes columns and weights of A; returns row starts and degrees.

    Raises:
        ValueError: If there are more edges than JAX is set to count, as soon as there
            are.
    """
    n = build.n
    indices, similarities = (
        build.map_written("indices"),
        build.map_written("similarities"),
    )
    gamma, bias = np.float32(build.graph.gamma), np.float32(build.graph.bias)
    starts, degrees = np.zeros(n + 1, np.int64), np.zeros(n, np.float32)
    with (
        RowsFile(build.files["graph_columns"], np.int32) as columns,
        RowsFile(path, np.float32) as weights,
    ):
        for first in range(0, n, EDGE_ROWS):
            last = min(first + EDGE_ROWS, n)
            mutual = mutual_rows(indices, similarities, first, last)
            is_edge = mutual.similarities > bias
            raised = (mutual.similarities[is_edge] - bias) ** gamma
            rows = np.repeat(np.arange(last - first), mutual.counts)[is_edge]
            counts = np.bincount(rows, minlength=last - first)
            columns.append(mutual.columns[is_edge])
            weights.append(raised)
            starts[first + 1 : last + 1] = starts[first] + np.cumsum(counts)
            check_countable(int(starts[last]))
            degrees[first:last] = np.bincount(rows, raised, minlength=last - first)
            build.progress("mutual edges", last, n)
    return starts, degrees


def _normalize_weights(build: _Build, affinity, starts, degrees) -> None:
    scale = np.zeros_like(degrees)
    np.divide(1, np.sqrt(degrees), out=scale, where=degrees > 0)
    columns = build.map_written("graph_columns")
    with RowsFile(build.files["graph_weights"], np.float32) as weights:
        for edges, first, last in row_blocks(starts):
            row_scale = np.repeat(scale[first:last], np.diff(starts[first : last + 1]))
            # The two scales first, so that both directions of an edge round alike.
            weights.append(affinity[edges] * (row_scale * scale[columns[edges]]))


def _measure_recall(build: _Build) -> float:
    """Recall of the neighbour lists, measured on a sample of the nodes."""
    import faiss  # noqa: PLC0415  # Slow to import, and only a build needs it.

    vectors, similarities = (
        build.map_written("vectors"),
        build.map_written("similarities"),
    )
    n, k = similarities.shape
    generator = np.random.default_rng(build.graph.seed)
    sample = np.sort(generator.choice(n, min(_RECALL_SAMPLE, n), replace=False))
    queries = np.ascontiguousarray(vectors[sample])
    best = np.full((len(sample), 0), -np.inf, np.float32)
    step = max(CLUSTER_BLOCK_ROWS * 4, k)
    for start in range(0, n, step):
        block = np.ascontiguousarray(vectors[start : start + step])
        block_similarities, _ = faiss.knn(
            queries, block, min(k, len(block)), faiss.METRIC_INNER_PRODUCT
        )
        best = -np.sort(-np.concatenate([best, block_similarities], axis=1), axis=1)[
            :, :k
        ]
    # Unit vectors: rounding is that of a product of length 1.
    rounding = np.sqrt(vectors.shape[1]) * np.finfo(np.float32).eps
    return float((similarities[sample] >= best[:, -1:] - rounding).mean())


def _store_vectors(build: _Build, digest: str) -> None:
    """Writes the encoded vectors that a search reads, unless they are float32."""
    graph = build.graph
    if graph.storage == "float32":
        return
    vectors = build.map_written("vectors")
    stored = fingerprint(digest, graph.storage, graph.code_bytes)
    path = build.path("vectors", stored)
    if graph.storage == "float16":
        if not path.exists():
            _write_blocks(path, vectors, lambda block: block.astype(np.float16))
    else:
        build.files["codebooks"] = build.path("codebooks", stored)
        if not (path.exists() and build.files["codebooks"].exists()):
            quantizer, codebooks = train_codebooks(
                vectors,
                build.map_written("inverse_order"),
                code_bytes=graph.code_bytes,
                seed=graph.seed,
            )
            write_array(build.files["codebooks"], codebooks)
            _write_blocks(path, vectors, quantizer.compute_codes)
    build.files["vectors"] = path


def _write_blocks(
    path: pathlib.Path, vectors: Float[np.ndarray, "n p"], encode: Callable[..., Any]
) -> None:
    """Writes vectors block by block, each encoded."""
    encoded = encode(np.ascontiguousarray(vectors[:1]))
    with RowsFile(path, encoded.dtype, encoded.shape[1]) as file:
        for start in range(0, len(vectors), CLUSTER_BLOCK_ROWS):
            block = vectors[start : start + CLUSTER_BLOCK_ROWS]
            file.append(encode(np.ascontiguousarray(block)))
