"""What processes compare of their states: one changed bit anywhere is found and named, and nothing else is."""

import os
from typing import Any

import numpy as np
import pytest
import torch

from widestep.errors import NumericError
from widestep.train import census
from widestep.train.census import Speeds, check_replicas

NUM_FLIPS = 2000 if os.environ.get("WIDESTEP_CHAOS") == "long" else 100


class Together:
    """The processes of a job, one after the other in this one: `merged` adds what all of them would bring."""

    def __init__(self, states: list[Any], process: int = 0) -> None:
        self.states, self.process, self.num_processes = states, process, len(states)

    def merged(self, mine: torch.Tensor) -> torch.Tensor:
        everyone = torch.zeros_like(mine)
        for process, state in enumerate(self.states):
            everyone[process] = census._sums(state.replicated().values())
        assert torch.equal(mine[self.process], everyone[self.process])
        return everyone


@pytest.fixture
def replicas(ready: Any) -> list[Any]:
    """Three processes after a step with momentum."""
    made = [ready(batchnorm_running="mean") for _ in range(3)]
    for one in made:
        one.step(0)
    return [one.state for one in made]


def test_equal_states_are_equal(replicas: list[Any]) -> None:
    for _ in range(100):
        check_replicas([replicas[0]], Together(replicas), 7)  # type: ignore[arg-type]


def test_every_single_bit_is_found_and_named(replicas: list[Any]) -> None:  # G10, rows 81, 82
    rng = np.random.default_rng(3)
    held = [state.replicated() for state in replicas]
    names = sorted(held[0])
    for _ in range(NUM_FLIPS):
        process, name, bit = int(rng.integers(3)), names[rng.integers(len(names))], int(rng.integers(32))
        bits = held[process][name].detach().view(-1).view(torch.int32)
        place = int(rng.integers(len(bits)))
        bits[place] ^= torch.tensor(1 << bit if bit < 31 else -(1 << 31), dtype=torch.int32)
        with pytest.raises(NumericError, match=rf"Process {process} of 3 holds another {name} after step 7:"):
            check_replicas([replicas[0]], Together(replicas), 7)  # type: ignore[arg-type]
        bits[place] ^= torch.tensor(1 << bit if bit < 31 else -(1 << 31), dtype=torch.int32)
    check_replicas([replicas[0]], Together(replicas), 7)  # type: ignore[arg-type]


def test_each_process_says_the_same(replicas: list[Any]) -> None:
    replicas[1].replicated()["conv1.weight"].detach().view(-1)[5] += 1.0
    said = set()
    for process in range(3):
        with pytest.raises(NumericError) as caught:
            check_replicas([replicas[process]], Together(replicas, process), 12)  # type: ignore[arg-type]
        said.add(str(caught.value))
    assert len(said) == 1


class Exchange:
    """What three processes measured, one list a process of (seconds busy, seconds waiting for images)."""

    def __init__(self, measured: list[tuple[float, float]]) -> None:
        self.measured, self.process, self.num_processes = measured, 0, len(measured)
        self.exchanges = 0

    def merged(self, mine: torch.Tensor) -> torch.Tensor:
        self.exchanges += 1
        assert mine[0].tolist() == pytest.approx(list(self.measured[0]))
        return torch.tensor(self.measured, dtype=torch.float64)


@pytest.mark.parametrize(
    ("measured", "blocks", "said"),
    [
        (
            [(2.0, 0.1), (6.2, 5.0), (2.0, 0.0)],
            (2, 2, 2),
            "process 1 of 3 is 3.1x slower than the others (waits for images 81 %",
        ),
        ([(2.0, 0.1), (3.9, 0.0), (2.0, 0.0)], (2, 2, 2), None),  # not twice as slow
        ([(2.0, 0.1), (6.0, 0.0), (2.0, 0.0)], (1, 3, 1), None),  # it has three times as much to do
        ([(0.02, 0.0), (0.09, 0.0), (0.02, 0.0)], (2, 2, 2), None),  # 3.5 ms a step are not worth a word
        ([(2.0, 0.0), (9.0, 0.0), (2.0, 0.0)], (2, 0, 2), None),  # it computes nothing
    ],
)
def test_who_is_slow(measured: list[tuple[float, float]], blocks: tuple[int, ...], said: str | None) -> None:  # row 26
    world = Exchange(measured)
    speeds = Speeds(world)  # type: ignore[arg-type]
    mine = [seconds / 20 for seconds in measured[0]]
    found = [sentence for _ in range(20) for sentence in speeds.count(*mine, lambda: blocks)]
    assert world.exchanges == 1
    assert speeds.busy == pytest.approx([busy for busy, _ in measured])
    assert len(found) == (said is not None)
    assert said is None or found[0].startswith(said)
    assert not [sentence for _ in range(20) for sentence in speeds.count(*mine, lambda: blocks)], "it is told once"
