import dataclasses

import pytest

from diffjax.cli._demo import DemoConfig, run_demo, write_demo_page
from diffjax.datasets import ScenesConfig
from diffjax.index import CompareConfig

SMALL = DemoConfig(
    scenes=ScenesConfig(
        objects=3, scenes_per_object=3, empty_scenes=2, queries_per_object=1
    ),
    compare=CompareConfig(global_k=3, global_query_k=2, resamples=50),
    answers=4,
    shown=2,
)

pytestmark = pytest.mark.filterwarnings("ignore:.* is more than")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


def test_five_methods_answer_and_a_second_run_repeats_them_from_what_is_there(workdir):
    progress_names: list[str] = []
    first = run_demo(
        workdir, config=SMALL, progress=lambda *step: progress_names.append(step[0])
    )
    assert {"composing scenes", "describing pictures"} <= set(progress_names)
    results = first.record["results"]
    assert len(results) == 5
    for result in results:
        assert 0 <= result["low"] <= result["mean_ap"] <= result["high"] <= 1
    assert len(first.comparisons) == 2
    assert [len(r.answers) for r in first.comparisons[0].rankings] == [4, 4]
    progress_names.clear()
    again = run_demo(
        workdir, config=SMALL, progress=lambda *step: progress_names.append(step[0])
    )
    assert again.record["results"] == results
    assert not {"composing scenes", "describing pictures"} & set(progress_names)

    page = workdir / "page.html"
    write_demo_page(page, first)
    text = page.read_text()
    for result in results:
        assert result["method"] in text
    assert "https://" not in text.replace("https://www.w3.org", "")


@pytest.mark.full
def test_other_scenes_have_a_place_of_their_own(workdir):
    other = dataclasses.replace(SMALL.scenes, seed=1)
    run_demo(workdir, config=dataclasses.replace(SMALL, scenes=other))
    run_demo(workdir, config=SMALL)
    assert len([p for p in workdir.iterdir() if p.is_dir()]) == 2
