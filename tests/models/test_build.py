"""The table of models: parameter counts, public names and shapes, and words for what cannot be built."""

import pytest

from widestep.errors import UsageError
from widestep.models.block import BlockContext
from widestep.models.build import MODEL_NAMES, build_model, model_fingerprint
from widestep.models.layers import StackedConv2d
from widestep.models.stacked import parameter_roles


def num_parameters(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "count", "norms"),
    [
        ("resnet18", 11_689_512, 20),
        ("resnet34", 21_797_672, 36),
        ("resnet50", 25_557_032, 53),
        ("resnet101", 44_549_160, 104),
        ("resnet152", 60_192_808, 155),
    ],
)
def test_imagenet_counts(name, count, norms):
    model = build_model(name, num_classes=1000, image_shape=(3, 224, 224))
    assert num_parameters(model) == count
    assert len(model.batch_norms()) == norms


@pytest.mark.parametrize("n", [3, 5, 7, 9])
def test_cifar_counts_by_hand(n):
    """Convolutions c_in*c_out*9, batch-norm 2 a channel, 65 x 10 classifier, shortcuts nothing."""
    stem = 3 * 16 * 9 + 32
    stage1 = 2 * n * (16 * 16 * 9 + 32)
    stage2 = (16 * 32 * 9 + 64) + (2 * n - 1) * (32 * 32 * 9 + 64)
    stage3 = (32 * 64 * 9 + 128) + (2 * n - 1) * (64 * 64 * 9 + 128)
    model = build_model(f"cifar-resnet{6 * n + 2}", num_classes=10, image_shape=(3, 32, 32))
    assert num_parameters(model) == stem + stage1 + stage2 + stage3 + 65 * 10
    weights = [module for module in model.modules() if isinstance(module, StackedConv2d)]
    assert len(weights) + 1 == 6 * n + 2


def test_cifar_counts_round_to_the_published_ones():
    """He et al. 2016, table 6: 0.27M, 0.46M, 0.66M, 0.85M."""
    names = [f"cifar-resnet{depth}" for depth in (20, 32, 44, 56)]
    counts = [num_parameters(build_model(name, num_classes=10, image_shape=(3, 32, 32))) for name in names]
    assert [round(count / 1e6, 2) for count in counts] == [0.27, 0.46, 0.66, 0.85]


def test_the_small_cifar_networks_by_hand():
    """Convolutions c_in*c_out*k*k, batch-norm 2 a channel; a 1x1 convolution with its own in shortcuts that change shape."""

    def block(before: int, width: int) -> int:
        shortcut = before * width + 2 * width if before != width else 0
        return (before + width) * width * 9 + 4 * width + shortcut

    of_processors = 3 * 16 * 25 + 32 + block(16, 32) + block(32, 64) + 65 * 10
    model = build_model("cifar-resnet6", num_classes=10, image_shape=(3, 32, 32))
    assert num_parameters(model) == of_processors == 74_138
    wide = 3 * 32 * 9 + 64 + 2 * block(32, 32) + block(32, 64) + block(64, 64) + block(64, 128) + block(128, 128) + 129 * 10
    assert num_parameters(build_model("cifar-resnet14x2", num_classes=10, image_shape=(3, 32, 32))) == wide == 696_618


def test_digits_count_by_hand():
    stem = 1 * 8 * 9 + 16
    block1 = 2 * (8 * 8 * 9 + 16)
    block2 = (8 * 16 * 9 + 32) + (16 * 16 * 9 + 32) + (8 * 16 + 32)
    model = build_model("digits-resnet", num_classes=10, image_shape=(1, 8, 8))
    assert num_parameters(model) == stem + block1 + block2 + 17 * 10 == 5122


def test_stacking_multiplies_every_parameter():
    one = build_model("digits-resnet", num_classes=10, image_shape=(1, 8, 8))
    three = build_model("digits-resnet", num_classes=10, image_shape=(1, 8, 8), num_slots=3)
    assert num_parameters(three) == 3 * num_parameters(one)
    assert {n: v.shape for n, v in three.slot_parameters(2).items()} == {n: p.shape for n, p in one.named_parameters()}
    assert {n: v.shape for n, v in three.slot_statistics(2).items()} == {n: b.shape for n, b in one.named_buffers()}


def public_resnet50_shapes() -> dict[str, tuple[int, ...]]:
    """The public naming scheme of ResNet-50's state in PyTorch, without the batch counters."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, channels: int) -> None:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{leaf}"] = (channels,)

    shapes["conv1.weight"] = (64, 3, 7, 7)
    norm("bn1", 64)
    channels = 64
    for layer, num_blocks, width in ((1, 3, 64), (2, 4, 128), (3, 6, 256), (4, 3, 512)):
        for block in range(num_blocks):
            path = f"layer{layer}.{block}"
            shapes[f"{path}.conv1.weight"] = (width, channels, 1, 1)
            norm(f"{path}.bn1", width)
            shapes[f"{path}.conv2.weight"] = (width, width, 3, 3)
            norm(f"{path}.bn2", width)
            shapes[f"{path}.conv3.weight"] = (4 * width, width, 1, 1)
            norm(f"{path}.bn3", 4 * width)
            if block == 0:
                shapes[f"{path}.downsample.0.weight"] = (4 * width, channels, 1, 1)
                norm(f"{path}.downsample.1", 4 * width)
            channels = 4 * width
    shapes["fc.weight"], shapes["fc.bias"] = (1000, 2048), (1000,)
    return shapes


def test_resnet50_state_has_the_public_names_and_shapes_in_order():
    model = build_model("resnet50", num_classes=1000, image_shape=(3, 224, 224))
    state = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert list(state.items()) == list(public_resnet50_shapes().items())


def test_resnet50_strides_are_in_the_3x3():
    model = build_model("resnet50", num_classes=1000, image_shape=(3, 224, 224))
    strided = [n for n, m in model.named_modules() if isinstance(m, StackedConv2d) and m.stride == 2]
    layers = ("layer2", "layer3", "layer4")
    assert strided == ["conv1", *(f"{layer}.0.{leaf}" for layer in layers for leaf in ("conv2", "downsample.0"))]


def test_roles_of_resnet50():  # O3
    model = build_model("resnet50", num_classes=1000, image_shape=(3, 224, 224))
    roles = parameter_roles(model)
    assert list(roles) == [name for name, _ in model.named_parameters()]
    by_role = {role: [name for name in roles if roles[name] == role] for role in ("weight", "bias", "batchnorm")}
    assert len(by_role["batchnorm"]) == 106
    assert by_role["bias"] == ["fc.bias"]
    assert len(by_role["weight"]) == 54
    assert roles["layer1.0.downsample.1.weight"] == "batchnorm"


def test_roles_of_a_convolution_with_bias():
    layer = StackedConv2d(1, 2, 3, 1, 1, num_slots=2, context=BlockContext(), bias=True)
    assert parameter_roles(layer) == {"weight": "weight", "bias": "bias"}


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("resnet51", "resnet50"), ("cifar_resnet44", "cifar-resnet44"), ("RESNET50", "resnet50"), ("digits", "digits-resnet")],
)
def test_an_unknown_name_is_answered_by_the_nearest(name, nearest):
    with pytest.raises(UsageError, match=rf"one of digits-resnet, .*; got '{name}'\. Perhaps you meant {nearest}\.$"):
        build_model(name, num_classes=10, image_shape=(3, 32, 32))


def test_an_unlike_name_is_answered_by_the_list():
    with pytest.raises(UsageError, match=r"resnet152; got 'vgg'\.$"):
        build_model("vgg", num_classes=10, image_shape=(3, 32, 32))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "resnet50", "image_shape": (1, 8, 8)}, "32x32 pixels; got 1 channels of 8x8"),
        ({"image_shape": (1, 3, 8)}, "4x4 pixels; got 1 channels of 3x8"),
        ({"image_shape": (0, 8, 8)}, "got 0 channels"),
        ({"num_classes": 1}, "at least two classes; got 1"),
        ({"dropout": 1.0}, "less than 1; got 1.0"),
        ({"dropout": float("nan")}, "less than 1; got nan"),
        ({"num_slots": 0}, "got num_slots=0"),
    ],
)
def test_what_cannot_be_built_is_said_in_words(changes, words):
    asked = {"name": "digits-resnet", "num_classes": 10, "image_shape": (1, 8, 8), **changes}
    with pytest.raises(UsageError, match=words):
        build_model(asked.pop("name"), **asked)


def test_a_file_without_a_name_is_answered_by_the_form():
    with pytest.raises(UsageError, match=r"got 'net\.py'\. A model of your own reads net\.py:NAME\.$"):
        build_model("net.py", num_classes=10, image_shape=(3, 32, 32))


def test_shipped_models_have_no_fingerprint_but_ours():
    assert {model_fingerprint(name) for name in MODEL_NAMES} == {"shipped"}


def test_everything_of_a_shipped_model_is_trained():
    model = build_model("digits-resnet", num_classes=10, image_shape=(1, 8, 8), num_slots=2)
    assert model.trained_names() == list(model.slot_parameters(1))
    assert not model.draws_globally


def test_every_name_is_said_once():
    assert len(MODEL_NAMES) == len(set(MODEL_NAMES)) == 12
