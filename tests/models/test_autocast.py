"""Training in bfloat16 where torch's autocast allows it: shipped and adapted models, statistics and weights in float32."""

import pytest
import torch
import torch.nn.functional as F

from widestep.models.build import build_model

OWN = """
class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.drop, self.fc = nn.Dropout(0.2), nn.Linear(8, num_classes)
    def forward(self, x):
        return self.fc(self.drop(F.relu(self.bn(self.conv(x))).mean((2, 3))))
"""


def shipped(num_slots):
    model = build_model("digits-resnet", num_classes=5, image_shape=(3, 8, 8), num_slots=num_slots, dropout=0.2)
    for slot in range(num_slots):
        model.initialise(slot, slot)
    return model


def step(model, keys, per_worker, low):
    num_slots = model.num_slots
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(16, 3 * num_slots, 8, 8, generator=generator)
    labels = torch.arange(16 * num_slots) % 5
    model.context.begin(4, keys, per_worker=per_worker)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
        logits = model(images)
    loss = F.cross_entropy(logits.flatten(0, 1).float(), labels, reduction="sum")
    wanted = model.context.worker_leaves(model.parameters()) if per_worker else list(model.parameters())
    return logits, torch.autograd.grad(loss, wanted), model.context.batch_statistics()


@pytest.mark.parametrize("case", ["shipped", "stacked", "per worker", "own"])
def test_low_precision_is_near_and_its_sums_are_float32(case, own, keys_of):
    num_slots = 3 if case == "stacked" else 1
    model = own(OWN) if case == "own" else shipped(num_slots)
    keys = keys_of(range(4), num_slots)
    logits, grads, statistics = step(model, keys, case == "per worker", low=True)
    assert logits.dtype == torch.bfloat16
    assert {grad.dtype for grad in grads} == {torch.float32}
    assert {moment.dtype for found in statistics for moment in (found.mean, found.variance)} == {torch.float32}
    full_logits, full_grads, full_statistics = step(model, keys, case == "per worker", low=False)
    assert full_logits.dtype == torch.float32
    torch.testing.assert_close(logits.float(), full_logits, rtol=0.1, atol=0.1)
    low, full = (torch.cat([grad.flatten() for grad in found]) for found in (grads, full_grads))
    assert (low - full).norm() <= 0.2 * full.norm()
    for low, full in zip(statistics, full_statistics, strict=True):
        torch.testing.assert_close(low.mean, full.mean, rtol=0.05, atol=0.05)
        torch.testing.assert_close(low.variance, full.variance, rtol=0.1, atol=0.05)
    assert not torch.equal(logits.float(), full_logits)
    model.eval()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(torch.randn(2, 3 * num_slots, 8, 8)).isfinite().all()
