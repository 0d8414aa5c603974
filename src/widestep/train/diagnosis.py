"""What `widestep doctor` looks at with torch at hand: its devices, and the job as its processes see it together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from widestep.errors import WidestepError
from widestep.records.fact import GIB, Fact, size
from widestep.records.machine import memory
from widestep.records.versions import DECISIVE, differing
from widestep.train.setting import choose_device
from widestep.workers.launched import Launch
from widestep.workers.survey import RESNET50, blind_processes, reduction_seconds
from widestep.workers.world import World

_BUFFERS = 6
"""Vectors that a process holds while it sums one."""


def torch_fact() -> Fact:
    """Say which torch this is and what it was built for."""
    cuda, nccl = torch.version.cuda, ".".join(map(str, torch.cuda.nccl.version())) if torch.cuda.is_available() else None
    values = {
        "torch": torch.__version__,
        "cuda": cuda,
        "nccl": nccl,
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    built = f"for CUDA {cuda}" if cuda else "for the CPU alone"
    text = f"torch {torch.__version__} {built}{f', NCCL {nccl}' if nccl else ''}, {values['instructions']} instructions"
    if cuda is None and Path("/proc/driver/nvidia/gpus").is_dir():
        return Fact("torch", "warning", text, "this machine has a GPU: install torch for CUDA to use it", values)
    return Fact("torch", "ok", text, values=values)


def device_fact(wanted: str, local_process: int, num_local: int) -> Fact:
    """Say what a process would compute on, and who shares it."""
    found = torch.cuda.device_count() if wanted != "cpu" else 0
    values: dict[str, Any] = {"wanted": wanted, "found": found, "local_processes": num_local}
    if wanted == "cuda" and not found:
        return Fact("device", "problem", "cuda: 0 found", "use --device cpu, or see why with nvidia-smi", values)
    device = choose_device(wanted, local_process)
    if device.type == "cpu":
        return Fact("device", "ok", f"cpu, {num_local} process(es) on this host", values=values | {"used": "cpu"})
    properties = torch.cuda.get_device_properties(device)
    text = f"{found} GPU(s) for {num_local} process(es): {properties.name}, {size(properties.total_memory)}"
    values |= {"used": "cuda", "gpu": properties.name, "gpu_memory": properties.total_memory}
    if num_local > found:
        remedy = f"processes share a GPU and wait for one another: --processes {found} is faster, with the same result"
        return Fact("device", "warning", text, remedy, values)
    return Fact("device", "ok", text, values=values)


def layout_fact(launch: Launch, hosts: Sequence[str]) -> Fact:
    """Say who started how many processes, and where they are."""
    by_host: dict[str, list[int]] = {}
    for process, host in enumerate(hosts):
        by_host.setdefault(host, []).append(process)
    values = {"launcher": launch.launcher, "num_processes": launch.num_processes, "hosts": by_host}
    if launch.num_processes == 1 and launch.launcher == "nobody":
        return Fact("processes", "ok", f"1, on {hosts[0]}", values=values)
    places = "; ".join(f"{host}: {', '.join(map(str, processes))}" for host, processes in by_host.items())
    text = f"{launch.num_processes} by {launch.launcher} on {len(by_host)} host(s), met at {launch.address} ({places})"
    return Fact("processes", "ok", text, values=values)


def agreement_fact(reports: Sequence[Any]) -> Fact:
    """Say whether all processes run the same versions."""
    mixed = differing(reports)
    if mixed:
        return Fact("agreement", "problem", mixed, "install the same on all hosts", {"same": False})
    lesser = differing(reports, ("python", "safetensors"))
    if lesser:
        return Fact("agreement", "warning", lesser, "better install the same on all hosts", {"same": False})
    text = f"all processes run the same {', '.join(DECISIVE)}" if len(reports) > 1 else "one process"
    return Fact("agreement", "ok", text, values={"same": True})


def sight_fact(world: World, directory: Path, hosts: Sequence[str]) -> Fact:
    """Say whether all processes see the same directory; every process calls this."""
    if world.num_processes == 1:
        return Fact("shared", "ok", "one process", values={"blind": []})
    try:
        blind = blind_processes(world, directory, keep_directories=False)
    except WidestepError as error:
        return Fact("shared", "problem", str(error) or "process 0 cannot write there", "mend that first", {"blind": None})
    if blind:
        others = ", ".join(f"{process} on {hosts[process]}" for process in blind)
        text = f"what process 0 on {hosts[0]} writes in {str(directory)!r} is not seen by process {others}"
        return Fact("shared", "problem", text, "give an --out on a file system that all hosts share", {"blind": blind})
    return Fact("shared", "ok", "all processes see the same directory", values={"blind": []})


def reduction_fact(world: World, num_local: int) -> Fact:
    """Say how long the reduction of a step takes for ResNet-50; every process calls this."""
    values: dict[str, Any] = {"numbers": RESNET50, "seconds": None, "through": world.wire.type}
    if world.num_processes == 1:
        return Fact("reduction", "ok", "one process: nothing to exchange", values=values)
    needed = _BUFFERS * 4 * RESNET50 * num_local
    enough = torch.zeros(world.num_processes)
    enough[world.process] = memory().available < needed
    if world.merged(enough).any():
        text = f"not measured: {size(needed)} of memory would be needed on a host"
        return Fact("reduction", "warning", text, "ask for more memory", values)
    seconds = reduction_seconds(world)
    moved = 2 * (world.num_processes - 1) / world.num_processes * 4 * RESNET50
    text = (
        f"{1000 * seconds:.0f} ms for the {RESNET50 / 1e6:.1f} million gradients of ResNet-50 over {world.num_processes} "
        f"processes, {moved / seconds / GIB:.2g} GiB/s from each"
    )
    return Fact("reduction", "ok", text, values=values | {"seconds": seconds})
