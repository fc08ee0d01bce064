import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from diffjax.networks import VGG16, EfficientNetLite0, resnet50, resnet101
from diffjax.weights._names import LayerTensors, NameMap, detect_name_map, name_maps

NETWORKS = {
    "vgg16": VGG16,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "efficientnet-lite0": EfficientNetLite0,
}
TABLES = [
    pytest.param(architecture, table, id=f"{architecture}-{table.name}")
    for architecture, tables in name_maps().items()
    for table in tables
]
# Further tensors of the files, as their publishers write them.
EXTRA = {
    ("vgg16", "torchvision"): ["classifier.0.weight", "classifier.6.bias"],
    ("vgg16", "timm"): ["pre_logits.fc1.weight", "pre_logits.fc2.bias", "head.fc.bias"],
    ("vgg16", "cirtorch"): ["pool.p"],
    ("vgg16", "matconvnet"): ["fc6.weight", "fc7.bias", "fc8.weight"],
    ("resnet50", "torchvision"): ["fc.weight", "fc.bias", "bn1.num_batches_tracked"],
    ("resnet101", "cirtorch"): ["pool.p", "whiten.weight", "whiten.bias"],
    ("resnet101", "cirtorch-features"): ["7.2.bn3.num_batches_tracked"],
    ("efficientnet-lite0", "timm"): ["blocks.6.0.bn3.num_batches_tracked"],
}


@pytest.fixture(scope="module")
def layers():
    """The layers of every network, without weights."""
    return {
        name: nnx.eval_shape(lambda build=build: build(rngs=nnx.Rngs(0))).layers()
        for name, build in NETWORKS.items()
    }


def test_a_layer_lists_its_tensors_in_the_order_they_are_used():
    source = LayerTensors("a.weight", "a.bias", "b")
    batch_norm_names = ("b.weight", "b.bias", "b.running_mean", "b.running_var")
    assert source.names() == ("a.weight", "a.bias", *batch_norm_names)
    assert source.batch_norm_names() == batch_norm_names
    assert LayerTensors("a.weight").names() == ("a.weight",)


def test_ignored_patterns_match_complete_names():
    table = NameMap("x", {}, None, ignored_patterns=(r"fc\.bias",))
    assert table.is_ignored("fc.bias")
    assert not table.is_ignored("fc.bias.more")
    assert not table.is_ignored("my.fc.bias")


@pytest.mark.parametrize(("architecture", "table"), TABLES)
def test_a_name_map_has_every_layer_of_its_network(layers, architecture, table):
    assert list(table.layers) == list(layers[architecture])


@pytest.mark.parametrize(("architecture", "table"), TABLES)
def test_no_tensor_has_two_uses(architecture, table):
    names = (*table.required_names(), *table.extra_tensors)
    assert len(set(names)) == len(names)
    assert not any(table.is_ignored(name) for name in names)


@pytest.mark.parametrize(
    ("architecture", "naming", "layer", "kernel", "others"),
    [
        # The tenth of the ten things before conv3_1: two blocks of conv, ReLU, conv,
        # ReLU, pooling.
        ("vgg16", "torchvision", "conv3_1", "features.10.weight", "features.10.bias"),
        ("vgg16", "timm", "conv5_3", "features.28.weight", "features.28.bias"),
        ("vgg16", "cirtorch-features", "conv1_2", "2.weight", "2.bias"),
        ("vgg16", "matconvnet", "conv4_2", "conv4_2.weight", "conv4_2.bias"),
        (
            *("resnet101", "torchvision", "layer3.22.conv2"),
            *("layer3.22.conv2.weight", "layer3.22.bn2.weight"),
        ),
        # The children of the network: conv1, bn1, ReLU, pooling, layer1 is number 4.
        ("resnet50", "cirtorch", "conv1", "features.0.weight", "features.1.weight"),
        (
            *("resnet50", "cirtorch", "layer2.0.downsample"),
            *("features.5.0.downsample.0.weight", "features.5.0.downsample.1.weight"),
        ),
        (
            *("resnet101", "cirtorch-features", "layer4.2.conv3"),
            *("7.2.conv3.weight", "7.2.bn3.weight"),
        ),
        (
            *("efficientnet-lite0", "lukemelas", "blocks.15.project"),
            *("_blocks.15._project_conv.weight", "_blocks.15._bn2.weight"),
        ),
        # Without an expansion: the depthwise step comes first.
        (
            *("efficientnet-lite0", "timm", "blocks.0.project"),
            *("blocks.0.0.conv_pw.weight", "blocks.0.0.bn2.weight"),
        ),
        # 1 + 2 + 2 blocks stand before the fourth stage, number 3.
        (
            *("efficientnet-lite0", "timm", "blocks.5.expand"),
            *("blocks.3.0.conv_pw.weight", "blocks.3.0.bn1.weight"),
        ),
        (
            *("efficientnet-lite0", "timm", "blocks.15.project"),
            *("blocks.6.0.conv_pwl.weight", "blocks.6.0.bn3.weight"),
        ),
    ],
)
def test_names_are_those_that_the_publishers_use(
    architecture, naming, layer, kernel, others
):
    (table,) = [t for t in name_maps()[architecture] if t.name == naming]
    assert table.layers[layer].names()[:2] == (kernel, others)


@pytest.mark.parametrize(("architecture", "table"), TABLES)
def test_a_file_of_every_name_map_is_detected(architecture, table):
    names = [*table.required_names(), *EXTRA.get((architecture, table.name), ())]
    # Features alone look the same in three namings of VGG16: the first is taken.
    bare = architecture == "vgg16" and table.name == "cirtorch"
    got = detect_name_map(architecture, names)
    assert got is table or bare
    assert detect_name_map(architecture, names[::-1]) is got


def test_features_alone_are_detected_as_cirtorch():
    names = name_maps()["vgg16"][1].required_names()
    assert detect_name_map("vgg16", names).name == "cirtorch"


@settings(deadline=None, max_examples=8)
@given(st.data())
def test_one_tensor_too_few_or_too_many_is_refused(data):
    architecture, table = data.draw(st.sampled_from([p.values for p in TABLES]))
    required_names = list(table.required_names())
    lost = data.draw(st.sampled_from(required_names))
    with pytest.raises(ValueError, match=rf"must be those of {architecture}") as raised:
        detect_name_map(architecture, [name for name in required_names if name != lost])
    assert f"missing: {lost}; left over: nothing." in str(raised.value)
    with pytest.raises(ValueError, match=r"missing: nothing; left over: extra\.weight"):
        detect_name_map(architecture, [*required_names, "extra.weight"])


@pytest.mark.parametrize(
    ("wanted", "held", "naming", "said"),
    [
        ("resnet101", "resnet50", "torchvision", "missing: layer3.6.conv1.weight, "),
        ("resnet50", "resnet101", "torchvision", "left over: layer3.6.conv1.weight, "),
        ("resnet101", "resnet50", "cirtorch-features", "missing: 6.6.conv1.weight, "),
        ("resnet50", "vgg16", "timm", "left over: features.0.bias, "),
        ("vgg16", "resnet101", "cirtorch", "missing: features.0.bias, "),
        ("vgg16", "efficientnet-lite0", "timm", "left over: conv_stem.weight, "),
        ("efficientnet-lite0", "resnet50", "torchvision", "missing: "),
    ],
)
def test_the_error_names_the_architecture_that_the_file_holds(
    wanted, held, naming, said
):
    (table,) = [t for t in name_maps()[held] if t.name == naming]
    with pytest.raises(ValueError, match=f"^here: .* those of {wanted};") as raised:
        detect_name_map(wanted, table.required_names(), source="here")
    # VGG16's features in timm's file look as in cirtorch's.
    shown = "cirtorch" if held == "vgg16" else naming
    assert f"they look like {held} in the naming of {shown}. Held" in str(raised.value)
    assert said in str(raised.value)


def test_the_error_shows_three_names_and_counts_the_others():
    required_names = name_maps()["resnet50"][0].required_names()
    with pytest.raises(ValueError, match="but not exactly") as raised:
        detect_name_map("resnet50", required_names[5:])
    assert (
        "missing: conv1.weight, bn1.weight, bn1.bias and 2 more; left over: nothing."
    ) in str(raised.value)


@pytest.mark.parametrize("names", [(), ("cls_token", "pos_embed")])
def test_the_error_says_if_a_file_resembles_no_architecture(names):
    known = "none of vgg16, resnet50, resnet101, efficientnet-lite0"
    with pytest.raises(ValueError, match=f"look like {known}"):
        detect_name_map("vgg16", names)


def test_pixels_are_scaled_as_each_family_was_trained():
    scalings = {
        (architecture, table.name): table.scaling
        for architecture, tables in name_maps().items()
        for table in tables
    }
    assert scalings["vgg16", "matconvnet"] is None  # Its file holds the mean.
    for (architecture, naming), scaling in scalings.items():
        if scaling is None:
            continue
        ends = -0.485 / 0.229, (1 - 0.485) / 0.229
        if architecture == "efficientnet-lite0":
            # Both take 0 and 255 close to -1 and 1.
            ends = {"timm": (-1, 1), "lukemelas": (-127 / 128, 1)}[naming]
        red = scaling.mean[0], scaling.std[0]
        got = [(value - red[0]) / red[1] for value in (0, 255)]
        np.testing.assert_allclose(got, ends, rtol=1e-12)
