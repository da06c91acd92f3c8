"""Attention of packed documents, by hand and by drawing documents."""

import random

import numpy as np
import pytest

from shardwright.costmodel import estimate_plan
from shardwright.costmodel.layers.core.documents import context_length, document_length, keys_seen, unevenness
from shardwright.specs import Lengths, Mesh, Plan, Stage, TrainingSpec
from shardwright.specs.plan import LayerRun
from tests.planner.small_problems import tiny_cluster, tiny_model

_TWO = Lengths(name="two", tokens=(1024.0, 3072.0), shares=(0.5, 0.5))
_PACKED = TrainingSpec(seq_len=4096, global_batch=64, lengths=_TWO)


def test_two_lengths_by_hand() -> None:
    """Of 4,096 tokens of both kinds 1,024 see 512.5 keys and 3,072 see 1,536.5. The variance of the work of 4,096 tokens is
    4096 / 2048 x 786432^2: each kind is 786,432 away from the work of mean tokens."""
    assert keys_seen(_PACKED, None) == pytest.approx((1024 * 512.5 + 3072 * 1536.5) / 4096)
    assert document_length(_PACKED) == pytest.approx((1024 * 1024 + 3072 * 3072) / 4096)
    assert unevenness(_PACKED, None) == pytest.approx(786432 * 2**0.5 / (4096 * 1280.5))


def test_a_window_evens_documents_out() -> None:
    assert keys_seen(_PACKED, 16) == pytest.approx(
        (1024 * context_length(1024, 16) + 3072 * context_length(3072, 16)) / 4096
    )
    assert unevenness(_PACKED, 16) < 0.01


@pytest.mark.parametrize(
    "lengths", [_TWO, Lengths.uniform(16, 512), Lengths(name="p", tokens=(64, 900), shares=(0.9, 0.1))]
)
def test_unevenness_is_that_of_drawn_documents(lengths: Lengths) -> None:
    slot, drawn = 16384, random.Random(5)
    works = []
    for _ in range(3000):
        left, work = slot, 0.0
        while left > 0:
            length = min(left, round(drawn.choices(lengths.tokens, lengths.shares)[0]))
            work += length * context_length(length, None)
            left -= length
        works.append(work)
    training = TrainingSpec(seq_len=slot, global_batch=64, lengths=lengths)
    assert np.mean(works) == pytest.approx(slot * keys_seen(training, None), rel=0.06)  # the last document is cut
    assert np.std(works) / np.mean(works) == pytest.approx(unevenness(training, None), rel=0.15)


def test_whole_sequences_and_padding_are_even() -> None:
    full = Lengths(name="full", tokens=(4096.0,), shares=(1.0,))
    for training in (
        TrainingSpec(seq_len=4096, global_batch=64),
        TrainingSpec(seq_len=4096, global_batch=64, lengths=full),
        TrainingSpec(seq_len=4096, global_batch=64, lengths=_TWO, packing="padded"),
    ):
        assert unevenness(training, None) == 0
        assert keys_seen(training, None) == context_length(4096, None)


def _seconds(training: TrainingSpec, *, dp: int = 1, zero_stage: int = 0) -> tuple[float, float]:
    """Step and waiting of a plan in seconds, per sequence of a rank."""
    run = LayerRun(count=4, zero_stage=zero_stage)
    mesh = Mesh(dp_shard=dp) if zero_stage else Mesh(dp_replicate=dp)
    plan = Plan(mesh=mesh, micro_batch=1, microbatches=training.global_batch // dp, stages=(Stage(layers=(run,)),))
    step = estimate_plan(tiny_model(layers=4), tiny_cluster(devices=dp), training, plan).step
    return step.total, step.straggler


class TestStep:
    def test_documents_shorten_attention(self) -> None:
        whole = TrainingSpec(seq_len=4096, global_batch=64)
        assert _seconds(_PACKED)[0] < _seconds(whole)[0]
        assert _seconds(_PACKED)[1] == 0  # one rank waits for nobody

    def test_padding_computes_what_a_whole_sequence_does(self) -> None:
        padded = _PACKED.model_copy(update={"packing": "padded"})
        assert _seconds(padded) == _seconds(TrainingSpec(seq_len=4096, global_batch=64))

    def test_ranks_wait_for_the_slowest(self) -> None:
        """ZeRO-3 meets in every microbatch, ZeRO-1 once a step: of 16 microbatches the waits are four times shorter."""
        each, once = (_seconds(_PACKED, dp=4, zero_stage=stage)[1] for stage in (3, 1))
        assert once > 0
        assert each == pytest.approx(4 * once)

    def test_unfused_attention_computes_every_score(self) -> None:
        packed, whole = (
            TrainingSpec(seq_len=4096, global_batch=64, attention="unfused", lengths=lengths)
            for lengths in (_TWO, None)
        )
        assert _seconds(packed, dp=4, zero_stage=1) == _seconds(whole, dp=4, zero_stage=1)
