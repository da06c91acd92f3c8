"""Exchanges of hidden states over tp, by hand: the copies that torch's collectives need beside them."""

from dataclasses import dataclass

import numpy as np
import pytest

from shardwright.base.arrays import Array, Number
from shardwright.costmodel.layers import operators
from shardwright.costmodel.layers.all_rows import WorkModel
from shardwright.costmodel.layers.frame import WorkFrame
from shardwright.specs.model import LatentAttention
from shardwright.specs.plan import POLICIES
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import RoundTimes, small_model
from tests.specs.test_candidates import candidates

SEQ, HIDDEN = 128, 64
LATENT = LatentAttention(heads=4, query_rank=12, kv_rank=16, plain_size=8, rotary_size=8, value_head_size=8)


@dataclass(frozen=True)
class SlowMemory(RoundTimes):
    """As round times, but 1 second per GB of memory traffic; collectives are free."""

    def memory_bound_seconds(self, moved_bytes: Number) -> Array:
        return np.asarray(moved_bytes, dtype=float) * 1e-9

    def collective_seconds(self, *_: object) -> Array:
        return np.zeros(1)


def copied(stack: str, *, micro_batch: int = 2, tp: int = 4, linear: str | None = None, share: float = 1.0) -> float:
    """Reads and writes of the hidden states beside one gather and one reduction."""
    options = {"seq_len": SEQ, "global_batch": 8, "stack": stack, "precision": {"linear": linear}}
    chosen = candidates(tp=tp, micro_batch=micro_batch, sequence_parallel=int(tp > 1))
    frame = WorkFrame(small_model(), TrainingSpec.parse(options, source="test"), SlowMemory(), chosen)
    whole = micro_batch * SEQ * HIDDEN * 2
    return float(frame.hidden_collective_seconds(share)[0] * 1e9 / whole)


@pytest.mark.parametrize(
    ("stack", "passes"),
    [
        ("torchtitan", 4.0),  # chunks are read and joined after the gather, and before the reduction
        ("torchtitan-eager", 4.0),
        ("torchtitan-async-tp", 1.0),  # the parts that ranks sent are read and added up
        ("megatron-core", 0.0),  # the sequence is the first dimension
    ],
)
def test_chunks_of_sequences_are_joined(stack: str, passes: float) -> None:
    assert copied(stack) == pytest.approx(passes)
    assert copied(stack, tp=1) == 0.0


def test_a_single_sequence_lies_right_after_a_gather_in_later_releases() -> None:
    assert copied("torchtitan-compiled-loss", micro_batch=1) == pytest.approx(4.0)
    assert copied("torchtitan-0.3", micro_batch=1) == pytest.approx(2.0)
    assert copied("torchtitan-0.3", micro_batch=2) == pytest.approx(4.0)


def test_a_compiler_joins_and_casts_at_once() -> None:
    """What is gathered in 16 bits is read for its cast anyway; what is gathered in 8 bits is copied as such."""
    assert copied("torchtitan", linear="fp8-rowwise") == pytest.approx(2.0)
    assert copied("torchtitan-eager", linear="fp8-rowwise") == pytest.approx(4.0)
    assert copied("torchtitan", linear="fp8", share=0.5) == pytest.approx(1.0 + 2.0)


@pytest.mark.parametrize(
    ("stack", "query_rank", "sequence_parallel", "columns"),
    [
        ("megatron-core", 12, 1, HIDDEN - (12 + 16 + 8)),  # latents are gathered in place of hidden states
        ("megatron-core", None, 1, -(16 + 8)),  # and beside them, where queries are projected from hidden states
        ("megatron-core", 12, 0, 0),
        ("torchtitan", 12, 1, 0),
    ],
)
def test_what_gathering_latents_spares(
    stack: str, query_rank: int | None, sequence_parallel: int, columns: int
) -> None:
    training = TrainingSpec(seq_len=SEQ, global_batch=8, stack=stack)
    chosen = candidates(tp=4, micro_batch=2, sequence_parallel=sequence_parallel)
    latent = LATENT.model_copy(update={"query_rank": query_rank})
    frame = WorkFrame(small_model(), training, RoundTimes(), chosen)
    for spared in frame.latents_spare_seconds(latent):
        assert spared[0] * 1e9 == pytest.approx(2 * 2 * SEQ * columns)
    lowered, reduced = frame.latents_spare_seconds(latent, 0.5)
    assert lowered[0] == pytest.approx(reduced[0] / 2)


def test_megatron_core_gathers_latents_in_place_of_hidden_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a forward what is gathered, in a backward what is scattered; projections down to latents compute a fourth of the tokens."""
    training = TrainingSpec(seq_len=SEQ, global_batch=8, stack="megatron-core")
    chosen = candidates(tp=4, micro_batch=2, sequence_parallel=1)
    model = WorkModel(small_model(hidden=HIDDEN), training, RoundTimes(), chosen)
    block = model.model.layer_classes[0].model_copy(update={"attention": LATENT})
    row, (gather, reduction) = model.layer(block), model.latents_spare_seconds(LATENT)
    monkeypatch.setattr(WorkFrame, "latents_spare_seconds", lambda *_: (np.zeros(1), np.zeros(1)))
    whole = model.layer(block)
    assert whole.tensor_parallel_forward_seconds - row.tensor_parallel_forward_seconds == pytest.approx(gather)
    backward = [each.tensor_parallel_backward_seconds_by_policy[0][POLICIES.index("none")] for each in (whole, row)]
    assert backward[0] - backward[1] == pytest.approx(reduction[0])
    assert gather[0] > 0
    monkeypatch.setattr(operators, "on_own_tokens", lambda matmuls, _: matmuls)
    spared = model.layer(block).forward_seconds - row.forward_seconds
    assert spared[0] == pytest.approx(2 * (2 * SEQ) * HIDDEN * (12 + 16 + 8) * 3 / 4 * 1e-12)
