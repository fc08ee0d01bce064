"""Stage `learning`: parameters, objectives and fit, by gradient through the chain."""

from ._objectives import OBJECTIVES as OBJECTIVES
from ._objectives import Objective as Objective
from ._objectives import smooth_average_precision as smooth_average_precision
from ._parameters import PARAMETER_NAMES as PARAMETER_NAMES
from ._parameters import Parameters as Parameters
from ._parameters import check_parameters as check_parameters
from ._parameters import constrain as constrain
from ._parameters import parameters as parameters
from ._parameters import unconstrain as unconstrain
from ._problem import Problem as Problem
from ._problem import Queries as Queries
from ._problem import View as View
from ._problem import problem as problem
from ._problem import project as project
from ._problem import refresh as refresh
from ._rax_losses import listwise_softmax as listwise_softmax
from ._rax_losses import pairwise_hinge as pairwise_hinge
from ._scores import score_images as score_images
