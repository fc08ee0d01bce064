"""Phases of a build on the disk: each leaves files, and finds those of an earlier run.

A file is named by all that it depends on, and has that name once it is whole. So what
is there is never wrong, and a build that was stopped goes on where it was.
"""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from diffjax._io import write_atomically
from diffjax.graph import (
    CLUSTER_BLOCK_ROWS,
    ClusterNeighbors,
    Clusters,
    cluster_vectors,
    default_cluster_count,
    refine_neighbors,
    search_clusters,
)
from diffjax.types import Whitening

from ._build import fit_whitening
from ._given import Ids, Vectors, row_ids
from ._header import IndexFileError
from ._mapped_config import MappedConfig
from ._mapped_files import (
    RowsFile,
    aside_of,
    give_back,
    hold_folder,
    map_array,
    rows_aside,
    write_array,
)
from ._mapped_graph import GraphFiles, build_graph
from ._mapped_plan import check_room, plan
from ._mapped_recall import measure_recall
from ._mapped_rows import PreparedRows, Progress, check_source, read_all, weigh_regions
from ._mapped_storage import (
    LOCK,
    check_mapped_destination,
    commit,
    facts_of,
    fingerprint,
    read_mapped_header,
    remove_others,
)
from ._mapped_vectors import store_codes, store_halved
from ._storage import MAPPED_JSON

# Lists that may have to be searched for again after a build was stopped.
_KEPT_ROWS = 2**16
_TYPES = {"indices": np.int32, "similarities": np.float32}
_OF_CLUSTERS = "centroids", "starts", "order"

Files = dict[str, pathlib.Path]


def build_mapped(
    folder: pathlib.Path,
    vectors: Vectors,
    image_ids: Ids | None,
    *,
    config: MappedConfig,
    log: Callable[[str], None],
    progress: Progress,
) -> None:
    """Builds an index in a folder; see `MappedIndex.build`."""
    check_source("vectors", vectors)
    vectors = np.asanyarray(vectors)  # Of a device; a mapped one stays as it is.
    n = len(vectors)
    ids = row_ids("image_ids", image_ids, rows=n)
    _check_code(config, min(config.index.dim or vectors.shape[1], vectors.shape[1]))
    check_mapped_destination(folder)
    found = plan(n, vectors.shape[1], given_bytes=vectors.dtype.itemsize, config=config)
    for line in found.lines():
        log(line)
    check_room(found, folder, there=_written(folder))
    folder.mkdir(parents=True, exist_ok=True)
    with hold_folder(folder, LOCK):
        _build(folder, vectors, ids, config=config, progress=progress)


def _build(
    folder: pathlib.Path,
    vectors: Vectors,
    ids: Int[np.ndarray, " n"],
    *,
    config: MappedConfig,
    progress: Progress,
) -> None:
    """Goes through the phases, in a folder that no other build is in."""
    n, settings = len(vectors), config.index
    checked = read_all(vectors, fit=settings.dim is not None, progress=progress)
    source = [checked.digest, hashlib.sha256(ids.tobytes()).hexdigest()]
    if _is_built(folder, source, config):
        return
    prepared = fingerprint(
        *source,
        *(settings.dim, settings.whitening, settings.shrinkage, min(settings.k, n)),
        *(config.clusters, config.seed),
    )
    whitening = None
    if checked.running_covariance is not None:
        whitening = fit_whitening(checked.running_covariance, settings)
    rows = PreparedRows(vectors, whitening)
    # Few vectors keep fewer dimensions than were asked for.
    _check_code(config, rows.dim, " that the whitening of these vectors keeps")
    files = _prepare(folder, prepared, rows, ids, config=config, progress=progress)
    if settings.pooling == "gmp":
        path = folder / f"weights-{fingerprint(prepared, settings.lam)}.npy"
        if not path.exists():
            own = weigh_regions(rows, ids, lam=settings.lam, progress=progress)
            write_array(path, own[map_array(files["order"])])
        files["weights"] = path
    listed = fingerprint(prepared, config.probes)
    _search(folder, listed, files, config=config, progress=progress)
    graph = fingerprint(listed, settings.gamma, settings.bias)
    _graph(folder, graph, files, config=config, progress=progress)
    give_back(vectors)
    progress("measuring recall", 0, 1)
    recall = measure_recall(
        map_array(files["vectors"]), map_array(files["similarities"]), seed=config.seed
    )
    facts = {
        "source": source,
        "config": facts_of(config),
        "regions": n,
        "images": int(ids[-1]) + 1,
        "dim": rows.dim,
        "k": min(settings.k, n),
        "recall": recall,
        "clusters": len(map_array(files["centroids"])),
        "edges": int(map_array(files["bounds"])[-1]),
        "max_degree": int(np.diff(map_array(files["bounds"])).max(initial=0)),
    }
    progress("measuring recall", 1, 1)
    _store(folder, prepared, files, config=config)
    commit(folder, files, facts, progress)


def _written(folder: pathlib.Path) -> int:
    """Bytes of a build that was stopped; an index that is whole stays until the end."""
    if not folder.is_dir() or (folder / MAPPED_JSON).exists():
        return 0
    total = 0
    for path in folder.iterdir():
        # Gone since: another build is running, which is noticed later.
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _is_built(folder: pathlib.Path, source: list[str], config: MappedConfig) -> bool:
    """Whether the folder holds the index of these vectors with these settings.

    If so, what else builds have left there goes away.
    """
    try:
        header = read_mapped_header(folder)
    except IndexFileError:
        return False
    same = (header.get("source"), header["config"]) == (source, facts_of(config))
    if same:
        remove_others(folder, header)
    return same


def _check_code(config: MappedConfig, dim: int, which: str = "") -> None:
    if config.storage == "pq" and dim % config.code_bytes:
        raise ValueError(
            f"code_bytes must divide the {dim} dimensions{which}, got "
            f"{config.code_bytes}."
        )


def _prepare(
    folder: pathlib.Path,
    name: str,
    rows: PreparedRows,
    ids: Int[np.ndarray, " n"],
    *,
    config: MappedConfig,
    progress: Progress,
) -> Files:
    """Clusters the vectors and writes them in the order of the clusters."""
    roles = ["vectors", "order", "image_ids", "starts", "centroids"]
    roles += ["image_starts", "places"]
    roles += ["mean", "projection"] if rows.whitening is not None else []
    files = {role: folder / f"{role}-{name}.npy" for role in roles}
    n = len(ids)
    if not files["order"].exists():
        count = min(
            config.clusters or default_cluster_count(n, min(config.index.k, n)), n
        )
        found = cluster_vectors(
            rows,
            n,
            count=count,
            seed=config.seed,
            progress=lambda done: progress("finding clusters", done, n),
        )
        if rows.whitening is not None:
            for role, part in rows.whitening._asdict().items():
                write_array(files[role], np.asarray(part))
        write_array(files["starts"], found.starts.astype(np.int64))
        write_array(files["centroids"], found.centroids)
        write_array(files["image_ids"], ids[found.order])
        ends = np.cumsum(np.bincount(ids))
        write_array(files["image_starts"], np.append(0, ends).astype(np.int32))
        places = np.empty(n, np.int32)
        places[found.order] = np.arange(n, dtype=np.int32)
        write_array(files["places"], places)
        write_array(files["order"], found.order)
    if not files["vectors"].exists():
        order = map_array(files["order"])
        with RowsFile(files["vectors"], np.float32, rows.dim) as file:
            for start in range(0, n, CLUSTER_BLOCK_ROWS):
                file.append(rows(order[start : start + CLUSTER_BLOCK_ROWS]))
                progress("writing vectors", min(start + CLUSTER_BLOCK_ROWS, n), n)
    return files


def read_clusters(arrays: dict[str, np.ndarray]) -> Clusters:
    """Puts the clusters of an index together."""
    return Clusters(*(arrays[name] for name in _OF_CLUSTERS))


def _search(
    folder: pathlib.Path,
    name: str,
    files: Files,
    *,
    config: MappedConfig,
    progress: Progress,
) -> None:
    """Searches the neighbours of one cluster after the other, then those of theirs."""
    own = {role: folder / f"{role}-{name}.npy" for role in ("indices", "similarities")}
    files |= own
    if all(path.exists() for path in own.values()):
        return
    vectors = map_array(files["vectors"])
    clusters = read_clusters({role: map_array(files[role]) for role in _OF_CLUSTERS})
    k = min(config.index.k, len(vectors))

    def draft(first):
        return search_clusters(vectors, clusters, k, probes=config.probes, first=first)

    drafts = {"indices": folder / f"drafts-{name}.npy"}
    if not drafts["indices"].exists():
        _write_lists(
            draft,
            drafts,
            folder / f"lists-drafts-{name}.json",
            starts=clusters.starts,
            k=k,
            progress=lambda done, of: progress("finding neighbours", done, of),
        )
    lists = map_array(drafts["indices"])

    def refine(first):
        return refine_neighbors(vectors, clusters, lists, first=first)

    _write_lists(
        refine,
        own,
        folder / f"lists-{name}.json",
        starts=clusters.starts,
        k=k,
        progress=lambda done, of: progress("refining neighbours", done, of),
    )
    drafts["indices"].unlink()


def _write_lists(
    search: Callable[[int], Iterator[ClusterNeighbors]],
    files: Files,
    journal: pathlib.Path,
    *,
    starts: Int[np.ndarray, " starts"],
    k: int,
    progress: Callable[[int, int], None],
) -> None:
    """Writes what a search finds, from the cluster on where an earlier run was.

    Args:
        search: Begins at a cluster.
        files: Where `indices` and perhaps `similarities` go.
        journal: Says how many rows are on the disk for good.
        starts: Where each cluster starts.
        k: Neighbours of each vector.
        progress: Progress.
    """
    n = int(starts[-1])
    done = kept = _kept_rows(journal, files)
    with contextlib.ExitStack() as stack:
        writers = {
            role: stack.enter_context(RowsFile(path, _TYPES[role], k, rows=done))
            for role, path in files.items()
        }
        for found in search(int(np.searchsorted(starts, done))):
            for role, writer in writers.items():
                writer.append(getattr(found, role))
            done = found.start + len(found.indices)
            if done - kept >= _KEPT_ROWS or done == n:
                for writer in writers.values():
                    writer.sync()
                write_atomically(journal, json.dumps({"rows": done}).encode())
                kept = done
            progress(done, n)


def _kept_rows(journal: pathlib.Path, files: Files) -> int:
    """Rows of all lists that are on the disk for good."""
    try:
        rows = int(json.loads(journal.read_bytes())["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # There is no journal, or it says nothing.
    for path in files.values():
        if path.exists():  # Finished, while the other list was not.
            path.replace(aside_of(path))
        if rows_aside(path) < rows:
            return 0
    return rows


def _graph(
    folder: pathlib.Path,
    name: str,
    files: Files,
    *,
    config: MappedConfig,
    progress: Progress,
) -> None:
    own = GraphFiles(*(folder / f"{r}-{name}.npy" for r in GraphFiles._fields))
    if not own.bounds.exists():
        build_graph(
            map_array(files["indices"]),
            map_array(files["similarities"]),
            own,
            gamma=config.index.gamma,
            bias=config.index.bias,
            progress=progress,
        )
    files |= own._asdict()


def _store(
    folder: pathlib.Path, name: str, files: Files, *, config: MappedConfig
) -> None:
    """Writes the vectors that a search reads; whole ones are not needed any more."""
    if config.storage == "float32":
        return
    vectors = map_array(files["vectors"])
    if config.storage == "float16":
        path = folder / f"halved-{name}.npy"
        if not path.exists():
            store_halved(path, vectors)
        files["halved"] = path
    else:
        own = fingerprint(name, config.code_bytes)
        files["codes"] = folder / f"codes-{own}.npy"
        files["codebooks"] = folder / f"codebooks-{own}.npy"
        if not files["codes"].exists():
            store_codes(
                files["codes"],
                files["codebooks"],
                vectors,
                code_bytes=config.code_bytes,
                seed=config.seed,
            )
    del files["vectors"]


def whitening_of_arrays(arrays: dict[str, Any]) -> Whitening | None:
    """The whitening of an index, if it has one."""
    if "mean" not in arrays:
        return None
    return Whitening(*(jnp.asarray(arrays[name]) for name in Whitening._fields))
