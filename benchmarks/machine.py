"""The machine that the numbers are from."""

import os
from pathlib import Path
from typing import Any

import torch

from benchmarks import peers
from widestep.records.environment import environment

_BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
"""What Linux calls units for bfloat16 products: x86 vector, x86 tile, ARM."""


def describe(device: str = "cpu") -> dict[str, Any]:
    """Return processor, cores, torch's version and instruction set, bfloat16 units, peers, and how busy the machine is."""
    held = environment()
    named = ("widestep", "python", "torch", "numpy", "system", "processor", "num_cores")
    found = {name: held[name] for name in named} | {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bf16_units": bf16_units(),
        "threads_per_process": 1,
        "peers": peers.versions(),
        "load_before": round(os.getloadavg()[0], 2),
    }
    return found | (_gpu() if device == "cuda" else {})


def bf16_units() -> list[str]:
    """Return the processor's flags that stand for bfloat16 arithmetic; none when it has to emulate it."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    flags = {word for line in text.splitlines() if line.lower().startswith(("flags", "features")) for word in line.split()}
    return [flag for flag in _BF16_FLAGS if flag in flags]


def _gpu() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "gpu_memory_gb": round(properties.total_memory / 1e9, 1),
        "gpu_processors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
