import pytest
from hypothesis import given
from hypothesis import strategies as st

from widestep.errors import UsageError
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
    ],
)
def test_published_peaks(rule, base_lr, peak):
    assert rule.peak(base_lr, LARGEST) == peak


def test_square_root():
    assert round(ScalingRule("sqrt", 256).peak(0.1, LARGEST), 4) == 1.0954  # L2: 0.1 x sqrt(120)
    assert ScalingRule("sqrt", 256).factor(WorkerGrid(4, 1, 256)) == 2.0
    assert ScalingRule("sqrt", 256).factor(WorkerGrid(1, 1, 64)) == 0.5


@pytest.mark.parametrize(("nodes", "peak"), [(4, 0.30), (10, 0.75), (20, 1.5), (30, 2.25), (40, 3.0)])
def test_the_posters_five_peaks(nodes, peak):
    assert ScalingRule("per-worker").peak(0.0125, WorkerGrid(nodes, 6, 128)) == pytest.approx(peak, rel=1e-15)


@given(rates, counts, counts, counts)
def test_every_rule_is_the_identity_at_its_reference(base_lr, nodes, workers, images):
    grid = WorkerGrid(nodes, workers, images)
    for rule in (ScalingRule("none"), ScalingRule("linear", grid.global_batch), ScalingRule("sqrt", grid.global_batch)):
        assert rule.peak(base_lr, grid) == base_lr  # L2
    assert ScalingRule("per-worker").peak(base_lr, WorkerGrid(1, 1, images)) == base_lr  # L2


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
    ],
)
def test_the_derivation_in_words(rule, base_lr, said):
    assert rule.derivation(base_lr, LARGEST) == said


@pytest.mark.parametrize("name", ["linear", "sqrt"])
def test_a_rule_must_name_its_reference(name):
    with pytest.raises(UsageError, match=f"'{name}' needs the global batch .* None was given; set reference_batch"):
        ScalingRule(name)
    with pytest.raises(UsageError, match="set reference_batch"):
        Recipe(scaling=name)


def test_per_worker_has_no_reference_batch():
    with pytest.raises(UsageError, match=r"one worker as its reference.* Got 256; use 'linear'"):
        ScalingRule("per-worker", 256)
