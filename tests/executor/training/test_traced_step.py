"""The recorded step holds the passes that the simulation has, by the same names."""

import json
from pathlib import Path

import pytest

from shardwright.costmodel.evaluate import simulate_plan
from shardwright.costmodel.plan_file import PlanFile
from shardwright.reports.traces import off_spans
from tests.executor.runs import losses, options, text_file, tiny
from tests.parity.cases import layers, plan

PLANS = {
    "one rank": tiny(plan((layers(),))),
    "a split backward": tiny(plan((layers(1),), (layers(1),), pp=2, schedule="zb-h1", microbatches=4)),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_recorded_step_has_the_spans_of_the_simulation(name: str, tmp_path: Path) -> None:
    file: PlanFile = PLANS[name]
    run = options(tmp_path / "run", data=text_file(tmp_path), steps=2, trace_step=True, checkpoint_every=None)
    losses(file, run)
    found = {int(path.stem[-1]): json.loads(path.read_text()) for path in (run.out / "trace").iterdir()}
    assert set(found) == set(range(file.plan.mesh.pp))
    timeline = simulate_plan(file.model(), file.cluster, file.training, file.plan)
    for rank, trace in found.items():
        wanted = sorted(span.name for span in timeline.spans if span.rank == rank and span.lane == "compute")
        labels = [event["name"] for event in trace["traceEvents"] if event.get("cat") == "user_annotation"]
        assert sorted(label for label in labels if label[0].isdigit()) == wanted
        assert labels.count("shardwright step") == labels.count("optimizer") == 1
    spans = off_spans(timeline, found)
    assert sum(one.number for one in spans if one.kind.stage is not None) == sum(
        s.lane == "compute" for s in timeline.spans
    )
    assert all(one.measured_seconds > 0 for one in spans)


def test_without_the_option_nothing_is_recorded(tmp_path: Path) -> None:
    run = options(tmp_path / "run", data=text_file(tmp_path), steps=1, checkpoint_every=None)
    losses(PLANS["one rank"], run)
    assert not (run.out / "trace").exists()
