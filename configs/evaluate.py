"""Five methods side by side on composed scenes or on grocery packages.

Paper: neither collection is in it. On scenes its order is the finding to meet, regional
diffusion above R-match and global diffusion, these above global k-NN (table 2). On
grocery the figure to meet is that of the first tries on every fourth query (256-D, k
50: k-NN 28.4, R-match 33.0, global diffusion 47.6 to 54.3, regional diffusion 56.1 by
sum and 55.7 by GMP), within 2 points.
Data: scenes are composed by the program from photographs inside scikit-image, see
`ScenesConfig`. Grocery has 864 database and 781 query photographs of 31 classes;
positives are of the query's class, nothing is junk.
Recorded: mAP of each method with intervals and paired differences.
Expected: scenes k-NN 61, R-match 70, global diffusion 71, regional diffusion 86;
grocery k-NN 30, R-match 34, global diffusion 55, regional diffusion 57 and 56.
Cost: a minute and a half on 2 cores for scenes, two minutes for grocery; seconds the
next time.
Command: python -m experiments evaluate scenes
         python -m experiments evaluate grocery
"""

from configs.schema import (
    EvaluateConfig,
    GroceryData,
    PicturesConfig,
    ScenesData,
    few_scenes,
)
from diffjax.cli import DemoConfig


def full() -> dict[str, EvaluateConfig]:
    """Both collections: what `diffjax demo` runs, and the program's defaults."""
    demo = DemoConfig()
    return {
        "scenes": EvaluateConfig(
            benchmark=ScenesData(demo.scenes),
            folder=PicturesConfig(demo.descriptor, demo.index),
            compare=demo.compare,
        ),
        "grocery": EvaluateConfig(benchmark=GroceryData()),
    }


def quick() -> EvaluateConfig:
    """A few scenes, in seconds."""
    return EvaluateConfig(
        benchmark=ScenesData(few_scenes()), compare=DemoConfig().compare
    )
