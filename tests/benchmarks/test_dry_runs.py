"""The jobs of the benchmark of dry runs, and its rows."""

import pytest

from shardwright.base import SpecError
from shardwright.benchmarks.dry_runs import JOBS, lines, main, plan_file
from shardwright.costmodel import estimate_plan
from shardwright.executor.run import check_plan
from shardwright.specs import DryRun, Traced, TracedRank, TracedTraffic


@pytest.mark.parametrize("name", JOBS)
def test_jobs_can_be_estimated_and_run(name: str) -> None:
    given = plan_file(JOBS[name])
    assert given.plan.mesh.ranks == given.cluster.devices
    assert estimate_plan(given.model(), given.cluster, given.training, given.plan).step_seconds > 0
    check_plan(given)


def _rank(traced: float) -> TracedRank:
    equal = Traced(traced=1, charged=1)
    sent = TracedTraffic(axis="pp", collective="send", calls=equal, bytes=Traced(traced=traced, charged=10))
    return TracedRank(
        rank=0,
        pipeline_rank=0,
        alike=(0,),
        traffic=(sent,),
        uncharged=(),
        flops=Traced(traced=101 - traced, charged=100),
        activation_bytes=equal,
    )


def test_rows_are_of_the_rank_that_differs_most() -> None:
    found = DryRun(world_size=2, microbatches=1, traced_microbatches=(1,), ranks=(_rank(10), _rank(12), _rank(11)))
    assert lines(found) == [
        ("bytes over pp", "12.0 B", "10.0 B", "+2 B"),
        ("FLOPs", "89", "100", "-11.000%"),
    ]


def test_an_unknown_job_is_refused() -> None:
    with pytest.raises(SpecError, match="no job 'gpt'; give one of llama-70b, mixtral-8x22b, deepseek-v3, llama-8b-1m"):
        main(["gpt"])
