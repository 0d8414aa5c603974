"""The machine that the numbers are from."""

import os
from pathlib import Path
from typing import Any

import torch

from widestep.records.environment import environment

_BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
"""What Linux calls units for bfloat16 products: x86 vector, x86 tile, ARM."""


def describe() -> dict[str, Any]:
    """Return processor, cores, torch's version and instruction set, bfloat16 units, and how busy the machine is."""
    held = environment()
    named = ("widestep", "python", "torch", "numpy", "system", "processor", "num_cores")
    return {name: held[name] for name in named} | {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bf16_units": bf16_units(),
        "threads_per_process": 1,
        "load_before": round(os.getloadavg()[0], 2),
    }


def bf16_units() -> list[str]:
    """Return the processor's flags that stand for bfloat16 arithmetic; none when it has to emulate it."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    flags = {word for line in text.splitlines() if line.lower().startswith(("flags", "features")) for word in line.split()}
    return [flag for flag in _BF16_FLAGS if flag in flags]
