"""What the device can do at most: bfloat16 matrix products and copies; and what a step of a network takes of it."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contest import Turn, contest
from benchmarks.plain_model import PlainResNet
from benchmarks.spread import Row, spread
from benchmarks.wanted import Wanted

TRAVERSALS = 14
"""How often a step passes over the output of a convolution that batch normalisation and a rectifier follow, when nothing
else is fused than what follows directly. Forward: written, read for the statistics, read and written by normalisation with
the rectifier, read by the next convolution. Backward: its gradient written, read by both convolution gradients (and the
activation by one of them); gradient and output read for the sums of the normalisation, read again and written for its
gradient."""


def device_rates(wanted: Wanted) -> Row:
    """Measure `matmul_tflops` and `copy_tb_per_second`, each with its quartiles, in a process of its own."""
    side, numbers = (8192, 2**29) if wanted.device == "cuda" else (1024, 2**26)
    settings = {"device": wanted.device, "side": side, "numbers": numbers, "seconds": 0.2}
    if wanted.quick:
        settings |= {"side": 64, "numbers": 2**16, "seconds": 0.01}
    [outcome] = contest(__name__, {"device": settings}, 1 if wanted.quick else 5).values()
    if outcome.failure is not None:
        raise RuntimeError(f"The rates of the device were not measured: {outcome.failure}")
    return outcome.facts


def enter(settings: dict[str, Any]) -> Turn:
    """Prepare; every turn adds to the rates and reports the median so far."""
    device, side = torch.device(settings["device"]), settings["side"]
    torch.set_num_threads(1)
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(side, side, generator=generator, device=device).bfloat16() for _ in range(2))
    product = torch.empty_like(left)
    source = torch.randn(settings["numbers"], generator=generator, device=device)
    target = torch.empty_like(source)
    rates: dict[str, list[float]] = {"matmul_tflops": [], "copy_tb_per_second": []}

    def turn() -> dict[str, Any]:
        multiplied = _seconds(lambda: torch.mm(left, right, out=product), device, settings["seconds"])
        copied = _seconds(lambda: target.copy_(source), device, settings["seconds"])
        rates["matmul_tflops"].append(2 * side**3 / multiplied / 1e12)
        rates["copy_tb_per_second"].append(2 * source.numel() * source.element_size() / copied / 1e12)
        return {name: spread(values) for name, values in rates.items()}

    return turn


def flop_an_image(model: str, image: tuple[int, int, int]) -> int:
    """Return the operations of a step on one image: three times two for every multiplication of the forward pass."""
    return 6 * _counted(model, image)[0]


def bytes_an_image(model: str, image: tuple[int, int, int]) -> int:
    """Return the bytes that pass through memory in a step on one image in bfloat16, at least (see `TRAVERSALS`)."""
    return 2 * TRAVERSALS * _counted(model, image)[1]


def _counted(model: str, image: tuple[int, int, int]) -> tuple[int, int]:
    """Return multiplications of convolutions and linear layers in a forward pass, and numbers that convolutions put out."""
    found = [0, 0]

    def count(layer: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(layer.weight, Tensor)
        found[0] += layer.weight[0].numel() * output.numel()
        found[1] += output.numel() if isinstance(layer, nn.Conv2d) else 0

    with torch.device("meta"):
        network = PlainResNet(model, 1000, image[0]).eval()  # which takes the same operations, and single pixels
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(count)
        network(torch.empty(1, *image))
    return found[0], found[1]


def _seconds(action: Callable[[], object], device: torch.device, least: float) -> float:
    """Return the seconds of an action, repeated until they are many enough to be measured."""
    repeats, seconds = 1, 0.0
    while seconds < least:
        began = time.perf_counter()
        for _ in range(repeats):
            action()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        if seconds < least:
            repeats *= 2
    return seconds / repeats
