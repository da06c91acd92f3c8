"""The difference of two profiles as tables for the terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shardwright.base import units as readable

from .diff import FieldDifference, FigureDifference, ProfileDifference, SeriesDifference
from .lines import figure_words
from .work import rate_unit


def diff_tables(found: ProfileDifference, *, a: str, b: str) -> RenderableType:
    """The differences beyond noise, then the rest in short; `a` and `b` name the files."""
    parts: list[RenderableType] = [Text(f"{b} beside {a}", style="bold")]
    if found.fingerprint:
        parts.append(_fields_table(found.fingerprint, a, b))
    parts.append(Text(verdict_sentence(found)))
    if found.series:
        parts.append(_series_table(found.series, a, b))
    if found.figures:
        parts.append(_figures_table(found.figures, a, b))
    for name, keys in ((a, found.only_in_a), (b, found.only_in_b)):
        if keys:
            parts.append(Text(f"Only in {name}: {', '.join(keys)}."))
    if found.incomparable:
        parts.append(Text(f"Measured at sizes too far apart to compare: {', '.join(found.incomparable)}."))
    return Group(*parts)


def verdict_sentence(found: ProfileDifference) -> str:
    """One sentence: how many series and figures in both differ by more than noise."""
    both = len(found.series) + len(found.figures)
    if not both:
        return "They have no series and no figure in common."
    if not found.beyond_noise:
        return f"Nothing beyond noise: {both} series and figures agree within it."
    return f"{found.beyond_noise} of {both} series and figures differ by more than noise."


def _fields_table(fields: list[FieldDifference], a: str, b: str) -> Table:
    table = _table("Fingerprint", "field")
    table.add_column(a)
    table.add_column(b)
    for name, one, other in fields:
        table.add_row(name, *(Text("-" if value is None else str(value)) for value in (one, other)))
    return table


def _series_table(series: list[SeriesDifference], a: str, b: str) -> Table:
    table = _table("Series: median rates at common sizes", "series", a, b, "time", "least to most", "noise", "sizes")
    table.add_column("verdict", no_wrap=True)
    for each in series:
        unit = rate_unit(each.key.partition("/")[0])
        table.add_row(
            Text(each.key),
            *("-" if rate is None else readable.amount(rate, unit) for rate in (each.rate_a, each.rate_b)),
            f"x {each.ratio:.2f}",
            f"{each.low:.2f} to {each.high:.2f}",
            f"±{readable.share(each.noise)}",
            f"{each.sizes}{' between' if each.interpolated else ''}",
            each.verdict,
            style="" if each.verdict == "within noise" else "bold",
        )
    return table


def _figures_table(figures: list[FigureDifference], a: str, b: str) -> Table:
    table = _table("Figures", "figure", a, b, "ratio")
    table.add_column("verdict", no_wrap=True)
    for each in figures:
        ratio = "-" if each.ratio is None else f"x {each.ratio:.2f}"
        style = "" if each.verdict == "within noise" else "bold"
        table.add_row(Text(each.name), figure_words(each.a), figure_words(each.b), ratio, each.verdict, style=style)
    return table


def _table(title: str, first: str, *numbers: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column(first, no_wrap=True)
    for column in numbers:
        table.add_column(Text(column), justify="right")
    return table
