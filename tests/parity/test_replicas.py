"""Replicas that agree approximately train as the plain form of their method in one process does, and faults show."""

from functools import cache
from typing import Any, NamedTuple

import pytest

from shardwright.costmodel.plan_file import PlanFile
from shardwright.specs.plan import Outer, Sync
from tests.parity.cases import layers, model_config, plan, plan_file
from tests.parity.replicas import Trained, reference, trained
from tests.parity.updates import reference_model
from tests.parity.worlds import run_in_turn

TOLERANCE = 1e-5
EIGHT = Sync(bits=8)
EIGHT_LATER = Sync(bits=8, warmup_steps=2)
ONE = Sync(bits=1, warmup_steps=3)
DILOCO = Sync(inner_steps=2, outer=Outer())
STREAMING = Sync(inner_steps=4, fragments=2, bits=4, delay=1, outer=Outer(keeps_local=0.5))
CO2 = Sync(inner_steps=2, delay=2, outer=Outer(learning_rate=0.5, momentum=0.4, nesterov=False))
ISLANDS = Sync(inner_steps=None)
LLAMA = model_config("llama")


def case(sync: Sync, stages: int = 1, zero: int = 0, **degrees: Any) -> PlanFile:
    held = layers(2 // stages, zero=zero)  # type: ignore[arg-type]  # 0 to 3
    of = plan(
        *[(held,)] * stages,
        dp_replicate=degrees.pop("replicas", 2),
        microbatches=2 if stages > 1 else 1,
        pp=stages,
        **degrees,
    )
    made = plan_file(LLAMA, of.model_copy(update={"sync": sync}))
    return made.model_copy(update={"training": made.training.model_copy(update={"optimizer": "adamw"})})


class Case(NamedTuple):
    """A plan, a fault of the engine, and a plan whose reference is another."""

    plan_file: PlanFile
    fault: str = ""
    other: Sync | None = None


TWO = {
    "8-bit": Case(case(EIGHT), "errors are forgotten"),
    "8-bit after a warm-up": Case(case(EIGHT_LATER), "gradients stay apart", EIGHT),
    "1-bit Adam": Case(case(ONE), "errors are forgotten", Sync(bits=1, warmup_steps=2)),
    "DiLoCo": Case(case(DILOCO), "weights stay apart", Sync(inner_steps=2, outer=Outer(nesterov=False))),
    "Streaming DiLoCo": Case(case(STREAMING), "weights stay apart", STREAMING.model_copy(update={"delay": 2})),
    "CO2": Case(case(CO2), "weights stay apart", CO2.model_copy(update={"delay": 1})),
    "islands": Case(case(ISLANDS), "", DILOCO),
}
FOUR = {
    "8-bit, 4 replicas": Case(case(EIGHT, replicas=4)),
    "8-bit, shards": Case(case(EIGHT, zero=2, dp_shard=2)),
    "1-bit Adam, 4 replicas": Case(case(ONE, replicas=4)),
    "1-bit Adam, shards": Case(case(ONE, zero=3, dp_shard=2)),
    "1-bit Adam, tp": Case(case(ONE, tp=2)),
    "DiLoCo, 4 replicas": Case(case(DILOCO, replicas=4)),
    "DiLoCo, tp": Case(case(DILOCO, tp=2)),
    "DiLoCo, pipeline": Case(case(DILOCO, stages=2)),
    "Streaming DiLoCo, 4 replicas": Case(case(STREAMING, replicas=4)),
    "Streaming DiLoCo, shards": Case(case(STREAMING, zero=1, dp_shard=2)),
    "CO2, shards": Case(case(CO2, zero=3, dp_shard=2)),
    "islands, tp": Case(case(ISLANDS, tp=2)),
}
CASES = TWO | FOUR


@cache
def runs(ranks: int) -> dict[str, list[Trained]]:
    """All cases of a world of so many ranks, and their faults."""
    cases = TWO if ranks == 2 else FOUR
    wanted: dict[str, tuple[Any, ...]] = {name: (of.plan_file,) for name, of in cases.items()}
    wanted |= {f"{name}, fault": (of.plan_file, of.fault) for name, of in cases.items() if of.fault}
    return run_in_turn(ranks, trained, wanted)


def worst_error(own: list[Trained], plan_file: PlanFile, sync: Sync | None = None) -> float:
    """The largest relative error of a parameter's update over all ranks, and of a gradient or a norm; `sync`: of another rule."""
    as_if = plan_file.model_copy(
        update={"plan": plan_file.plan.model_copy(update={"sync": sync or plan_file.plan.sync})}
    )
    run = reference(as_if, own)
    before = dict(reference_model(plan_file).named_parameters())
    worst = run.worst_gradient
    for one in own:
        worst = max(worst, *(abs(mine / theirs - 1) for mine, theirs in zip(one.norms, run.norms, strict=True)))
        for name, after in one.after.items():
            wanted = run.named[one.replica][name].detach()
            worst = max(worst, float((after - wanted).norm() / (wanted - before[name].detach()).norm()))
    return worst


@pytest.mark.parametrize("name", CASES)
def test_updates_are_those_of_the_plain_form(name: str) -> None:
    of = CASES[name].plan_file
    assert worst_error(runs(of.plan.mesh.ranks)[name], of) <= TOLERANCE


@pytest.mark.parametrize("name", [name for name, of in CASES.items() if of.fault])
def test_a_fault_shows(name: str) -> None:
    of = CASES[name].plan_file
    assert worst_error(runs(of.plan.mesh.ranks)[f"{name}, fault"], of) > 100 * TOLERANCE


@pytest.mark.parametrize("name", [name for name, of in CASES.items() if of.other])
def test_another_rule_shows(name: str) -> None:
    of = CASES[name]
    assert worst_error(runs(of.plan_file.plan.mesh.ranks)[name], of.plan_file, of.other) > 100 * TOLERANCE
