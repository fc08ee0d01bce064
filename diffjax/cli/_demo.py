"""Command `diffjax demo`: diffusion compared with other methods on composed scenes."""

import dataclasses
import hashlib
import pathlib
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np

from diffjax import caches
from diffjax.datasets import (
    SceneCollection,
    ScenesConfig,
    compose_scenes,
    scenes_benchmark,
)
from diffjax.evaluation import evaluate
from diffjax.images import DescriptorConfig, read_picture
from diffjax.index import (
    CompareConfig,
    IndexConfig,
    MethodScores,
    pictures_config,
    run_benchmark,
)
from diffjax.progress import Progress, no_progress, progress_bars
from diffjax.report import (
    Answer,
    Comparison,
    Ranking,
    caption,
    difference_table,
    mean_ap_table,
    text_table,
    write_page,
)

from ._console import check_writable, say

_INTRO = (
    "Every query is the object in the box. The collection shows it elsewhere: small, "
    "turned, lit otherwise, partly covered, on clutter that is different in every "
    "picture. Nothing was trained on these pictures."
)
_COMPARED_METHODS = "global k-NN", "regional diffusion, GMP"


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """Settings of the demonstration."""

    scenes: ScenesConfig = dataclasses.field(default_factory=ScenesConfig)
    descriptor: DescriptorConfig = dataclasses.field(default_factory=DescriptorConfig)
    index: IndexConfig = dataclasses.field(default_factory=pictures_config)
    # The baseline at its best on these scenes, which show each object twelve times.
    compare: CompareConfig = dataclasses.field(
        default_factory=lambda: CompareConfig(global_k=10, global_query_k=3)
    )
    answers: int = 10
    """Answers shown per query and method on the page."""
    shown: int = 40
    """Queries shown on the page, spread over the gain of diffusion."""


class DemoResult(NamedTuple):
    """Record of a demonstration, and its queries with their answers.

    Attributes:
        record: Settings and results, as in a record file.
        comparisons: Queries with their answers, largest gain of diffusion first.
    """

    record: dict[str, Any]
    comparisons: tuple[Comparison, ...]


def run_demo(
    workdir: pathlib.Path,
    *,
    config: DemoConfig | None = None,
    progress: Progress | None = None,
) -> DemoResult:
    """Composes the scenes, indexes them and answers all queries by five methods.

    Args:
        workdir: Folder of scenes and index, one subfolder per setting, for later runs.
        config: Settings; None for the defaults.
        progress: Called with the task, how much of it is done, and of how much.

    Returns:
        The record and the pictures of the answers.
    """
    config = config or DemoConfig()
    progress = progress or no_progress
    # Scenes of other settings, or of another version, are another collection.
    settings = repr((version("diffjax"), config.scenes)).encode()
    workdir = workdir / hashlib.sha256(settings).hexdigest()[:12]
    scenes = compose_scenes(
        workdir / "scenes",
        config=config.scenes,
        progress=lambda done, total: progress("composing scenes", done, total),
    )
    run = run_benchmark(
        scenes_benchmark(scenes),
        workdir / "index",
        config=config.index,
        descriptor=config.descriptor,
        compare_config=config.compare,
        progress=progress,
    )
    return DemoResult(run.record, _select_comparisons(scenes, run.scored, config))


def write_demo_page(path: pathlib.Path, demo: DemoResult) -> None:
    """Writes the table and the answers as one self-contained HTML page."""
    results = demo.record["results"]
    write_page(
        path,
        title="diffjax: small objects found by diffusion",
        intro=_INTRO,
        summary=[mean_ap_table(results), difference_table(results)],
        comparisons=demo.comparisons,
    )


def _select_comparisons(
    scenes: SceneCollection, scored: tuple[MethodScores, ...], config: DemoConfig
) -> tuple[Comparison, ...]:
    """Selects queries, from the largest gain of diffusion to its largest loss."""
    compared = [
        scores
        for name in _COMPARED_METHODS
        for scores in scored
        if scores.method == name
    ]
    answers = [
        _MethodAnswers(
            method=method.method,
            rankings=np.asarray(method.rankings),
            scores=np.asarray(method.scores),
            precision=evaluate(
                method.rankings, scenes_benchmark(scenes)
            ).average_precision,
        )
        for method in compared
    ]
    baseline_precision, diffusion_precision = (
        method_answers.precision for method_answers in answers
    )
    order = np.argsort(baseline_precision - diffusion_precision, kind="stable")
    positions = np.linspace(0, len(order) - 1, min(config.shown, len(order)))
    return tuple(
        _make_comparison(scenes, int(query), answers, top=config.answers)
        for query in order[positions.round().astype(int)]
    )


class _MethodAnswers(NamedTuple):
    """Rankings, scores and precision of one method for all queries, on the host."""

    method: str
    rankings: np.ndarray
    scores: np.ndarray
    precision: np.ndarray

    def ranking(self, scenes: SceneCollection, query: int, *, top: int) -> Ranking:
        """Looks up the pictures of the best answers to one query."""
        positives = set(scenes.positives[query].tolist())
        answers = []
        for image in self.rankings[:top, query].tolist():
            scene = scenes.database[image]
            is_correct = image in positives
            answers.append(
                Answer(
                    picture=read_picture(scenes.folder / "database" / scene.name),
                    name=scene.name,
                    score=float(self.scores[image, query]),
                    correct=is_correct,
                    box=scene.box if is_correct else None,
                )
            )
        return Ranking(self.method, float(self.precision[query]), tuple(answers))


def _make_comparison(
    scenes: SceneCollection, query: int, answers: list[_MethodAnswers], *, top: int
) -> Comparison:
    query_scene = scenes.queries[query]
    return Comparison(
        picture=read_picture(scenes.folder / "queries" / query_scene.name),
        name=query_scene.name,
        box=query_scene.box,
        rankings=tuple(
            method_answers.ranking(scenes, query, top=top) for method_answers in answers
        ),
    )


def demo(*, out: pathlib.Path) -> None:
    """Runs the demonstration, prints its tables and writes its page."""
    caches.enable_compilation_cache()
    check_writable(out)
    with progress_bars() as progress:
        result = run_demo(caches.cache_folder() / "demo", progress=progress)
        write_demo_page(out, result)
    results = result.record["results"]
    say(text_table(*mean_ap_table(results)))
    say(text_table(*difference_table(results)))
    say(f"{caption(result.record)}")
    say(f"\nThe answers, side by side: {out.resolve().as_uri()}")
