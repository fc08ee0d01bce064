"""Stage `diffusion`: the operator, the solvers and query vectors."""

from ._cg import CGSolution as CGSolution
from ._cg import cg_solve as cg_solve
from ._conventional import diffuse_conventional as diffuse_conventional
from ._diffuse import diffuse as diffuse
from ._local import LocalSolution as LocalSolution
from ._local import diffuse_local as diffuse_local
from ._local import spread_local as spread_local
from ._offline import DiffusionRows as DiffusionRows
from ._offline import combine_rows as combine_rows
from ._offline import offline_rows as offline_rows
from ._operator import multiply as multiply
from ._query import Rule as Rule
from ._query import query_vectors as query_vectors
from ._solvers import SolverName as SolverName
from ._spectral import Basis as Basis
from ._spectral import leading_eigenvectors as leading_eigenvectors
from ._spectral import spectral_scores as spectral_scores
