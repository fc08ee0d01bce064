import numpy as np
import pytest

from diffjax.learning._gradient_steps import StepTrace, find_divergence


def trace(**changes) -> StepTrace:
    """Four steps in which nothing is wrong but what is changed."""
    good, bad = np.ones(4, bool), np.zeros(4, bool)
    start = StepTrace(
        loss=np.array([2.0, 1.9, 2.5, 1.5], np.float32),
        gradient_norm=np.ones(4, np.float32),
        learning_rate=np.ones(4, np.float32),
        values={"alpha": np.ones(4, np.float32)},
        batch=np.zeros((4, 2), np.int32),
        finite={"alpha": good, "gamma": good},
        at_range_end={"alpha": bad, "gamma": bad},
    )
    return start._replace(**changes)


def at(step, value, otherwise):
    return np.where(np.arange(4) == step, value, otherwise)


def test_finds_nothing_where_nothing_is_wrong():
    assert find_divergence(trace(), first_loss=2.0) is None


@pytest.mark.parametrize(
    ("changes", "step", "reason"),
    [
        ({"loss": at(1, np.nan, 2.0)}, 1, "the loss of alpha, gamma is nan"),
        ({"loss": at(2, 21.0, 2.0)}, 2, "the loss exploded from 2 to 21"),
        ({"loss": at(2, 19.0, 2.0)}, None, ""),
        (
            {"finite": {"alpha": at(3, False, True), "gamma": at(1, False, True)}},
            1,
            "the gradient of gamma is not finite",
        ),
        (
            {
                "at_range_end": {
                    "alpha": at(0, True, False),
                    "gamma": at(4, True, False),
                }
            },
            0,
            "alpha ran to the end of its range",
        ),
    ],
)
def test_names_the_first_bad_step_and_what_it_was(changes, step, reason):
    got = find_divergence(trace(**changes), first_loss=2.0)
    assert (got.step if got else None) == step
    assert reason in (got.reason if got else "")
