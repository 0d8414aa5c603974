"""One thing that is known about a machine, a directory or a job, and whether training can live with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

State = Literal["ok", "warning", "problem"]
_STATES: tuple[State, ...] = get_args(State)

GIB = 2**30
MIB = 2**20


@dataclass(frozen=True)
class Fact:
    """Something that was looked up before training.

    Parameters
    ----------
    name
        Stable key, such as `memory`.
    state
        `ok`; `warning` when training works but not as it could; `problem` when it would fail.
    text
        What was found.
    remedy
        What to do about it; empty when it is ok.
    values
        The same as numbers and words, for machines.
    """

    name: str
    state: State
    text: str
    remedy: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""
    """The host, when others differ."""

    def sentence(self) -> str:
        """Return text and remedy as one line."""
        return f"{self.text}; {self.remedy}" if self.remedy else self.text

    def record(self) -> dict[str, Any]:
        """Return the fact as JSON holds it."""
        return {
            "name": self.name,
            "state": self.state,
            "text": self.text,
            "remedy": self.remedy,
            "values": dict(self.values),
            "where": self.where,
        }


def worst(facts: Sequence[Fact]) -> State:
    """Return the worst state of any fact."""
    return max((fact.state for fact in facts), key=_STATES.index, default="ok")


def combined(hosts: Sequence[str], facts: Sequence[Sequence[Fact]]) -> list[Fact]:
    """Put together what the processes of a job found, each on its host.

    Of the processes of one host the worst finding counts, and of equal ones the first; hosts that found the same are told of
    once.

    Parameters
    ----------
    hosts
        Of every process, in order.
    facts
        Of every process; all in the same order, some perhaps left out.
    """
    names = list(dict.fromkeys(fact.name for found in facts for fact in found))
    said = []
    for name in names:
        of_host: dict[str, Fact] = {}
        for host, found in zip(hosts, facts, strict=True):
            for fact in found:
                known = of_host.get(host)
                if fact.name == name and (known is None or _STATES.index(fact.state) > _STATES.index(known.state)):
                    of_host[host] = fact
        if len(set(hosts)) == 1 or len({(fact.state, fact.text) for fact in of_host.values()}) == 1 < len(of_host):
            said.append(next(iter(of_host.values())))
        else:
            said += [replace(fact, where=host) for host, fact in of_host.items()]
    return said


def size(num_bytes: float) -> str:
    """Return a number of bytes in words: `1.5 GiB`, `20 MiB`, `3 KiB`."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (1024, "KiB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.3g} {name}" if num_bytes < 1000 * unit else f"{num_bytes / unit:,.0f} {name}"
    return f"{num_bytes:.0f} bytes"
