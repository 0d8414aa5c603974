"""The probe finds each planted fault, finds nothing where there is none, and leaves no trace."""

import warnings

import pytest
import torch

from widestep.models.build import build_model
from widestep.models.probe import Findings, probe

WRAPPED = """
class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.norm, self.drop, self.fc = nn.BatchNorm2d(3), nn.Dropout(0.3), nn.Linear(192, num_classes)
        {init}
    def forward(self, x):
        y = self.drop(self.norm(x).flatten(1))
        {forward}
        return self.fc(y)
"""


def block(num_images=6, num_slots=1, channels=3):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(num_images, channels * num_slots, 8, 8, generator=generator)
    return images, torch.arange(num_images * num_slots).view(num_images, num_slots) % 5


@pytest.fixture
def planted(own):
    def plant(forward="pass", init="pass", before=""):
        return own(before + WRAPPED.format(forward=forward, init=init))

    return plant


@pytest.mark.parametrize("num_groups", [1, 3])
def test_a_sound_model_has_no_findings(planted, num_groups):
    assert probe(planted(), *block(), num_groups=num_groups) == Findings()
    assert Findings().objections() == []


@pytest.mark.parametrize("num_slots", [1, 2])
def test_shipped_models_have_no_findings(num_slots):
    model = build_model("digits-resnet", num_classes=5, image_shape=(1, 8, 8), num_slots=num_slots, dropout=0.2)
    for slot in range(num_slots):
        model.initialise(slot, slot)
    assert probe(model, *block(num_slots=num_slots, channels=1), num_groups=3) == Findings()


def test_operations_without_a_deterministic_form_are_named_once(planted):
    put = "y = y.clone().put_(torch.tensor([1]), torch.tensor([2.0]))"
    pool = "F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)"
    found = probe(planted(f"{put}; {put}; {pool}"), *block())
    assert found.nondeterministic == ("put_", "max_unpooling2d_forward_out")
    (said,) = found.objections()
    assert said == "Every operation must have a deterministic form; not so put_, max_unpooling2d_forward_out."


@pytest.mark.parametrize(
    "change", ["self.average.mul_(0.9)", "self.average = self.average + 1", "self.register_buffer('new', torch.ones(1))"]
)
def test_changed_buffers_are_named_and_put_back(planted, change):
    model = planted(
        change, init="self.register_buffer('average', torch.ones(3)); self.register_buffer('n', torch.tensor(True))"
    )
    views = model.slot_statistics(0)
    found = probe(model, *block())
    assert found.changed_buffers == (("new",) if "new" in change else ("average",))
    assert "A forward pass must leave buffers as they are" in found.objections()[0]
    assert model.slot_statistics(0).keys() == views.keys()
    views["average"].fill_(7.0)
    assert torch.equal(model.slot_statistics(0)["average"], torch.full((3,), 7.0))


def test_gradients_that_differ_name_their_first_parameter(planted):
    model = planted("self.calls.append(0); y = y * len(self.calls)", init="self.calls = []")
    assert probe(model, *block()).unrepeated_gradient == "norm.weight"


def test_global_draws_repeat_and_are_reported_without_an_objection(planted):
    found = probe(planted("y = F.dropout(y, 0.5, self.training)"), *block(), num_groups=3)
    assert found == Findings(draws_globally=True)
    assert found.objections() == []


def test_parameters_without_a_gradient(planted):
    model = planted(init="self.idle = nn.Linear(2, 2); self.frozen = nn.Linear(2, 2).requires_grad_(False)")
    found = probe(model, *block())
    assert found.without_gradient == ("idle.weight", "idle.bias")
    (said,) = found.objections()
    assert said == "Every parameter needs a gradient or requires_grad=False; idle.weight, idle.bias had none."
    assert probe(planted("return self.fc(y).detach()"), *block()).without_gradient == (
        *("norm.weight", "norm.bias", "fc.weight", "fc.bias"),
    )


def test_initial_weights_from_another_generator(planted):
    model = planted(init="self.fc.bias.data.fill_(random())", before="from random import random\n")
    assert probe(model, *block()).unrepeated_weight == "fc.bias"


def test_images_that_meet_other_workers_images(planted):
    model = planted("y = y - y.mean(0)")
    assert probe(model, *block()) == Findings()
    found = probe(model, *block(), num_groups=3)
    assert found == Findings(mixes_groups=True)
    assert "Set workers_per_forward to 1." in found.objections()[0]


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        ("return self.fc(y)[:, :2]", "must return logits of shape (6, 5); it returned (6, 2)."),
        ("raise KeyError('missing')", "must classify images without an error; it raised KeyError: 'missing' at line 13 of"),
        (
            "y = F.relu(y); z = y * y; y.add_(1); y = y + z",
            "differentiated without an error; it raised RuntimeError: one of",
        ),
        ("return self.fc(self.norm(x).flatten(1))", "one was used twice"),
    ],
)
def test_what_cannot_be_run_is_a_finding_in_words(planted, forward, said):
    found = probe(planted(forward), *block())
    assert said in found.refusal
    assert "site-packages" not in found.refusal
    assert found.objections() == [found.refusal]


def test_a_refused_model_still_names_operations(planted):
    found = probe(planted("y.clone().put_(torch.tensor([1]), torch.tensor([2.0])); return y"), *block())
    assert found.refusal
    assert found.nondeterministic == ("put_",)


@pytest.mark.parametrize("forward", ["pass", "raise ValueError", "self.average.mul_(0.9)"])
def test_no_trace_is_left(planted, forward):
    model = planted(forward, init="self.register_buffer('average', torch.ones(3))")
    model.module.norm.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    torch.set_deterministic_debug_mode("error")
    try:
        with warnings.catch_warnings(record=True) as heard:
            probe(model, *block(), num_groups=2)
        assert torch.get_deterministic_debug_mode() == 2
    finally:
        torch.set_deterministic_debug_mode("default")
    assert heard == []
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert (model.context.num_groups, model.context.ended) == (1, False)
    with pytest.raises(AssertionError):
        model.context.batch_statistics()


@pytest.mark.parametrize(
    "forward",
    [
        "y = F.layer_norm(y + F.dropout(y, 0.1) + 0.001 * y.mean(0), (192,))",
        "y = y + 1e-6 * y.mean(0)",
        "y = y[torch.randperm(len(y))] * 0.5 + y * 0.5",
    ],
    ids=["beside random numbers", "hardly", "mixup"],
)
def test_workers_that_mix_are_found_however_weakly_and_beside_random_numbers(planted, forward):
    assert probe(planted(forward), *block(num_images=12), num_groups=3).mixes_groups
    assert not probe(planted(forward), *block(num_images=12), num_groups=1).mixes_groups


def test_a_model_may_write_into_its_images(own):
    images, labels = block()
    before = images.clone()
    model = own(WRAPPED.replace("y = self", "x.sub_(0.3).div_(0.4); y = self").format(forward="pass", init="pass"))
    assert probe(model, images, labels, num_groups=3) == Findings()
    assert images.equal(before)


def test_leaving_the_program_in_a_pass_is_an_error_like_others(planted):
    found = probe(planted("raise SystemExit(3)"), *block())
    assert "it raised SystemExit: 3" in found.refusal
