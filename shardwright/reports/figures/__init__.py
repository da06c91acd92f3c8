"""Drawing: SVG figures, their axes and files, and pages from templates."""

from .files import check_plot_name, write_plot
from .log_axes import GREY, figure_of, grid, legend_right, line, logarithmic, mark, panels, plain_ticks
from .svg import Paint, draw

__all__ = [
    "GREY",
    "Paint",
    "check_plot_name",
    "draw",
    "figure_of",
    "grid",
    "legend_right",
    "line",
    "logarithmic",
    "mark",
    "panels",
    "plain_ticks",
    "write_plot",
]
