import time

import jax
import jax.numpy as jnp
import pytest

from diffjax import timing
from diffjax.timing import stopwatch


def test_steps_follow_each_other_from_the_start_of_the_process():
    before = time.perf_counter() - timing._PROCESS_START
    with stopwatch() as watch:
        watch.step("one")
        watch.step("two")
    after = time.perf_counter() - timing._PROCESS_START
    *steps, total = watch.steps
    assert [step.name for step in steps] == ["Python", "imports", "one", "two"]
    assert total.name == "in all"
    assert total.seconds == pytest.approx(sum(step.seconds for step in steps))
    assert before <= total.seconds <= after


def test_programs_are_counted_in_the_step_that_needs_them():
    x = jax.block_until_ready(jnp.arange(7.0))
    double = jax.jit(lambda x: 2 * x)
    with stopwatch() as watch:
        double(x)
        watch.step("first")
        double(x)
        watch.step("again")
    double = jax.jit(lambda x: 3 * x)
    double(x)  # No longer measured.
    *_, first, again, total = watch.steps
    assert first.compiled + first.cached == 1
    assert 0 < first.programs <= first.seconds
    assert (again.compiled, again.cached, again.programs) == (0, 0, 0)
    assert total.compiled + total.cached == 1


def test_cache_hits_are_not_compilations():
    with stopwatch() as watch:
        for event in (timing._CACHE_HIT_EVENT, "/another/event"):
            watch.on_event(event)
        for event in (
            timing._TRACE_EVENT,
            timing._LOWER_EVENT,
            *[timing._COMPILE_EVENT] * 3,
        ):
            watch.on_duration_event(event, 0.0)
        watch.step("all")
    *_, step, _ = watch.steps
    assert (step.compiled, step.cached) == (2, 1)


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([], 0),
        ([(1, 2), (4, 7)], 4),
        ([(3, 4), (1, 6), (5, 6)], 5),  # Traces inside a trace, which ends last.
        ([(1, 4), (2, 6)], 5),
    ],
)
def test_overlapping_spans_count_once(spans, seconds):
    assert timing._union_duration(spans) == seconds
