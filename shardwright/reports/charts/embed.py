"""The drawing library inside a page, and the data that it draws.

Apache ECharts 6.1.0 (Apache-2.0, as this project) is one file of 1.1 MB, 0.4 MB in a wheel, and is copied whole into each page.
Plotly's smallest bundle with bars and lines (plotly.js-basic-dist-min 4.1.1) is as large, 1.2 MB, and draws each bar as an SVG
element, of which a timeline has tens of thousands. uPlot (51 KB) draws series over one axis; named bars, the timeline, legends
and tooltips would be own code. ECharts draws on a canvas what is many, as SVG what is printed, and has a series for shapes of
one's own, which zoom and have tooltips like any other. scripts/fetch-echarts fetches the
pinned version again and checks it.
"""

import json
from collections.abc import Mapping
from importlib.resources import files

from markupsafe import Markup

from .kinds import Chart, chart_json
from .palette import MEANINGS

_NAMES = {"pipeline_transfer": "pipeline send", "pipeline_bubble": "waits"}


def name_of(meaning: str) -> str:
    """The words for a meaning of the palette, as a timeline shows them."""
    return _NAMES.get(meaning, meaning.replace("_", " "))


def chart_scripts(charts: Mapping[str, Chart]) -> Markup:
    """The script elements of a page: the data of `charts`, the library, and what draws.

    The page has an element with `data-chart="NAME"` for each chart, and a name for readers in `aria-label`.
    """
    data = {
        "colours": MEANINGS,
        "names": {meaning: name_of(meaning) for meaning in MEANINGS},
        "charts": {name: chart_json(chart) for name, chart in charts.items()},
    }
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace(
        "<", "\\u003c"
    )  # so that no name ends the element
    folder = files(__package__)
    library = (folder / "vendor" / "echarts.min.js").read_text(encoding="utf-8")
    draw = (folder / "draw.js").read_text(encoding="utf-8")
    return Markup(
        f'<script type="application/json" id="page-data">{text}</script>\n<script>{library}</script>\n<script>{draw}</script>'
    )
