import functools
import warnings

import jax
import jax.numpy as jnp
import kernels
import numpy as np
import pytest
import scipy.sparse

from diffjax.diffusion import diffuse
from diffjax.diffusion._matvec import multiply_csr
from diffjax.graph import normalize
from diffjax.native import KernelLibrary, _library, find_library
from diffjax.types import Graph


@pytest.fixture
def reloaded(monkeypatch):
    """Looks for the library as a new process would."""
    monkeypatch.delenv("DIFFJAX_NATIVE", raising=False)
    find_library.cache_clear()
    kernels.forget()
    yield
    find_library.cache_clear()
    kernels.forget()


def diffuse_on_an_edge():
    """Scores on two nodes that share an edge, and the kernels they came from."""
    edge = scipy.sparse.csr_array(np.array([[0, 1], [1, 0]], np.float32))
    graph = normalize(Graph.from_scipy(edge))
    y = jnp.array([[1.0], [0]])

    def scores(graph, y):
        return diffuse(graph, y, alpha=0.5).value

    # f = (I - a S)^-1 e1 = (1, a) / (1 - a^2).
    got = scores(graph, y)
    np.testing.assert_allclose(got[:, 0], np.array([1, 0.5]) / 0.75, rtol=1e-6)
    return kernels.calls(scores, graph, y)


@pytest.mark.usefixtures("reloaded")
def test_an_environment_variable_switches_the_kernels_off(monkeypatch):
    monkeypatch.setenv("DIFFJAX_NATIVE", "0")
    assert find_library() == KernelLibrary(False, "JAX's own: DIFFJAX_NATIVE is 0")
    # No warning, which would be an error here.
    assert set(diffuse_on_an_edge()) == {kernels.XLA_KERNEL}


@pytest.mark.usefixtures("reloaded")
def test_without_a_library_jax_is_used(monkeypatch, tmp_path):
    monkeypatch.setattr(_library, "library_path", lambda: tmp_path / "nothing.so")
    assert not find_library().usable
    assert "no C++ compiler" in find_library().description
    assert set(diffuse_on_an_edge()) == {kernels.XLA_KERNEL}


def check_one_warning(reason):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        called = diffuse_on_an_edge()
        library = find_library()
    assert set(called) == {kernels.XLA_KERNEL}
    assert [str(w.message).partition(" (")[0] for w in caught] == [
        "native kernels are not used"
    ]
    message = str(caught[0].message)
    assert reason in message
    assert "install diffjax again" in message
    assert "\n" not in message
    assert not library.usable
    assert reason in library.description


@kernels.needed
@pytest.mark.usefixtures("reloaded")
def test_a_library_of_another_version_is_not_used_with_one_warning(monkeypatch):
    built = _library.ABI
    monkeypatch.setattr(_library, "ABI", 99)
    check_one_warning(f"built for ABI {built}, where this version has 99")


@pytest.mark.usefixtures("reloaded")
def test_a_file_that_is_no_library_is_not_used_with_one_warning(monkeypatch, tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_text("Half a download.")
    monkeypatch.setattr(_library, "library_path", lambda: broken)
    check_one_warning("broken.so")


@kernels.needed
@pytest.mark.usefixtures("reloaded")
def test_the_library_is_found_and_used():
    assert find_library().description.startswith("native kernels, ")
    assert diffuse_on_an_edge() == ["diffjax_csr_cg_float32"]


@kernels.needed
def test_the_library_can_be_loaded_twice():
    # Two threads may both be the first to load it.
    assert find_library.__wrapped__() == find_library.__wrapped__() == find_library()


@kernels.needed
def test_programs_name_the_abi_of_their_kernels():
    # Cached programs must not call the kernel of another version.
    text = jax.jit(functools.partial(multiply_csr)).lower(
        jnp.ones(1), jnp.zeros(1, jnp.int32), jnp.array([0, 1]), jnp.ones((1, 1))
    )
    assert f"@diffjax_csr_product_float32_abi{_library.ABI}" in text.as_text()
