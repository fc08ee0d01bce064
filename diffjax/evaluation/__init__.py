"""Stage `evaluation`: average precision and intervals over queries."""

from ._bootstrap import Interval as Interval
from ._bootstrap import bootstrap_interval as bootstrap_interval
from ._bootstrap import paired_bootstrap as paired_bootstrap
from ._precision import Report as Report
from ._precision import Truth as Truth
from ._precision import average_precision as average_precision
from ._precision import evaluate as evaluate
