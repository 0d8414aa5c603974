"""`widestep certify`: does one setting of a study preserve the accuracy of another? Stated with its evidence, or refused."""

import json
import re
from pathlib import Path
from typing import Any

from widestep.errors import StoreError, UsageError
from widestep.files import explained, write_atomically
from widestep.plan.plain import plain

NOT_SHOWN = 1
_MOST_SAID = 20


def certify(
    study: Path,
    *,
    baseline: str | None = None,
    candidate: str | None = None,
    margin: float | None = None,
    out: Path | None = None,
    verify: Path | None = None,
) -> int:
    """Certify that a setting of a study preserves the accuracy of another.

    Writes a JSON file and a page of the same name, and exits with 0 when equality
    within the margin is shown, with 1 when it is not. Where the evidence is not
    there - runs missing or diverged, too few seeds, other data or code on one side,
    records changed afterwards - nothing is written, and the code says why.

    For example:
      widestep certify studies/poster-digits --baseline "warmup-40[warmup=2ep]"
        --candidate "warmup-40[warmup=4ep]" --margin 0.4
      widestep certify studies/poster-digits --verify certificate.json

    Parameters
    ----------
    study
        Directory of the study.
    baseline
        An arm, or one setting of it as study status shows it: ARM[FIELD=VALUE].
    candidate
        Likewise.
    margin
        In points; at most the study's own, which is taken otherwise.
    out
        The JSON file; otherwise in STUDY/certificates.
    verify
        Hold this certificate against the study instead of making one.
    """
    if verify is not None:
        if baseline is not None or candidate is not None or margin is not None or out is not None:
            raise UsageError("A certificate has its question. With --verify, leave out the other options.")
        return _verify(verify, study)
    if baseline is None or candidate is None:
        raise UsageError("A certificate compares two settings. Give --baseline and --candidate.")
    from widestep.report.certificate import certify as certificate_of
    from widestep.report.certificate_page import render

    found = certificate_of(study, baseline, candidate, margin)
    path = out or study / "certificates" / _file_name(found)
    page = path.with_suffix(".html")
    if page == path:
        raise UsageError(f"The page is written beside the JSON file. {path} is the page's own name; give --out NAME.json.")
    with explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    write_atomically(page, render(found))
    for line in _lines(found, path):
        print(line)
    return 0 if found["verdict"] == "equivalent" else NOT_SHOWN


def _file_name(found: dict[str, Any]) -> str:
    names = [re.sub(r"[^A-Za-z0-9.=]+", "-", found[side]["name"]).strip("-.") for side in ("baseline", "candidate")]
    return f"{names[1][:80]}-against-{names[0][:80]}-within-{found['margin']:g}.json"


def _lines(found: dict[str, Any], path: Path) -> list[str]:
    statistics = found["statistics"]
    low, high = statistics["equivalence_interval"]
    return [
        f"question   {found['question']}",
        f"verdict    {found['verdict_in_words']}",
        f"difference {statistics['difference']:+.2f} points, {100 * statistics['equivalence_level']:g} % interval "
        f"[{low:+.2f}, {high:+.2f}], n = {statistics['n']} pairs, p {statistics['p']:.2g}",
        f"power      equality is shown in {100 * statistics['power']:.0f} % of studies of this n and sd where it is so",
        f"limit      {found['limits'][0]}",
        f"written    {path} and .html",
    ]


def _verify(file: Path, study: Path) -> int:
    from widestep.report.certificate_check import check

    differing = check(file, study)
    for line in differing[:_MOST_SAID]:
        print(f"differs    {line}")
    if differing:
        raise StoreError(
            f"A certificate agrees with its study. {plain(str(file))} does not, in {len(differing)} things; trust "
            "neither, or make it again."
        )
    print(f"verified   {plain(str(file))} agrees with {plain(str(study))} in every number and digest")
    return 0
