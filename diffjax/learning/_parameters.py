"""What of a diffusion may be learned, and the maps that keep it in its range."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from diffjax._arguments import is_concrete

# Logarithms and log-odds are kept in +-_END: beyond, a number of single precision is 0,
# 1 or infinite, which no range contains. exp(13.8) is just below a million.
_END = 13.8
_END_OF_TANH = _END / 2
_LOW, _HIGH = 1e-6, 1e6
# What is shares of a whole.
_SHARES = "mixture", "shrinkage"
# Rounding in a sum of weights that are to make 1.
_ROUNDING = 1e-5


class Parameters(NamedTuple):
    """The settings of a diffusion as a pytree; None is a part that is not there.

    Attributes:
        alpha: How far scores spread over the graph, in (0, 1).
        gamma: Exponent of the graph's kernel, above 0.
        lam: Regularisation of generalised max pooling, above 0.
        query_gamma: Exponent of the query's kernel, above 0; None is `gamma`.
        bias: b of the kernel max(s - b, 0)^gamma, of graph and query, in (-1, 1); None
            is 0.
        scale_weights: Factor of each region's pooling weight by the region's scale,
            above 0; None is 1.
        projection: P of x -> P x / |P x|, on database and query vectors; None leaves
            them as they are.
        mixture: Weights of several graphs, above 0, of sum 1; None where there is one.
        shrinkage: Weights of the kinds of differences that a projection in closed form
            shrinks, above 0, of sum 1; None is no such projection. See `whiten`.
        emphasis: Exponent that tells how much more its first directions count, above 0;
            None is 0.
    """

    alpha: Float[Array, ""]
    gamma: Float[Array, ""]
    lam: Float[Array, ""]
    query_gamma: Float[Array, ""] | None = None
    bias: Float[Array, ""] | None = None
    scale_weights: Float[Array, " s"] | None = None
    projection: Float[Array, "p d"] | None = None
    mixture: Float[Array, " g"] | None = None
    shrinkage: Float[Array, " s"] | None = None
    emphasis: Float[Array, ""] | None = None


PARAMETER_NAMES = Parameters._fields


def parameters(
    names: Sequence[str] = ("alpha", "gamma", "lam"),
    *,
    alpha: float = 0.99,
    gamma: float = 3.0,
    lam: float = 1.0,
    query_gamma: float | None = None,
    bias: float = 0.0,
    scales: int | None = None,
    dim: int | None = None,
    rank: int | None = None,
    graphs: int | None = None,
    kinds: int = 4,
    emphasis: float = 0.1,
) -> Parameters:
    """Makes parameters to start from: the paper's, with the parts that are named.

    Args:
        names: Parts that are there; alpha, gamma and lam are in any case.
        alpha: Its start.
        gamma: Its start.
        lam: Its start.
        query_gamma: Its start; None is `gamma`.
        bias: Its start.
        scales: Number of scales, whose weights start at 1.
        dim: Dimensions d of the vectors; the projection starts at identity.
        rank: Dimensions p it projects to, the first of d; None is all.
        graphs: Number of graphs, of equal weight at the start.
        kinds: Kinds of differences to shrink, of equal weight at the start; see
            `scatters`.
        emphasis: Its start.

    Returns:
        Parameters in JAX's floating-point type, of double precision if that is on.

    Raises:
        ValueError: If a name is unknown, a size that a part needs is missing or not
            above 0, `rank` is above `dim`, or a start is outside its range.
    """
    for name in names:
        if name not in PARAMETER_NAMES:
            raise ValueError(f"names must be among {PARAMETER_NAMES}, got {name!r}.")
    sizes = {
        "scale_weights": ("scales", scales),
        "projection": ("dim", dim),
        "mixture": ("graphs", graphs),
        "shrinkage": ("kinds", kinds),
    }
    for part, (name, size) in sizes.items():
        if part in names and (size is None or size < 1):
            raise ValueError(f"{name} must be at least 1 with {part}, got {size}.")
    if "projection" in names and rank is not None and not 1 <= rank <= (dim or 0):
        raise ValueError(f"rank must be in 1..{dim} (dim), got {rank}.")
    # Sizes that a part needs are there by now, so that 1 only stands for parts unused.
    count = graphs or 1
    starts = {
        "query_gamma": gamma if query_gamma is None else query_gamma,
        "bias": bias,
        "scale_weights": np.ones(scales or 1),
        "projection": np.eye(rank or dim or 1, dim),
        "mixture": np.full(count, 1 / count),
        "shrinkage": np.full(kinds, 1 / max(kinds, 1)),
        "emphasis": emphasis,
    }
    chosen = {name: start for name, start in starts.items() if name in names}
    chosen |= {"alpha": alpha, "gamma": gamma, "lam": lam}
    kind = jnp.result_type(float)
    made = Parameters(**{name: jnp.asarray(x, kind) for name, x in chosen.items()})
    check_parameters(made)
    return made


def check_parameters(parameters: Parameters) -> None:
    """Refuses concrete parameters that are outside their ranges.

    Args:
        parameters: The parameters; what is traced passes.

    Raises:
        ValueError: With the parameter, the rule and the value.
    """
    positive = f"in [{_LOW:g}, {_HIGH:g}]"
    rules: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
        name: (positive, lambda x: (x >= _LOW) & (x <= _HIGH))
        for name in ("gamma", "lam", "query_gamma", "scale_weights", "emphasis")
    }
    rules["alpha"] = "in (0, 1)", lambda x: (x > 0) & (x < 1)
    rules["bias"] = "in (-1, 1)", lambda x: (x > -1) & (x < 1)
    rules["projection"] = "finite", np.isfinite
    for name in _SHARES:
        rules[name] = "in (0, 1]", lambda x: (x > 0) & (x <= 1 + _ROUNDING)
    if parameters.emphasis is not None and parameters.shrinkage is None:
        raise ValueError("emphasis must be None without shrinkage.")
    ranks = {"scale_weights": 1, "mixture": 1, "shrinkage": 1, "projection": 2}
    for name, value in present(parameters).items():
        if jnp.ndim(value) != ranks.get(name, 0):
            raise ValueError(
                f"{name} must have {ranks.get(name, 0)} dimensions, got "
                f"{jnp.ndim(value)}."
            )
        if not is_concrete(value):
            continue
        rule, holds = rules[name]
        host = np.asarray(value)
        bad = host[~holds(host)]
        if bad.size:
            raise ValueError(f"{name} must be {rule}, got {bad[0]}.")
        if name in _SHARES and abs(host.sum() - 1) > _ROUNDING:
            raise ValueError(f"{name} must sum to 1, got {host.sum()}.")


def unconstrain(parameters: Parameters) -> Parameters:
    r"""Maps parameters to numbers that may be anything, for a method of gradients.

    alpha to log(alpha / (1 - alpha)), bias to artanh, all others above 0 to their
    logarithm; the projection stays.

    Args:
        parameters: Parameters in their ranges.

    Returns:
        The numbers, in the same places.

    Raises:
        ValueError: If a parameter is outside its range.
    """
    check_parameters(parameters)
    maps = {
        "alpha": lambda x: jnp.log(x) - jnp.log1p(-x),
        "bias": jnp.arctanh,
        "projection": lambda x: x,
    }
    return _map(maps, jnp.log, parameters)


def constrain(raw: Parameters) -> Parameters:
    r"""Maps any finite numbers to parameters strictly inside their ranges.

    The inverse of `unconstrain`, to 1e-6: sigmoid, tanh, exp, and softmax for mixture
    and shrinkage, kept off the ends that single precision would round to. At an end the
    derivative is 0; see `at_end`.

    Args:
        raw: Any numbers; what is not a number stays so.

    Returns:
        The parameters, in the same places.
    """
    maps = {
        "alpha": lambda x: jax.nn.sigmoid(jnp.clip(x, -_END, _END)),
        "bias": lambda x: jnp.tanh(jnp.clip(x, -_END_OF_TANH, _END_OF_TANH)),
        "projection": lambda x: x,
        **dict.fromkeys(_SHARES, _shares),
    }
    return _map(maps, lambda x: jnp.exp(jnp.clip(x, -_END, _END)), raw)


def at_end(raw: Parameters) -> dict[str, Bool[Array, ""]]:
    """Tells which parameters have run to an end of their range, where they stay.

    Args:
        raw: Numbers as `unconstrain` gives them.

    Returns:
        A flag for each parameter that is there; the projection has no end, and at an
        end of a mixture something is left out, which is a good answer.
    """

    def never(x):
        return jnp.zeros_like(x, bool, shape=())

    maps = {
        "bias": lambda x: jnp.abs(x) >= _END_OF_TANH,
        "projection": never,
        **dict.fromkeys(_SHARES, never),
    }
    flags = _map(maps, lambda x: jnp.any(jnp.abs(x) >= _END), raw)
    return present(flags)


def present(parameters: Parameters) -> dict[str, Array]:
    """The parts that are there, by name."""
    parts = parameters._asdict()
    return {name: part for name, part in parts.items() if part is not None}


def _shares(x: Array) -> Array:
    # Relative to the largest, which softmax does not see.
    return jax.nn.softmax(jnp.maximum(x - jnp.max(x), -_END))


def _map(
    maps: dict[str, Callable[[Array], Array]],
    otherwise: Callable[[Array], Array],
    parameters: Parameters,
) -> Parameters:
    """Applies to each part that is there the map of its name."""
    mapped = {
        name: maps.get(name, otherwise)(value)
        for name, value in present(parameters).items()
    }
    return Parameters(**mapped)
