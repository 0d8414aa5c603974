"""The audit's part of a report: what was found at the top and in its section, nothing found said plainly, every n."""

from dataclasses import replace

import pytest

from widestep.report.audit import audit_notices, audit_records, audit_section
from widestep.study.audit import Audit, SettingDigest
from widestep.study.coincidence import Statement

SAME = Statement("same", "x a against b changed nothing", ["x"], ["one", "two"], ["1", "2"], 1, 1, 12, 378)
IDLE = Statement("without-effect", "y 3 has no effect in arm z: why", ["y"], ["in arm z"], ["3"])
NOTE = Statement("elsewhere", "w acts elsewhere", ["w"], ["one", "two"], ["1", "2"], 1, 1, 12, 378)
ROW = SettingDigest("arm", "w 1", 12, 1378, "0123abcd", "step 3: lr 3.0 against 0.0125")
CLEAN = Audit(204, 204, 0, 0, 17, 136, digests=[ROW, SettingDigest("none", "", 0, 0, "", "")])


def test_nothing_found_is_said():
    section = audit_section(CLEAN)
    assert section.lead == (
        "204 of 204 runs audited. What the optimizer applied was read back from the runs and compared between all settings, "
        "seed by seed. Nothing found: in each of the 136 pairs of settings that could be compared, what was applied "
        "differs, or the weights do. No value is set without effect."
    )
    assert (section.found, section.notes, audit_notices(CLEAN), audit_records(CLEAN)) == ([], [], [], [])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_audited": 198, "num_diverged": 3}, "198 of 204 runs audited, 3 diverged, 3 without an outcome. "),
        ({"num_audited": 202, "num_without_ledger": 2}, "202 of 204 runs audited, 2 complete without a usable ledger. "),
        ({"num_audited": 0, "num_pairs": 0}, "204 without an outcome. So nothing could be compared. No value is"),
        ({"num_settings": 1, "num_pairs": 0}, "There is one setting, so there is nothing to compare. No value"),
        ({"found": [SAME]}, "seed by seed. Found:"),
        ({"found": [IDLE]}, "seed by seed. Found:"),
    ],
)
def test_what_was_audited_is_counted(changes, words):
    assert words in audit_section(replace(CLEAN, **changes)).lead


def test_what_was_found_is_at_the_top_and_in_full_below():
    found = replace(CLEAN, found=[SAME, IDLE], notes=[NOTE])
    assert audit_notices(found) == ["Audit: x a against b changed nothing. 1 more under Audit."]
    assert audit_notices(replace(CLEAN, found=[IDLE])) == ["Audit: y 3 has no effect in arm z: why."]
    section = audit_section(found)
    assert section.found == ["x a against b changed nothing.", "y 3 has no effect in arm z: why."]
    assert section.notes == ["w acts elsewhere."]


def test_digests_stand_beside_their_settings():
    assert audit_section(CLEAN).table.rows == [
        ["arm", "w 1", "step 3: lr 3.0 against 0.0125", "12", "1,378", "0123abcd"],
        ["none", "–", "–", "0", "–", "–"],
    ]


def test_entries_of_the_findings_have_the_keys_of_claims():
    one, other = audit_records(replace(CLEAN, found=[SAME, IDLE], notes=[NOTE]))
    assert (one["claim"], one["verdict"], one["text"], one["n"]) == ("audit", "supported", SAME.text, 12)
    assert one["test"] == "ledgers and weights, byte for byte"
    assert one["audit"] == SAME.record()
    assert (other["n"], other["test"]) == (0, "the recipe alone")
    keys = {"claim", "verdict", "effect", "interval", "level", "n", "test", "p", "minimum_detectable_difference"}
    assert keys < one.keys()


def test_texts_of_files_are_made_plain():
    found = replace(CLEAN, found=[replace(SAME, text="data \x1b[31m")], digests=[replace(ROW, arm="a\x07", setting="b\n")])
    section = audit_section(found)
    assert not any(set("\x1b\x07\n") & set(text) for text in (*section.found, *section.table.rows[0], *audit_notices(found)))
