"""The rate of every shipped recipe and variant, step by step, against the formulas of its source written out here.

Nothing here uses the schedules of the product: every formula is the source's, with numbers worked out by hand from 1,281,167
training images. Statements L2 to L5.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from widestep.plan import recipes
from widestep.plan.runplan import RunPlan

NUM_IMAGENET = 1_281_167
Rate = Callable[[int], float]


@dataclass(frozen=True)
class Expected:
    """What a recipe comes to: images and steps by hand, and the source's formula."""

    batch: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    rate: Rate
    boundaries: tuple[int, ...] = ()
    num_train: int = NUM_IMAGENET


def tenths(epoch: int, *points: int) -> float:
    return 0.1 ** sum(epoch >= point for point in points)


def horovod(num_workers: int, steps_per_epoch: int, num_warmup: float = 5) -> Rate:
    """lr(e, i) = base * (((e + (i + 1) / L) * (W - 1)) / Wu + 1), later base * W * 0.1**k (L4)."""

    def rate(step: int) -> float:
        epoch, batch = divmod(step, steps_per_epoch)
        if epoch < num_warmup:
            return 0.0125 * (((epoch + (batch + 1) / steps_per_epoch) * (num_workers - 1)) / num_warmup + 1)
        return 0.0125 * num_workers * tenths(epoch, 30, 60, 80)

    return rate


def poster(nodes: int, steps_per_epoch: int) -> Expected:
    ends = tuple(steps_per_epoch * epoch for epoch in (30, 60, 80))
    rate = horovod(6 * nodes, steps_per_epoch)
    return Expected(768 * nodes, steps_per_epoch, 90 * steps_per_epoch, 5 * steps_per_epoch, rate, ends)


def goyal(batch: int, steps_per_epoch: int) -> Expected:
    """Start at 0.1, equal increments to 0.1 * B / 256 within 5 epochs; a tenth after 30, 60 and 80 epochs."""
    peak, num_warmup = 0.1 * batch / 256, 5 * steps_per_epoch if batch > 256 else 0

    def rate(step: int) -> float:
        if step < num_warmup:
            return 0.1 + (peak - 0.1) * step / num_warmup
        return peak * tenths(step // steps_per_epoch, 30, 60, 80)

    ends = tuple(steps_per_epoch * epoch for epoch in (30, 60, 80))
    return Expected(batch, steps_per_epoch, 90 * steps_per_epoch, num_warmup, rate, ends)


def akiba() -> Expected:
    """Shares of eta = 0.1 * 32,768 / 256 = 12.8: a half for 40 epochs, 0.075 for 30, 0.01 for 15, 0.001 for 5."""
    shares = [0.5] * 40 + [0.075] * 30 + [0.01] * 15 + [0.001] * 5
    return Expected(32_768, 39, 3510, 0, lambda step: 12.8 * shares[step // 39], (40 * 39, 70 * 39, 85 * 39))


def mlperf(peak: float, num_warmup: int, total: int, *, power: int = 1, final: float = 1e-4) -> Rate:
    """From 0 (a power of the share of the warmup), then final + (peak - final) * (1 - p / (T - warmup + 1))^2 (L5)."""

    def rate(step: int) -> float:
        if step < num_warmup:
            return peak * (step / num_warmup) ** power
        return final + (peak - final) * (1 - (step - num_warmup) / (total - num_warmup + 1)) ** 2

    return rate


def legw(k: int, steps_per_epoch: int, num_warmup: int) -> Expected:
    total = 90 * steps_per_epoch
    return Expected(
        512 * 2**k, steps_per_epoch, total, num_warmup, mlperf(4 * math.sqrt(2) ** k, num_warmup, total, final=0.0)
    )


# MLPerf's logs: images a step, peak rate, warmup steps, weight decay, momentum, images of batch normalisation, epochs and
# steps to 75.9 %. Where the logs give a range: 408 of 51-408, 128 of 64/128, 2e-4 of 1e-4..2e-4.
LOGS = [
    (408, 3.0, 6280, 5e-5, 0.9, 204, 35, 109_904),
    (1024, 6.0, 2502, 2.5e-5, 0.9, 256, 35, 43_790),
    (2048, 9.0, 1877, 5e-5, 0.9, 256, 35, 21_895),
    (3264, 10.5, 785, 5e-5, 0.9, 408, 35, 13_738),
    (4096, 12.0, 626, 5e-5, 0.9, 256, 36, 11_260),
    (8192, 17.0, 782, 2e-4, 0.9, 128, 42, 6568),
    (16_384, 22.0, 704, 2e-4, 0.9, 128, 47, 3675),
    (20_480, 22.0, 751, 2.5e-5, 0.9, 40, 50, 3128),
    (32_256, 21.2, 635, 2.5e-5, 0.95, 42, 56, 2224),
    (32_768, 29.0, 706, 1e-4, 0.929, 64, 60, 2346),
    (65_536, 24.699, 606, 1e-4, 0.952, 64, 88, 1720),
]
STEPS_PER_EPOCH = dict(zip([row[0] for row in LOGS], [3140, 1251, 625, 392, 312, 156, 78, 62, 39, 39, 19], strict=True))


def cosine(peak: float, steps_per_epoch: int, num_warmup_epochs: int, num_epochs: int) -> Rate:
    """(i + 1) / m of the peak after i steps of m, then half a cosine over the steps that are left."""
    num_warmup, total = num_warmup_epochs * steps_per_epoch, num_epochs * steps_per_epoch

    def rate(step: int) -> float:
        if step < num_warmup:
            return peak * (step + 1) / num_warmup
        return peak * (1 + math.cos(math.pi * (step - num_warmup) / (total - num_warmup))) / 2

    return rate


def nvidia(batch: int, steps_per_epoch: int) -> Expected:
    rate = cosine(0.256 * batch / 256, steps_per_epoch, 8, 90)
    return Expected(batch, steps_per_epoch, 90 * steps_per_epoch, 8 * steps_per_epoch, rate)


def algoperf(step: int) -> float:
    """Linear from 0 in 6,999 steps, linear to a thousandth of the peak within int(0.9008 * 140,000) = 126,112 more."""
    if step < 6999:
        return 4.1319 * step / 6999
    return 4.1319 + (0.001 * 4.1319 - 4.1319) * min((step - 6999) / 126_112, 1.0)


def digits(step: int) -> float:
    """From 0.045 to 4 x 0.045 within 60 steps of 30 an epoch; a tenth after 12, 24 and 32 epochs."""
    if step < 60:
        return 0.045 + 0.135 * (step + 1) / 60
    return 0.18 * tenths(step // 30, 12, 24, 32)


def digits_iter(step: int) -> float:
    if step < 240:
        return 0.3 + 2.7 * (step + 1) / 240
    return 3.0 * tenths(step // 48, 30, 60, 80)


def cifar10(step: int) -> float:
    """From 0.0125 to 24 x 0.0125 within 5 epochs of 416 steps; a tenth after 30, 60 and 80 epochs."""
    if step < 2080:
        return 0.0125 + 0.2875 * (step + 1) / 2080
    return 0.3 * tenths(step // 416, 30, 60, 80)


def cifar10_cpu(step: int) -> float:
    """0.4 x 416 = 166.4 steps of warmup, rounded up; then in a line to 0 after 7.2 x 416 = 2,995.2 steps, rounded up."""
    if step < 167:
        return 0.0125 + 0.2875 * (step + 1) / 167
    return 0.3 * (2996 - step) / (2996 - 167)


def of_variants(name: str, default: int, found: list[Expected]) -> dict[str, Expected]:
    """Give every variant by its batch, and the recipe itself."""
    each = {f"{name}:{expected.batch}": expected for expected in found}
    return {name: each[f"{name}:{default}"], **each}


DROPPED, PADDED = (417, 166, 83, 55, 41), (418, 167, 84, 56, 42)  # D2
NODES = (4, 10, 20, 30, 40)
EXPECTED: dict[str, Expected] = {
    **of_variants("poster", 30_720, [poster(*pair) for pair in zip(NODES, DROPPED, strict=True)]),
    **of_variants("poster-as-run", 30_720, [poster(*pair) for pair in zip(NODES, PADDED, strict=True)]),
    "poster-as-run:none": poster(40, 42),  # an arm that changes nothing
    **of_variants(
        "goyal2017",
        8192,
        [goyal(256 * 2**k, steps) for k, steps in enumerate((5004, 2502, 1251, 625, 312, 156, 78, 39, 19))],
    ),
    "akiba2017": akiba(),
    **of_variants(
        "legw-lars",
        512,
        [
            legw(0, 2502, 391),
            legw(1, 1251, 391),
            legw(2, 625, 391),
            legw(3, 312, 390),
            legw(4, 156, 390),
            legw(5, 78, 390),
            legw(6, 39, 390),
        ],
    ),
    **of_variants(
        "mlperf-lars",
        3264,
        [
            Expected(batch, STEPS_PER_EPOCH[batch], total, num_warmup, mlperf(peak, num_warmup, total))
            for batch, peak, num_warmup, _, _, _, _, total in LOGS
        ],
    ),
    **of_variants(
        "mlperf-sgd",
        3264,
        [
            Expected(1664, 769, 32_298, 2307, mlperf(3.0, 2307, 32_298)),
            Expected(2560, 500, 22_500, 2500, mlperf(5.098, 2500, 22_500)),
            Expected(3264, 392, 16_464, 1960, mlperf(6.0, 1960, 16_464)),
        ],
    ),
    "nado2021-lars": Expected(32_768, 39, 2512, 706, mlperf(29.0, 706, 2512)),
    "nado2021-nesterov": Expected(32_768, 39, 2512, 638, mlperf(7.0, 638, 2512, power=2)),
    "bag-of-tricks": Expected(1024, 1251, 150_120, 6255, cosine(0.4, 1251, 5, 120)),
    **of_variants(
        "nvidia-dle",
        2048,
        [nvidia(256, 5004), nvidia(512, 2502), nvidia(1024, 1251), nvidia(2048, 625), nvidia(4096, 312)],
    ),
    "torchvision-v1": Expected(
        256, 5004, 450_360, 0, lambda step: 0.1 * tenths(step // 5004, 30, 60), (30 * 5004, 60 * 5004)
    ),
    "algoperf-momentum": Expected(1024, 1251, 146_999, 6999, algoperf, (133_111,)),
    "cifar10": Expected(120, 416, 37_440, 2080, cifar10, (12_480, 24_960, 33_280), 50_000),
    "cifar10-cpu": Expected(120, 416, 2996, 167, cifar10_cpu, (), 50_000),
    "digits": Expected(32, 30, 1080, 60, digits, (360, 720, 960), 960),
    "digits-iter": Expected(20, 48, 4320, 240, digits_iter, (1440, 2880, 3840), 960),
}


def plan_of(address: str) -> RunPlan:
    return RunPlan(recipes.load(address).recipe, EXPECTED[address].num_train)


def test_every_recipe_and_variant_has_its_formula():
    addresses = {
        address
        for name in recipes.names()
        for address in (name, *(f"{name}:{variant}" for variant in recipes.load(name).variants))
    }
    assert set(EXPECTED) == addresses


@pytest.mark.parametrize("address", EXPECTED)
def test_the_numbers_of_steps(address):
    plan, expected = plan_of(address), EXPECTED[address]
    assert plan.recipe.grid.global_batch == expected.batch
    assert plan.steps_per_epoch == expected.steps_per_epoch
    assert plan.total_steps == expected.total_steps
    assert plan.warmup_steps == expected.warmup_steps


@pytest.mark.parametrize("address", EXPECTED)
def test_the_rate(address):
    """At every turn, and at a hundred steps between."""
    plan, expected = plan_of(address), EXPECTED[address]
    turns = (0, expected.warmup_steps, *expected.boundaries, expected.total_steps)
    steps = {turn + shift for turn in turns for shift in (-1, 0, 1)}
    steps |= set(range(0, expected.total_steps, -(-expected.total_steps // 100)))
    for step in sorted(steps & set(range(expected.total_steps))):
        assert plan.lr(step) == pytest.approx(expected.rate(step), rel=1e-12, abs=0), step


@pytest.mark.parametrize(
    ("address", "first", "peak", "last"),
    [  # by hand, apart from the formulas above
        ("poster", 0.0125 * (239 / 205 + 1), 3.0, 0.003),
        ("poster-as-run", 0.0125 * (239 / 210 + 1), 3.0, 0.003),
        ("goyal2017", 0.1, 3.2, 0.0032),
        ("goyal2017:65536", 0.1, 25.6, 0.0256),
        ("goyal2017:256", 0.1, 0.1, 0.0001),
        ("akiba2017", 6.4, 6.4, 0.0128),
        ("legw-lars:32768", 0.0, 32.0, 32.0 * (2 / 3121) ** 2),
        ("mlperf-lars:32768", 0.0, 29.0, 1e-4 + 28.9999 * (2 / 1641) ** 2),
        ("nado2021-lars", 0.0, 29.0, 1e-4 + 28.9999 * (2 / 1807) ** 2),
        ("bag-of-tricks", 0.4 / 6255, 0.4, 0.2 * (1 - math.cos(math.pi / 143_865))),
        ("nvidia-dle", 2.048 / 5000, 2.048, 1.024 * (1 - math.cos(math.pi / 51_250))),
        ("torchvision-v1", 0.1, 0.1, 0.001),
        ("algoperf-momentum", 0.0, 4.1319, 0.0041319),
        ("digits", 0.04725, 0.18, 0.00018),
    ],
)
def test_by_hand(address, first, peak, last):
    plan = plan_of(address)
    assert plan.lr(0) == pytest.approx(first, rel=1e-12, abs=0)
    assert plan.lr(plan.warmup_steps) == plan.recipe.peak_lr == pytest.approx(peak, rel=1e-15)
    assert plan.lr(plan.total_steps - 1) == pytest.approx(last, rel=1e-6, abs=0)


@pytest.mark.parametrize("warmup", [0.5, 2.5, 7.3])
@pytest.mark.parametrize(("nodes", "steps_per_epoch"), list(zip(NODES, PADDED, strict=True)))
def test_the_poster_as_run_overshoots(warmup, nodes, steps_per_epoch):
    """A warmup that ends within an epoch goes on to the end of it, as the published formula does (L4)."""
    named = recipes.load(f"poster-as-run:{768 * nodes}").recipe
    plan = RunPlan(recipes.changed(named, {"warmup": str(warmup)}), NUM_IMAGENET)
    rates = [plan.lr(step) for step in range(10 * steps_per_epoch)]
    published = horovod(6 * nodes, steps_per_epoch, warmup)
    assert rates == pytest.approx([published(step) for step in range(len(rates))], rel=1e-12, abs=0)
    assert max(rates) > plan.recipe.peak_lr


def test_how_far_it_overshoots():
    """At 42 steps an epoch 2.5 epochs of warmup come to 1.199 times the peak (L4)."""
    plan = RunPlan(recipes.changed(recipes.load("poster-as-run").recipe, {"warmup": "2.5"}), NUM_IMAGENET)
    assert round(max(plan.lr(step) for step in range(plan.total_steps)) / 3.0, 3) == 1.199


@pytest.mark.parametrize(("batch", "peak", "warmup", "decay", "momentum", "together", "epochs", "steps"), LOGS)
def test_the_table_of_the_logs(batch, peak, warmup, decay, momentum, together, epochs, steps):
    named = recipes.load(f"mlperf-lars:{batch}")
    recipe = named.recipe
    assert (recipe.grid.global_batch, recipe.grid.images_per_worker, recipe.batchnorm) == (batch, together, "local")
    assert (recipe.peak_lr, recipe.weight_decay, recipe.momentum) == (peak, decay, momentum)
    assert (str(recipe.warmup), str(recipe.epochs)) == (f"{warmup}st", f"{steps}st")
    assert (recipe.optimizer, recipe.trust_coefficient, recipe.label_smoothing) == ("lars-tf", 0.001, 0.1)
    assert (recipe.zero_gamma, recipe.batchnorm_momentum) == (True, 0.1)
    assert recipe.decay_exempt == recipe.trust_exempt == "batchnorm+bias"
    (row,) = [row for row in named.about["expected_results"] if row["batch"] == batch]
    assert (row["epochs"], row["steps"], row["accuracy"]) == (epochs, steps, 75.9)
    assert steps == round(epochs * NUM_IMAGENET / batch)  # the table agrees with itself


def test_a_rule_without_scaling_differs_at_every_step():  # L7
    recipe = recipes.load("poster").recipe
    plans = [RunPlan(recipes.changed(recipe, {"scaling": rule}), NUM_IMAGENET) for rule in ("per-worker", "none")]
    assert all(plans[0].lr(step) != plans[1].lr(step) for step in range(plans[0].total_steps))
