"""How all plots look: the same colour for the same side, readable by colour-blind people and on any background.

Drawing goes through matplotlib's objects and never through pyplot, whose state is global. The files are the same, byte
for byte, when the figures are: no date of their own, ids from a fixed salt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from loadtests.cases.results import ETCD, KVSTORE

COLOURS = {KVSTORE: "#0072B2", ETCD: "#E69F00"}
"""Two of Okabe's and Ito's, far apart in hue and in lightness."""
BAD = "#B2182B"
GREY = "#555555"
CAPTION_INCHES, TITLE_INCHES = 0.3, 0.6
_LOOK: dict[Any, Any] = {
    "svg.hashsalt": "kvstore-cases",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans", "sans-serif"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 2,
    "lines.markersize": 6,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
}


def new_canvas(size: tuple[float, float]) -> Canvas:
    """Empty, with room for a title above and a caption below."""
    mpl.rcParams.update(_LOOK)
    return Canvas(figsize=(size[0], size[1] + CAPTION_INCHES + TITLE_INCHES))


def save(canvas: Canvas, title: str, how: str, caption: str, path: Path) -> None:
    """Adds title, what stands under it, and caption, and writes an SVG file; with the suffix .png, pixels."""
    height = canvas.get_figheight()
    canvas.text(0.01, 1 - 0.1 / height, title, fontsize=13, fontweight="bold", ha="left", va="top")
    canvas.text(0.01, 1 - 0.36 / height, how, fontsize=9, color=GREY, ha="left", va="top")
    canvas.text(0.01, 0.06 / height, caption, fontsize=7.5, color=GREY, ha="left", va="bottom")
    canvas.tight_layout(rect=(0, CAPTION_INCHES / height, 1, 1 - TITLE_INCHES / height))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".svg":
        canvas.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    else:
        canvas.savefig(path, dpi=110)


def short(number: float) -> str:
    """For axes and labels: 1,200 is 1.2k."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * limit:
            return f"{number / limit:.3g}{letter}"
    return f"{number:.3g}"


def rough(number: float) -> str:
    """For the tops of bars: two digits that count."""
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        if number >= 0.995 * limit:
            return f"{number / limit:.1f}{letter}" if number < 9.95 * limit else f"{number / limit:.0f}{letter}"
    return f"{number:.0f}"


def size_text(number: float) -> str:
    """Bytes: 65,536 is 64 KiB."""
    for limit, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number:.0f} B"


def log_y(axes: Axes) -> None:
    """A logarithmic y axis with plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: short(number)))
    low, high = axes.get_ylim()
    is_wide = high / low > 200  # then decades are labels enough
    if is_wide:
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5) if high / low > 10 else (2, 3, 4, 5, 7)))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda number, _: short(number)))
    axes.grid(True, which="major" if is_wide else "both", axis="y")


def log_bytes_y(axes: Axes) -> None:
    """A y axis of bytes, with a tick at powers of two."""
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_locator(LogLocator(base=2, numticks=8))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: size_text(number)))
    axes.yaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    axes.set_ylim(low, 1.3 * high)  # room for the last point's label


def linear_y(axes: Axes) -> None:
    """A y axis from 0 with plain numbers."""
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: short(number)))


def places_x(axes: Axes, places: list[float], labels: list[str], is_log: bool = True) -> None:
    """An x axis with a tick at each measured place and nowhere else."""
    if is_log:
        axes.set_xscale("log")
    axes.set_xticks(places, labels)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(False, axis="x")
