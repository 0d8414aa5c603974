"""Users' own modules in training: against torch's own layers, worker by worker; and what is refused in words."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from widestep.errors import UsageError
from widestep.models.batchnorm import WorkerBatchNorm
from widestep.models.build import build_model
from widestep.models.dropout import KeyedDropout
from widestep.models.stacked import parameter_roles

MIXED = """
class Net(nn.Module):
    def __init__(self, num_classes, image_shape):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8, eps=1e-3, momentum=0.3)
        self.grouped = nn.Conv2d(8, 8, 3, groups=4)
        self.gn = nn.GroupNorm(2, 8)
        self.drop2d = nn.Dropout2d(0.2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.ln = nn.LayerNorm((36, 8))
        self.fc1 = nn.Linear(8, 6)
        self.bn1 = nn.BatchNorm1d(6, affine=False)
        self.drop = nn.Dropout(0.3)
        self.fc2 = nn.Linear(6, num_classes)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, images):
        x = F.relu(self.bn(self.conv(images)))
        x = self.drop2d(self.gn(self.grouped(x))).flatten(2).transpose(1, 2)
        x = self.ln(x + self.attention(x, x, x, need_weights=False)[0])
        x = self.drop(self.bn1(self.fc1(x.mean(1))))
        return self.scale * self.fc2(self.drop(x))
"""


def gradients(model, images, labels, num_groups=1, keys=None):
    model.context.begin(num_groups, keys)
    logits = model(images)[:, 0]
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return logits.detach(), torch.autograd.grad(loss, list(model.parameters())), model.context.batch_statistics()


def drawn(num_images, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(num_images, 3, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
    return images, torch.arange(num_images) % 5


def test_workers_together_are_a_loop_over_workers(own, keys_of):  # W8
    model = own(MIXED, dtype=torch.float64)
    images, labels = drawn(12)
    logits, grads, statistics = gradients(model, images, labels, 3, keys_of(range(3)))
    summed = [torch.zeros_like(grad) for grad in grads]
    for worker in range(3):
        own_images = slice(worker, None, 3)
        alone = gradients(model, images[own_images], labels[own_images], 1, keys_of(range(worker, worker + 1)))
        torch.testing.assert_close(logits[own_images], alone[0], rtol=1e-13, atol=1e-13)
        summed = [total + grad for total, grad in zip(summed, alone[1], strict=True)]
        for together, apart in zip(statistics, alone[2], strict=True):
            torch.testing.assert_close(together.mean[worker], apart.mean[0], rtol=1e-13, atol=1e-13)
    for grad, total in zip(grads, summed, strict=True):
        assert (grad - total).abs().max() <= 1e-13 * max(1.0, total.abs().max().item())


def test_one_worker_is_the_users_own_module_to_the_bit(own):
    """Without dropout: logits, gradients and the statistics that torch's layers would have kept with momentum 1."""
    model = own(MIXED.replace("Dropout(0.3)", "Dropout(0.0)").replace("Dropout2d(0.2)", "Dropout2d(0)"))
    images, labels = drawn(8, torch.float32)
    namespace: dict = {}
    exec("import torch\nfrom torch import nn\nimport torch.nn.functional as F\n" + MIXED, namespace)
    theirs = namespace["Net"](5, (3, 8, 8))
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 1.0
        elif isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    theirs.load_state_dict(model.slot_parameters(0), strict=False)
    logits, grads, statistics = gradients(model, images, labels)
    expected = theirs(images)
    expected_grads = torch.autograd.grad(F.cross_entropy(expected, labels, reduction="sum"), list(theirs.parameters()))
    assert torch.equal(logits, expected)
    assert [name for name, _ in theirs.named_parameters()] == list(model.slot_parameters(0))
    assert all(torch.equal(a, b) for a, b in zip(grads, expected_grads, strict=True))
    kept = [theirs.bn, theirs.bn1]
    assert all(torch.equal(s.mean[0], norm.running_mean) for s, norm in zip(statistics, kept, strict=True))
    assert all(torch.equal(s.variance[0], norm.running_var) for s, norm in zip(statistics, kept, strict=True))
    for norm, (mean, variance, _) in zip(model.batch_norms(), statistics, strict=True):
        norm.running_mean.copy_(mean[0])
        norm.running_var.copy_(variance[0])
    assert torch.equal(model.eval()(images)[:, 0], theirs.eval()(images))


def test_names_numbers_and_layers(own):
    model = own(MIXED)
    assert [name for name, _ in model.module.named_children()] == [
        *("conv", "bn", "grouped", "gn", "drop2d", "attention", "ln", "fc1", "bn1", "drop", "fc2")
    ]
    assert [norm.num_channels for norm in model.batch_norms()] == [8, 6]
    assert list(model.slot_statistics(0)) == ["bn.running_mean", "bn.running_var", "bn1.running_mean", "bn1.running_var"]
    assert isinstance(model.module.drop, KeyedDropout)
    assert model.draws_globally


def test_roles_by_type_and_dimension(own):  # O3
    model = own(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight_norm_bias = nn.Conv2d(3, 4, 3)
                self.a = nn.BatchNorm2d(4)
                self.b = nn.GroupNorm(2, 4)
                self.c = nn.InstanceNorm2d(4, affine=True)
                self.d = nn.LayerNorm((4, 6, 6))
                self.e = nn.RMSNorm(6)
                self.f = nn.PReLU(4)
                self.gain = nn.Parameter(torch.tensor(1.0))
                self.position = nn.Parameter(torch.zeros(1, 4, 6, 6))
                self.fc = nn.Linear(144, 5)
            def forward(self, x):
                x = self.e(self.d(self.c(self.b(self.a(self.weight_norm_bias(x))))))
                return self.fc((self.f(x) * self.gain + self.position).flatten(1))
        """
    )
    roles = parameter_roles(model)
    assert list(roles) == list(model.slot_parameters(0))
    by_role = {role: {name for name in roles if roles[name] == role} for role in ("weight", "bias", "batchnorm")}
    assert by_role["batchnorm"] == {f"{layer}.{kind}" for layer in "abcd" for kind in ("weight", "bias")} | {"e.weight"}
    assert by_role["bias"] == {"weight_norm_bias.bias", "f.weight", "gain", "fc.bias"}
    assert by_role["weight"] == {"weight_norm_bias.weight", "position", "fc.weight"}
    model.context.begin(2)
    assert model(torch.randn(4, 3, 8, 8)).shape == (4, 1, 5)


def test_initial_weights_are_the_users_own(own):
    model = own(MIXED, key=2**63 + 17)
    namespace: dict = {}
    exec("import torch\nfrom torch import nn\nimport torch.nn.functional as F\n" + MIXED, namespace)
    with torch.random.fork_rng():
        torch.manual_seed(2**63 + 17)
        expected = namespace["Net"](5, (3, 8, 8)).state_dict()
    assert all(torch.equal(view, expected[name]) for name, view in model.slot_parameters(0).items())
    before = {name: view.clone() for name, view in model.slot_parameters(0).items()}
    model.initialise(0, 1)
    assert not torch.equal(before["fc1.weight"], model.slot_parameters(0)["fc1.weight"])
    model.slot_statistics(0)["bn.running_mean"].fill_(5.0)
    model.initialise(0, 2**63 + 17)
    assert all(torch.equal(view, before[name]) for name, view in model.slot_parameters(0).items())
    assert not model.slot_statistics(0)["bn.running_mean"].any()


def test_a_network_is_returned_ready_for_training(own):
    model = own("def Net():\n    return nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.5)).eval()\n")
    assert all(module.training for module in model.modules())


def test_random_buffers_are_initial_weights_too(own):
    body = """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("projection", torch.randn(192, 7))
            self.fc = nn.Linear(7, 5)
        def forward(self, x):
            return self.fc(x.flatten(1) @ self.projection)
    """
    one, other, again = (own(body, key=key).slot_statistics(0)["projection"] for key in (1, 2, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


TIED = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(192, 192), nn.Linear(192, 192)
        self.decode.weight = self.encode.weight
        self.first, self.second = nn.BatchNorm1d(192), nn.BatchNorm1d(192)
        self.second.weight = self.first.weight
        self.fc = nn.Linear(192, 5)
    def forward(self, x):
        return self.fc(self.second(self.decode(self.first(self.encode(x.flatten(1))))))
"""


def test_tied_weights_are_one_parameter_with_the_sum_of_both_gradients(own):
    model = own(TIED, dtype=torch.float64)
    names = list(model.slot_parameters(0))
    assert "encode.weight" in names
    assert "decode.weight" not in names
    assert list(parameter_roles(model)) == names
    assert parameter_roles(model)["first.weight"] == "batchnorm"
    images, labels = drawn(6)
    found = dict(zip(names, gradients(model, images, labels)[1], strict=True))
    step = 1e-6
    for name in ("encode.weight", "first.weight"):
        view = model.slot_parameters(0)[name]
        direction = torch.randn(view.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        losses = []
        for sign in (1, -1):
            view.add_(direction, alpha=sign * step)
            model.context.begin()
            losses.append(F.cross_entropy(model(images)[:, 0], labels, reduction="sum").item())
            view.sub_(direction, alpha=sign * step)
        slope = (found[name] * direction).sum().item()
        assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(slope, rel=1e-6)
    model.initialise(0, 7)
    assert model.module.decode.weight is model.module.encode.weight


def test_frozen_parameters_are_known_and_not_trained(own):
    model = own(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem, self.fc = nn.Conv2d(3, 4, 8), nn.Linear(4, 5)
                self.stem.requires_grad_(False)
            def forward(self, x):
                return self.fc(self.stem(x).flatten(1))
        """
    )
    assert list(model.slot_parameters(0)) == ["stem.weight", "stem.bias", "fc.weight", "fc.bias"]
    assert model.trained_names() == ["fc.weight", "fc.bias"]


def test_references_hooks_and_names_of_a_replaced_layer_stay(own):
    model = own(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.norm = nn.BatchNorm2d(3)
                self.again = self.norm
                self.plain_list = [self.norm]
                self.seen = []
                self.norm.register_forward_hook(lambda layer, inputs, output: self.seen.append(output))
                self.fc = nn.Linear(192, 5)
            def forward(self, x):
                return self.fc(self.plain_list[0](x).flatten(1))
        """
    )
    model.context.begin(2)
    model(torch.randn(4, 3, 8, 8))
    assert len(model.module.seen) == 1
    assert model.module.again is model.module.norm is model.module.plain_list[0]
    assert len(model.batch_norms()) == 1
    assert len(model.context.batch_statistics()) == 1


def test_dropout_follows_its_keys_and_other_draws_the_global_generator(own, keys_of):
    model = own(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.drop, self.fc = nn.Dropout(0.5), nn.Linear(192, 5)
            def forward(self, x):
                x = self.drop(x.flatten(1))
                return self.fc(F.dropout(x, 0.5, self.training))
        """
    )
    images = torch.ones(4, 3, 8, 8)

    def logits(seed, keys):
        model.context.begin(2, keys)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return model(images)

    first = logits(1, keys_of(range(2)))
    assert torch.equal(first, logits(1, keys_of(range(2))))
    assert not torch.equal(first, logits(2, keys_of(range(2))))
    assert not torch.equal(first, logits(1, keys_of(range(1, 3))))


def refusal(own, body, **options):
    with pytest.raises(UsageError) as caught:
        own(body, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def net(layers: str) -> str:
    return f"""
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = {layers}
        def forward(self, x):
            return self.body(x)
    """


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ("nn.LazyLinear(5)", "body is a LazyLinear, which has no weights before the first image"),
        ("nn.Sequential(nn.Linear(1, 1), nn.LazyBatchNorm2d())", "body.1 is a LazyBatchNorm2d"),
        ("nn.SyncBatchNorm(3)", "body is a SyncBatchNorm: use nn.BatchNorm2d, and batchnorm = sync in the recipe."),
        (
            "type('Mine', (nn.BatchNorm2d,), {'forward': lambda self, x: x})(3)",
            "body is a Mine, a batch normalisation with its",
        ),
        (
            "nn.utils.parametrizations.weight_norm(nn.BatchNorm2d(3), dim=None)",
            "a batch normalisation with its own arithmetic",
        ),
        ("nn.InstanceNorm2d(3, affine=True, track_running_stats=True)", "set track_running_stats=False"),
        ("nn.Linear(3, 5).double()", "float32, in bf16 training too: body.weight is torch.float64"),
        ("nn.ReLU()", "It has no parameters to train"),
        ("nn.Linear(3, 5).requires_grad_(False)", "It has no parameters to train"),
    ],
)
def test_modules_that_cannot_be_exact_are_refused(own, layers, said):
    message = refusal(own, net(layers))
    assert message.startswith("The model ")
    assert " cannot be trained as it is. " in message
    assert said in message


def test_a_subclass_that_only_sets_options_is_replaced(own):
    model = own(net("nn.Sequential(type('Mine', (nn.BatchNorm2d,), {})(3, eps=0.5), nn.Flatten(), nn.Linear(192, 5))"))
    assert isinstance(model.module.body[0], WorkerBatchNorm)
    assert model.module.body[0].eps == 0.5


def test_networks_that_differ_from_call_to_call_are_refused(own):
    assert "must return the same network at every call" in refusal(
        own, "from itertools import count\nwidths = count(1)\ndef Net():\n    return nn.Linear(3, next(widths))\n"
    )
    assert "must return a new module at every call" in refusal(own, "made = nn.Linear(3, 5)\ndef Net():\n    return made\n")


def trained_once(model, num_groups=1, num_images=4, keys=None, size=8):
    model.context.begin(num_groups, keys)
    return model(torch.randn(num_images, 3, size, size))


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        ("return self.fc(x.flatten(1))[:, :3]", "must return logits of shape (4, 5); it returned (4, 3)."),
        ("return self.fc(x.flatten(1)).mean(0)", "must return logits of shape (4, 5); it returned (5,)."),
        ("return self.fc(x.flatten(1)), x", "it returned a tuple."),
        ("return self.fc(x.flatten(2))", "must classify images without an error; it raised RuntimeError: mat1"),
        ("assert x.shape[2] == 99, 'too small'", "AssertionError: too small at line 13 of"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_wrong_outputs_and_errors_while_classifying(own, forward, said, training):
    model = own(
        f"""
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(192, 5)
                # a line

            def forward(self, x):
                {forward}
        """
    ).train(training)
    with pytest.raises(UsageError) as caught:
        trained_once(model)
    assert said in str(caught.value)


def test_an_operation_without_a_deterministic_form_is_left_to_the_caller(own):
    model = own(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(192, 5)
            def forward(self, x):
                x = x.flatten(1).clone().put_(torch.tensor([0]), torch.tensor([1.0]))
                return self.fc(x)
        """
    )
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match=r"^put_ does not have a deterministic implementation"):
            trained_once(model)
    finally:
        torch.use_deterministic_algorithms(False)


TWO_NORMS = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.fc = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Linear(192, 5)
    def forward(self, x):
        return self.fc({}.flatten(1))
"""


def test_a_batch_norm_must_be_used_once(own):
    with pytest.raises(UsageError, match=r"two of the model .*net0\.py:Net was left out"):
        trained_once(own(TWO_NORMS.format("self.one(x)")))
    with pytest.raises(UsageError, match=r"one was used twice\..* \(Called at line 11 of .*net1\.py\.\)"):
        trained_once(own(TWO_NORMS.format("self.one(self.two(self.one(x)))")))
    with pytest.raises(UsageError, match="in training mode"):
        trained_once(own(TWO_NORMS.format("self.one.eval()(self.two(x))")))


def test_where_no_line_of_the_user_took_part_none_is_named(own):
    model = own(
        "def Net():\n    norm = nn.BatchNorm2d(3)\n    return nn.Sequential(norm, norm, nn.Flatten(), nn.Linear(192, 5))\n"
    )
    with pytest.raises(UsageError, match=r"one was used twice\. Give every place its own\.$"):
        trained_once(model)


def test_images_must_come_first_where_several_workers_are_told_apart(own, keys_of):
    body = """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.drop, self.fc = nn.BatchNorm1d(3), nn.Dropout(0.1), nn.Linear(3, 5)
        def forward(self, x):
            x = {}
            return self.fc(x.mean(1))
    """
    tokens = "x.flatten(2).transpose(1, 2)"
    flattened = f"self.norm({tokens}.flatten(0, 1)).unflatten(0, (-1, 64))"
    positions_first = "self.drop(self.norm(x.flatten(2)).permute(2, 0, 1)).transpose(0, 1)"
    for way in (flattened, positions_first):
        model = own(body.format(way))
        assert trained_once(model, keys=keys_of(range(1))).shape == (4, 1, 5)
        with pytest.raises(UsageError, match=r"images along the first dimension, here 4; .* Set workers_per_forward to 1\."):
            trained_once(model, num_groups=2, keys=keys_of(range(2)))


def test_recomputing_in_the_backward_pass(own, keys_of):
    body = """
    from torch.utils.checkpoint import checkpoint
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.drop, self.fc = nn.BatchNorm2d(3), nn.Dropout({}), nn.Linear(192, 5)
        def part(self, x):
            return self.drop(self.norm(x)).tanh()
        def forward(self, x):
            return self.fc(checkpoint(self.part, x, use_reentrant=False).flatten(1))
    """
    images, labels = drawn(4)
    model = own(body.format(0.0), dtype=torch.float64)
    plain = copy.deepcopy(model)
    plain.module.forward = lambda x: plain.module.fc(plain.module.part(x).flatten(1))
    for ours, theirs in zip(gradients(model, images, labels)[1], gradients(plain, images, labels)[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
    with pytest.raises(UsageError, match="within the forward pass"):
        gradients(own(body.format(0.5), dtype=torch.float64), images, labels, 1, keys_of(range(1)))


def test_every_workers_gradient_needs_one_worker_a_pass(own):
    model = own(TWO_NORMS.format("self.two(self.one(x))"))
    model.context.begin(2, per_worker=True)
    with pytest.raises(UsageError, match=r"AdaScale, worker_norms.*Set workers_per_forward to 1\."):
        model(torch.randn(4, 3, 8, 8))
    model.context.begin(1, per_worker=True)
    model(torch.randn(4, 3, 8, 8))
    assert model.context.worker_leaves(model.parameters()) == list(model.parameters())


def test_recurrent_layers_and_parametrizations(own, keys_of):
    model = own(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn = nn.LSTM(24, 6, batch_first=True)
                self.fc = nn.utils.parametrizations.weight_norm(nn.Linear(6, 5))
            def forward(self, x):
                return self.fc(self.rnn(x.transpose(1, 2).flatten(2))[0][:, -1])
        """,
        dtype=torch.float64,
    )
    images, labels = drawn(6)
    _, together, _ = gradients(model, images, labels, 3)
    summed = [torch.zeros_like(grad) for grad in together]
    for worker in range(3):
        alone = gradients(model, images[worker::3], labels[worker::3])[1]
        summed = [total + grad for total, grad in zip(summed, alone, strict=True)]
    torch.testing.assert_close(list(together), summed, rtol=1e-12, atol=1e-13)


def test_a_model_of_ours_and_of_a_user_answer_the_same_questions(own):
    ours = build_model("digits-resnet", num_classes=5, image_shape=(3, 8, 8))
    theirs = own(MIXED)
    for model in (ours, theirs):
        assert model.num_slots == 1
        assert parameter_roles(model).keys() == model.slot_parameters(0).keys()
        assert set(model.trained_names()) <= set(model.slot_parameters(0))
