"""The physical processes of a job and what they tell one another; nothing here knows about workers or models.

Only this module, `meeting`, `reduce` and `overlapped` use torch.distributed. They send tensors and JSON, never code.
"""

import hashlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from widestep.errors import WidestepError, WorkerLost
from widestep.workers.launched import Launch
from widestep.workers.meeting import meet, silent
from widestep.workers.pulse import Pulse

Value = TypeVar("Value")
_LONG_SECONDS = 600.0


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
        This process's place; a job of one process needs no communication at all.
    pulse
        Where this process shows that it is alive.
    patience
        How many seconds processes wait for one another once they have met. Our own launcher knows better, and ends the one
        that hangs.
    join_patience
        How many seconds they wait for one another at the start.

    Attributes
    ----------
    wire
        Where sums of gradients lie while they are exchanged: in the processor's memory, or on this process's own GPU (see
        `meet_on`).
    group
        torch's group of processes that exchanges them; None for its default one, which goes through the processors.
    seconds_in_contact
        How long this process has exchanged numbers with others, or waited for them.
    """

    def __init__(
        self,
        launch: Launch | None = None,
        pulse: Pulse | None = None,
        *,
        patience: float = 300.0,
        join_patience: float = 300.0,
    ) -> None:
        self.launch = launch or Launch("nobody")
        self.pulse = pulse or Pulse()
        self.process = self.launch.process
        self.num_processes = self.launch.num_processes
        self.local_process = self.launch.local_process
        self.wire = torch.device("cpu")
        self.group: Any = None
        self.seconds_in_contact = 0.0
        self._scratch: dict[str, Tensor] = {}
        self._patience = timedelta(seconds=max(_LONG_SECONDS, 4 * patience) if self.launch.is_ours else patience)
        self._store = meet(self.launch, self._patience, join_patience) if self.num_processes > 1 else None

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
            self.group, self.wire = dist.new_group(backend="nccl", timeout=self._patience), device

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
        before, began = self.pulse.meet(), time.monotonic()
        try:
            yield
        except RuntimeError as error:
            cause = str(error).splitlines()[0].split("] ", 1)[-1].split(". ")[0]
            who = "" if self.launch.is_ours else silent(self._store, self.launch)
            raise WorkerLost(
                f"All {self.num_processes} processes of a job must live. Process {self.process} lost {who or 'another one'} "
                f"at step {self.pulse.step:,} ({cause}); see what that one said."
            ) from error
        self.seconds_in_contact += time.monotonic() - began
        self.pulse.beat(before)

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
