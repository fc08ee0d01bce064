import threading
import time

import numpy as np
import pytest
from recorder import Recorder

from diffjax.features import describe_pictures

SIDE = 64


class Watched(list):
    """Sources that remember how far they have been handed out."""

    furthest = -1

    def __iter__(self):
        for self.furthest, source in enumerate(super().__iter__()):
            yield source


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_few_batches_are_read_ahead_and_no_more(at_once):
    sources = Watched([np.zeros((64, 64, 3), np.uint8)] * 500)
    stream = describe_pictures(
        sources, Recorder(), sides=(SIDE,), batch_size=4, at_once=at_once, workers=2
    )
    ahead = [
        sources.furthest - given for given, _ in zip(range(40), stream, strict=False)
    ]
    stream.close()
    # What is given out, the batches under way and one that waits, 4 pictures ahead and
    # one for each of two threads that read.
    assert max(ahead) <= 4 * (at_once + 1) + 4 + 2


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_as_many_batches_run_side_by_side_as_asked(at_once):
    recorder = Recorder()
    together = threading.Barrier(at_once, timeout=60)

    def describe(scales, regions):
        together.wait()  # In vain, if fewer ran.
        return recorder(scales, regions)

    # A number of batches that all the threads divide.
    few = [np.zeros((60, 60, 3), np.uint8)] * 6
    results = list(
        describe_pictures(few, describe, sides=(SIDE,), batch_size=1, at_once=at_once)
    )
    assert [r.position for r in results] == list(range(6))


def test_no_more_batches_run_than_asked():
    pictures = [np.zeros((60, 60, 3), np.uint8)] * 23
    running, most = [], []

    def describe(scales, regions):
        running.append(None)
        most.append(len(running))
        found = Recorder()(scales, regions)
        time.sleep(0.01)  # Long enough that others would be seen.
        running.pop()
        return found

    stream = describe_pictures(pictures, describe, sides=(SIDE,), batch_size=1)
    assert len(list(stream)) == 23
    assert max(most) == 1


def test_the_next_batch_is_gathered_while_one_is_computed():
    sources = Watched([np.zeros((64, 64, 3), np.uint8)] * 12)

    def describe(scales, regions):
        # In vain, if the stream waited for this batch of two before it went on.
        end = time.monotonic() + 60
        while sources.furthest < 6:
            assert time.monotonic() < end
            time.sleep(0.001)
        return Recorder()(scales, regions)

    stream = describe_pictures(
        sources, describe, sides=(SIDE,), batch_size=2, workers=1
    )
    assert len(list(stream)) == 12
