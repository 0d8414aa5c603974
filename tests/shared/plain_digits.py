"""The network for digits as a function of plain tensors, written once more: what `models` builds must compute this."""

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor


def digits_network(weights: Mapping[str, Tensor], images: Tensor, norm: Callable[[Tensor, str], Tensor]) -> Tensor:
    """Classify images (n, 1, 8, 8) into logits (n, 10); `norm(x, name)` is the batch normalisation of that name."""
    p = weights
    x = norm(F.conv2d(images, p["conv1.weight"], padding=1), "bn1").clamp(min=0)
    for layer, stride in (("layer1.0", 1), ("layer2.0", 2)):
        y = norm(F.conv2d(x, p[f"{layer}.conv1.weight"], stride=stride, padding=1), f"{layer}.bn1").clamp(min=0)
        y = norm(F.conv2d(y, p[f"{layer}.conv2.weight"], padding=1), f"{layer}.bn2")
        if stride == 2:
            x = norm(F.conv2d(x, p[f"{layer}.downsample.0.weight"], stride=2), f"{layer}.downsample.1")
        x = (x + y).clamp(min=0)
    return x.mean((2, 3)) @ p["fc.weight"].T + p["fc.bias"]
