"""Certificates: every number computed again with other code, every refusal by its sentence, every change noticed."""

import hashlib
import json
import re
import shutil

import numpy as np
import pytest
from certified_studies import careful_study, write_careful_study
from scipy import stats

from widestep.errors import DataError, EnvironmentFault, NumericError, StoreError, UsageError
from widestep.report.certificate import certify, seal
from widestep.report.certificate_check import check
from widestep.report.certificate_page import render
from widestep.report.certificate_sides import find_cell
from widestep.report.results import read_study
from widestep.study.sequential import Sequential
from widestep.study.study import to_toml

BASE, CAND = "warm[warmup=1ep]", "warm[warmup=2ep]"
GAINS = {3: 1, 1: -2, 4: 0, 15: 3, 9: -1, 2: 2, 6: 1, 5: -1}  # images of 1,000 that the candidate has right more


def correct(cell, seed):
    if cell.settings.get("warmup") == "2ep":
        return 960 + seed + GAINS[seed]
    return 900 if cell.settings.get("warmup") == "0ep" else 960 + seed


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return write_careful_study(tmp_path_factory.mktemp("careful") / "study", correct)


@pytest.fixture
def directory(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "study")


@pytest.fixture(scope="module")
def found(pristine):
    return certify(pristine, BASE, CAND, None)


def trial(directory, seed, warmup="2ep"):
    [cell] = [cell for cell in careful_study().cells("warm") if cell.settings["warmup"] == warmup]
    return directory / "trials" / cell.fingerprint(seed)


def test_the_numbers_are_those_of_scipy(found):
    gains = np.array(list(GAINS.values())) / 10
    numbers = found["statistics"]
    assert (found["verdict"], numbers["n"]) == ("equivalent", 8)
    assert numbers["difference"] == pytest.approx(gains.mean())
    above = stats.ttest_1samp(gains, -0.5, alternative="greater").pvalue
    below = stats.ttest_1samp(gains, 0.5, alternative="less").pvalue
    assert numbers["p"] == pytest.approx(max(above, below))
    assert numbers["p_of_no_difference"] == pytest.approx(stats.wilcoxon(gains, method="exact").pvalue, abs=0.1)
    ranks = [stats.wilcoxon(0.5 + sign * gains, alternative="greater", method="exact").pvalue for sign in (1, -1)]
    assert numbers["p_by_ranks"] == pytest.approx(max(ranks))
    for level, name in ((0.95, "interval"), (0.90, "equivalence_interval")):
        ends = stats.ttest_1samp(gains, 0.0).confidence_interval(level)
        assert numbers[name] == pytest.approx([ends.low, ends.high])
    assert numbers["bootstrap_interval"] is None
    assert found["baseline"]["mean_accuracy"] == pytest.approx(96 + np.mean(list(GAINS)) / 10)


def test_the_digests_are_those_of_the_files(found, pristine):
    runs = found["candidate"]["runs"]
    assert [run["seed"] for run in runs] == list(GAINS)
    for run in runs:
        place = pristine / run["directory"]
        assert place == trial(pristine, run["seed"])
        for name, digest in run["files_sha256"].items():
            assert digest == hashlib.sha256((place / name).read_bytes()).hexdigest()
        assert run["weights_sha256"] == json.loads((place / "result.json").read_text())["weights_sha256"]
        assert {"ledger.jsonl", "result.json", "recipe.toml", "checkpoints/final.safetensors"} <= set(run["files_sha256"])
    assert found["study"]["definition_sha256"] == hashlib.sha256((pristine / "study.toml").read_bytes()).hexdigest()


def test_what_it_states(found):
    assert found["question"] == f"Does {CAND} preserve the final validation accuracy of {BASE} within 0.5 points?"
    assert found["recipe_differences"] == {"warmup": ["1ep", "2ep"]}
    assert (found["margin"], found["study"]["declared_margin"], found["level"]) == (0.5, 0.5, 0.95)
    assert found["data"] == {"name": "digits", "fingerprint": "87ff0c9e"}
    assert found["code"] == {"widestep": "0.1.0", "source": "00112233aabbccdd", "torch": "2.13.0"}
    # 8 runs of 90 s on 2 processes in stacks of the recipe's size
    stack = careful_study().cells("warm")[0].recipe.stack
    assert found["cost"]["baseline"]["device_hours"] == pytest.approx(8 * 90 * 2 / stack / 3600)
    assert "of many certificates asked of one study, 5 in 100 may say preserved" in found["limits"][2]
    assert "more than 31 % of the runs do" in found["limits"][0]  # 1 - .05 ** (1 / 8) = .312
    assert "secret-host-name" not in json.dumps(found)
    json.dumps(found, allow_nan=False)


def test_a_smaller_margin_may_not_be_shown(pristine):
    assert certify(pristine, BASE, CAND, 0.05)["verdict"] == "open"
    assert certify(pristine, BASE, "warm[warmup=0ep]", None)["verdict"] == "different"


@pytest.mark.parametrize(
    "name", ["warm[warmup=1ep]", " warm[ warmup=1ep ] ", "rate[base_lr=0.02, warmup=0ep]", "rate[base_lr=0.02,warmup=0ep]"]
)
def test_names_as_the_status_shows_them(pristine, name):
    assert find_cell(read_study(pristine), name).cell.settings in (
        {"warmup": "1ep"},
        {"base_lr": 0.02, "warmup": "0ep"},
    )


def test_an_arm_of_one_setting_is_named_by_itself(pristine):
    assert find_cell(read_study(pristine), "alone").cell.arm == "alone"


@pytest.mark.parametrize(
    ("names", "margin", "words"),
    [
        (("warm", CAND), None, "the settings of this arm are warm[warmup=0ep], warm[warmup=1ep], warm[warmup=2ep]"),
        (("warm[warmup=3ep]", CAND), None, "the settings of this arm are"),
        (("cold", CAND), None, "the arms are warm, rate, alone"),
        ((BASE, BASE), None, "are one"),
        ((BASE, CAND), 0.6, "declared before the study ran: 0.5 points"),
        ((BASE, CAND), 0.0, "above 0"),
        ((BASE, CAND), float("nan"), "above 0"),
    ],
)
def test_questions_that_cannot_be_asked(pristine, names, margin, words):
    with pytest.raises(UsageError, match=re.escape(words)):
        certify(pristine, *names, margin)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def missing(directory):
    shutil.rmtree(trial(directory, 9))


def diverged(directory):
    edit(trial(directory, 9) / "result.json", status="diverged", reason="the loss is not finite")
    (trial(directory, 9) / "STATUS").write_text("diverged\n")


def better(directory):
    edit(trial(directory, 9) / "result.json", val_correct=999, val_accuracy=0.999)


def better_in_every_table(directory):
    better(directory)
    table = trial(directory, 9) / "epochs.csv"
    table.write_text(table.read_text().replace("968,1000,0.968", "999,1000,0.999"))


def better_share(directory):
    edit(trial(directory, 9) / "result.json", val_accuracy=0.999)


def other_weights(directory):
    name = "checkpoints/final.safetensors"
    shutil.copy(trial(directory, 1) / name, trial(directory, 9) / name)


def damaged_weights(directory):
    path = trial(directory, 9) / "checkpoints/final.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")


def claimed_weights(directory):
    edit(trial(directory, 9) / "result.json", weights_sha256="0" * 64)


def other_recipe(directory):
    shutil.copy(trial(directory, 1) / "recipe.toml", trial(directory, 9) / "recipe.toml")


def no_ledger(directory):
    (trial(directory, 9) / "ledger.jsonl").unlink()


def short_ledger(directory):
    path = trial(directory, 9) / "ledger.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def other_history(directory):
    path = trial(directory, 9) / "history.jsonl"
    path.write_text(path.read_text().replace('"complete"', '"stopped"'))


def other_data(directory):
    edit(trial(directory, 9) / "environment.json", data_fingerprint="another")


def other_code(directory):
    edit(trial(directory, 9) / "environment.json", source="ffff")


def other_torch(directory):
    edit(trial(directory, 9) / "environment.json", torch="2.12.0")


def other_model(directory):
    edit(trial(directory, 9) / "environment.json", model_fingerprint="another")


def same_ledgers(directory):
    for seed in GAINS:
        shutil.copy(trial(directory, seed, "1ep") / "ledger.jsonl", trial(directory, seed) / "ledger.jsonl")


def fewer_seeds(directory):
    study = careful_study()
    (directory / "study.toml").write_text(to_toml(study.model_copy(update={"seeds": study.seeds[:5]})))


def a_bad_seed_left_out(directory):
    study = careful_study()
    (directory / "study.toml").write_text(to_toml(study.model_copy(update={"seeds": study.seeds[:7]})))


def test_a_study_that_ran_until_decided_is_not_certified(tmp_path):
    study = careful_study().model_copy(update={"sequential": Sequential()})
    directory = write_careful_study(tmp_path / "study", correct, study)
    with pytest.raises(UsageError, match="This study ran until decided; run it with all seeds"):
        certify(directory, BASE, CAND, None)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (missing, UsageError, "has no result with seed 9"),
        (diverged, NumericError, "warm[warmup=2ep] diverged with seed 9"),
        (better, StoreError, "val_correct 999, the saved weights 968"),
        (better_in_every_table, StoreError, "val_correct 999, the saved weights 968"),
        (better_share, StoreError, "not that of its counts"),
        (other_weights, StoreError, "differ in their digest and weights and recipe"),
        (damaged_weights, StoreError, "its digest is another"),
        (claimed_weights, StoreError, "differ in their digest and weights"),
        (other_recipe, StoreError, "not the recipe that the study asks for"),
        (no_ledger, StoreError, "lacks ledger.jsonl"),
        (short_ledger, StoreError, "1 runs have no whole one"),
        (other_history, StoreError, "does not agree with history.jsonl"),
        (other_data, DataError, "data fingerprint is 87ff0c9e and another"),
        (other_code, EnvironmentFault, "source is 00112233aabbccdd and ffff"),
        (other_torch, EnvironmentFault, "torch is 2.12.0 and 2.13.0"),
        (other_model, EnvironmentFault, "The model's own file changed"),
        (same_ledgers, UsageError, "The audit found none"),
        (fewer_seeds, UsageError, "This study has 5 seeds"),
        (a_bad_seed_left_out, UsageError, "also ran with seed 5"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_refusals(directory, change, error, words, found, tmp_path):
    change(directory)
    with pytest.raises(error, match=re.escape(words)):
        certify(directory, BASE, CAND, None)
    (tmp_path / "before.json").write_text(json.dumps(found))
    differing = check(tmp_path / "before.json", directory)
    assert len(differing) == 1
    assert differing[0].startswith("the study no longer supports it: ")


def test_sides_evaluated_on_other_images(tmp_path):
    study = careful_study()
    arms = study.arms | {"few": study.arms["alone"].model_copy(update={"set": {"train_images": 700}})}
    directory = write_careful_study(tmp_path / "study", correct, study.model_copy(update={"arms": arms}))
    with pytest.raises(DataError, match="These differ in train_images"):
        certify(directory, "alone", "few", None)


@pytest.fixture
def file(found, tmp_path):
    (tmp_path / "certificate.json").write_text(json.dumps(found))
    return tmp_path / "certificate.json"


def test_a_certificate_agrees_with_its_study(file, pristine):
    assert check(file, pristine) == []


def test_a_changed_certificate_is_told(file, pristine, found):
    edit(file, statistics=found["statistics"] | {"difference": 0.9})
    seal_differs, line = check(file, pristine)
    assert "its seal differs" in seal_differs
    assert line == "statistics.difference: 0.9 in the certificate, 0.0375 in the study"
    changed = json.loads(file.read_text())
    edit(file, sha256=seal(changed))  # sealed again by whoever changed it: the study still knows better
    assert check(file, pristine) == [line]


def test_a_study_that_went_on_is_told(file, directory):
    path = trial(directory, 9) / "history.jsonl"
    path.write_text('{"event": "started", "step": 0}\n' + path.read_text())
    [line] = check(file, directory)
    assert line.startswith("candidate.runs[4].files_sha256.history.jsonl: ")


@pytest.mark.parametrize(
    "text", ["{}", "[]", "no", '{"format": 2}', '{"format": 1, "baseline": {"name": 3}, "margin": "x"}']
)
def test_what_is_no_certificate(tmp_path, pristine, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(StoreError, match="must be a certificate"):
        check(tmp_path / "c.json", pristine)
    with pytest.raises(StoreError, match="no such file"):
        check(tmp_path / "absent.json", pristine)


def test_the_page_says_it_all_and_loads_nothing(found):
    page = render(found)
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "Accuracy is preserved: the difference is shown to be smaller than the margin" in text
    assert "90 % interval [−0.08, +0.15], margin ±0.5, n = 8 pairs" in text
    for digest in (found["sha256"], found["candidate"]["runs"][0]["weights_sha256"], found["data"]["fingerprint"]):
        assert digest in text
    assert "src=" not in page
    assert not re.search(r"https?://", page)
    assert "<script" not in page
    assert "default-src 'none'" in page


def test_names_are_escaped(found):
    hostile = json.loads(json.dumps(found).replace("warm[warmup=2ep]", "<img src=x onerror=alert(1)>"))
    page = render(hostile)
    assert "<img" not in page
    assert "&lt;img src=x" in page


@pytest.mark.parametrize(("interval", "difference"), [([-9.0, 30.0], 10.0), ([0.0, 0.0], 0.0), ([-0.01, 0.01], 0.0)])
def test_the_drawing_holds_everything(found, interval, difference):
    numbers = found["statistics"] | {"equivalence_interval": interval, "difference": difference}
    page = render(found | {"statistics": numbers})
    for place in re.findall(r'(?:x1|x2|cx)="([\d.-]+)"', page):
        assert 0 <= float(place) <= 640
