"""When learning has gone wrong, in which step and by which parameter."""

from typing import NamedTuple

import numpy as np

from ._steps import Trace

# A loss so many times the first, or so many if that is below 1, has exploded.
_EXPLODED = 10.0


class Trouble(NamedTuple):
    """What went wrong.

    Attributes:
        step: In which of the steps that were looked at.
        what: What it was, naming the parameter.
    """

    step: int
    what: str


def find_trouble(trace: Trace, *, first_loss: float) -> Trouble | None:
    """Looks for the first step that can not be gone on from.

    Args:
        trace: What was noted of some steps, on the host.
        first_loss: Loss of the first step of all.

    Returns:
        What was found, None if nothing.
    """
    bound = _EXPLODED * max(abs(first_loss), 1.0)
    for step, loss in enumerate(trace.loss):
        bad = [name for name, finite in trace.finite.items() if not finite[step]]
        ends = [name for name, flags in trace.at_end.items() if flags[step]]
        if bad:
            return Trouble(step, f"the gradient of {', '.join(bad)} is not finite")
        if not np.isfinite(loss):
            return Trouble(step, f"the loss of {', '.join(trace.finite)} is {loss}")
        if loss > bound:
            return Trouble(step, f"the loss exploded from {first_loss:.3g} to {loss}")
        if ends:
            return Trouble(step, f"{', '.join(ends)} ran to the end of its range")
    return None
