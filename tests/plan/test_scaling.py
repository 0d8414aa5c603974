import pytest
from hypothesis import given
from hypothesis import strategies as st

from widestep.errors import UsageError
from widestep.plan.duration import Duration
from widestep.plan.grid import WorkerGrid
from widestep.plan.recipe import Recipe
from widestep.plan.scaling import ScalingRule

LARGEST = WorkerGrid.parse("40x6x128")  # 240 workers, 30,720 images
rates = st.floats(1e-6, 1e3)
counts = st.integers(1, 5_000)


@pytest.mark.parametrize(
    ("rule", "base_lr", "peak"),
    [
        (ScalingRule("per-worker"), 0.0125, 3.0),  # L2: Horovod, 0.0125 x 240
        (ScalingRule("linear", 256), 0.1, 12.0),  # L2: Goyal et al., 0.1 x 30,720/256 = 0.1 x 120
        (ScalingRule("linear", 32), 0.0125, 12.0),  # the same rate seen from 32 images
        (ScalingRule("none"), 0.0125, 0.0125),
        (ScalingRule("none", 256), 0.0125, 0.0125),
        (ScalingRule("adascale"), 0.0125, 0.0125),  # L2: one worker's; the gain multiplies at each step
        (ScalingRule("none-as-run"), 0.0125, 3.0),  # the program overwrites the unscaled rate by 0.0125 x 240
    ],
)
def test_published_peaks(rule, base_lr, peak):
    assert rule.peak(base_lr, LARGEST) == peak


def test_square_root():
    assert round(ScalingRule("sqrt", 256).peak(0.1, LARGEST), 4) == 1.0954  # L2: 0.1 x sqrt(120)
    assert ScalingRule("sqrt", 256).factor(WorkerGrid(4, 1, 256)) == 2.0
    assert ScalingRule("sqrt", 256).factor(WorkerGrid(1, 1, 64)) == 0.5


@pytest.mark.parametrize(("doublings", "rate", "epochs"), [(0, 4.0, 0.15625), (3, 11.3137, 1.25), (6, 32.0, 10.0)])
def test_legw(doublings, rate, epochs):
    """You et al. 2019 on ImageNet: from 4.0 and 10/64 epochs at 512 images to 32 and 10 epochs at 32,768."""
    rule, grid = ScalingRule("legw", 512), WorkerGrid(1, 2**doublings, 512)
    assert round(rule.peak(4.0, grid), 4) == rate  # L2
    assert float(rule.warmup(Duration.parse("0.15625ep"), grid).amount) == epochs


def test_legw_keeps_the_steps_of_the_warmup():
    """L2: 10/64 epochs of 2,502 steps of 512 images are 391 steps; tails may cost an epoch's last steps, here up to 10."""
    rule, steps = ScalingRule("legw", 512), []
    for doublings in range(8):
        grid = WorkerGrid(1, 2**doublings, 512)
        steps.append(rule.warmup(Duration.parse("0.15625ep"), grid).steps(1_281_167 // grid.global_batch, grid.global_batch))
    assert steps == [391, 391, 391, 390, 390, 390, 390, 380]
    for grid in (WorkerGrid(1, number, 100) for number in (1, 3, 5, 12, 240)):
        assert rule.warmup(Duration.parse("51200im"), grid).steps(10, grid.global_batch) == 100  # L2: images divide
        assert rule.warmup(Duration.parse("391st"), grid) == Duration.parse("391st")  # steps stay as they are


@pytest.mark.parametrize("text", ["5ep", "2.5ep", "600st", "30720im", "0"])
def test_only_legw_changes_a_warmup(text):
    length = Duration.parse(text)
    rules = [ScalingRule("linear", 256), ScalingRule("sqrt", 256), *map(ScalingRule, ("none", "per-worker", "adascale"))]
    assert all(rule.warmup(length, LARGEST) == length for rule in (*rules, ScalingRule("none-as-run")))
    assert ScalingRule("legw", LARGEST.global_batch).warmup(length, LARGEST) == length  # L2: identity at its reference


@given(counts, counts, st.integers(1, 10**6))
def test_legw_is_the_square_root_in_the_rate(workers, images, reference):
    grid = WorkerGrid(1, workers, images)
    assert ScalingRule("legw", reference).factor(grid) == ScalingRule("sqrt", reference).factor(grid)


@pytest.mark.parametrize(("nodes", "peak"), [(4, 0.30), (10, 0.75), (20, 1.5), (30, 2.25), (40, 3.0)])
def test_the_posters_five_peaks(nodes, peak):
    assert ScalingRule("per-worker").peak(0.0125, WorkerGrid(nodes, 6, 128)) == pytest.approx(peak, rel=1e-15)


@given(rates, counts, counts, counts)
def test_every_rule_is_the_identity_at_its_reference(base_lr, nodes, workers, images):
    grid = WorkerGrid(nodes, workers, images)
    for name in ("linear", "sqrt", "legw"):
        assert ScalingRule(name, grid.global_batch).peak(base_lr, grid) == base_lr  # L2
    assert ScalingRule("none").peak(base_lr, grid) == base_lr  # L2
    for name in ("per-worker", "none-as-run", "adascale"):
        assert ScalingRule(name).peak(base_lr, WorkerGrid(1, 1, images)) == base_lr  # L2


@given(rates, counts, counts, st.integers(1, 10**6))
def test_what_a_rule_sees(base_lr, workers, images, reference):
    """linear and sqrt see the images of a step, however they are divided; per-worker sees the workers alone."""
    whole, divided = WorkerGrid(1, workers, images), WorkerGrid(workers, images, 1)
    for name in ("linear", "sqrt"):
        assert ScalingRule(name, reference).peak(base_lr, whole) == ScalingRule(name, reference).peak(base_lr, divided)
    assert ScalingRule("per-worker").peak(base_lr, whole) == base_lr * workers
    assert ScalingRule("linear", reference).factor(whole) == pytest.approx(
        ScalingRule("sqrt", reference).factor(whole) ** 2, rel=1e-14
    )


@pytest.mark.parametrize(
    ("rule", "base_lr", "said"),
    [
        (ScalingRule("linear", 256), 0.1, "0.1 @ 256 images x 30,720/256 -> 12"),
        (ScalingRule("sqrt", 256), 0.1, "0.1 @ 256 images x sqrt(30,720/256) -> 1.09545"),
        (ScalingRule("per-worker"), 0.0125, "0.0125 @ 1 worker x 240 workers -> 3"),
        (ScalingRule("none"), 0.0125, "0.0125 unscaled -> 0.0125"),
        (ScalingRule("legw", 512), 4.0, "4 @ 512 images x sqrt(30,720/512) -> 30.9839"),
        (
            ScalingRule("none-as-run"),
            0.0125,
            "0.0125 unscaled, overwritten before every step by 0.0125 x 240 workers -> 3",
        ),
        (
            ScalingRule("adascale"),
            0.0125,
            "0.0125 @ 1 worker, x the gain of each step (1 to 240); at gain 1 -> 0.0125",
        ),
    ],
)
def test_the_derivation_in_words(rule, base_lr, said):
    assert rule.derivation(base_lr, LARGEST) == said


@pytest.mark.parametrize("name", ["linear", "sqrt", "legw"])
def test_a_rule_must_name_its_reference(name):
    with pytest.raises(UsageError, match=f"'{name}' needs the global batch .* None was given; set reference_batch"):
        ScalingRule(name)
    with pytest.raises(UsageError, match="set reference_batch"):
        Recipe(scaling=name)


@pytest.mark.parametrize("name", ["per-worker", "none-as-run"])
def test_rules_by_workers_have_no_reference_batch(name):
    with pytest.raises(UsageError, match=rf"'{name}' has one worker as its reference.* Got 256; use 'linear'"):
        ScalingRule(name, 256)


def test_the_reference_of_adascale_is_one_worker():
    assert Recipe(scaling="adascale", grid="4x1x8", reference_batch=8).peak_lr == Recipe(scaling="adascale").peak_lr
    with pytest.raises(UsageError, match=r"AdaScale's reference is one worker.* Got 32 with 8 images a worker"):
        Recipe(scaling="adascale", grid="4x1x8", reference_batch=32)
