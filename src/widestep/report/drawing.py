"""Drawing: figure data to SVG and PNG, the same bytes for the same data. Text stays text in the SVG.

Only this module, `panels` and those of the poster import the plotting library.
"""

import io
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import matplotlib.style
from matplotlib.figure import Figure

from widestep.report.panels import FAINT, INK, RULE, WIDTH, panel, panel_height
from widestep.report.plotted import FigureData

_SIZES = {
    "font.size": 10.0,
    "axes.linewidth": 0.8,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.9,
    "lines.markersize": 5.0,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "xtick.major.pad": 3.5,
    "ytick.major.pad": 3.5,
    "axes.labelpad": 4.0,
}
_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
"""What a file is not told about where it comes from, so that equal drawings are equal bytes."""
_TITLE_WIDTH = 92


@dataclass(frozen=True)
class Drawing:
    """A drawn figure."""

    svg: str
    png: bytes


@contextmanager
def styled(salt: str, scale: float = 1.0) -> Iterator[None]:
    """Draw in our style whatever the user's own is; `scale` enlarges fonts and lines, `salt` names elements of an SVG."""
    sizes = {name: size * scale for name, size in _SIZES.items()}
    with mpl.style.context(["default", {**_STYLE, **sizes, "svg.hashsalt": salt}]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+", category=UserWarning)  # names in any script are allowed
        yield


def draw(data: FigureData) -> Drawing:
    """Draw a figure."""
    with styled(f"widestep-{data.file_name.removeprefix('figure-')}"):
        title = textwrap.wrap(data.title, _TITLE_WIDTH)
        height = panel_height(data) + 0.45 + 0.2 * max(0, len(title) - 1)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr, call-arg]
        figure.suptitle("\n".join(title), x=0.012, ha="left", fontsize=12, fontweight="bold")
        panel(figure.add_subplot(), data)
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata=NO_METADATA)
        figure.savefig(png, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    return Drawing(svg.getvalue().decode(), png.getvalue())
