"""Which data-parallel traffic falls where in a step, per ZeRO stage, with and without a pipeline."""

from dataclasses import replace

import numpy as np
import pytest

from shardwright.costmodel.op_times.constants import CALIBRATED
from shardwright.costmodel.tables.data_parallel import DataParallel
from shardwright.specs.training import Precision, TrainingSpec
from tests.costmodel.fakes import RoundTimes, round_cluster
from tests.specs.test_candidates import candidates

PARAMETERS = 1e9  # gathered: 2 seconds of bf16; reduced: 4 seconds of fp32
SLOWED = CALIBRATED.collective_multiprocessors / 100  # of the round device's multiprocessors


def traffic(
    *,
    compute: float = 100.0,
    kind: str = "gpu",
    freed: bool = True,
    experts: float = 0.0,
    gathered: int = 2,
    stack: str = "shardwright",
    frozen: float = 0.0,
    passes_back: bool = True,
    trainable: str = "all",
    **degrees: float,
) -> DataParallel:
    times = RoundTimes(node=round_cluster(kind=kind).node)  # type: ignore[arg-type] # "gpu" or "cpu"
    training = TrainingSpec(seq_len=8, global_batch=8, precision=Precision(), stack=stack, trainable=trainable)
    one = np.full((1, 1), compute)
    return DataParallel(
        training, times, candidates(offload_optimizer=degrees.pop("host", 0), **degrees),
        np.full((1, 1), PARAMETERS), np.full((1, 1), experts), np.array([gathered]), np.array([freed]),
        np.full((1, 1), frozen), np.zeros((1, 1)), np.array([passes_back]), one, one[..., None],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("zero", "pp", "forward", "first", "backward", "last"),
    [
        # seconds of traffic: gather 2, reduce 4; hidden behind 100 s of compute but for the slowdown
        (1, 1, 0, 2, 0, 4),
        (2, 1, 0, 2, 4, 0),
        (3, 1, 2, 0, 2 + 4, 0),
    ],
)
def test_hidden_traffic_slows_compute(zero: int, pp: int, forward: int, first: int, backward: int, last: int) -> None:
    data = traffic(dp_shard=8, zero_stage=zero, pp=pp)
    passes = (data.in_forward(), data.in_first_forward(), data.in_backward(), data.in_last_backward())
    assert [one.network.item() for one in passes] == pytest.approx(
        [SLOWED * s for s in (forward, first, backward, last)]
    )


def test_the_head_is_not_gathered_again() -> None:
    """Its backward follows its forward, so ZeRO-3 keeps it in between."""
    assert traffic(dp_shard=8, zero_stage=3, freed=False).in_backward().network.item() == pytest.approx(SLOWED * 4)


def test_traffic_longer_than_compute_is_exposed() -> None:
    data = traffic(compute=0.5, dp_shard=8, zero_stage=3)
    assert data.in_forward().network.item() == pytest.approx(2 - 0.5 + SLOWED * 0.5)


def test_a_rank_of_several_chunks_hides_what_is_once_a_step_behind_the_next_chunk() -> None:
    """Two chunks: the first's gather and reduction have pp = 4 microbatches of the other to hide behind, the last's its own.

    The first microbatch waits for the gathers of one rank of four.
    """
    data = traffic(compute=0.5, dp_shard=8, zero_stage=1, pp=4, stages_per_rank=2, microbatches=8)
    hidden = 0.5 * (1 + 4) / 2
    assert data.in_first_forward().network.item() == pytest.approx((2 - hidden + SLOWED * hidden) / 4)
    assert data.in_last_backward().network.item() == pytest.approx(4 - hidden + SLOWED * hidden)
    few = traffic(compute=0.5, dp_shard=8, zero_stage=1, pp=4, stages_per_rank=2, microbatches=2)
    assert few.in_last_backward().network.item() > data.in_last_backward().network.item()


def test_a_cpu_hides_nothing() -> None:
    assert traffic(kind="cpu", dp_shard=8, zero_stage=3).in_forward().network.item() == pytest.approx(2)


def test_replicas_reduce_their_shard_once_a_step() -> None:
    """HSDP: a reduce-scatter of 4 GB over the shards, and once an all-reduce of one shard over the replicas."""
    late = traffic(kind="cpu", dp_shard=4, dp_replicate=2, zero_stage=1)
    assert late.in_last_backward().network.item() == pytest.approx(4 + 4 / 4)
    early = traffic(kind="cpu", dp_shard=4, dp_replicate=2, zero_stage=2)
    assert early.in_backward().network.item() == pytest.approx(4)
    assert early.in_last_backward().network.item() == pytest.approx(4 / 4)


def test_plain_data_parallelism_gathers_nothing() -> None:
    data = traffic(kind="cpu", dp_replicate=8, zero_stage=0)
    assert data.in_first_forward().network.item() == 0
    assert data.in_last_backward().network.item() == pytest.approx(4)


def test_a_host_optimizer_copies_the_shard_both_ways() -> None:
    """fp32 shard of 4e9 / 8 bytes at 10 GB/s: 0.05 s to the device for the first forward, and its gradient back."""
    data = traffic(kind="cpu", dp_shard=8, zero_stage=1, host=1)
    assert data.in_first_forward().host_copy.item() == pytest.approx(0.05)
    assert data.in_last_backward().host_copy.item() == pytest.approx(0.05)
    assert traffic(dp_shard=8, zero_stage=1).in_first_forward().host_copy.item() == 0


def test_copies_and_network_hide_behind_the_same_compute_side_by_side() -> None:
    """Compute of 1 s, a gather of 2 s, a copy of 0.5 s: 1 s of the gather outlasts, and compute is slowed throughout."""
    data = traffic(compute=1.0, dp_shard=8, zero_stage=3, host=1)
    found = data.in_forward()
    assert found.network.item() + found.host_copy.item() == pytest.approx(2 - 1 + SLOWED * 1)


def test_context_parallel_ranks_hold_shards_and_sum_gradients() -> None:
    alone = traffic(kind="cpu", dp_shard=1, cp=8, zero_stage=3)
    assert alone.in_forward().network.item() == pytest.approx(2)
    assert alone.in_backward().network.item() == pytest.approx(2 + 4)
    host = traffic(kind="cpu", dp_shard=2, cp=4, zero_stage=1, host=1)
    assert host.in_first_forward().host_copy.item() == pytest.approx(0.05)
    replicas = traffic(kind="cpu", cp=8, zero_stage=0)
    assert replicas.in_last_backward().network.item() == pytest.approx(4)


def test_experts_have_shards_and_replicas_of_their_own() -> None:
    """As many parameters again on each rank, of experts that ep spreads over all shards: nothing to gather or reduce."""
    spread = traffic(kind="cpu", dp_shard=8, ep=8, zero_stage=3, experts=PARAMETERS)
    assert spread.in_forward().network.item() == pytest.approx(2)
    shared = traffic(kind="cpu", dp_shard=8, ep=4, zero_stage=3, experts=PARAMETERS)
    assert shared.in_forward().network.item() == pytest.approx(2 + 2)
    copied = traffic(kind="cpu", dp_shard=4, dp_replicate=2, ep=4, zero_stage=1, experts=PARAMETERS)
    assert copied.in_last_backward().network.item() == pytest.approx(4 + 4 / 4 + 4)


def test_weights_gathered_in_a_byte_take_half_the_time() -> None:
    assert traffic(kind="cpu", dp_shard=8, zero_stage=3, gathered=1).in_forward().network.item() == pytest.approx(1)


@pytest.mark.parametrize("zero", [2, 3])
def test_a_stack_that_defers_its_reduction_reduces_a_pipeline_once_a_step(zero: int) -> None:
    """4 seconds of reduction: hidden beside every backward, or beside the last one. Gathers of ZeRO-3 stay each time."""
    each = traffic(dp_shard=8, zero_stage=zero, microbatches=4, pp=2, stack="fsdp")
    once = traffic(dp_shard=8, zero_stage=zero, microbatches=4, pp=2, stack="automodel")
    assert each.in_backward().network.item() - once.in_backward().network.item() == pytest.approx(SLOWED * 4)
    assert once.in_last_backward().network.item() == pytest.approx(SLOWED * 4)
    assert each.in_last_backward().network.item() == 0
    alone = traffic(dp_shard=8, zero_stage=zero, microbatches=4, stack="automodel")
    assert alone.in_last_backward().network.item() == 0


@pytest.mark.parametrize(
    ("stack", "zero", "bytes_each"),
    [
        # gathered once: 2 read, 2 written; reduced once: 2 read, 4 written
        ("shardwright", 1, 4 + 6),
        # three microbatches; ZeRO-3 gathers for the backward pass too, ZeRO-2 and 3 reduce in each
        ("shardwright", 2, 4 + 3 * 6),
        ("shardwright", 3, 3 * (2 * 4 + 6)),
        # FSDP1 views what it gathered, and joins gradients in 16 bits
        ("fsdp", 3, 3 * 4),
        ("megatron-core", 1, 0),
    ],
)
def test_fsdp_copies_between_tensors_and_buffers(stack: str, zero: int, bytes_each: int) -> None:
    copied = traffic(stack=stack, dp_shard=8, zero_stage=zero, microbatches=3, experts=1e8).copied_bytes()
    assert copied.item() == bytes_each * (PARAMETERS + 1e8)
    assert traffic(stack=stack, dp_shard=1, zero_stage=zero, microbatches=3).copied_bytes().item() == 0


def test_experts_that_one_rank_holds_whole_are_not_copied() -> None:
    spread = traffic(stack="shardwright", dp_shard=8, ep=8, zero_stage=3, microbatches=1, experts=1e8)
    assert spread.copied_bytes().item() == (2 * 4 + 6) * PARAMETERS


@pytest.mark.parametrize(
    ("stack", "zero", "microbatches", "bytes_each"),
    [
        # the first of three gradients is cast, 2 + 4; a kernel adds each other one: 2 read beside the sum's 4, 4 written
        ("shardwright", 1, 3, 6 + 2 * 10),
        ("shardwright", 1, 1, 0),
        # each microbatch is reduced
        ("shardwright", 2, 3, 0),
        # a buffer waits for all of them
        ("internevo", 1, 3, 3 * 10),
        ("internevo", 1, 1, 10),
    ],
)
def test_kernels_add_the_gradients_of_microbatches(stack: str, zero: int, microbatches: int, bytes_each: int) -> None:
    added = traffic(stack=stack, dp_shard=8, zero_stage=zero, microbatches=microbatches, experts=1e8).summed_bytes()
    assert added.item() == bytes_each * (PARAMETERS + 1e8)


def test_a_pipeline_that_defers_its_reduction_adds_whole_gradients() -> None:
    adds, reduces = (
        traffic(stack="torchtitan", dp_shard=8, zero_stage=2, pp=pp, microbatches=3).summed_bytes() for pp in (2, 1)
    )
    assert adds.item() == (6 + 2 * 10) * PARAMETERS
    assert reduces.item() == 0


def test_megatron_adds_in_the_matmul_but_for_the_embedding() -> None:
    """Rows: a layer, embedding, head. The buffer takes 2 read beside the sum's 4, 4 written, in each microbatch."""
    data = replace(
        traffic(stack="megatron-core", dp_shard=8, zero_stage=1, microbatches=3),
        parameters=np.full((1, 3), PARAMETERS),
        expert_parameters=np.zeros((1, 3)),
    )
    assert data.summed_bytes().tolist() == [[0.0, 3 * 10 * PARAMETERS, 0.0]]


def test_the_host_adds_its_share_of_the_gradients() -> None:
    half = traffic(dp_shard=1, zero_stage=0, microbatches=3, host=1, offload_gradients=0.5).summed_bytes()
    assert half.item() == 0.5 * (6 + 2 * 10) * PARAMETERS
