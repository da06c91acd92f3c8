"""Figures as SVG text that takes the page's own text colour, so that light, dark and print all read well."""

import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

# A colour that no chart uses otherwise: every place that has it follows the page's `color`.
_PAGE_COLOUR = "#010203"
_STYLE: dict[Any, Any] = {  # matplotlib types its keys as one literal, which no dict of ours is
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": _PAGE_COLOUR,
    "axes.labelcolor": _PAGE_COLOUR,
    "axes.edgecolor": _PAGE_COLOUR,
    "xtick.color": _PAGE_COLOUR,
    "ytick.color": _PAGE_COLOUR,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "font.size": 9.5,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name may hold dollar signs
    "svg.hashsalt": "shardwright",
}
Paint = Callable[[Axes], None]


def draw(paint: Paint, *, width: float = 9.6, height: float = 2.4, label: str) -> str:
    """One `<svg>` element of what `paint` draws on its axes, `width` x `height` inches; `label` is read out for it.

    The text stays text, in the page's font and colour; the same input gives the same bytes.
    """
    buffer = io.StringIO()
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
        try:
            paint(axes)
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, dpi=200)
        finally:
            plt.close(figure)
    return _inline(buffer.getvalue(), label)


def _inline(document: str, label: str) -> str:
    """The `<svg>` element alone: no XML header, no fixed size, no ids shared with another figure of the page."""
    element = document[document.index("<svg") :]
    width, height = (float(size) for size in re.findall(r'(?:width|height)="([\d.]+)pt"', element)[:2])
    element = re.sub(r' (?:width|height)="[\d.]+pt"', "", element, count=2)
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = element.replace(_PAGE_COLOUR, "currentColor")
    prefix = re.sub(r"\W+", "-", label.lower())
    element = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{prefix}-", element)
    return element.replace(
        "<svg", f'<svg role="img" aria-label="{label}" style="aspect-ratio:{width:.0f}/{height:.0f}"', 1
    )
