"""What a page carries: the pinned library with its licence, the data, and what draws."""

import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path

import pytest

from shardwright.reports.charts import Axis, Bars, Curve, Lines, Part, Point, PointGroup, Points, chart_scripts, name_of
from shardwright.reports.charts.kinds import chart_json, seven_digits

ROOT = Path(__file__).parents[3]
VENDOR = files("shardwright.reports.charts") / "vendor"
BARS = Bars(axis="seconds", unit="s", rows=("a</script><b>",), parts=(Part("compute", "compute", (1.5,)),))


def test_the_library_is_the_pinned_one_and_has_its_licence() -> None:
    script = (ROOT / "scripts" / "fetch-echarts").read_text(encoding="utf-8")
    version, digest = (re.search(rf"^{name}=(\S+)$", script, re.MULTILINE) for name in ("version", "sha256"))
    assert version is not None
    assert digest is not None
    library = (VENDOR / "echarts.min.js").read_bytes()
    assert hashlib.sha256(library).hexdigest() == digest[1]
    assert f'version="{version[1]}"'.encode() in library
    assert "Apache License" in (VENDOR / "LICENSE").read_text(encoding="utf-8")
    assert "Apache ECharts" in (VENDOR / "NOTICE").read_text(encoding="utf-8")


def test_a_wheel_takes_the_library_along() -> None:
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '"**/*.js"' in settings
    assert "shardwright/reports/charts/vendor/LICENSE" in settings


def test_no_text_of_the_data_ends_its_script() -> None:
    scripts = str(chart_scripts({"one": BARS}))
    assert scripts.count("</script>") == 3
    data = json.loads(scripts.split(">", 1)[1].split("</script>", 1)[0])
    assert data["charts"]["one"]["rows"] == ["a</script><b>"]


def test_what_draws_asks_for_nothing() -> None:
    draw = (files("shardwright.reports.charts") / "draw.js").read_text(encoding="utf-8")
    for word in ("fetch(", "XMLHttpRequest", "import(", "http:", "https:", "eval(", "innerHTML ="):
        assert word not in draw


def test_values_that_are_no_number_are_refused() -> None:
    broken = Lines(
        x=Axis(name="x"), y=Axis(name="y"), curves=(Curve(name="c", colour="compute", points=((0.0, float("nan")),)),)
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        chart_scripts({"one": broken})


def test_the_front_holds_what_no_point_beats() -> None:
    places = [(1.0, 5.0), (2.0, 3.0), (2.5, 4.0), (3.0, 3.0), (4.0, 1.0)]
    points = tuple(Point(x=x, y=y, name=f"{x}") for x, y in places)
    found = Points(x=Axis(name="x"), y=Axis(name="y"), groups=(PointGroup("all", "other", points),))
    assert found.front == [(1.0, 5.0), (2.0, 3.0), (4.0, 1.0)]
    assert chart_json(found)["front"] == found.front


def test_names_and_digits() -> None:
    assert name_of("pipeline_transfer") == "pipeline send"
    assert name_of("weight_gradient") == "weight gradient"
    assert seven_digits(1234567.89) == 1234568.0
