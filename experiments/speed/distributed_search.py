r"""Search on several machines: `python -m experiments distributed_search`.

Every process runs this same command and reads its share of the rows of the vectors,
which are in one .npy file that all can read, or in several, one after the other; no
process reads other rows into its memory. The first process writes the answers.

Two processes on this machine:

    for rank in 0 1; do
        python -m experiments distributed_search --vectors vectors.npy \
            --queries queries.npy --out answers.npz \
            --address localhost:12355 --count 2 --rank $rank &
    done; wait

On Slurm, Open MPI and TPU slices leave out the last line of options: JAX knows them.
--quick searches a few random vectors with one process.
"""

import dataclasses
import pathlib
import sys
import tempfile

import jax
import numpy as np
import tyro
from jaxtyping import Shaped

from diffjax.caches import enable_compilation_cache
from diffjax.distributed import (
    DistributedResult,
    build_graph,
    is_process_loss,
    process_group,
    process_rows,
    row_mesh,
    search,
    shard_rows,
)


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """Files, settings of the search, and processes."""

    vectors: tuple[pathlib.Path, ...]
    """.npy files [n, d] of the collection, in the order of its rows."""
    queries: pathlib.Path
    """.npy file [r, d] of query vectors."""
    out: pathlib.Path = pathlib.Path("answers.npz")
    """File to which the first process writes images, scores, residuals and steps."""
    query_ids: pathlib.Path | None = None
    """.npy file [r] of the query of each vector; None if each is a query."""
    image_ids: pathlib.Path | None = None
    """.npy file [n] of the image of every row; None if each is an image."""
    top: int = 10
    """Number of images in each answer."""
    k: int = 50
    """Neighbours of every vector, itself included."""
    query_k: int = 50
    """Neighbours of every vector of a query."""
    gamma: float = 3.0
    """Exponent of the kernel."""
    alpha: float = 0.99
    """Share of the score that spreads along edges, in [0, 1)."""
    max_steps: int = 20
    """Most iterations."""
    address: str | None = None
    """Host and port of the first process; None where JAX detects a cluster."""
    count: int | None = None
    """Number of processes."""
    rank: int | None = None
    """Number of this process, from 0."""
    patience: int = 30
    """Seconds without a heartbeat after which a process is lost."""


def run(config: SearchConfig) -> DistributedResult:
    """Searches the files; to be called in all processes, inside `process_group`.

    Args:
        config: Files and settings of the search; the processes are not used.

    Returns:
        The answers, which the first process has written as well.

    Raises:
        ValueError: If files do not go together, or a vector has no direction.
        OSError: If a file can't be read or written.
    """
    mesh = row_mesh()
    files = [_open(path, dimensions=2) for path in config.vectors]
    n, d = sum(map(len, files)), files[0].shape[1]
    if any(file.shape[1] != d for file in files):
        raise ValueError(
            f"vectors must have as many columns in all files, got "
            f"{[file.shape[1] for file in files]}."
        )
    rows = process_rows(n, mesh)
    shard = _unit(_read(files, rows), name="vectors", first=rows.start)
    vectors = shard_rows(shard, n, mesh)
    image_ids, num_images = None, None
    if config.image_ids is not None:
        ids = _open(config.image_ids, dimensions=1)
        if len(ids) != n:
            raise ValueError(f"image_ids must be as many as vectors, {n}: {len(ids)}.")
        num_images = int(ids[-1]) + 1
        image_ids = shard_rows(_read([ids], rows).astype(np.int32), n, mesh)
    graph = build_graph(vectors, n, k=config.k, gamma=config.gamma, mesh=mesh)
    queries = np.asarray(_open(config.queries, dimensions=2))
    query_ids = None
    if config.query_ids is not None:
        query_ids = np.asarray(_open(config.query_ids, dimensions=1), np.int32)
    answers = search(
        *(graph, vectors, n, _unit(queries, name="queries", first=0), query_ids),
        k=config.query_k,
        image_ids=image_ids,
        num_images=num_images,
        top=config.top,
        gamma=config.gamma,
        alpha=config.alpha,
        max_steps=config.max_steps,
        mesh=mesh,
    )
    # In all processes, before the first one writes: errors are raised here.
    jax.block_until_ready(answers)
    if jax.process_index() == 0:
        np.savez(
            config.out,
            images=np.asarray(answers.images),
            scores=np.asarray(answers.scores),
            residual=np.asarray(answers.solution.residual),
            num_steps=np.asarray(answers.solution.num_steps),
        )
    return answers


def _open(path: pathlib.Path, *, dimensions: int) -> Shaped[np.ndarray, "..."]:
    """Maps a file into memory without reading it."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != dimensions or not array.size:
        raise ValueError(
            f"{path} must hold an array of {dimensions} dimensions that is not empty, "
            f"got {list(array.shape)}."
        )
    return array


def _read(files: list[np.ndarray], rows: slice) -> Shaped[np.ndarray, "..."]:
    """Reads rows of several files, numbered one file after the other."""
    blocks, start = [], 0
    for file in files:
        first, last = (
            min(max(end - start, 0), len(file)) for end in (rows.start, rows.stop)
        )
        blocks.append(file[first:last])
        start += len(file)
    return np.concatenate(blocks)


def _unit(vectors, *, name: str, first: int) -> Shaped[np.ndarray, "..."]:
    """Normalises vectors to unit length, in single precision."""
    vectors = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    invalid = np.flatnonzero(~(lengths[:, 0] > 0))
    if invalid.size:
        raise ValueError(
            f"{name} must have a length above 0, got none in row {first + invalid[0]}."
        )
    return vectors / lengths


def main() -> None:
    """Reads the command line, connects, searches and prints a line on the answers."""
    words = sys.argv[1:]
    quick = "--quick" in words
    with tempfile.TemporaryDirectory() as folder:
        if quick:
            words = [word for word in words if word != "--quick"]
            words = [*_write_quick_files(pathlib.Path(folder)), *words]
        config = tyro.cli(
            SearchConfig,
            description=__doc__,
            prog="python -m experiments distributed_search",
            args=words,
        )
        enable_compilation_cache()
        if quick:
            _run_and_report(config)
            return
        processes = process_group(
            config.address, config.count, config.rank, patience=config.patience
        )
        with processes:
            _run_and_report(config)


def _run_and_report(config: SearchConfig) -> None:
    try:
        answers = run(config)
    except (ValueError, OSError) as error:
        if is_process_loss(error):
            raise
        sys.exit(f"error: {error}")
    if jax.process_index() == 0:
        steps = np.asarray(answers.solution.num_steps)
        print(
            f"{len(answers.images)} queries on {jax.device_count()} devices of "
            f"{jax.process_count()} processes, {steps.max(initial=0)} iterations: "
            f"{config.out}"
        )


def _write_quick_files(folder: pathlib.Path) -> list[str]:
    """Draws vectors and queries of a trial; returns the options that name them."""
    vectors = np.random.default_rng(0).standard_normal((64, 8), np.float32)
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "queries.npy", vectors[:3])
    files = {name: str(folder / f"{name}.npy") for name in ("vectors", "queries")}
    options = {**files, "out": str(folder / "answers.npz"), "k": "8", "query-k": "8"}
    return [word for name, value in options.items() for word in (f"--{name}", value)]
