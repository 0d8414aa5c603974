"""The physical processes of a job and what they tell one another; nothing here knows about workers or models.

Only this module, `reduce` and `overlapped` use torch.distributed. Nothing is pickled: tensors and JSON text are sent.
"""

import hashlib
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from widestep.errors import EnvironmentFault, WidestepError, WorkerLost
from widestep.workers.launched import Launch

Value = TypeVar("Value")
_PATIENCE = timedelta(minutes=10)


class AgreedFailure(WidestepError):
    """Another process cannot go on and says why; this one ends quietly with its exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__()
        self.exit_code = exit_code


class World:
    """The processes of this job.

    Parameters
    ----------
    launch
        This process's place, or None for a job of one process, which needs no communication at all.

    Attributes
    ----------
    wire
        Where sums of gradients lie while they are exchanged: in the processor's memory, or on this process's own GPU (see
        `meet_on`).
    group
        torch's group of processes that exchanges them; None for its default one, which goes through the processors.
    """

    def __init__(self, launch: Launch | None = None) -> None:
        self.process = launch.process if launch else 0
        self.num_processes = launch.num_processes if launch else 1
        self.local_process = launch.local_process if launch else 0
        self.wire = torch.device("cpu")
        self.group: Any = None
        self._scratch: dict[str, Tensor] = {}
        if launch is not None and launch.num_processes > 1:
            self._join(launch)

    def _join(self, launch: Launch) -> None:
        job: dict[str, Any] = {
            "rank": launch.process,
            "world_size": launch.num_processes,
            "timeout": _PATIENCE,
        }
        try:
            if launch.launcher == "widestep":
                job["store"] = dist.TCPStore(  # type: ignore[attr-defined]
                    launch.address,
                    launch.port,
                    launch.num_processes,
                    is_master=launch.process == 0,
                    master_listen_fd=launch.listen_descriptor,
                )
            elif launch.launcher == "torchrun":  # its agent holds the store
                job["init_method"] = "env://"
            else:
                job["init_method"] = f"tcp://{launch.address}:{launch.port}"
            dist.init_process_group("gloo", **job)
        except (RuntimeError, ValueError) as error:
            raise EnvironmentFault(
                f"All {launch.num_processes} processes must meet at {launch.address}:{launch.port}. Process "
                f"{launch.process} could not: {str(error).splitlines()[0]}. Check that all were started and can reach it."
            ) from error

    def meet_on(self, device: torch.device) -> None:
        """Exchange sums of gradients from GPU to GPU from now on, by NCCL, if every process computes on one of its own.

        Only data are moved that way, and added up in an order of ours, so it changes no byte. Processes that share a GPU,
        which NCCL refuses, go on through the processors' memory.
        """
        if self.num_processes == 1:
            return
        gpus = torch.zeros(self.num_processes, dtype=torch.float64)
        if device.type == "cuda":
            gpu = f"{socket.gethostname()} {torch.cuda.get_device_properties(device).uuid}"
            number = int.from_bytes(hashlib.blake2b(gpu.encode(), digest_size=6).digest(), "little")
            gpus[self.process] = 1 + number  # below 2**49: exact; 0 is a process without a GPU
        found = self.merged(gpus).tolist()
        if all(found) and len(set(found)) == self.num_processes and dist.is_nccl_available():
            self.group, self.wire = dist.new_group(backend="nccl", timeout=_PATIENCE), device

    @property
    def is_first(self) -> bool:
        """Whether this is process 0, the one that writes."""
        return self.process == 0

    def scratch(self, name: str, size: int) -> Tensor:
        """Return memory of `size` numbers that keeps nothing from call to call: fresh memory is slow where it is large."""
        held = self._scratch.get(name)
        if held is None or len(held) != size:
            held = self._scratch[name] = torch.empty(size, device=self.wire)
        return held

    def merged(self, values: Tensor) -> Tensor:
        """Combine arrays of which every entry was filled by one process and is zero on the others: exact in any order."""
        if self.num_processes == 1:
            return values
        merged = values.cpu()
        with self.contact():
            dist.all_reduce(merged)
        return merged.to(values.device)

    def summed_in_any_order(self, values: Tensor) -> Tensor:
        """Add arrays of all processes, in torch's order, which depends on their number: for fast mode only."""
        if self.num_processes == 1:
            return values
        summed = values.to(self.wire)
        with self.contact():
            dist.all_reduce(summed, group=self.group)
        return summed.to(values.device)

    def broadcast(self, tensor: Tensor) -> None:
        """Overwrite a tensor with that of process 0."""
        if self.num_processes == 1:
            return
        held = tensor.cpu()
        with self.contact():
            dist.broadcast(held, src=0)
        tensor.copy_(held)

    def broadcast_json(self, value: Any) -> Any:
        """Return process 0's value (anything JSON can hold) on every process."""
        if self.num_processes == 1:
            return value
        text = json.dumps(value).encode() if self.is_first else b""
        length = torch.tensor([len(text)])
        self.broadcast(length)
        held = torch.tensor(list(text), dtype=torch.uint8) if self.is_first else torch.empty(int(length), dtype=torch.uint8)
        self.broadcast(held)
        return json.loads(bytes(held.tolist()))

    def agreed(self, action: Callable[[], Value]) -> Value:
        """Do something that every process must manage before any goes on, and return this process's value.

        Raises
        ------
        WidestepError
            On every process when the action raised one on some: the first of those raises its own, so that the reason is
            told once, the others end with its exit code.
        """
        failure: WidestepError | None = None
        try:
            value = action()
        except WidestepError as error:
            failure = error
        codes = torch.zeros(self.num_processes)
        codes[self.process] = failure.exit_code if failure else 0
        codes = self.merged(codes)
        failed = codes.nonzero().flatten().tolist()
        if failed and failed[0] != self.process:
            raise AgreedFailure(int(codes[failed[0]]))
        if failure is not None:
            raise failure
        return value

    @contextmanager
    def contact(self) -> Iterator[None]:
        """Explain a connection that breaks, which torch reports as a RuntimeError.

        Raises
        ------
        WorkerLost
            When another process ended or does not answer.
        """
        try:
            yield
        except RuntimeError as error:
            cause = str(error).splitlines()[0].split("] ", 1)[-1].split(". ")[0]
            raise WorkerLost(
                f"All {self.num_processes} processes of a job must live. Process {self.process} lost another one ({cause}); "
                "see what that one said."
            ) from error

    def close(self) -> None:
        """Leave the job."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def part(self) -> None:
        """Wait for all processes before leaving, so that nobody hangs up on somebody who is still reading."""
        if dist.is_initialized():
            with self.contact():
                dist.barrier()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.part()
        self.close()
