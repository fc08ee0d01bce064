"""Loss of mAP by stored vectors: `python -m experiments storage_loss`."""

import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from configs import storage_loss as card
from configs.storage_loss import StorageLossConfig
from diffjax.index import GraphConfig, Index, IndexConfig
from experiments._benchmarks import load_benchmark
from experiments._collections import Collection
from experiments._entries import Baseline
from experiments._runner import Findings, make_recorded_run, run_from_command_line

_WHOLE = "whole vectors"
_ALL = 2**20  # More clusters than any index has.


def measure(
    config: StorageLossConfig, workdir: pathlib.Path, *, records: pathlib.Path
) -> Findings:
    """Searches an index on disk with each storage of vectors.

    Args:
        config: Lengths of codes, and the benchmark.
        workdir: Caches pictures and indexes.
        records: Not used: nothing is drawn.

    Returns:
        The findings.
    """
    del records
    collection = load_benchmark(config, workdir)
    dim = int(collection.index.vectors.shape[1])
    every = IndexConfig.of(
        k=config.k,
        query_k=config.k,
        method="clusters",
        neighbor_probes=_ALL,
        probes=_ALL,
        warn_residual=float("inf"),
    )
    near = every.replace(
        neighbor_probes=GraphConfig().neighbor_probes,
        probes=64,
        local_nodes=config.reach,
    )
    codes = {
        f"codes of {size} bytes": every.replace(storage="pq", code_bytes=size)
        for size in config.code_bytes
    }
    settings: dict[str, IndexConfig] = {
        _WHOLE: every,
        "half precision": every.replace(storage="float16"),
        **codes,
        f"{_WHOLE}, near clusters, around each query": near,
        "half precision, near clusters, around each query": near.replace(
            storage="float16"
        ),
    }
    entries: list[dict[str, Any]] = []
    baseline: list[Baseline] = []
    for number, (name, stored) in enumerate(settings.items()):
        path = workdir / f"stored-{config.label}-{number}"
        index = Index.build(
            np.asarray(collection.index.vectors),
            collection.index.image_ids,
            config=stored,
            path=path,
        )
        scores = _scores(index, collection)
        size = index.store.arrays["vectors"].nbytes // index.num_regions
        entries.append(
            collection.make_entry(
                name,
                scores,
                against=baseline,
                vector_bytes=size,
                recall_of_lists=index.recall,
                chosen=f"{size:,} bytes a region",
            )
        )
        baseline = baseline or [(name, collection.precision(scores))]
    return Findings(collection, entries, {"dim": dim})


def _scores(index: Index, collection: Collection) -> Float[Array, "m q"]:
    """Scores all images, 0 for those outside the local solve."""
    answers = index.search(
        np.asarray(collection.regions), collection.query_ids, top=index.num_images
    )
    images, image_scores = np.asarray(answers.images), np.asarray(answers.scores)
    scores = np.zeros((index.num_images, len(images)), np.float32)
    query, slot = np.nonzero(images >= 0)
    scores[images[query, slot], query] = image_scores[query, slot]
    return jnp.asarray(scores)


run = make_recorded_run("storage_loss", measure)


def main() -> None:
    """Reads the command line, searches and records."""
    run_from_command_line("storage_loss", card, run)
