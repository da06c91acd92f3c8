"""Replicas that agree approximately train as the plain form of their method in one process does, and faults show."""

from functools import cache
from typing import Any, NamedTuple

import pytest
import torch

from shardwright.costmodel.plan_file import PlanFile
from shardwright.specs.plan import Outer, Sync
from tests.parity.cases import layers, model_config, plan, plan_file
from tests.parity.replicas import Trained, reference, trained
from tests.parity.updates import reference_model
from tests.parity.worlds import run_in_turn

TOLERANCE = 1e-5
FLIPS = 2e-3
"""Share of a parameter's elements that may lie beyond the tolerance in few bits: where a number is at the edge between two codes, the
order of a sum decides."""

EIGHT = Sync(bits=8)
EIGHT_LATER = Sync(bits=8, warmup_steps=2)
ONE = Sync(bits=1, warmup_steps=3)
DILOCO = Sync(inner_steps=2, outer=Outer())
STREAMING = Sync(inner_steps=4, fragments=2, bits=4, delay=1, outer=Outer(keeps_local=0.5))
CO2 = Sync(inner_steps=2, delay=2, outer=Outer(learning_rate=0.5, momentum=0.4, nesterov=False))
ISLANDS = Sync(inner_steps=None)
LLAMA = model_config("llama")


def case(sync: Sync, stages: int = 1, zero: int = 0, **degrees: int) -> PlanFile:
    held = layers(2 // stages, zero=zero)  # type: ignore[arg-type]  # 0 to 3
    of = plan(*[(held,)] * stages, dp_replicate=degrees.pop("replicas", 2), microbatches=2 if stages > 1 else 1, pp=stages, **degrees)
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


def errors(own: list[Trained], plan_file: PlanFile, sync: Sync | None = None) -> tuple[float, float]:
    """The largest relative error of a parameter's update over all ranks, and the largest share of elements that are off by more than
    TOLERANCE of the update's root mean square."""
    as_if = plan_file.model_copy(update={"plan": plan_file.plan.model_copy(update={"sync": sync or plan_file.plan.sync})})
    run = reference(as_if, [one.layout for one in own if one.replica == 0])
    before = dict(reference_model(plan_file).named_parameters())
    worst, share = 0.0, 0.0
    for one in own:
        for name, after in one.after.items():
            wanted = run.named[one.replica][name].detach()
            update, off = wanted - before[name].detach(), after - wanted
            worst = max(worst, float(off.norm() / update.norm()))
            typical = update.norm() / update.numel() ** 0.5
            share = max(share, float((off.abs() > TOLERANCE * 10 * typical).float().mean()))
    if sync is None and not own[0].norms == pytest.approx(run.norms, rel=1e-5):
        raise AssertionError(f"norms {own[0].norms} and {run.norms}")
    return worst, share


@pytest.mark.parametrize("name", CASES)
def test_updates_are_those_of_the_plain_form(name: str) -> None:
    of = CASES[name].plan_file
    own = runs(of.plan.mesh.ranks)[name]
    worst, share = errors(own, of)
    print(name, worst, share)
    assert worst <= TOLERANCE or (of.plan.sync.bits and share <= FLIPS)


@pytest.mark.parametrize("name", [name for name, of in CASES.items() if of.fault])
def test_a_fault_shows(name: str) -> None:
    of = CASES[name].plan_file
    worst, share = errors_of_fault(name, of)
    assert worst > 100 * TOLERANCE and share > 10 * FLIPS


def errors_of_fault(name: str, of: PlanFile) -> tuple[float, float]:
    own = runs(of.plan.mesh.ranks)[f"{name}, fault"]
    try:
        return errors(own, of)
    except AssertionError:  # norms differ
        return torch.inf, 1.0


@pytest.mark.parametrize("name", [name for name, of in CASES.items() if of.other])
def test_another_rule_shows(name: str) -> None:
    of = CASES[name]
    worst, share = errors(runs(of.plan_file.plan.mesh.ranks)[name], of.plan_file, of.other)
    assert worst > 100 * TOLERANCE and share > 10 * FLIPS
