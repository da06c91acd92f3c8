"""Recomputation happens where the plan says: counted in calls, and in what the forward pass keeps."""

from typing import Any, Literal, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.parallel import build_engine
from shardwright.specs.plan import LayerRun, RecomputePolicy
from tests.parity.cases import SEQ_LEN, FamilyName, layers, model_config, plan, plan_file
from tests.parity.updates import batch, own_share
from tests.parity.worlds import run_world

MICROBATCHES, HEADS = 2, 4
MLP = {"llama": "model.layers.{}.mlp", "qwen3": "model.layers.{}.mlp", "gpt2": "transformer.h.{}.mlp"}


class Observed(NamedTuple):
    """Calls of each layer's feed-forward in a step, and tensors and bytes that the step's forward passes kept."""

    calls: tuple[int, ...]
    scores_kept: int
    bytes_kept: int


def _observe(file: PlanFile) -> Observed:
    engine = build_engine(file, device=torch.device("cpu"), seed=0)
    calls = [0] * file.plan.layer_count
    path = MLP[str(file.model_config_json["model_type"])]
    for index in range(len(calls)):

        def count(_module: nn.Module, _inputs: Any, index: int = index) -> None:
            calls[index] += 1

        engine.model_parts[0].get_submodule(path.format(index)).register_forward_pre_hook(count)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        engine.forward_backward(*own_share(engine, *batch(0, file)))
    scores = sum(tensor.dim() == 4 and tensor.shape[1:] == (HEADS, SEQ_LEN, SEQ_LEN) for tensor in kept)
    return Observed(tuple(calls), scores, sum(tensor.nbytes for tensor in kept))


def _observed(
    *runs: LayerRun, family: FamilyName = "qwen3", attention: Literal["flash", "unfused"] = "unfused"
) -> Observed:
    config = model_config(family, layers=sum(run.count for run in runs))
    file = plan_file(config, plan(runs, microbatches=MICROBATCHES), attention=attention)
    return run_world(1, _observe, file)[0]


def test_full_recompute_runs_just_its_layers_twice() -> None:
    observed = _observed(layers(1), layers(2, recompute="full"), layers(1, recompute="selective"))
    assert observed.calls == (MICROBATCHES, 2 * MICROBATCHES, 2 * MICROBATCHES, MICROBATCHES)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_selective_recompute_keeps_no_scores(family: FamilyName) -> None:
    whole = _observed(layers(2), family=family)
    mixed = _observed(layers(1), layers(1, recompute="selective"), family=family)
    selective = _observed(layers(2, recompute="selective"), family=family)
    assert whole.scores_kept > 0
    assert mixed.scores_kept == whole.scores_kept / 2
    assert selective.scores_kept == 0
    assert selective.bytes_kept < whole.bytes_kept


@pytest.mark.parametrize("attention", ["flash", "unfused"])
def test_full_recompute_keeps_least(attention: Literal["flash", "unfused"]) -> None:
    kept: dict[RecomputePolicy, int] = {
        policy: _observed(layers(2, recompute=policy), attention=attention).bytes_kept
        for policy in ("none", "selective", "full")
    }
    assert kept["full"] < kept["selective"] / 2
    if attention == "flash":  # the flash kernel recomputes the scores by itself
        assert kept["selective"] == kept["none"]
