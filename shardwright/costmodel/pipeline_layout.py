"""Megatron-Core's layouts of a pipeline: which layers, and which of embedding, prediction layers and loss, lie on each stage.

`Et*3|(tt|)*29m|L` (--pipeline-model-parallel-layout): stages stand between `|`; `E` is the embedding, `t` a layer, `m` a
multi-token prediction layer and `L` the loss. `x*n` and `(...)*n` repeat, commas mean nothing
(pipeline_parallel_layer_layout.py). The embedding comes first and the loss last, there as here.
"""

import re
from itertools import groupby
from typing import NamedTuple

from shardwright.base import SpecError, divisors, listed
from shardwright.specs import LayerRun, Plan, Stage

_SYMBOLS = "EtmL"
_MOST_SYMBOLS = 100_000
_REPEATED = (re.compile(r"\(([^()]*)\)\*(\d+)"), re.compile(rf"([{_SYMBOLS}|])\*(\d+)"))


class StageLayers(NamedTuple):
    """What one stage holds beside the embedding or the loss."""

    layers: int
    mtp_layers: int


def read_layout(text: str, *, layers: int, mtp_layers: int, pp: int) -> tuple[StageLayers, ...]:
    """Read a layout of a model with so many layers on `pp` pipeline ranks.

    Raises:
        SpecError: one line with what the layout has, and what it should have.
    """
    symbols = _unrolled(text)
    named = f"pipeline layout '{text}'"
    if symbols[:1] != "E" or symbols[-1:] != "L" or symbols.count("E") != 1 or symbols.count("L") != 1:
        raise SpecError(f"{named} must begin with its only E, the embedding, and end with its only L, the loss")
    stages = symbols.split("|")
    if len(stages) % pp:
        raise SpecError(
            f"{named} has {len(stages)} stages, which pp {pp} does not divide; allowed pp: {listed(divisors(len(stages)))}"
        )
    for symbol, what, count in (("t", "layers", layers), ("m", "multi-token prediction layers", mtp_layers)):
        if symbols.count(symbol) != count:
            raise SpecError(
                f"{named} has {symbols.count(symbol)} {symbol} and the job has {count} {what}; give {count} {symbol}"
            )
    return tuple(StageLayers(stage.count("t"), stage.count("m")) for stage in stages)


def _unrolled(text: str) -> str:
    """The symbols and `|` of a layout, with repeats written out."""
    symbols = re.sub(r"[\s,]", "", text)
    for pattern in _REPEATED:
        length = len(symbols) + sum(len(found[1]) * int(found[2]) for found in pattern.finditer(symbols))
        if length > _MOST_SYMBOLS:
            raise SpecError(f"pipeline layout '{text}' repeats to {length} symbols; give at most {_MOST_SYMBOLS}")
        symbols = pattern.sub(lambda found: found[1] * int(found[2]), symbols)
    if unknown := re.search(rf"[^{_SYMBOLS}|]", symbols):
        raise SpecError(
            f"pipeline layout '{text}' has '{unknown[0]}'; allowed: E, t, m, L and |, repeated as t*3 or (tt|)*2, not nested"
        )
    return symbols


def with_layout(plan: Plan, stages: tuple[StageLayers, ...]) -> Plan:
    """Return the plan with its layers dealt to `stages` in order, each with its own strategy. Several stages on a rank
    interleave.

    Raises:
        SpecError: the plan's schedule does not accept so many stages, a stage holds nothing, or the stages of several groups differ.
    """
    if plan.replicas:
        raise SpecError(
            f"a pipeline layout deals the layers of one pipeline, and the plan has replicas in {len(plan.replicas)} groups"
        )
    layers = [layer for stage in plan.stages for layer in stage.each_layer()]
    dealt, first = [], 0
    for stage in stages:
        held = layers[first : first + stage.layers]
        first += stage.layers
        dealt.append(Stage(layers=_runs(held), mtp_layers=stage.mtp_layers))
    schedule = plan.schedule
    if schedule in ("1f1b", "interleaved-1f1b"):
        schedule = "interleaved-1f1b" if len(stages) > plan.mesh.pp else "1f1b"
    return Plan.parse(dict(plan) | {"stages": tuple(dealt), "schedule": schedule}, source="pipeline layout")


def _runs(layers: list[LayerRun]) -> tuple[LayerRun, ...]:
    alike = groupby(layers, key=lambda layer: (layer.recompute, layer.zero_stage))
    return tuple(
        LayerRun(count=len(list(run)), recompute=recompute, zero_stage=zero) for (recompute, zero), run in alike
    )
