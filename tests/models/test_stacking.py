"""One model of T slots and k workers is T models and k passes; slots never touch one another."""

import pytest
import torch
import torch.nn.functional as F

from widestep.models.build import build_model

NAMES = ["digits-resnet", "cifar-resnet20", "tiny-bottleneck"]


def labels_for(num_images: int, num_slots: int) -> torch.Tensor:
    return torch.arange(num_images * num_slots).view(num_images, num_slots) * 7 % 5


def gradients(model, images, num_workers, labels, keys=None):
    """Gradients of the summed cross-entropy of all images and slots, with the logits and the recorded statistics."""
    model.context.begin(num_workers, keys)
    logits = model(images)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").sum()
    grads = torch.autograd.grad(loss, list(model.parameters()))
    names = [name for name, _ in model.named_parameters()]
    return logits.detach(), dict(zip(names, grads)), model.context.batch_statistics()


def assert_near(ours, theirs):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-13 * max(1.0, theirs.abs().max().item())


@pytest.mark.parametrize("name", NAMES)
def test_a_block_of_workers_is_a_loop_over_workers(name, made, images_for, keys_of):  # W8
    num_workers, images_per_worker = 3, 4
    model = made(name, seeds=(0, 1), dropout=0.4)
    num_images = num_workers * images_per_worker
    images = torch.cat([images_for(name, num_images, seed=slot) for slot in range(2)], dim=1)
    labels = labels_for(num_images, 2)
    logits, grads, statistics = gradients(model, images, num_workers, labels, keys_of(range(3), 2))
    total = {key: torch.zeros_like(grad) for key, grad in grads.items()}
    for worker in range(num_workers):
        own = slice(worker, None, num_workers)
        own_logits, own_grads, own_statistics = gradients(
            model, images[own], 1, labels[own], keys_of(range(worker, worker + 1), 2)
        )
        assert_near(logits[own], own_logits)
        for key, grad in own_grads.items():
            total[key] += grad
        assert len(statistics) == len(own_statistics) == len(model.batch_norms())
        for fused, alone in zip(statistics, own_statistics):
            assert_near(fused.mean[worker : worker + 1], alone.mean)
            assert_near(fused.variance[worker : worker + 1], alone.variance)
    for key, grad in grads.items():
        assert_near(grad, total[key])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 5e-6)])
@pytest.mark.parametrize(("name", "num_workers"), [("digits-resnet", 10), ("cifar-resnet20", 3), ("tiny-bottleneck", 3)])
def test_every_workers_own_gradient_from_one_pass(name, num_workers, dtype, tolerance, made, images_for, keys_of):  # W8
    model = made(name, seeds=(0, 1), dtype=dtype, dropout=0.4)
    num_images = 4 * num_workers
    images = torch.cat([images_for(name, num_images, seed=slot, dtype=dtype) for slot in range(2)], dim=1)
    labels = labels_for(num_images, 2)
    parameters = list(model.parameters())
    model.context.begin(num_workers, keys_of(range(num_workers), 2), per_worker=True)
    logits = model(images)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").sum()
    apart = torch.autograd.grad(loss, model.context.worker_leaves(parameters))
    assert [tuple(piece.shape) for piece in apart] == [(num_workers, *parameter.shape) for parameter in parameters]
    in_float64 = made(name, seeds=(0, 1), dropout=0.4)
    summed = {key: torch.zeros_like(parameter) for key, parameter in in_float64.named_parameters()}
    for worker in range(num_workers):
        own = slice(worker, None, num_workers)
        keys = keys_of(range(worker, worker + 1), 2)
        own_logits, own_grads, own_statistics = gradients(in_float64, images[own].double(), 1, labels[own], keys)
        assert_within(tolerance, logits[own].detach(), own_logits)
        scale = max(grad.abs().max() for grad in own_grads.values())
        for piece, (key, grad) in zip(apart, own_grads.items(), strict=True):
            assert_within(tolerance, piece[worker], grad, scale)
            summed[key] += grad
        for together, alone in zip(model.context.batch_statistics(), own_statistics, strict=True):
            assert_within(tolerance, together.mean[worker], alone.mean[0])
            assert_within(tolerance, together.variance[worker], alone.variance[0])
    for piece, grad in zip(apart, summed.values(), strict=True):
        assert_within(tolerance, piece.sum(0), grad)


def assert_within(tolerance, ours, theirs, scale=1.0):
    assert (ours.double() - theirs).abs().max() <= tolerance * max(scale, theirs.abs().max().item())


@pytest.mark.parametrize("name", NAMES)
def test_three_slots_are_three_models(name, made, images_for):
    num_workers, num_images = 2, 8
    stacked = made(name, seeds=(5, 6, 7))
    images = [images_for(name, num_images, seed=slot) for slot in range(3)]
    labels = labels_for(num_images, 3)
    logits, grads, statistics = gradients(stacked, torch.cat(images, dim=1), num_workers, labels)
    for slot, seed in enumerate((5, 6, 7)):
        single = made(name, seeds=(seed,))
        alone, own_grads, own_statistics = gradients(single, images[slot], num_workers, labels[:, slot : slot + 1])
        assert_near(logits[:, slot : slot + 1], alone)
        for key, grad in own_grads.items():
            assert_near(grads[key].chunk(3)[slot], grad)
        for together, own in zip(statistics, own_statistics):
            assert_near(together.mean.chunk(3, dim=1)[slot], own.mean)
            assert_near(together.variance.chunk(3, dim=1)[slot], own.variance)


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_of_three_slots_is_that_of_three_models(name, made, images_for):
    stacked = made(name, seeds=(5, 6, 7)).eval()
    images = [images_for(name, 3, seed=slot) for slot in range(3)]
    singles = [made(name, seeds=(seed,)).eval() for seed in (5, 6, 7)]
    for slot, single in enumerate(singles):
        for model, index in ((stacked, slot), (single, 0)):
            for number, view in enumerate(model.slot_statistics(index).values()):
                view.copy_(torch.linspace(0.5 + slot, 1.5 + number % 3, view.numel()))
    with torch.no_grad():
        logits = stacked(torch.cat(images, dim=1))
        for slot, single in enumerate(singles):
            assert_near(logits[:, slot : slot + 1], single(images[slot]))


def spoil_with_nan(views, images):
    images.fill_(float("nan"))


def spoil_with_infinite_weights(views, images):
    for view in views.values():
        view.fill_(float("inf"))


def spoil_with_other_numbers(views, images):
    images.copy_(images.flip(0) * 3 + 1)
    for view in views.values():
        view.mul_(-1.7)


@pytest.mark.parametrize("spoil", [spoil_with_nan, spoil_with_infinite_weights, spoil_with_other_numbers])
@pytest.mark.parametrize("name", NAMES)
def test_companions_do_not_reach_the_bits_of_a_slot(name, spoil, made, images_for):
    """In float32, where the fast kernels run: slots 0 and 2 give the same bits whatever slot 1 holds."""
    num_images = 6
    images = torch.cat([images_for(name, num_images, seed=slot, dtype=torch.float32) for slot in range(3)], dim=1)
    labels = labels_for(num_images, 3)
    model = made(name, (1, 2, 3), torch.float32)
    logits, grads, _ = gradients(model, images, 2, labels)
    spoil(model.slot_parameters(1), images.chunk(3, dim=1)[1])
    spoiled_logits, spoiled_grads, _ = gradients(model, images, 2, labels)
    assert not torch.equal(logits[:, 1], spoiled_logits[:, 1])
    for slot in (0, 2):
        assert torch.isfinite(spoiled_logits[:, slot]).all()
        assert torch.equal(logits[:, slot], spoiled_logits[:, slot])
        for key, grad in grads.items():
            assert torch.equal(grad.chunk(3)[slot], spoiled_grads[key].chunk(3)[slot]), key


def test_slot_views_write_into_the_model(made):
    model = made("digits-resnet", seeds=(0, 1, 2))
    with torch.no_grad():
        model.slot_parameters(1)["layer2.0.downsample.0.weight"].fill_(4.0)
    model.slot_statistics(2)["bn1.running_var"].fill_(9.0)
    weight = model.get_parameter("layer2.0.downsample.0.weight")
    assert [(part == 4.0).all().item() for part in weight.chunk(3)] == [False, True, False]
    assert model.bn1.running_var.tolist() == [1.0] * 16 + [9.0] * 8
    assert not model.slot_parameters(1)["fc.bias"].requires_grad


def test_batch_norms_are_in_the_order_of_their_statistics(made, images_for):
    """Each layer's recorded mean is recognised by what a hook on that very layer saw."""
    model = made("digits-resnet", seeds=(0,))
    seen = {}
    for norm in model.batch_norms():
        norm.register_forward_pre_hook(lambda layer, inputs: seen.update({layer: inputs[0].mean((0, 2, 3))}))
    model.context.begin()
    model(images_for("digits-resnet", 4, seed=0))
    for norm, statistics in zip(model.batch_norms(), model.context.batch_statistics(), strict=True):
        torch.testing.assert_close(statistics.mean[0], seen[norm].detach())


def test_dropout_falls_between_the_features_and_the_classifier(keys_of):
    """The logits are those of the features times their masks: two workers of two images, T = 2, 16 features a slot."""
    model = build_model("digits-resnet", num_classes=3, image_shape=(1, 8, 8), num_slots=2, dropout=0.5)
    for slot in range(2):
        model.initialise(slot, slot)
    images = torch.rand(4, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    seen = []
    model.dropout.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    model.context.begin(2, keys_of(range(2), num_slots=2))
    logits = model(images)
    for worker in range(2):
        for slot in range(2):
            generator = torch.Generator().manual_seed(10 * worker + slot)
            mask = (torch.rand(2, 16, generator=generator) >= 0.5) * 2.0
            parameters = model.slot_parameters(slot)
            features = seen[0][worker::2, 16 * slot : 16 * slot + 16] * mask
            expected = features @ parameters["fc.weight"].T + parameters["fc.bias"]
            torch.testing.assert_close(logits[worker::2, slot], expected)
    assert model.eval()(torch.ones(1, 2, 8, 8)).shape == (1, 2, 3)


def test_images_that_do_not_divide_among_the_workers_are_our_bug(made, images_for):
    model = made("digits-resnet", seeds=(0,))
    model.context.begin(3)
    with pytest.raises(AssertionError):
        model(images_for("digits-resnet", 4, seed=0))
