"""A profile as tables for the terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shardwright.base import units as readable
from shardwright.specs import Profile

from .lines import SeriesLine, figure_words, fingerprint_lines, layer_lines, parameter_words, series_lines
from .work import Family

_REMARKS = 6  # of a summary
FAMILY_TITLES: dict[Family, str] = {
    "matmul": "Matmul",
    "attention": "Attention",
    "operators": "Memory-bound operators",
    "casts": "Casts to 8 and 4 bits",
    "optimizer": "Optimizer step",
    "host copies": "Copies between host and device",
    "disk": "Disk",
    "collectives": "Collectives (rate of the busiest link)",
    "other": "Other operations",
}


def summary_table(profile: Profile, *, title: str) -> RenderableType:
    """The machine, the best rate of each kind of operation, and the remarks."""
    lines = series_lines(profile)
    pairs = fingerprint_lines(profile)
    for kind, heading in FAMILY_TITLES.items():
        rated = [line for line in lines if line.family == kind and line.best is not None]
        if rated:
            best = max(rated, key=lambda line: line.best or 0.0)
            pairs.append(
                (heading.partition(" (")[0].lower(), f"{len(rated)} series, best {best.best_words} ({best.key})")
            )
    worst = [line for line in layer_lines(profile) if line.what != "activations kept"]
    if worst:
        off = max(worst, key=lambda line: abs(line.difference))
        words = f"at most {readable.share(abs(off.difference))} off the sum of its operators ({off.what})"
        pairs.append(("layer", words))
    remarks = [f"Remark: {remark}" for remark in profile.remarks[:_REMARKS]]
    if (more := len(profile.remarks) - _REMARKS) > 0:
        remarks.append(f"and {more} more remarks; 'profile show' prints them")
    return Group(_pairs(title, pairs), *map(Text, remarks))


def profile_tables(profile: Profile, *, title: str) -> RenderableType:
    """All of a profile, for a terminal of 130 columns."""
    lines = series_lines(profile)
    parts: list[RenderableType] = [_pairs(title, fingerprint_lines(profile))]
    parts += [Text(f"Remark: {remark}") for remark in profile.remarks]
    for kind, heading in FAMILY_TITLES.items():
        if of_kind := [line for line in lines if line.family == kind]:
            parts.append(_series_table(heading, of_kind))
    if any(line.form for line in lines):
        parts.append(_fits_table(lines))
    if profile.figures:
        parts.append(_figures_table(profile))
    if profile.layers:
        parts.append(_layers_table(profile))
    return Group(*parts)


def _pairs(title: str, pairs: list[tuple[str, str]]) -> Table:
    table = Table(title=Text(title), title_justify="left", show_header=False)
    table.add_column("what", style="bold")
    table.add_column("value")
    for what, value in pairs:
        table.add_row(what, Text(value))
    return table


def _series_table(title: str, lines: list[SeriesLine]) -> Table:
    """The table of series, without the column of data sheets if the catalog lacks the device."""
    sheet = any(line.of_data_sheet is not None for line in lines)
    each = any(line.seconds_per_element is not None for line in lines)
    more = (*(("of data sheet",) if sheet else ()), *(("a million elements",) if each else ()))
    table = _table(title, "series", "best rate", *more, "points", "±")
    table.add_column("at")
    table.add_column("sizes measured")
    for line in lines:
        shares = [_share(line.of_data_sheet)] if sheet else []
        shares += [_million(line.seconds_per_element)] if each else []
        cells = (line.key, line.best_words, *shares, str(line.points), _share(line.interval), line.best_at, line.sizes)
        table.add_row(*map(Text, cells))
    return table


def _fits_table(lines: list[SeriesLine]) -> Table:
    table = _table(
        "Fits: |fitted / measured - 1|, and of points left out of the fit", "series", "median", "p90", "left out"
    )
    table.add_column("form")
    table.add_column("parameters")
    for line in lines:
        if line.form:
            errors = map(_share, (line.residual_median, line.residual_p90, line.left_out_median))
            table.add_row(*map(Text, (line.key, *errors, line.form, parameter_words(line.parameters))))
    return table


def _figures_table(profile: Profile) -> Table:
    table = Table(title="Figures", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("figure", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("meaning")
    for name, figure in profile.figures.items():
        table.add_row(Text(name), figure_words(figure), Text(figure.meaning))
    return table


def _layers_table(profile: Profile) -> Table:
    table = Table(
        title="One layer, measured whole and as the sum of its operators", title_justify="left", box=SIMPLE_HEAD
    )
    table.add_column("layer")
    for column in ("", "measured", "predicted", "predicted / measured - 1"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    before = ""
    for line in layer_lines(profile):
        shown = line.layer if line.layer != before else ""
        table.add_row(Text(shown), line.what, line.measured, line.predicted, readable.signed_share(line.difference))
        before = line.layer
    return table


def _table(title: str, first: str, *numbers: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column(first, no_wrap=True)
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _million(seconds_per_element: float | None) -> str:
    return "-" if seconds_per_element is None else readable.seconds(1e6 * seconds_per_element)


def _share(value: float | None) -> str:
    return "-" if value is None else readable.share(value)
