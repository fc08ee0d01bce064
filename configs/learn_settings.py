"""Learning alpha, gamma and lambda: by gradient, and by searches of equal cost.

Paper: nothing is learned; its parameters are alpha 0.99, gamma 3 and lambda 1.
Data: any benchmark at hand with four objects or more.
Protocol: as for `learn`. Grid and random choose on the held-out objects, as the
gradient does, and try as many settings as its solves pay for; random ones are drawn
anew for every split.
Recorded: as for `learn`.
Cost: ten minutes on 2 cores for grocery.
Command: python -m experiments learn_settings --benchmark grocery
"""

import dataclasses

from configs import learn
from configs.learn import LearnConfig

_WAYS = "defaults", "grid", "random", "gradient", "gradient, five parameters"


def full() -> LearnConfig:
    """The experiment of the records."""
    return LearnConfig(ways=_WAYS)


def quick() -> LearnConfig:
    """Few scenes, steps and splits, in seconds."""
    return dataclasses.replace(learn.quick(), ways=_WAYS)
