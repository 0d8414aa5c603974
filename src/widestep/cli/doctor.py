"""`widestep doctor`: everything a run needs of its machine, looked up before it begins."""

import importlib
import json as json_module
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from widestep.cli.sentences import explaining
from widestep.errors import EnvironmentFault, UsageError
from widestep.plan.execution import Execution
from widestep.records import machine
from widestep.records.environment import LEAST_TORCH
from widestep.records.fact import Fact, combined, worst
from widestep.records.place import directory_facts
from widestep.records.versions import report, versions
from widestep.workers.launched import Launch, detect
from widestep.workers.launcher import hear_signals, run_processes
from widestep.workers.pulse import Pulse

if TYPE_CHECKING:
    from widestep.workers.world import World


def doctor(
    *,
    out: Path = Path("runs"),
    processes: int = 1,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    json: bool = False,
) -> int:
    """Say whether training can work here: one line a fact, and what to do about every problem.

    Versions, devices, processes, the directory, disk, memory, cores, descriptors,
    network, and how long the reduction of a step takes. Under torchrun, srun, jsrun
    or mpirun all processes look, and what differs between hosts is named. The exit
    code is 5 when there is a problem; nothing is left behind.

    For example:
      widestep doctor
      widestep doctor --out /scratch/runs --processes 4 --json
      torchrun --nproc-per-node 2 -m widestep doctor --out runs

    Parameters
    ----------
    out
        Where runs would be written.
    processes
        Processes to start on this machine; a launcher's number counts instead.
    device
        What they would compute on: auto, cpu or cuda.
    json
        Print as JSON.
    """
    if not 1 <= processes <= 4096:
        raise UsageError(f"A job has 1 to 4096 processes. --processes is {processes}.")
    launch = detect()
    body = partial(_take_part, out, device, json)
    if launch is None and processes > 1:
        machine.require_descriptors(machine.needed_descriptors(processes))
        if (unreachable := machine.loopback_fact(processes)).state == "problem":  # they would wait for one another in vain
            return _shown([unreachable], Launch("nobody"), json)
        importlib.import_module("widestep.train.diagnosis")  # with all of torch, once for all processes
        return run_processes(explaining(body), processes, restarts=0, say=_say_nothing)
    return body(launch or Launch("nobody"), Pulse())


def _say_nothing(_line: str) -> None:
    """Take the launcher's notes on restarts: there are none."""


def _take_part(directory: Path, device: str, as_json: bool, launch: Launch, pulse: Pulse) -> int:
    """Be one process of the examination; process 0 shows what was found.

    Raises
    ------
    EnvironmentFault
        When there is a problem.
    """
    if launch.is_ours:
        hear_signals()
    known = _version_fact()
    if known.state == "problem":
        return _shown([known, *directory_facts(directory), *_machine_facts(launch.num_processes)], launch, as_json)
    from widestep.workers.world import AgreedFailure, World

    execution = Execution()
    try:
        world = World(launch, pulse, patience=execution.hang_timeout, join_patience=execution.join_timeout)
    except EnvironmentFault as error:
        if launch.process > 0:
            raise
        lost = Fact("processes", "problem", str(error), values={"num_processes": launch.num_processes})
        return _shown([lost, known, *directory_facts(directory), *_machine_facts(launch.num_processes)], launch, as_json)
    with world:
        facts = _job_facts(world, known, directory, device)
        if worst(facts) == "problem" and launch.process > 0:
            raise AgreedFailure(EnvironmentFault.exit_code)
        return _shown(facts, launch, as_json)


def _job_facts(world: "World", known: Fact, directory: Path, device: str) -> list[Fact]:
    """Return what all processes found, the same list on each."""
    from widestep.train import diagnosis
    from widestep.train.setting import choose_device
    from widestep.workers.survey import gathered

    reports = gathered(world, report())
    hosts = [one["host"] for one in reports]
    num_local, num_hosts = hosts.count(hosts[world.process]), len(set(hosts))
    place: list[Fact] = []
    for first in (hosts.index(host) for host in dict.fromkeys(hosts)):  # in turn: what one makes there, it removes
        if world.process == first:
            place = directory_facts(directory)
        world.part()
    computes_on = diagnosis.device_fact(device, world.local_process, num_local)
    uses_gpus = computes_on.values.get("used") == "cuda"
    machine_facts = _machine_facts(world.num_processes, num_local, num_hosts, num_gpu_processes=num_local * uses_gpus)
    own = [known, diagnosis.torch_fact(), computes_on, *place, *machine_facts]
    of_all = [[Fact(**fact) for fact in found] for found in gathered(world, [fact.record() for fact in own])]
    if all(fact.state != "problem" for found in of_all for fact in found if fact.name == "device"):
        world.meet_on(choose_device(device, world.local_process))
    return [
        diagnosis.layout_fact(world.launch, hosts),
        diagnosis.agreement_fact(reports),
        *combined(hosts, of_all),
        diagnosis.sight_fact(world, directory, hosts),
        diagnosis.reduction_fact(world, num_local),
    ]


def _machine_facts(num_processes: int, num_local: int = 1, num_hosts: int = 1, *, num_gpu_processes: int = 0) -> list[Fact]:
    """Return what a process finds by itself about its machine, without torch."""
    return [
        machine.temporary_fact(),
        machine.memory_fact(num_local),
        machine.cores_fact(num_local),
        machine.descriptors_fact(num_processes),
        machine.shared_memory_fact(num_gpu_processes),
        machine.loopback_fact(num_local),
        machine.host_name_fact(num_hosts),
    ]


def _version_fact() -> Fact:
    """Say which versions are here, and whether torch can be used: looked up, then tried."""
    found = versions()
    text = f"widestep {found['widestep']} ({found['source']}), Python {found['python']}, " + ", ".join(
        f"{name} {found[name]}" for name in ("torch", "numpy", "pillow", "simplejpeg", "safetensors")
    )
    least = ".".join(map(str, LEAST_TORCH))
    remedy = f"widestep needs torch {least} or later: pip install 'torch>={least}'"
    try:
        version = importlib.import_module("torch").__version__
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Fact("versions", "problem", f"{text}; torch cannot be imported: {reason}", remedy, found)
    number = re.match(r"(\d+)\.(\d+)", version)
    if number is None or (int(number[1]), int(number[2])) < LEAST_TORCH:
        return Fact("versions", "problem", f"{text}; torch {version} is too old", remedy, found)
    return Fact("versions", "ok", text, values=found)


def _shown(facts: Sequence[Fact], launch: Launch, as_json: bool) -> int:
    """Show the facts on process 0 and return 0.

    Raises
    ------
    EnvironmentFault
        When there is a problem, on every process that shows some.
    """
    problems = [fact for fact in facts if fact.state == "problem"]
    if launch.process == 0:
        if as_json:
            print(json_module.dumps(_record(facts, launch), indent=2))
        else:
            for fact in facts:
                name = f"{fact.name}@{fact.where}" if fact.where else fact.name
                print(f"{fact.state:<8} {name:<11} {_printable(fact.sentence())}")
        sys.stdout.flush()
    if problems:
        raise EnvironmentFault(
            f"Training needs an environment without problems. Found {len(problems)}: "
            f"{', '.join(fact.name for fact in problems)}; do what their lines say, then look again."
        )
    return 0


def _record(facts: Sequence[Fact], launch: Launch) -> Mapping[str, Any]:
    return {
        "state": worst(facts),
        "num_processes": launch.num_processes,
        "launcher": launch.launcher,
        "facts": [fact.record() for fact in facts],
    }


def _printable(sentence: str) -> str:
    """Return a sentence on one line, whatever names it quotes."""
    return "".join(letter if letter.isprintable() else " " for letter in sentence)
