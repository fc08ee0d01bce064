"""What smaller vectors lose: `python -m experiments storage_loss`."""

import dataclasses
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from configs import storage_loss as card
from configs.storage_loss import StorageLossConfig
from diffjax.index import IndexConfig, MappedConfig, MappedIndex
from experiments._benchmarks import load_benchmark
from experiments._collections import Collection
from experiments._runner import Findings, make_recorded_run, run_from_command_line

_WHOLE = "whole vectors"
_ALL = 2**20  # Clusters: more than there are.


def measure(
    config: StorageLossConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> Findings:
    """Searches an index on the disk for each way to store vectors.

    Args:
        config: Which codes, on which benchmark.
        workdir: Keeps pictures and indices.
        records: Not used: nothing is drawn.

    Returns:
        What was found.
    """
    del records
    collection = load_benchmark(config, workdir)
    dim = int(collection.index.vectors.shape[1])
    own = IndexConfig(
        k=config.k,
        query_k=config.k,
        neighbors="clusters",
        warn_residual=float("inf"),
    )
    every = MappedConfig(index=own, probes=_ALL, query_probes=_ALL)
    around = dataclasses.replace(own, reach=config.reach)
    near = dataclasses.replace(MappedConfig(), index=around)
    codes = {
        f"codes of {size} bytes": dataclasses.replace(
            every, storage="pq", code_bytes=size
        )
        for size in config.code_bytes
    }
    ways: dict[str, MappedConfig] = {
        _WHOLE: every,
        "half precision": dataclasses.replace(every, storage="float16"),
        **codes,
        f"{_WHOLE}, near clusters, around each query": near,
        "half precision, near clusters, around each query": dataclasses.replace(
            near, storage="float16"
        ),
    }
    entries: list[dict[str, Any]] = []
    reference: tuple[str, np.ndarray] | None = None
    for number, (name, way) in enumerate(ways.items()):
        path = workdir / f"stored-{config.label}-{number}"
        index = MappedIndex.build(
            path,
            np.asarray(collection.index.vectors),
            collection.index.image_ids,
            config=way,
        )
        scores = _scores(index, collection)
        size = index.vectors.rows.nbytes // len(index.vectors.rows)
        entries.append(
            collection.make_entry(
                name,
                scores,
                against=reference,
                vector_bytes=size,
                recall_of_lists=index.recall,
                chosen=f"{size:,} bytes a region",
            )
        )
        reference = reference or (name, collection.precision(scores))
    return Findings(collection, entries, {"dim": dim})


def _scores(index: MappedIndex, collection: Collection) -> Float[Array, "m q"]:
    """Scores of all images; those that are not reached have 0."""
    found = index.search(
        np.asarray(collection.regions), collection.query_ids, top=index.num_images
    )
    scores = np.zeros((index.num_images, len(found.images)), np.float32)
    query, slot = np.nonzero(found.images >= 0)
    scores[found.images[query, slot], query] = found.scores[query, slot]
    return jnp.asarray(scores)


run = make_recorded_run("storage_loss", measure)


def main() -> None:
    """Reads the command line and prints what was found."""
    run_from_command_line("storage_loss", card, run)
