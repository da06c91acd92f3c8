"""The report of a profile as one self-contained HTML file, and as JSON."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from shardwright.base import units as readable
from shardwright.reports import render_page, write_page
from shardwright.reports.charts import chart_scripts
from shardwright.specs import Profile

from .lines import figure_words, fingerprint_lines, layer_lines, parameter_words, series_lines
from .plots import profile_figures
from .tables import FAMILY_TITLES


def profile_json(profile: Profile) -> dict[str, Any]:
    """The content of the tables as numbers: rates in SI units, shares as fractions."""
    return {
        "fingerprint": profile.fingerprint.model_dump(mode="json"),
        "complete": profile.complete,
        "seconds": profile.seconds,
        "points": profile.points,
        "remarks": list(profile.remarks),
        "series": [asdict(line) for line in series_lines(profile)],
        "figures": {name: figure.model_dump(mode="json") for name, figure in profile.figures.items()},
        "layers": [check.model_dump(mode="json") for check in profile.layers],
    }


def write_profile_report(path: Path, profile: Profile, *, name: str) -> None:
    """Write the machine, the rates, fits and figures of a profile, and its charts.

    Raises:
        SpecError: the folder is missing or not writable.
    """
    write_page(path, render_profile_report(profile, name=name))


def render_profile_report(profile: Profile, *, name: str) -> str:
    """The page as text; `name` says which profile it is."""
    lines, drawn_figures = series_lines(profile), profile_figures(profile)
    charts = {
        f"{drawn.name} {words}".strip(): chart for drawn in drawn_figures for words, chart in drawn.charts.items()
    }
    tables = [(title, [line for line in lines if line.family == kind]) for kind, title in FAMILY_TITLES.items()]
    return render_page(
        "profile.html.j2",
        title=f"Profile of {profile.fingerprint.device}",
        name=name,
        profile=profile,
        fingerprint_lines=fingerprint_lines(profile),
        tables=[(title, some) for title, some in tables if some],
        fits=[line for line in lines if line.form],
        figures=[(key, figure_words(figure), figure.meaning) for key, figure in profile.figures.items()],
        layers=layer_lines(profile),
        figures_drawn=[
            (drawn.title, [(f"{drawn.name} {words}".strip(), words) for words in drawn.charts])
            for drawn in drawn_figures
        ],
        scripts=chart_scripts(charts) if charts else "",
        parameter_words=parameter_words,
        readable=readable,
    )
