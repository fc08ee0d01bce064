"""Parameters of a diffusion: their ranges, unconstrained form and file."""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Array, Bool, Float

from diffjax._arguments import check_not_downcast, is_concrete
from diffjax._io import write_atomically

# Logarithms and log-odds are clipped to +-_MAX_LOGIT: beyond, a number of single
# precision is 0, 1 or infinite, which no range contains. exp(13.8) is below a million.
_MAX_LOGIT = 13.8
_MAX_ARTANH = _MAX_LOGIT / 2
_MIN_POSITIVE, _MAX_POSITIVE = 1e-6, 1e6
# Parameters that are positive and sum to 1.
_SIMPLEX_PARAMETERS = "mixture", "shrinkage"
# Rounding in a sum of weights that are to make 1.
_SUM_TOLERANCE = 1e-5


class Parameters(NamedTuple):
    """Parameters of a diffusion as a pytree; optional ones may be None.

    Attributes:
        alpha: Share of a score that each step passes on to neighbours, in (0, 1).
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
        shrinkage: Weights of the scatter matrices that a projection in closed form
            shrinks, above 0, of sum 1; None is no such projection. See
            `replace_shrinkage_by_projection`.
        emphasis: Exponent that emphasises the leading directions of that projection,
            above 0; None is 0.
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
    """Initial parameters: the paper's values, and the optional ones that are named.

    Args:
        names: Parameters that are not None; alpha, gamma and lam never are.
        alpha: Initial value.
        gamma: Initial value.
        lam: Initial value.
        query_gamma: Initial value; None is `gamma`.
        bias: Initial value.
        scales: Number of scales, whose weights start at 1.
        dim: Dimensions d of the vectors; the projection starts at identity.
        rank: Dimensions p it projects to, the first of d; None is all.
        graphs: Number of graphs, whose weights start equal.
        kinds: Number of scatter matrices to shrink, whose weights start equal; see
            `scatter_matrices`.
        emphasis: Initial value.

    Returns:
        Parameters in JAX's floating-point type, of double precision if that is on.

    Raises:
        ValueError: If a name is unknown, a size that a parameter needs is missing or
            below 1, `rank` is above `dim`, or a value is outside its range.
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
    for parameter, (name, size) in sizes.items():
        if parameter in names and (size is None or size < 1):
            raise ValueError(f"{name} must be at least 1 with {parameter}, got {size}.")
    if "projection" in names and rank is not None and not 1 <= rank <= (dim or 0):
        raise ValueError(f"rank must be in 1..{dim} (dim), got {rank}.")
    # Sizes that are needed are given by now: 1 only stands for unused parameters.
    num_graphs = graphs or 1
    start_values = {
        "query_gamma": gamma if query_gamma is None else query_gamma,
        "bias": bias,
        "scale_weights": np.ones(scales or 1),
        "projection": np.eye(rank or dim or 1, dim),
        "mixture": np.full(num_graphs, 1 / num_graphs),
        "shrinkage": np.full(kinds, 1 / max(kinds, 1)),
        "emphasis": emphasis,
    }
    chosen = {name: start for name, start in start_values.items() if name in names}
    chosen |= {"alpha": alpha, "gamma": gamma, "lam": lam}
    dtype = jnp.result_type(float)
    start_parameters = Parameters(
        **{name: jnp.asarray(x, dtype) for name, x in chosen.items()}
    )
    check_parameters(start_parameters)
    return start_parameters


def check_parameters(parameters: Parameters) -> None:
    """Refuses concrete parameters that are outside their ranges.

    Args:
        parameters: The parameters; traced ones pass.

    Raises:
        ValueError: With the parameter, the rule and the value.
    """
    positive = f"in [{_MIN_POSITIVE:g}, {_MAX_POSITIVE:g}]"
    rules: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
        name: (positive, lambda x: (x >= _MIN_POSITIVE) & (x <= _MAX_POSITIVE))
        for name in ("gamma", "lam", "query_gamma", "scale_weights", "emphasis")
    }
    rules["alpha"] = "in (0, 1)", lambda x: (x > 0) & (x < 1)
    rules["bias"] = "in (-1, 1)", lambda x: (x > -1) & (x < 1)
    rules["projection"] = "finite", np.isfinite
    for name in _SIMPLEX_PARAMETERS:
        rules[name] = "in (0, 1]", lambda x: (x > 0) & (x <= 1 + _SUM_TOLERANCE)
    if parameters.emphasis is not None and parameters.shrinkage is None:
        raise ValueError("emphasis must be None without shrinkage.")
    ranks = {"scale_weights": 1, "mixture": 1, "shrinkage": 1, "projection": 2}
    for name, value in present_parameters(parameters).items():
        if jnp.ndim(value) != ranks.get(name, 0):
            raise ValueError(
                f"{name} must have {ranks.get(name, 0)} dimensions, got "
                f"{jnp.ndim(value)}."
            )
        if not is_concrete(value):
            continue
        rule, is_valid = rules[name]
        host = np.asarray(value)
        violations = host[~is_valid(host)]
        if violations.size:
            raise ValueError(f"{name} must be {rule}, got {violations[0]}.")
        if name in _SIMPLEX_PARAMETERS and abs(host.sum() - 1) > _SUM_TOLERANCE:
            raise ValueError(f"{name} must sum to 1, got {host.sum()}.")


def unconstrain(parameters: Parameters) -> Parameters:
    r"""Maps parameters to unconstrained values, for gradient descent.

    alpha to log(alpha / (1 - alpha)), bias to artanh, all others above 0 to their
    logarithm; the projection stays.

    Args:
        parameters: Parameters in their ranges.

    Returns:
        The unconstrained values, in the same fields.

    Raises:
        ValueError: If a parameter is outside its range.
    """
    check_parameters(parameters)
    maps = {
        "alpha": lambda x: jnp.log(x) - jnp.log1p(-x),
        "bias": jnp.arctanh,
        "projection": lambda x: x,
    }
    return _map_parameters(maps, jnp.log, parameters)


def constrain(raw: Parameters) -> Parameters:
    r"""Maps unconstrained values to parameters strictly inside their ranges.

    The inverse of `unconstrain`, to 1e-6: sigmoid, tanh, exp, and softmax for mixture
    and shrinkage, clipped off the ends that single precision would round to. At an end
    the derivative is 0; see `at_range_end`.

    Args:
        raw: Unconstrained values; NaN stays NaN.

    Returns:
        The parameters, in the same fields.
    """
    maps = {
        "alpha": lambda x: jax.nn.sigmoid(jnp.clip(x, -_MAX_LOGIT, _MAX_LOGIT)),
        "bias": lambda x: jnp.tanh(jnp.clip(x, -_MAX_ARTANH, _MAX_ARTANH)),
        "projection": lambda x: x,
        **dict.fromkeys(_SIMPLEX_PARAMETERS, _bounded_softmax),
    }
    return _map_parameters(
        maps, lambda x: jnp.exp(jnp.clip(x, -_MAX_LOGIT, _MAX_LOGIT)), raw
    )


def at_range_end(raw: Parameters) -> dict[str, Bool[Array, ""]]:
    """Flags of parameters at an end of their range, where the gradient is 0.

    Args:
        raw: Unconstrained values.

    Returns:
        A flag per parameter that is not None. It is False for the projection, which has
        no end, and for mixture and shrinkage, which may well leave something out.
    """

    def never_at_end(x):
        return jnp.zeros_like(x, bool, shape=())

    maps = {
        "bias": lambda x: jnp.abs(x) >= _MAX_ARTANH,
        "projection": never_at_end,
        **dict.fromkeys(_SIMPLEX_PARAMETERS, never_at_end),
    }
    flags = _map_parameters(maps, lambda x: jnp.any(jnp.abs(x) >= _MAX_LOGIT), raw)
    return present_parameters(flags)


def present_parameters(parameters: Parameters) -> dict[str, Array]:
    """Parameters that are not None, by name."""
    values = parameters._asdict()
    return {name: value for name, value in values.items() if value is not None}


def _bounded_softmax(x: Array) -> Array:
    # Relative to the largest, which softmax does not see.
    return jax.nn.softmax(jnp.maximum(x - jnp.max(x), -_MAX_LOGIT))


def _map_parameters(
    maps: dict[str, Callable[[Array], Array]],
    otherwise: Callable[[Array], Array],
    parameters: Parameters,
) -> Parameters:
    """Applies to each parameter that is not None the map of its name."""
    mapped = {
        name: maps.get(name, otherwise)(value)
        for name, value in present_parameters(parameters).items()
    }
    return Parameters(**mapped)


_FORMAT, _VERSION = "diffjax parameters", 1
_LEARN_AGAIN = "learn them again with `diffjax learn`"


class ParametersFileError(ValueError):
    """Error of a parameters file that can't be used, with the remedy."""


class StoredParameters(NamedTuple):
    """Contents of a parameters file.

    Attributes:
        parameters: The parameters.
        fingerprint: Fingerprint of the index they were learned on.
        notes: Notes on how they were learned, as given to `save_parameters`.
        diffjax: Version of diffjax that wrote the file.
    """

    parameters: Parameters
    fingerprint: str
    notes: dict[str, Any]
    diffjax: str


def save_parameters(
    path: str | os.PathLike[str],
    parameters: Parameters,
    *,
    fingerprint: str,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Writes parameters to a safetensors file, atomically.

    Beside the arrays it holds one text of JSON: format and version, the fingerprint of
    the index, the notes, this program's version, and a hash of all that and the arrays.
    There is no time stamp: the same parameters give the same bytes.

    Args:
        path: The file; an old one is replaced, and left as it is if the new one can't
            be written.
        parameters: Parameters in their ranges.
        fingerprint: Fingerprint of the index; see `Index.fingerprint`.
        notes: Settings, scores, seeds: anything that JSON can hold.

    Raises:
        ValueError: If a parameter is outside its range, `fingerprint` is empty, or
            `notes` holds what JSON can not.
        OSError: If the file can't be written.
    """
    if not fingerprint:
        raise ValueError("fingerprint must name the index, got an empty text.")
    check_parameters(parameters)
    arrays = {
        name: np.asarray(value, order="C")
        for name, value in parameters._asdict().items()
        if value is not None
    }
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "fingerprint": fingerprint,
        "notes": dict(notes or {}),
        "diffjax": version("diffjax"),
    }
    try:
        header["sha256"] = _digest(header, arrays)
        text = json.dumps(header, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"notes must be what JSON can hold, got {error}.") from error
    write_atomically(path, safetensors.numpy.save(arrays, metadata={_FORMAT: text}))


def load_parameters(
    path: str | os.PathLike[str], *, fingerprint: str | None = None
) -> StoredParameters:
    """Reads parameters from a file that `save_parameters` wrote.

    Args:
        path: The file.
        fingerprint: Fingerprint of the index they are used on; None skips the check.

    Returns:
        The parameters, with fingerprint, notes and version.

    Raises:
        ParametersFileError: If it is no file of parameters, damaged, of another
            version, or was made for another index.
        ValueError: If it holds double precision and that is not on.
        OSError: If it can't be read.
    """
    path = pathlib.Path(path)
    path.open("rb").close()  # The library's own error for what can't be read is bare.
    try:
        with safetensors.safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(_FORMAT)
            if text is None:
                raise ParametersFileError(
                    f"{path} is no file of parameters, it holds something else: name "
                    "the file that `diffjax learn` wrote."
                )
            header = _read_header(path, text)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ParametersFileError(
            f"{path} is no file of parameters, or damaged ({reason}): {_LEARN_AGAIN}."
        ) from error
    digest = header.pop("sha256", None)
    if digest != _digest(header, arrays):
        raise ParametersFileError(
            f"{path} is damaged or edited (its hash does not fit): {_LEARN_AGAIN}."
        )
    if fingerprint is not None and header["fingerprint"] != fingerprint:
        raise ParametersFileError(
            f"{path} was learned on another index (fingerprint "
            f"{header['fingerprint'][:16]}, this one has {fingerprint[:16]}): "
            f"{_LEARN_AGAIN} "
            "on this index."
        )
    return StoredParameters(
        _parameters_from_arrays(path, arrays),
        header["fingerprint"],
        header["notes"],
        header["diffjax"],
    )


def _read_header(path: pathlib.Path, text: str) -> dict[str, Any]:
    """Reads the header of a parameters file, and checks its version."""
    try:
        header = json.loads(text)
        file_format, file_version = header["format"], header["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ParametersFileError(
            f"{path} is damaged ({error!r}): {_LEARN_AGAIN}."
        ) from error
    if (file_format, file_version) != (_FORMAT, _VERSION):
        raise ParametersFileError(
            f"{path} is version {file_version} of {file_format!r}, this program reads "
            f"version {_VERSION} of {_FORMAT!r}: {_LEARN_AGAIN}."
        )
    return header


def _parameters_from_arrays(
    path: pathlib.Path, arrays: dict[str, np.ndarray]
) -> Parameters:
    """Parameters from arrays whose hash fits, so that diffjax wrote them."""
    for array in arrays.values():
        check_not_downcast(str(path), array)
    if unknown := set(arrays) - set(PARAMETER_NAMES):
        raise ParametersFileError(
            f"{path} holds a parameter {min(unknown)!r} that this program does not "
            f"know: {_LEARN_AGAIN}."
        )
    try:
        parameters = Parameters(
            **{name: jnp.asarray(array) for name, array in arrays.items()}
        )
        check_parameters(parameters)
    except (TypeError, ValueError) as error:
        raise ParametersFileError(
            f"{path} is damaged ({error}): {_LEARN_AGAIN}."
        ) from error
    return parameters


def _digest(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """Hash of the header and of names, types, shapes and bytes of the arrays."""
    text = json.dumps(header, sort_keys=True, allow_nan=False)
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
