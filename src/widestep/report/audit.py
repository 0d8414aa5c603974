"""The audit in a report: what was found in words, what else was seen, and a digest of every setting's ledgers."""

from typing import Any

from widestep.plan.plain import plain
from widestep.report.page import AuditSection, Table
from widestep.study.audit import Audit

_TESTS = {"same": "ledgers and weights, byte for byte", "applied": "ledgers"}


def audit_section(audit: Audit) -> AuditSection:
    """Put the audit's part of a page together."""
    return AuditSection(
        lead=_lead(audit),
        found=[f"{plain(one.text)}." for one in audit.found],
        notes=[f"{plain(one.text)}." for one in audit.notes],
        table=_table(audit),
    )


def audit_notices(audit: Audit) -> list[str]:
    """Return what belongs at the top of the page: an option that changed nothing makes every comparison of it void."""
    if not audit.found:
        return []
    more = f" {len(audit.found) - 1} more under Audit." if audit.found[1:] else ""
    return [f"Audit: {plain(audit.found[0].text)}.{more}"]


def audit_records(audit: Audit) -> list[dict[str, Any]]:
    """Return what was found as entries of findings.json, under the keys that the findings on claims have."""
    return [
        {
            "claim": "audit",
            "text": plain(one.text),
            "verdict": "supported",
            "effect": None,
            "unit": "",
            "interval": None,
            "level": None,
            "n": one.num_seeds,
            "test": _TESTS.get(one.kind, "the recipe alone"),
            "p": None,
            "p_adjusted": None,
            "minimum_detectable_difference": None,
            "kind": "audit",
            "audit": one.record(),
        }
        for one in audit.found
    ]


def _lead(audit: Audit) -> str:
    """Say how much was audited and, plainly, when nothing was found."""
    complete = audit.num_audited + audit.num_without_ledger
    counts = [f"{audit.num_audited} of {audit.num_runs} runs audited"]
    counts += [f"{audit.num_diverged} diverged"] if audit.num_diverged else []
    counts += [f"{audit.num_without_ledger} complete without a usable ledger"] if audit.num_without_ledger else []
    unfinished = audit.num_runs - complete - audit.num_diverged
    counts += [f"{unfinished} without an outcome"] if unfinished else []
    said = f"{', '.join(counts)}. "
    if audit.num_settings < 2:
        said += "There is one setting, so there is nothing to compare. "
    elif not audit.num_audited:
        said += "So nothing could be compared. "
    else:
        said += "What the optimizer applied was read back from the runs and compared between all settings, seed by seed. "
    if audit.found:
        return said + "Found:"
    if audit.num_pairs:
        said += (
            "Nothing found: in each of the "
            f"{audit.num_pairs:,} pairs of settings that could be compared, what was applied differs, or the weights do. "
        )
    return said + "No value is set without effect."


def _table(audit: Audit) -> Table:
    rows = []
    for one in audit.digests:
        steps = f"{one.num_steps:,}" if one.num_runs else "–"
        names = [plain(one.arm), plain(one.setting) or "–", plain(one.difference) or "–"]
        rows.append([*names, str(one.num_runs), steps, one.digest or "–"])
    headers = ["arm", "setting", "first differs", "n", "recorded steps", "digest"]
    words = (
        "Equal digests: the same was applied at the same recorded steps, with every seed. First differs: where the ledger "
        "leaves that of the arm's first setting (arms of one setting count as one arm), at the first seed where it does."
    )
    return Table("Digests of the ledgers", headers, rows, words, first_number=3)
