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

from ._usage import check_writable, say

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
    """What the demonstration found.

    Attributes:
        record: Settings and results, as in a record file.
        comparisons: Queries with their answers, most gained first.
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
        workdir: Keeps scenes and index for the next time, apart for each setting.
        config: Settings; None for the defaults.
        progress: Called with what is being done, how much of it, and of how much.

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
        progress=lambda done, of: progress("composing scenes", done, of),
    )
    run = run_benchmark(
        scenes_benchmark(scenes),
        workdir / "index",
        config=config.index,
        descriptor=config.descriptor,
        compare_config=config.compare,
        progress=progress,
    )
    return DemoResult(run.record, _comparisons(scenes, run.scored, config))


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


def _comparisons(
    scenes: SceneCollection, scored: tuple[MethodScores, ...], config: DemoConfig
) -> tuple[Comparison, ...]:
    """Shows queries from where diffusion gains most to where it loses most."""
    shown = [
        one for method in _COMPARED_METHODS for one in scored if one.method == method
    ]
    answers = [
        _MethodAnswers(
            method=one.method,
            rankings=np.asarray(one.rankings),
            scores=np.asarray(one.scores),
            precision=evaluate(
                one.rankings, scenes_benchmark(scenes)
            ).average_precision,
        )
        for one in shown
    ]
    before, after = (each.precision for each in answers)
    order = np.argsort(before - after, kind="stable")
    spread = np.linspace(0, len(order) - 1, min(config.shown, len(order)))
    return tuple(
        _comparison(scenes, int(query), answers, top=config.answers)
        for query in order[spread.round().astype(int)]
    )


class _MethodAnswers(NamedTuple):
    """All answers of one method, on the host."""

    method: str
    rankings: np.ndarray
    scores: np.ndarray
    precision: np.ndarray

    def ranking(self, scenes: SceneCollection, query: int, *, top: int) -> Ranking:
        """Looks up the pictures of the best answers to one query."""
        right = set(scenes.positives[query].tolist())
        answers = []
        for image in self.rankings[:top, query].tolist():
            scene = scenes.database[image]
            found = image in right
            answers.append(
                Answer(
                    picture=read_picture(scenes.folder / "database" / scene.name),
                    name=scene.name,
                    score=float(self.scores[image, query]),
                    correct=found,
                    box=scene.box if found else None,
                )
            )
        return Ranking(self.method, float(self.precision[query]), tuple(answers))


def _comparison(
    scenes: SceneCollection, query: int, answers: list[_MethodAnswers], *, top: int
) -> Comparison:
    asked = scenes.queries[query]
    return Comparison(
        picture=read_picture(scenes.folder / "queries" / asked.name),
        name=asked.name,
        box=asked.box,
        rankings=tuple(each.ranking(scenes, query, top=top) for each in answers),
    )


def demo(*, out: pathlib.Path) -> None:
    """Shows what diffusion finds, on scenes composed here and now."""
    caches.enable_compilation_cache()
    check_writable(out)
    with progress_bars() as progress:
        found = run_demo(caches.cache_folder() / "demo", progress=progress)
        write_demo_page(out, found)
    results = found.record["results"]
    say(text_table(*mean_ap_table(results)))
    say(text_table(*difference_table(results)))
    say(f"{caption(found.record)}")
    say(f"\nThe answers, side by side: {out.resolve().as_uri()}")
