"""A certificate as one self-contained page that prints on a sheet or two: in the style of a study's report."""

from functools import partial
from typing import Any

from widestep.report.page import along, template_and_style

_WIDTH, _HEIGHT = 640.0, 84.0
_AXIS = 52.0


def render(certificate: dict[str, Any]) -> str:
    """Return the certificate as HTML text; everything that comes from users is escaped."""
    template, style = template_and_style("certificate.html")
    return template.render(one=certificate, found=certificate["statistics"], style=style, drawing=drawing(certificate))


def drawing(certificate: dict[str, Any]) -> dict[str, Any]:
    """Return the places of the drawing: zero, the margin on both sides, the interval that decides, and the mean."""
    found, margin = certificate["statistics"], float(certificate["margin"])
    low, high = found["equivalence_interval"]
    reach = 1.15 * max(abs(low), abs(high), margin)

    place = partial(along, _WIDTH, reach)

    return {
        "width": f"{_WIDTH:g}",
        "height": f"{_HEIGHT:g}",
        "axis": f"{_AXIS:g}",
        "zero": place(0.0),
        "left": place(-margin),
        "right": place(margin),
        "band": f"{_WIDTH * margin / reach:.1f}",
        "low": place(low),
        "high": place(high),
        "mean": place(found["difference"]),
        "crowded": high - low < 0.25 * reach or margin < 0.12 * reach,
    }
