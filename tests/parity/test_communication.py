"""What each ZeRO stage communicates and keeps: the same updates can come from a plan that was not followed."""

from collections import Counter
from typing import Any, Literal, NamedTuple

import pytest
import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.parallel import build_engine
from shardwright.specs.plan import LayerRun
from tests.parity.cases import layers, model_config, plan, plan_file
from tests.parity.updates import batch, own_share
from tests.parity.worlds import run_again

MICROBATCHES = 2
ENDS = 2  # embedding, and final norm with head, are sharded apart from the layers


class Counts(NamedTuple):
    """Collectives of one step on one rank, and whether the first layer is gathered after a forward pass."""

    gathers: int
    reduce_scatters: int
    all_reduces: int
    gathered_after_forward: bool


class _Collectives(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Counts calls of torch.distributed's operators by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def _count(file: PlanFile) -> Counts:
    engine = build_engine(file, device=torch.device("cpu"), seed=0)
    inputs, labels = own_share(engine, *batch(0, file))
    part = engine.model_parts[0]
    first_layer = next(module for module in part.get_submodule("model.layers").children())
    with _Collectives() as step:
        engine.forward_backward(inputs, labels)
    with torch.no_grad():
        part(inputs[:1])
    assert isinstance(first_layer, FSDPModule)
    gathered = not any(isinstance(parameter, DTensor) for parameter in first_layer.parameters())
    return Counts(
        gathers=step.calls["_allgather_base_"],
        reduce_scatters=step.calls["_reduce_scatter_base_"],
        all_reduces=step.calls["allreduce_"],
        gathered_after_forward=gathered,
    )


def _counts(*runs: LayerRun, dp_shard: int, dp_replicate: int = 1) -> Counts:
    config = model_config("llama", layers=sum(run.count for run in runs))
    file = plan_file(config, plan(runs, microbatches=MICROBATCHES, dp_shard=dp_shard, dp_replicate=dp_replicate))
    results = run_again(file.plan.mesh.ranks, _count, file)
    assert all(result == results[0] for result in results)
    return results[0]


TOKENS_AND_LOSS = 2
"""All-reduces of a step that are not gradients."""


@pytest.mark.parametrize(
    ("zero", "gathers_per_layer", "reductions_per_layer"),
    [(1, 1, 1), (2, 1, MICROBATCHES), (3, 2 * MICROBATCHES, MICROBATCHES)],
)
def test_each_zero_stage_communicates_as_defined(
    zero: Literal[1, 2, 3], gathers_per_layer: int, reductions_per_layer: int
) -> None:
    few, many = _counts(layers(1, zero=zero), dp_shard=2), _counts(layers(3, zero=zero), dp_shard=2)
    assert (many.gathers - few.gathers) / 2 == gathers_per_layer
    assert (many.reduce_scatters - few.reduce_scatters) / 2 == reductions_per_layer
    assert few.reduce_scatters == reductions_per_layer * (1 + ENDS)
    assert few.all_reduces == TOKENS_AND_LOSS
    assert few.gathered_after_forward == (zero != 3)


def test_layers_follow_their_own_zero_stage() -> None:
    mixed = _counts(layers(1, zero=3), layers(1, zero=1), dp_shard=2)
    uniform = _counts(layers(2, zero=3), dp_shard=2)
    assert uniform.gathers - mixed.gathers == 2 * MICROBATCHES - 1
    assert uniform.reduce_scatters - mixed.reduce_scatters == MICROBATCHES - 1


def test_replicas_exchange_gradients_once_a_step() -> None:
    counts = _counts(layers(1, zero=3), dp_replicate=2, dp_shard=2)
    assert counts.reduce_scatters == MICROBATCHES * (1 + ENDS)
    assert counts.all_reduces == TOKENS_AND_LOSS + 1 + ENDS
