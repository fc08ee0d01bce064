"""Settings of an index, checked where they are made."""

import dataclasses
from typing import Literal, get_args

from diffjax._arguments import check_in_range
from diffjax.diffusion import QueryRule, SolverName
from diffjax.graph import NeighborMethod
from diffjax.images import DescriptorConfig, check_at_least_one, check_choice

Cut = Literal["early", "late"]
Tail = Literal["global", "zero"]
WhiteningName = Literal["pca-whitening", "pca"]


@dataclasses.dataclass(frozen=True)
class IndexConfig:
    """How vectors become a graph and how it is searched."""

    dim: int | None = None
    """Whiten the vectors to so many dimensions; None leaves them as they are."""
    whitening: WhiteningName = "pca-whitening"
    """What is fitted on the collection: principal directions of variance 1, or not."""
    shrinkage: float = 0.0
    """How far the whitening's covariance is drawn to a multiple of 1, in [0, 1)."""
    k: int = 50
    """Neighbours of each region in the graph, itself counted (the paper: 200)."""
    query_k: int = 50
    """Neighbours of each query region, and entries kept per query (the paper: 200)."""
    neighbors: NeighborMethod = "exact"
    """How neighbours are searched: among all, approximately, or on all devices."""
    gamma: float = 3.0
    """Exponent of the similarity kernel."""
    query_gamma: float | None = None
    """Exponent of the query's kernel, where it is another; None is gamma."""
    bias: float = 0.0
    """Taken off each similarity before it is raised to the exponent, in (-1, 1)."""
    alpha: float = 0.99
    """How far scores spread over the graph, in [0, 1)."""
    pooling: Literal["gmp", "sum"] = "gmp"
    """How scores of regions become scores of images."""
    lam: float = 1.0
    """Regularisation of generalised max pooling."""
    rule: QueryRule = "paper"
    """Order of power, sum and cut in the query's right-hand side."""
    solver: SolverName = "cg"
    """What solves the linear system."""
    rtol: float = 1e-6
    """Relative residual at which a query is solved."""
    max_steps: int = 20
    """Most iterations of the solver; the paper's contract is 20."""
    keep_best: bool = False
    """Take the solver's iterate of smallest residual, as MATLAB's pcg does."""
    shortlist: int | None = None
    """Diffuse on so many images only, the best by global descriptor; None on all."""
    cut: Cut = "early"
    """Cut the graph before it is normalised, as the paper does, or after."""
    tail: Tail = "global"
    """Images outside the short list: by global descriptor, or all with score 0."""
    offline: int | None = None
    """Solve beforehand, for each region on so many of its nearest; None when asked."""
    reach: int | None = None
    """Diffuse over so many regions only, those that a query reaches; None for all."""
    warn_residual: float = 0.05
    """Relative residual above which a search warns; not with reach, which cuts it."""

    @property
    def exponent_of_queries(self) -> float:
        """Exponent of the query's kernel."""
        return self.gamma if self.query_gamma is None else self.query_gamma

    def __post_init__(self) -> None:
        """Refuses settings outside their range."""
        for name in ("k", "query_k", "max_steps"):
            check_at_least_one(name, getattr(self, name))
        for name in ("dim", "shortlist", "offline", "reach"):
            if getattr(self, name) is not None:
                check_at_least_one(name, getattr(self, name))
        for name in ("gamma", "lam"):
            check_in_range(name, getattr(self, name), low=0, high=float("inf"))
        if self.query_gamma is not None:
            check_in_range("query_gamma", self.query_gamma, low=0, high=float("inf"))
        check_in_range("bias", self.bias, low=-1, high=1)
        for name in ("alpha", "rtol", "shrinkage"):
            value = getattr(self, name)
            check_in_range(name, value, low=0, high=1, closed_low=True)
        check_choice("whitening", self.whitening, get_args(WhiteningName))
        if self.shrinkage and self.whitening == "pca":
            raise ValueError(
                f"shrinkage must be 0 for pca, which it changes nothing of, got "
                f"{self.shrinkage}."
            )
        check_choice("pooling", self.pooling, ("gmp", "sum"))
        check_choice("rule", self.rule, get_args(QueryRule))
        check_choice("solver", self.solver, get_args(SolverName))
        check_choice("neighbors", self.neighbors, get_args(NeighborMethod))
        check_choice("cut", self.cut, get_args(Cut))
        check_choice("tail", self.tail, get_args(Tail))
        _check_ways(self)


def _check_ways(config: IndexConfig) -> None:
    """Refuses ways to answer that exclude each other."""
    if config.keep_best and config.solver in ("chebyshev", "cg-bcoo"):
        raise ValueError(
            f"keep_best must be False with solver {config.solver!r}, which gives its "
            "last iterate, got True."
        )
    if config.offline is not None and config.shortlist is not None:
        raise ValueError(
            f"offline and shortlist must not both be set, got {config.offline} and "
            f"{config.shortlist}: rows are solved before any query is there."
        )
    if config.offline is not None and config.cut == "early":
        raise ValueError(
            "cut must be 'late' with offline, which cuts a graph that is "
            "normalised, got 'early'."
        )
    if config.reach is not None:
        for name, value in (
            ("shortlist", None),
            ("offline", None),
            ("solver", "cg"),
            ("keep_best", False),
        ):
            if getattr(config, name) != value:
                raise ValueError(
                    f"{name} must be {value} with reach, which is another way to "
                    f"solve, got {getattr(config, name)}."
                )
        if config.reach < config.query_k:
            raise ValueError(
                f"reach must be at least query_k, {config.query_k}, got {config.reach}."
            )


@dataclasses.dataclass(frozen=True)
class FolderConfig(DescriptorConfig):
    """How a folder of pictures becomes an index."""

    workers: int = 2
    """Processes that read pictures."""
    index: IndexConfig = dataclasses.field(default_factory=lambda: IndexConfig(dim=256))
    """What becomes of the vectors."""

    def __post_init__(self) -> None:
        """Refuses settings outside their range."""
        super().__post_init__()
        check_at_least_one("workers", self.workers)
