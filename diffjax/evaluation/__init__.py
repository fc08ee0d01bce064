"""Stage `evaluation`: how good rankings are, intervals and tests over queries."""

from ._bootstrap import Interval as Interval
from ._bootstrap import bootstrap_interval as bootstrap_interval
from ._bootstrap import paired_bootstrap as paired_bootstrap
from ._cutoffs import CutoffReport as CutoffReport
from ._cutoffs import evaluate_cutoffs as evaluate_cutoffs
from ._cutoffs import precision_at as precision_at
from ._cutoffs import recall_at as recall_at
from ._paired import paired_test as paired_test
from ._precision import Report as Report
from ._precision import average_precision as average_precision
from ._precision import evaluate as evaluate
from ._ties import evaluate_scores as evaluate_scores
from ._ties import expected_average_precision as expected_average_precision
from ._ties import random_average_precision as random_average_precision
from ._truth import Truth as Truth
