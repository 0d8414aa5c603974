"""Torch's global generators, for code that is not ours and draws from them: seeded for a while, and put back."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def global_generator(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators of the CPU and of a device within the context; afterwards they are as before.

    Parameters
    ----------
    seed
        In [0, 2**64).
    """
    generators = global_generators(device)
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def global_generators(device: torch.device) -> list[torch.Generator]:
    """Return the global generators that code with tensors on a device may draw from."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        torch.cuda.init()
        number = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[number])
    return generators
