"""How often simulated studies say something wrong, and how often they find what was planted: nulls, noise and the count.

Every study goes the whole way from accuracies through `judge` to verdicts. A null says of each claim which verdicts would
be wrong; a study is wrong when one of its claims is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from simulated_studies import Simulator

from widestep.report.claims import judge
from widestep.study.study import Study, parse

MARGIN = 0.5
VAL_IMAGES = 837
Cells = dict[str, np.ndarray]

FIVE = """
name = "five"
title = "One claim of each kind; b and c look at the same runs"
recipe = "digits"
seeds = [0]
margin = 0.5

[arms.batch]
axes = { grid = ["4x1x8", "40x1x8"] }

[arms.warm-10]
set = { grid = "10x1x8" }
axes = { warmup = ["0ep", "2ep", "4ep", "8ep"] }

[arms.warm-40]
set = { grid = "40x1x8" }
axes = { warmup = ["0ep", "2ep", "4ep", "8ep"] }

[arms.rule]
set = { grid = "40x1x8", warmup = "3ep" }
axes = { scaling = ["linear", "none"] }

[claims.falls]
text = "Accuracy falls with the batch."
test = "falls"
arms = ["batch"]
axis = "grid"

[claims.worst]
text = "No warmup is worst."
test = "worst"
arms = ["warm-40"]
axis = "warmup"

[claims.too-long]
text = "Too long a warmup is worse."
test = "too-long"
arms = ["warm-40"]
axis = "warmup"

[claims.grows]
text = "The best warmup grows."
test = "optimum-grows"
arms = ["warm-10", "warm-40"]
axis = "warmup"

[claims.equivalent]
text = "Both rules are equal."
test = "equivalent"
arms = ["rule"]
axis = "scaling"
"""

_EIGHT = """
name = "eight"
title = "Eight claims about one cell: the same runs in every difference"
recipe = "digits"
seeds = [0]
margin = 0.5

[arms.rate]
axes = { base_lr = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09] }
"""


def eight(test: str) -> str:
    """A study with eight claims of one kind, each comparing another cell with the first."""
    claims = [
        f'\n[claims.c{k}]\ntext = "{k}"\ntest = "{test}"\narms = ["rate"]\naxis = "base_lr"\nbetween = [0.0{k}, 0.01]\n'
        for k in range(2, 10)
    ]
    return _EIGHT + "".join(claims)


def study_of(text: str, num_seeds: int) -> Study:
    """The study with so many seeds."""
    return parse(text).model_copy(update={"seeds": list(range(num_seeds))})


Noise = Callable[[np.random.Generator, int, int], np.ndarray]
"""Deviations of single runs in points, shape (num_cells, num_seeds); NaN diverged."""


def gaussian(sd: float) -> Noise:
    return lambda rng, cells, seeds: rng.normal(0, sd / np.sqrt(2), (cells, seeds))


def heavy(rng: np.random.Generator, cells: int, seeds: int) -> np.ndarray:
    """One run in twelve collapses by 5 to 80 points."""
    return rng.normal(0, 0.4, (cells, seeds)) - (rng.random((cells, seeds)) < 1 / 12) * rng.uniform(5, 80, (cells, seeds))


def failing(rng: np.random.Generator, cells: int, seeds: int) -> np.ndarray:
    """One run in six diverges."""
    return np.where(rng.random((cells, seeds)) < 1 / 6, np.nan, rng.normal(0, 0.4, (cells, seeds)))


@dataclass(frozen=True)
class Null:
    """A truth, the noise around it, and what would be wrong to say of it.

    Parameters
    ----------
    truth
        True accuracy by arm, in points from 95 %; arms left out have no differences.
    wrong
        Claim -> the reasons of verdicts (`Finding.why`) that would be wrong.
    counted
        Whether accuracies are those of 837 images, each right with a probability that all cells of a seed share.
    """

    name: str
    study: str
    num_seeds: int
    noise: Noise
    truth: dict[str, list[float]]
    wrong: dict[str, set[str]]
    counted: bool = False


NO_EFFECT = {name: {"shown", "reversed"} for name in ("falls", "worst", "too-long", "grows")} | {
    "equivalent": {"equivalent"}
}
AT_MARGIN = {"rule": [MARGIN, 0.0]}
EVERY_AT_MARGIN = {"batch": [MARGIN, 0.0], "warm-40": [0.0, MARGIN, MARGIN, MARGIN], "rule": [MARGIN, 0.0]}
EIGHT_CLAIMS = [f"c{k}" for k in range(2, 10)]

NULLS = [
    *(Null(f"no effects, normal, {n} seeds", FIVE, n, gaussian(0.6), AT_MARGIN, NO_EFFECT) for n in (3, 5, 8, 12)),
    *(
        Null(f"no effects, counts of 837 images, {n} seeds", FIVE, n, gaussian(0.2), AT_MARGIN, NO_EFFECT, True)
        for n in (2, 4, 12)
    ),
    Null("no effects, one run in twelve collapses, 12 seeds", FIVE, 12, heavy, AT_MARGIN, NO_EFFECT),
    Null("no effects, one run in six diverges, 12 seeds", FIVE, 12, failing, AT_MARGIN, NO_EFFECT),
    Null(
        "every difference as large as the margin, 12 seeds",
        FIVE,
        12,
        gaussian(0.48),
        EVERY_AT_MARGIN,
        {
            "falls": {"equivalent", "reversed"},
            "worst": {"equivalent", "reversed"},
            "too-long": {"shown", "reversed"},  # its candidates are as good as the longest
            "grows": set(),
            "equivalent": {"equivalent"},
        },
    ),
    Null(
        "some equal, one as large as the margin, 12 seeds",
        FIVE,
        12,
        gaussian(0.45),
        {"batch": [MARGIN, 0.0], "warm-40": [0.0, 0.0, 0.0, MARGIN], "rule": [MARGIN, 0.0]},
        {
            "falls": {"equivalent", "reversed"},
            "worst": {"equivalent", "shown", "reversed"},
            "too-long": {"equivalent", "shown"},
            "grows": set(),
            "equivalent": {"equivalent"},
        },
    ),
    Null(
        "eight claims of no fall, all false, 12 seeds",
        eight("falls"),
        12,
        gaussian(0.6),
        {},
        {name: {"shown", "reversed"} for name in EIGHT_CLAIMS},
    ),
    Null(
        "eight falls as large as the margin, 12 seeds",
        eight("falls"),
        12,
        gaussian(0.45),
        {"rate": [0.0] + [MARGIN] * 8},
        {name: {"equivalent", "reversed"} for name in EIGHT_CLAIMS},
    ),
    Null(
        "four falls as large as the margin, four none, 12 seeds",
        eight("falls"),
        12,
        gaussian(0.4),
        {"rate": [0.0] + [MARGIN] * 4 + [0.0] * 4},
        {name: {"equivalent", "reversed"} if name < "c6" else {"shown", "reversed"} for name in EIGHT_CLAIMS},
    ),
    Null(
        "eight differences as large as the margin called equal, 12 seeds",
        eight("equivalent"),
        12,
        gaussian(0.6),
        {"rate": [0.0] + [MARGIN] * 8},
        {name: {"equivalent"} for name in EIGHT_CLAIMS},
    ),
    Null(
        "eight differences just below the margin called larger, 12 seeds",
        eight("equivalent"),
        12,
        gaussian(0.6),
        {"rate": [0.0] + [MARGIN - 1e-6] * 8},
        {name: {"beyond"} for name in EIGHT_CLAIMS},
    ),
]


def drawn(null: Null, simulator: Simulator, rng: np.random.Generator) -> Cells:
    """Accuracies of one simulated study."""
    found = {}
    shared = rng.normal(0, 0.5, null.num_seeds)  # what a seed does to all cells: the split, the initial weights
    for arm, cells in simulator.cells.items():
        truth = np.array(null.truth.get(arm, [0.0] * len(cells)))
        values = 95.0 + truth[:, None] + shared + null.noise(rng, len(cells), null.num_seeds)
        if null.counted:
            values = 100.0 * rng.binomial(VAL_IMAGES, np.clip(values / 100, 0, 1)) / VAL_IMAGES
        found[arm] = values
    return found


def wrong_studies(null: Null, num_studies: int) -> int:
    """Count the studies that say something wrong."""
    simulator = Simulator(study_of(null.study, null.num_seeds))
    rng = np.random.default_rng(sum(map(ord, null.name)))
    count = 0
    for _ in range(num_studies):
        findings = judge(simulator.results(drawn(null, simulator, rng)))
        count += any(one.why in null.wrong[one.claim] for one in findings)
    return count


def found_share(kind: str, num_seeds: int, sd: float, effect: float, num_studies: int) -> float:
    """Return how often a claim that is true by `effect` points is supported, beside four others that stay open.

    Of a claim of equality, `effect` is the true difference.
    """
    truth = {
        "falls": {"batch": [effect, 0.0]},
        "worst": {"warm-40": [0.0, effect, effect, effect]},
        "too-long": {"warm-40": [0.0, effect, 0.0, 0.0]},
        "equivalent": {"rule": [effect, 0.0]},
        "grows": {"warm-10": [0.0, effect, 0.0, 0.0], "warm-40": [0.0, 0.0, 0.0, effect]},
    }[kind]
    simulator = Simulator(study_of(FIVE, num_seeds))
    null = Null(kind, FIVE, num_seeds, gaussian(sd), truth, {})
    rng, supported = np.random.default_rng(len(kind) + num_seeds), 0
    for _ in range(num_studies):
        findings = {one.claim: one for one in judge(simulator.results(drawn(null, simulator, rng)))}
        supported += findings[kind].verdict == "supported"
    return supported / num_studies
