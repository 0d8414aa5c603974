"""Findings recomputed from the files on disk with other code, for planted effects of every kind."""

import json
import shutil

import numpy as np
import pytest
from scipy import stats

from widestep.report.claims import judge
from widestep.report.results import read_study
from widestep.report.sections import study_page
from widestep.study import study as studies
from widestep.study.audit import Audit
from widestep.study.store import StudyStore

VAL = 837


def read_json(directory, cell, seed):
    return json.loads((directory / "trials" / cell.fingerprint(seed) / "result.json").read_text())


def differences(directory, study, arm, first, second):
    """Accuracy of one cell minus another in points, read straight from the result files, over seeds complete in both."""
    found = []
    for seed in study.seeds:
        records = [read_json(directory, study.cells(arm)[index], seed) for index in (first, second)]
        if all(record["status"] == "complete" for record in records):
            found.append(100 * (records[0]["val_correct"] - records[1]["val_correct"]) / VAL)
    return np.array(found)


def planted(cell, seed, rng, fakes):
    """Batch costs accuracy; at 40 workers no warmup is worst, 12 steps are best, 8 epochs too long; `none` is far below."""
    base = {4: 825, 10: 818, 40: 805}[cell.recipe.grid.num_workers]
    warmup = str(cell.recipe.warmup)
    if cell.recipe.grid.num_workers == 40:
        base += {"0ep": -30, "2ep": -5, "12st": 6, "8ep": -12, "3ep": 0}[warmup]
    else:
        base += {"0ep": 3, "2ep": 0, "4ep": -2, "8ep": -4}[warmup]
    base += {"linear": 0, "sqrt": 2, "none": -200}[cell.recipe.scaling]
    return fakes.planned(round(base + rng.normal(0, 2)))


@pytest.fixture(scope="module")
def study(small_text):
    return studies.parse(small_text)


@pytest.fixture(scope="module")
def directory(tmp_path_factory, study, fakes):
    return fakes.study(tmp_path_factory.mktemp("claims"), study, lambda *trial: planted(*trial, fakes))


@pytest.fixture(scope="module")
def findings(directory):
    return {finding.claim: finding for finding in judge(read_study(directory))}


def test_planted_effects_give_their_verdicts(findings):
    assert {name: finding.verdict for name, finding in findings.items()} == {
        "a": "supported",
        "b": "supported",
        "c": "supported",
        "d": "supported",
        "e": "contradicted",
    }


def check(finding, values):
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert finding.n == len(values)
    assert finding.effect == pytest.approx(values.mean())
    assert finding.interval == pytest.approx([interval.low, interval.high])
    assert finding.level == 0.95


def exact_wilcoxon(values):
    return stats.permutation_test(
        (np.round(values[np.abs(values) > 1e-9], 9),),
        lambda x: np.sum(np.sign(x) * stats.rankdata(np.abs(x))),
        permutation_type="samples",
        n_resamples=np.inf,
    ).pvalue


def test_falls_is_recomputed(directory, study, findings):
    values = differences(directory, study, "batch", 0, 2)
    check(findings["a"], values)
    assert findings["a"].p == pytest.approx(exact_wilcoxon(values))
    assert (findings["a"].unit, findings["a"].margin) == ("points", 0.5)
    assert findings["a"].comparisons[0]["num_higher"] == (values > 0).sum()


def test_worst_is_recomputed(directory, study, findings):
    others = [differences(directory, study, "warm-40", index, 0) for index in (1, 2, 3)]
    check(findings["b"], min(others, key=np.mean))
    assert findings["b"].p == pytest.approx(max(exact_wilcoxon(values) for values in others))
    assert [one["effect"] for one in findings["b"].comparisons] == pytest.approx([values.mean() for values in others])


def test_too_long_is_recomputed(directory, study, findings):
    candidates = [differences(directory, study, "warm-40", index, 3) for index in (1, 2)]
    check(findings["c"], max(candidates, key=np.mean))
    p_values = [exact_wilcoxon(values) for values in candidates]
    best = int(np.argmax([values.mean() for values in candidates]))
    low, high = sorted(p_values)
    assert findings["c"].p == pytest.approx(2 * low if p_values[best] == low else max(2 * low, high))


def test_optimum_is_recomputed(directory, study, findings):
    epochs = {"warm-10": [0, 2, 4, 8], "warm-40": [0, 2, 4, 8]}  # 12 steps of 3 an epoch are 4 epochs
    best = {}
    for arm, lengths in epochs.items():
        right = np.array([[read_json(directory, c, seed)["val_correct"] for c in study.cells(arm)] for seed in study.seeds])
        best[arm] = np.array(
            [np.mean([x for x, hit in zip(lengths, row == row.max(), strict=True) if hit]) for row in right]
        )
    values = best["warm-40"] - best["warm-10"]
    assert findings["d"].unit == "epochs"
    check(findings["d"], values)
    assert findings["d"].p == pytest.approx(exact_wilcoxon(values))


def test_equivalent_is_recomputed(directory, study, findings):
    values = differences(directory, study, "rule", 0, 2)
    check(findings["e"], values)
    tost = max(
        stats.ttest_1samp(values, -0.5, alternative="greater").pvalue,
        stats.ttest_1samp(values, 0.5, alternative="less").pvalue,
    )
    assert findings["e"].p == pytest.approx(tost)
    assert findings["e"].interval[0] > 0.5


def test_p_values_are_adjusted_over_the_claims(findings):
    own = [finding.p for finding in findings.values()]
    settled = [*own[:4], findings["e"].comparisons[0]["beyond_p"]]  # e is contradicted: as such it makes room for the others
    assert settled[4] < 1e-6 < own[4]
    for index, finding in enumerate(findings.values()):
        tested = [*settled[:index], own[index], *settled[index + 1 :]]
        ordered, largest = sorted(range(5), key=lambda i: tested[i]), 0.0
        for position, i in enumerate(ordered):
            largest = max(largest, min(1.0, (5 - position) * tested[i]))
            if i == index:
                assert finding.p_adjusted == pytest.approx(largest)


def test_records_have_the_stable_keys(findings):
    stable = "claim text verdict effect unit interval level n test p p_adjusted minimum_detectable_difference margin detail"
    for finding in findings.values():
        assert list(finding.record())[:14] == stable.split()
        json.dumps(finding.record(), allow_nan=False)
        assert finding.detail
        assert finding.minimum_detectable_difference > 0


def rewritten(tmp_path, study, fakes, outcome):
    return judge(read_study(fakes.study(tmp_path / "s", study, outcome)))


def test_pairs_leave_out_diverged_and_missing_seeds(tmp_path, study, fakes):
    def outcome(cell, seed, rng):
        if cell.recipe.grid.num_workers == 40 and seed in (0, 1):
            return fakes.planned(100, "diverged") if seed == 0 else None
        return fakes.planned(820 + seed % 3 if cell.recipe.grid.num_workers == 4 else 800)

    finding = rewritten(tmp_path, study, fakes, outcome)[0]
    kept = [100 * (820 + seed % 3 - 800) / VAL for seed in range(2, 9)]
    check(finding, np.array(kept))
    assert "1 diverged run is not in mean and interval; in the test it ranks below every other run." in finding.detail
    assert finding.comparisons[0]["num_diverged_second"] == 1
    assert finding.comparisons[0]["failure_p"] == pytest.approx(stats.fisher_exact([[0, 9], [1, 7]])[1])


def test_one_seed_has_an_effect_and_no_interval(tmp_path, study, fakes):
    def outcome(cell, seed, rng):
        return fakes.planned(700 + cell.recipe.grid.num_nodes) if seed == 3 else None

    first, *_ = rewritten(tmp_path, study, fakes, outcome)
    assert (first.verdict, first.n, first.interval, first.p, first.p_adjusted) == ("undecided", 1, None, None, None)
    assert first.effect == pytest.approx(100 * (4 - 40) / VAL)
    assert first.minimum_detectable_difference is None
    assert first.test == "none"


def test_nothing_ran(tmp_path, study, fakes):
    findings = rewritten(tmp_path, study, fakes, lambda *trial: None)
    assert [(one.verdict, one.effect, one.interval, one.n) for one in findings] == [("undecided", None, None, 0)] * 5


def test_equal_arms_are_equivalent_and_contradict_a_fall(tmp_path, study, fakes):
    findings = rewritten(tmp_path, study, fakes, lambda cell, seed, rng: fakes.planned(800 + seed))
    said = {one.claim: (one.verdict, one.why) for one in findings}
    assert said["a"] == said["b"] == said["c"] == ("contradicted", "equivalent")
    assert said["d"] == ("undecided", "open")
    assert said["e"] == ("supported", "equivalent")
    assert findings[4].p == 2**-9  # nine equal differences: no spread, but each might have been on the other side
    assert findings[4].interval == [0.0, 0.0]


def test_reversed_effects_contradict(tmp_path, study, fakes):
    def outcome(cell, seed, rng):
        warmup = {"0ep": 12, "2ep": 0, "12st": -3, "4ep": 4, "3ep": 0, "8ep": 8}[str(cell.recipe.warmup)]
        return fakes.planned(int(780 + cell.recipe.grid.num_nodes / 2 + warmup + rng.integers(-1, 2)))

    said = {one.claim: one for one in rewritten(tmp_path, study, fakes, outcome)}
    assert (said["a"].verdict, said["a"].why) == ("contradicted", "reversed")
    assert (said["b"].verdict, said["b"].why) == ("contradicted", "reversed")
    assert (said["c"].verdict, said["c"].why) == ("contradicted", "reversed")
    assert said["b"].p_shown < 0.05
    assert said["b"].effect < 0


def test_six_seeds_cannot_survive_five_claims_and_the_finding_says_so(tmp_path, study, fakes):
    few = studies.changed(study, seeds=6)
    finding = rewritten(tmp_path, few, fakes, lambda *trial: planted(*trial, fakes))[0]
    assert finding.p == 2 / 2**6
    assert finding.verdict == "undecided"
    assert "8 seeds can decide" in finding.detail  # 5 * 2 / 2**8 = 0.039


LATE = """
[claims.f]
text = "Ten against four."
test = "falls"
arms = ["batch"]
axis = "grid"
between = ["4x1x8", "10x1x8"]
"""


def test_a_claim_that_was_added_after_results_leaves_the_others_as_they_were(
    directory, findings, study, small_text, tmp_path
):
    """Holm over five for those declared before; over six for the late one, which is marked."""
    shutil.copytree(directory, tmp_path / "grown")
    grown = studies.parse(small_text.replace("[[figures]]", LATE + "\n[[figures]]", 1))
    StudyStore.create(tmp_path / "grown", grown)
    found = {finding.claim: finding for finding in judge(read_study(tmp_path / "grown"))}
    assert {name: found[name] for name in findings} == findings
    late = found["f"]
    p_values = [found[name].p for name in "abcdef"]
    p_values[4] = found["e"].comparisons[0]["beyond_p"]  # contradicted: as such it counts beside the others
    assert late.p_adjusted == pytest.approx(holm_by_hand(p_values)[5])
    assert late.p_adjusted != pytest.approx(late.p)
    assert "Holm over 6 claims" in late.test
    assert "Holm over 5 claims" in found["a"].test
    num_trials = len(list((directory / "trials").iterdir()))
    assert (late.declared_after, found["a"].declared_after) == (num_trials, 0)
    assert late.detail.endswith(f"This claim was added after {num_trials} trials had an outcome.")
    page = study_page(read_study(tmp_path / "grown"), list(found.values()), [], [], Audit(0, 0, 0, 0, 0, 0), [])
    assert f"after {num_trials} trials had an outcome: claim f added." in page.notices[-1]


def holm_by_hand(p_values):
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = highest
    return adjusted


def test_settings_that_were_changed_after_results_are_told(directory, small_text, tmp_path):
    shutil.copytree(directory, tmp_path / "grown")
    grown = studies.parse(small_text.replace('"12st", "8ep"]', '"12st", "8ep", "9ep"]'))
    StudyStore.create(tmp_path / "grown", grown)
    found = {finding.claim: finding for finding in judge(read_study(tmp_path / "grown"))}
    words = "The settings it compares were changed after "
    assert [name for name, finding in found.items() if words in finding.detail] == ["b", "c", "d"]
    assert {finding.declared_after for finding in found.values()} == {0}
