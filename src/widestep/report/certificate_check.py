"""A certificate held against the study that it is about: its own seal, and every number and digest computed again."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from widestep.errors import StoreError, WidestepError
from widestep.plan.plain import plain
from widestep.records.reading import read_record
from widestep.report.certificate import FORMAT, certify, seal

_OF_THE_ISSUE = ("issued", "issuer", "sha256")
"""What may differ in a certificate that is made again: when, by which version, and so the seal."""
_TOLERANCE = 1e-9


def check(file: Path, directory: Path) -> list[str]:
    """Return what differs between a certificate and the study's directory as it is now, a line each; nothing when all agree.

    Raises
    ------
    StoreError
        When the file is no certificate.
    """
    found = read_record(file, "a certificate")
    if found is None:
        raise StoreError(f"{file} must be a certificate. There is no such file.")
    try:
        question = (found["baseline"]["name"], found["candidate"]["name"], float(found["margin"]))
        known = found["format"] == FORMAT and isinstance(question[0], str) and isinstance(question[1], str)
    except (LookupError, TypeError, ValueError):
        known = False
    if not known:
        raise StoreError(f"{file} must be a certificate of format {FORMAT}. It is not; make it again with widestep certify.")
    said = (
        [] if found.get("sha256") == seal(found) else ["the certificate was changed after it was issued: its seal differs"]
    )
    try:
        again = certify(directory, *question)
    except WidestepError as error:
        return [*said, f"the study no longer supports it: {error}"]
    return [*said, *_differing(found, again)]


def _differing(found: dict[str, Any], again: dict[str, Any]) -> Iterator[str]:
    for name in {**again, **found}:
        if name not in _OF_THE_ISSUE:
            yield from _compared(plain(str(name)), found.get(name), again.get(name))


def _compared(path: str, one: Any, other: Any) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in {**other, **one}:
            yield from _compared(f"{path}.{plain(str(name))}", one.get(name), other.get(name))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from _compared(f"{path}[{index}]", *pair)
    elif not _same(one, other):
        yield f"{path}: {_short(one)} in the certificate, {_short(other)} in the study"


def _same(one: Any, other: Any) -> bool:
    """Say whether two values agree; other versions of the arithmetic libraries may move a last digit."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=1e-12)
    return type(one) is type(other) and bool(one == other)


def _short(value: Any) -> str:
    text = plain(str(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
