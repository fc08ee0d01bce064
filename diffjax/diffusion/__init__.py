"""Stage `diffusion`: the operator, conjugate gradient and query vectors."""

from ._cg import CGSolution as CGSolution
from ._cg import cg_solve as cg_solve
from ._diffuse import SolverName as SolverName
from ._diffuse import diffuse as diffuse
from ._operator import multiply as multiply
from ._query import Rule as Rule
from ._query import query_vectors as query_vectors
