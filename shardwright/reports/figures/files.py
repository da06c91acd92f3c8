"""Figures as files: PNG, SVG or PDF."""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from shardwright.base import SpecError

from .svg import Paint

_SUFFIXES = (".png", ".svg", ".pdf")


def check_plot_name(path: Path) -> None:
    """Refuse a name that does not tell the figure's format.

    Raises:
        SpecError: another ending than png, svg or pdf.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise SpecError(f"{path}: cannot tell the figure's format; end the name with {', '.join(_SUFFIXES)}")


def write_plot(path: Path, paint: Paint, *, width: float = 8.0, height: float = 6.0) -> None:
    """Write one figure of `width` x `height` inches; the format follows the name's ending.

    Raises:
        SpecError: another ending than png, svg or pdf, or the folder is missing or not writable.
    """
    check_plot_name(path)
    try:
        with rc_context({"text.parse_math": False}):  # a name may hold dollar signs
            figure = Figure(figsize=(width, height), layout="constrained")
            axes = figure.add_subplot()
            axes.spines[["top", "right"]].set_visible(False)
            paint(axes)
            figure.savefig(path, dpi=150)
    except OSError as error:
        raise SpecError(f"{path}: cannot be written ({error.strerror or error})") from None
