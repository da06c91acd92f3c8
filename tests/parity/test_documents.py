"""Packed documents train as each of them alone in one process; a fault in positions or masks shows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from shardwright.base.errors import SpecError
from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.context import attention as context_attention
from shardwright.executor.context import check_context, ring
from shardwright.executor.model import check_documents, documents, read_skeleton, stage_module
from shardwright.executor.parallel import build_engine, compiled
from shardwright.executor.passes import accumulation
from shardwright.executor.passes.pipeline import Pipeline
from shardwright.specs.lengths import Lengths
from shardwright.specs.plan import Plan
from tests.parity.cases import SEQ_LEN, layers, model_config, plan, plan_file
from tests.parity.families import FAMILIES, OTHERS
from tests.parity.updates import (
    LEARNING_RATE,
    SEED,
    STEPS,
    TOLERANCE,
    Run,
    assert_equal_to,
    batch,
    full_tensors,
    own_share,
    reference_model,
    worst_update_error,
)
from tests.parity.worlds import run_again, run_in_turn, run_world

LENGTHS = Lengths(name="two", tokens=(4, 8), shares=(0.5, 0.5))
LLAMA, QWEN3, GPT2 = model_config("llama"), model_config("qwen3"), model_config("gpt2")
SLIDING = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}


def cuts(step: int, row: int) -> list[int]:
    """Lengths of the documents of a row; some begin and end in every chunk of it, the last is padding."""
    generator = torch.Generator().manual_seed(100 * step + row)
    lengths: list[int] = []
    while sum(lengths) < SEQ_LEN:
        lengths.append(min(1 + int(torch.randint(7, (1,), generator=generator)), SEQ_LEN - sum(lengths)))
    return lengths


def places(step: int, rows: int) -> Tensor:
    return torch.stack([torch.cat([torch.arange(length) for length in cuts(step, row)]) for row in range(rows)])


def reference_run(file: PlanFile) -> Run:
    """Train on every document by itself, in a row of its own."""
    model = reference_model(file)
    before = {name: value.detach().clone() for name, value in model.named_parameters(remove_duplicate=False)}
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    losses, norms = [], []
    for step in range(STEPS):
        inputs, labels = batch(step, file)
        total = torch.zeros(())
        for row, (tokens, targets) in enumerate(zip(inputs, labels, strict=True)):
            lengths = cuts(step, row)
            for own, own_targets in zip(tokens.split(lengths), targets.split(lengths), strict=True):
                logits = model(input_ids=own[None]).logits[0].float()
                total = total + torch.nn.functional.cross_entropy(logits, own_targets, reduction="sum")
        loss = total / (labels != -100).sum()
        torch.autograd.backward(loss)
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), torch.inf)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    after = {name: value.detach() for name, value in model.named_parameters(remove_duplicate=False)}
    return Run(before, after, tuple(losses), tuple(norms))


def engine_run(file: PlanFile, sabotage: Callable[[], None] | None = None, *, compile_layers: bool = False) -> Run:
    """Train on packed rows, as one rank of a world that is up."""
    if sabotage is not None:
        sabotage()
    engine = build_engine(file, device=torch.device("cpu"), seed=SEED, compile_layers=compile_layers)
    before = full_tensors(engine)
    optimizer = torch.optim.SGD([p for part in engine.model_parts for p in part.parameters()], lr=LEARNING_RATE)
    losses, norms = [], []
    for step in range(STEPS):
        inputs, labels = own_share(engine, *batch(step, file))
        own = places(step, file.plan.global_batch).chunk(engine.dp_size)[engine.dp_rank]
        losses.append(float(engine.forward_backward(inputs, labels, own)))
        norms.append(engine.clip_gradients(None))
        optimizer.step()
        engine.zero_gradients()
    return Run(before, full_tensors(engine), tuple(losses), tuple(norms))


def lose_masks() -> None:
    """Positions start again at each document, but attention sees all of them."""
    documents._cut = lambda places: (len(places),)
    documents.numbered_documents = lambda places: torch.zeros_like(places)
    context_attention.numbered_documents = documents.numbered_documents  # type: ignore[attr-defined]


def lose_positions() -> None:
    """Documents are kept apart, but their positions count on from one to the next. Rotary positions are relative, so that this shows
    with learned ones, and between ranks."""
    original = stage_module.StageModule.forward

    def forward(self: Any, given: Tensor, places: Tensor | None = None) -> Tensor:
        model = self.__dict__["_model"]
        whole = model.forward

        def counting(*inputs: Any, position_ids: Tensor, **options: Any) -> Any:
            counted = torch.arange(position_ids.shape[1]).expand_as(position_ids)
            return whole(*inputs, position_ids=counted, **options)

        model.forward = counting
        try:
            return original(self, given, places)
        finally:
            model.forward = whole

    stage_module.StageModule.forward = forward  # type: ignore[method-assign]


def take_places_of_the_first_microbatch() -> None:
    """Every microbatch is masked like the first."""
    accumulate, pipeline = accumulation.Accumulation.run, Pipeline.run

    def repeated(places: Tensor | None, count: int) -> Tensor | None:
        return None if places is None else places.chunk(count)[0].repeat(count, 1)

    def in_turn(self: Any, inputs: Tensor, labels: Tensor, places: Tensor | None = None) -> Tensor:
        return accumulate(self, inputs, labels, repeated(places, self._microbatches))

    def in_stages(self: Any, inputs: Tensor, labels: Tensor, places: Tensor | None = None) -> Tensor:
        return pipeline(self, inputs, labels, repeated(places, self._microbatches))

    accumulation.Accumulation.run = in_turn  # type: ignore[method-assign]
    Pipeline.run = in_stages  # type: ignore[method-assign]


def see_other_documents_in_the_ring() -> None:
    """Blocks of other ranks are seen whole."""
    original = ring._parts

    def whole(rank: int, source: int, query: Tensor, documents: Tensor | None = None) -> Any:
        return original(rank, source, query, documents if rank == source else None)

    ring._parts = whole


def packed(config: dict[str, Any], chosen: Plan, **options: Any) -> PlanFile:
    return plan_file(config, chosen, lengths=LENGTHS, **options)


CASES = {
    "one rank, llama": packed(LLAMA, plan((layers(),))),
    "one rank, unfused": packed(QWEN3, plan((layers(recompute="selective"),)), attention="unfused"),
    "zero 3, learned positions": packed(GPT2, plan((layers(zero=3, recompute="full"),), dp_shard=2)),
    "zero 2, sliding windows": packed({**QWEN3, **SLIDING}, plan((layers(zero=2),), dp_shard=2)),
    "zero 1, capped scores": packed(FAMILIES["gemma2"], plan((layers(zero=1),), dp_shard=2)),
    "tp with sequence parallelism": packed(LLAMA, plan((layers(),), tp=2)),
    "1f1b": packed(LLAMA, plan((layers(1),), (layers(1),), pp=2, microbatches=4)),
    "interleaved": packed(
        model_config("qwen3", layers=4), plan(*[(layers(1),)] * 4, pp=2, schedule="interleaved-1f1b")
    ),
    "zb-h1": packed(GPT2, plan((layers(1),), (layers(1),), pp=2, microbatches=4, schedule="zb-h1")),
    "ep": packed(FAMILIES["qwen3_moe"], plan((layers(zero=2),), dp_shard=2, ep=2)),
    "cp by all-gather": packed(QWEN3, plan((layers(recompute="full"),), cp=2)),
    "cp by all-gather, sliding windows": packed({**QWEN3, **SLIDING}, plan((layers(zero=3),), cp=2)),
    "tp, falcon": packed(OTHERS["falcon"], plan((layers(),), tp=2)),
    "cp by ulysses": packed(GPT2, plan((layers(),), cp=2, context_parallel="ulysses")),
    "cp by ring": packed(LLAMA, plan((layers(recompute="full"),), cp=2, context_parallel="ring")),
    "cp by ring over 4 ranks": packed(QWEN3, plan((layers(zero=3),), cp=4, context_parallel="ring")),
    "cp by ulysses and ring": packed(LLAMA, plan((layers(),), cp=4, context_parallel="ulysses-ring", ulysses_degree=2)),
    "pp, tp and zero 3 on 8 ranks": packed(
        QWEN3, plan((layers(1, zero=3),), (layers(1, zero=1),), pp=2, dp_shard=2, tp=2)
    ),
    "cp by ring, pp and tp on 8 ranks": packed(
        LLAMA, plan((layers(1, zero=3),), (layers(1, zero=2),), cp=2, pp=2, tp=2, context_parallel="ring")
    ),
}
FAULTS: list[tuple[str, Callable[[], None]]] = [
    ("one rank, llama", lose_masks),
    ("one rank, unfused", take_places_of_the_first_microbatch),
    ("zero 3, learned positions", lose_positions),
    ("tp with sequence parallelism", lose_masks),
    ("1f1b", take_places_of_the_first_microbatch),
    ("zb-h1", lose_masks),
    ("cp by all-gather", lose_masks),
    ("cp by ulysses", lose_masks),
    ("cp by ring", see_other_documents_in_the_ring),
    ("cp by ulysses and ring", lose_positions),
    ("pp, tp and zero 3 on 8 ranks", take_places_of_the_first_microbatch),
    ("cp by ring, pp and tp on 8 ranks", see_other_documents_in_the_ring),
]
MOST_GRAPHS = 4
SIZES = sorted({file.plan.mesh.ranks for file in CASES.values()})


@pytest.mark.parametrize("ranks", SIZES)
def test_updates_equal_those_of_documents_alone(ranks: int) -> None:
    files = {name: file for name, file in CASES.items() if file.plan.mesh.ranks == ranks}
    for file in files.values():
        check_documents(file, read_skeleton(file))
        check_context(file, read_skeleton(file))
    runs = run_in_turn(ranks, engine_run, {name: (file,) for name, file in files.items()})
    for name, own in runs.items():
        assert_equal_to(reference_run(files[name]), own, name)


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=[f"{name}: {fault.__name__}" for name, fault in FAULTS])
def test_a_fault_shows_in_the_updates(name: str, fault: Callable[[], None]) -> None:
    own = run_again(CASES[name].plan.mesh.ranks, engine_run, CASES[name], fault)
    assert worst_update_error(own, reference_run(CASES[name])) > TOLERANCE


def _compiled_run(file: PlanFile) -> tuple[Run, int]:
    """Train with layers as graphs without code; return how many graphs that made."""
    compiled.BACKEND = "aot_eager"
    torch._dynamo.utils.counters.clear()
    return engine_run(file, compile_layers=True), torch._dynamo.utils.counters["stats"]["unique_graphs"]


def test_compiled_layers_are_not_compiled_again_for_other_documents() -> None:
    """Of eight microbatches with other lengths, two graphs stand before and behind attention; a few more take other sizes."""
    file = packed(model_config("llama", layers=1), plan((layers(1),), microbatches=4))
    own, graphs = run_world(1, _compiled_run, file)[0]
    assert worst_update_error([own], reference_run(file)) <= TOLERANCE
    assert 0 < graphs <= MOST_GRAPHS


WITHOUT = ("gpt_oss", "qwen3_next")


@pytest.mark.parametrize("family", sorted({*FAMILIES, *OTHERS}.difference(WITHOUT)))
def test_families_keep_documents_apart(family: str) -> None:
    file = packed((FAMILIES | OTHERS)[family], plan((layers(),)))
    check_documents(file, read_skeleton(file))


@pytest.mark.parametrize("family", WITHOUT)
def test_a_class_that_does_not_is_refused(family: str) -> None:
    """transformers makes the masks of gpt-oss without positions, and linear attention has none."""
    file = packed((FAMILIES | OTHERS)[family], plan((layers(),)))
    with pytest.raises(SpecError, match=r"packed documents .*; plan with --packing padded"):
        check_documents(file, read_skeleton(file))
