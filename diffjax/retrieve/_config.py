"""Settings of a search, validated at construction; importable without JAX."""

import dataclasses
from typing import Literal, get_args

from diffjax._choices import QueryRule, SolverName
from diffjax._ranges import check_at_least, check_choice, check_in_range

OutsideShortlist = Literal["similarity", "zero"]

# Above so many regions, neighbours are searched in clusters and a query is diffused
# around its candidates, unless settings say otherwise.
LARGE_COLLECTION = 200_000
_LOCAL_NODES, _PROBES = 4000, 64


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """Settings of a search, which may differ from one search to the next.

    Attributes:
        query_k: Neighbours of each query region, and entries of each query's right-hand
            side (the paper: 200).
        query_gamma: Exponent of the query's kernel; None is the graph's gamma.
        rule: Order of power, sum and truncation in the query's right-hand side.
        probes: Clusters that each query region is compared with; 0 compares with all
            vectors; None is 64 in an index with clusters, else 0.
        alpha: Share of a score that each step passes on to neighbours, in [0, 1).
        solver: Solver of the linear system.
        rtol: Relative residual at which a query counts as solved.
        max_steps: Largest number of iterations; the paper takes 20.
        keep_best: Take the iterate of smallest residual, as MATLAB's pcg does.
        local_nodes: Nodes that each query is diffused over, around its candidates; 0
            diffuses over the whole graph; None is 4,000 above 200,000 regions, else 0.
        shortlist: Images, the best by global descriptor, that the diffusion is limited
            to; None is all.
        renormalize_shortlist: Normalise the graph after it is cut to the short list, as
            the paper does, instead of before.
        outside_shortlist: Scores of images outside the short list: below all others in
            the order of their global similarity, or zero.
        warn_residual: Relative residual above which a search warns. A local solve
            leaves a residual by design, and warns of one that is not a number alone.
    """

    query_k: int = 50
    query_gamma: float | None = None
    rule: QueryRule = "paper"
    probes: int | None = None
    alpha: float = 0.99
    solver: SolverName = "cg"
    rtol: float = 1e-6
    max_steps: int = 20
    keep_best: bool = False
    local_nodes: int | None = None
    shortlist: int | None = None
    renormalize_shortlist: bool = True
    outside_shortlist: OutsideShortlist = "similarity"
    warn_residual: float = 0.05

    def __post_init__(self) -> None:
        """Checks each setting against its range, and against each other."""
        for name in ("query_k", "max_steps"):
            check_at_least(name, getattr(self, name), 1)
        if self.shortlist is not None:
            check_at_least("shortlist", self.shortlist, 1)
        for name in ("probes", "local_nodes"):
            if getattr(self, name) is not None:
                check_at_least(name, getattr(self, name), 0)
        if self.query_gamma is not None:
            check_in_range("query_gamma", self.query_gamma, low=0, high=float("inf"))
        for name in ("alpha", "rtol"):
            check_in_range(name, getattr(self, name), low=0, high=1, closed_low=True)
        check_choice("rule", self.rule, get_args(QueryRule))
        check_choice("solver", self.solver, get_args(SolverName))
        check_choice(
            "outside_shortlist", self.outside_shortlist, get_args(OutsideShortlist)
        )
        if self.keep_best and self.solver in ("chebyshev", "cg-bcoo"):
            raise ValueError(
                f"keep_best must be False with solver {self.solver!r}, which gives its "
                "last iterate, got True."
            )
        if self.local_nodes:
            self._check_local()

    def resolve(
        self, n: int, *, clustered: bool, offline: bool = False
    ) -> "SearchConfig":
        """Copies the settings with those filled in that depend on the collection.

        Args:
            n: Number of regions.
            clustered: Whether the index has clusters.
            offline: Whether solutions are stored beforehand.
        """
        probes, local_nodes = self.probes, self.local_nodes
        if probes is None:
            probes = _PROBES if clustered else 0
        if local_nodes is None:
            rules_out_local_solve = (
                offline
                or self.shortlist is not None
                or self.solver != "cg"
                or self.keep_best
            )
            solves_locally = n > LARGE_COLLECTION and not rules_out_local_solve
            local_nodes = max(_LOCAL_NODES, self.query_k) if solves_locally else 0
        return dataclasses.replace(self, probes=probes, local_nodes=local_nodes)

    def _check_local(self) -> None:
        for name, value in (
            ("shortlist", None),
            ("solver", "cg"),
            ("keep_best", False),
        ):
            if getattr(self, name) != value:
                raise ValueError(
                    f"{name} must be {value} with local_nodes, which is another way to "
                    f"solve, got {getattr(self, name)}."
                )
        if (self.local_nodes or 0) < self.query_k:
            raise ValueError(
                f"local_nodes must be at least query_k, {self.query_k}, got "
                f"{self.local_nodes}."
            )
