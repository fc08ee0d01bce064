import numpy as np
import pytest
from matlab_files import StructArray, write_5, write_73

from diffjax.features._checkpoint import read_checkpoint
from diffjax.features._matconvnet import read_matconvnet_file

RNG = np.random.default_rng(0)
IMAGE = RNG.uniform(0, 255, (4, 5, 3)).astype(np.float32)
KERNEL = RNG.normal(size=(3, 3, 2, 4)).astype(np.float32)  # Rows, columns, in, out.
BIAS = RNG.normal(size=(1, 4)).astype(np.float32)
GAIN, OFFSET = RNG.normal(size=(2, 4, 1)).astype(np.float32)
MOMENTS = RNG.uniform(1, 2, (4, 2)).astype(np.float32)
META = {"normalization": {"averageImage": IMAGE}, "classes": {"name": ["cat", "dog"]}}


@pytest.fixture(params=[write_5, write_73], ids=["5", "7.3"])
def read(request, tmp_path):
    """Reads variables by way of a file of either layout."""

    def write_and_read(variables):
        path = tmp_path / "net.mat"
        request.param(path, variables)
        return read_checkpoint(path)

    return write_and_read


def simple_layers():
    """Layers of a SimpleNN: a convolution, its activation and a batch norm."""
    return [
        {"name": "conv1_1", "type": "conv", "weights": [KERNEL, BIAS]},
        {"name": "relu1_1", "type": "relu"},
        {"name": "bn1", "type": "bnorm", "weights": [GAIN, OFFSET, MOMENTS]},
    ]


def dag(**changes):
    """The same as a saved DagNN."""
    parameters = {
        "conv1_1f": KERNEL,
        "conv1_1b": BIAS,
        "bn1m": GAIN,
        "bn1b": OFFSET,
        "bn1x": MOMENTS,
        "pool_p": np.full((1, 1), 2.9, np.float32),
    }
    none = np.zeros((0, 0))
    layers = [
        {"name": "conv1_1", "type": "dagnn.Conv", "params": ["conv1_1f", "conv1_1b"]},
        {"name": "relu1_1", "type": "dagnn.ReLU", "params": none},
        {"name": "bn1", "type": "dagnn.BatchNorm", "params": ["bn1m", "bn1b", "bn1x"]},
        {"name": "pool", "type": "dagnn.GeM", "params": ["pool_p"]},
    ]
    named = [{"name": name, "value": value} for name, value in parameters.items()]
    fields = {"layers": StructArray(layers), "params": StructArray(named), "meta": META}
    return fields | changes


def check_weights(tensors):
    """The convolution in torch's order of axes, the batch norm as mean and variance."""
    kernel = tensors["conv1_1.weight"]
    assert kernel.shape == (4, 2, 3, 3)
    for out, inside, row, column in np.ndindex(kernel.shape):
        assert kernel[out, inside, row, column] == KERNEL[row, column, inside, out]
    np.testing.assert_array_equal(tensors["conv1_1.bias"], BIAS[0], strict=True)
    np.testing.assert_array_equal(tensors["bn1.weight"], GAIN[:, 0], strict=True)
    np.testing.assert_array_equal(tensors["bn1.bias"], OFFSET[:, 0], strict=True)
    mean, deviation = MOMENTS.T
    np.testing.assert_array_equal(tensors["bn1.running_mean"], mean, strict=True)
    np.testing.assert_array_equal(tensors["bn1.running_var"], deviation**2)
    assert all(array.flags.c_contiguous for array in tensors.values())


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "as net"])
def test_a_simple_network_is_read(read, wrapped):
    network = {"layers": simple_layers(), "meta": META}
    found = read({"net": network} if wrapped else network)
    check_weights(found.tensors)
    assert list(found.tensors)[:2] == ["conv1_1.weight", "conv1_1.bias"]
    assert len(found.tensors) == 6
    types = [("conv1_1", "conv"), ("relu1_1", "relu"), ("bn1", "bnorm")]
    assert found.extras["layers"] == types
    colours = IMAGE.astype(np.float64).mean((0, 1))
    np.testing.assert_allclose(found.extras["average_image"], colours, rtol=1e-12)
    assert found.extras["meta"]["classes"] == {"name": ["cat", "dog"]}
    assert found.source.endswith("net.mat")


def test_a_simple_network_of_old_files_is_read(read):
    # Kernel and bias were fields of the layer, the average beside the layers.
    layer = {"name": "conv1_1", "type": "conv", "filters": KERNEL, "biases": BIAS}
    layers = [layer, *simple_layers()[1:]]
    found = read({"layers": layers, "normalization": META["normalization"]})
    check_weights(found.tensors)
    assert found.extras["average_image"].shape == (3,)


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "as net"])
def test_a_graph_is_read(read, wrapped):
    found = read({"net": dag()} if wrapped else dag())
    check_weights(found.tensors)
    np.testing.assert_array_equal(
        found.tensors["pool_p"], np.array([[2.9]], np.float32)
    )
    assert len(found.tensors) == 7
    assert found.extras["layers"][-1] == ("pool", "dagnn.GeM")


def test_a_graph_of_one_layer_is_read(read):
    # MATLAB does not tell one struct from a struct array of one.
    layer = {"name": "c", "type": "dagnn.Conv", "params": ["f"]}
    params = {"name": "f", "value": KERNEL}
    found = read(dag(layers=StructArray([layer]), params=StructArray([params])))
    assert {name: a.shape for name, a in found.tensors.items()} == {
        "c.weight": (4, 2, 3, 3)
    }


@pytest.mark.parametrize(
    ("kernel", "shape"),
    [
        (np.ones((3, 3, 2)), (1, 2, 3, 3)),
        (np.ones((5, 5)), (1, 1, 5, 5)),
        (np.ones((1, 1, 2, 4)), (4, 2, 1, 1)),
    ],
    ids=["one output", "one input and output", "one pixel"],
)
def test_axes_that_matlab_drops_come_back(read, kernel, shape):
    layers = [{"type": "conv", "weights": [kernel, np.zeros((0, 0))]}]
    found = read({"layers": layers})
    # Without a name it is called by its number, without a bias it has none.
    assert {name: a.shape for name, a in found.tensors.items()} == {
        "layer1.weight": shape
    }
    assert "average_image" not in found.extras


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 3), (3, 1)])
def test_an_average_colour_is_taken_as_it_is(read, shape):
    colours = np.array([123.68, 116.779, 103.939])
    meta = {"normalization": {"averageImage": colours.reshape(shape)}}
    found = read({"layers": simple_layers(), "meta": meta}).extras["average_image"]
    np.testing.assert_array_equal(found, colours, strict=True)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"x": BIAS, "y": BIAS}, "no MatConvNet network; its variables are x, y"),
        ({"net": BIAS}, "its variables are net"),
        ({"layers": BIAS}, "no list of layers"),
        ({"layers": [BIAS]}, "no list of layers"),
        ({"layers": [{"name": "conv1"}]}, "'type'"),
        (
            {"layers": [{"name": "c", "type": "conv", "weights": [np.zeros((0, 0))]}]},
            "convolution c has no kernel",
        ),
        (
            {"layers": [{"name": "b", "type": "bnorm", "weights": [GAIN]}]},
            "batch norm b has 1 parameters",
        ),
        (dag(params=StructArray([{"name": "other", "value": BIAS}])), "'conv1_1f'"),
        (
            {
                "layers": simple_layers(),
                "meta": {"normalization": {"averageImage": np.ones((4, 5))}},
            },
            "its average image has shape (4, 5)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_contents_are_refused_in_one_line(read, variables, message):
    with pytest.raises(ValueError, match=r"^[^\n]*net\.mat: [^\n]+\.$") as error:
        read(variables)
    assert message in str(error.value)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_matconvnet_file(tmp_path / "none.mat")
