"""Settings of learning, validated at construction."""

import dataclasses

from diffjax._arguments import check_in_range

_FEWEST_FOLDS = 2


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """Settings of a fit: steps, learning rates, batches, evaluations, restarts."""

    steps: int = 200
    """Steps, a multiple of `evaluate_every`."""
    learning_rate: float = 0.05
    """Largest rate of Adam, for all but the projection, on the unconstrained scale."""
    projection_rate: float = 1e-3
    """The same for the projection, whose many entries are far smaller."""
    projection_decay: float = 0.0
    """Weight in the loss of |P - P_0|^2, which draws the projection to its start."""
    warmup: float = 0.1
    """Share of the steps in which the rate rises; then it falls to 0 as a cosine."""
    max_gradient_norm: float = 1.0
    """Largest norm of the gradient; a longer one is scaled down to it."""
    batch: int = 8
    """Queries per step."""
    evaluate_every: int = 20
    """Steps between two evaluations, which are one compiled loop."""
    patience: int = 5
    """Evaluations without gain after which learning stops."""
    restarts: int = 1
    """Number of starts: the first as given, the others with noise; the best counts."""
    restart_spread: float = 0.5
    """Standard deviation of those starts, on the unconstrained scale."""
    refresh_every: int | None = None
    """Steps between two searches for neighbours, a multiple of `evaluate_every`."""
    folds: int = 3
    """Folds of objects for learned shrinkage; each uses the labels of the others."""
    dim: int | None = None
    """Dimensions that shrinkage projects to; None is all."""
    k: int = 50
    """Neighbours of each region when neighbours are searched again."""
    objective: str = "smooth-ap"
    """Loss that is minimised, by its name in `OBJECTIVES`."""
    query_k: int = 50
    """Neighbours of each query region."""
    max_steps: int = 50
    """Most iterations of the solver; below 50 gradients are wrong near alpha 1."""
    search_steps: int | None = None
    """Most iterations when held-out queries are ranked; None is `max_steps`."""
    rtol: float = 1e-6
    """Relative residual at which a query is solved."""
    seed: int = 0
    """Seed of the batches and the restarts."""

    def __post_init__(self) -> None:
        """Refuses settings outside their range."""
        for name in (
            *("steps", "batch", "evaluate_every", "patience", "restarts"),
            *("k", "query_k", "max_steps", "dim", "search_steps"),
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if self.folds < _FEWEST_FOLDS:
            raise ValueError(
                f"folds must be at least {_FEWEST_FOLDS}, got {self.folds}."
            )
        for name in ("learning_rate", "projection_rate", "max_gradient_norm"):
            check_in_range(name, getattr(self, name), low=0, high=float("inf"))
        for name in ("projection_decay", "restart_spread"):
            value = getattr(self, name)
            check_in_range(name, value, low=0, high=float("inf"), closed_low=True)
        for name in ("warmup", "rtol"):
            value = getattr(self, name)
            check_in_range(name, value, low=0, high=1, closed_low=True)
        for name, value in (
            ("steps", self.steps),
            ("refresh_every", self.refresh_every),
        ):
            if value is not None and (value < 1 or value % self.evaluate_every):
                raise ValueError(
                    f"{name} must be a multiple of evaluate_every, "
                    f"{self.evaluate_every}, got {value}."
                )
