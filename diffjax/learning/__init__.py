"""Stage `learning`: parameters, objectives and fit, by gradient through the chain."""

from ._parameters import PARAMETER_NAMES as PARAMETER_NAMES
from ._parameters import Parameters as Parameters
from ._parameters import check_parameters as check_parameters
from ._parameters import constrain as constrain
from ._parameters import parameters as parameters
from ._parameters import unconstrain as unconstrain
