"""Grocery packages: real photographs, five methods side by side.

Paper: none; the figure to meet is the one of the first tries on every fourth query
(256-D, k 50: k-NN 28.4, R-match 33.0, global diffusion 47.6 to 54.3, regional
diffusion 56.1 by sum and 55.7 by GMP), within 2 points.
Data: 864 database and 781 query photographs of 31 classes; positives are of the
query's class, nothing is junk.
Expected: k-NN 30, R-match 34, global diffusion 55, regional diffusion 57 and 56.
Cost: two minutes on 2 cores.
Command: python -m experiments evaluate grocery
"""

from configs.schema import EvaluateConfig, GroceryData


def full() -> EvaluateConfig:
    """The experiment of the README: the defaults of the program."""
    return EvaluateConfig(benchmark=GroceryData())


def quick(data: GroceryData) -> EvaluateConfig:
    """The same on a small folder of the same layout."""
    return EvaluateConfig(benchmark=data)
