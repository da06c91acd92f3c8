"""The space: everything in it divides, and what contradicts itself is answered with what is allowed."""

import numpy as np
import pytest

from shardwright.base.errors import SpecError
from shardwright.base.numbers import divisors
from shardwright.catalog.cluster_file import load_cluster
from shardwright.planner.space.enumerate import MAX_STAGES_PER_RANK, _can_be_placed, enumerate_space
from shardwright.planner.space.fixed import Fixed
from shardwright.planner.space.software import Placement
from shardwright.planner.space.space import SCHEDULES
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.model.attention import MultiHeadAttention
from shardwright.specs.model.feed_forward import FeedForward
from shardwright.specs.model.model import Block, BlockRun, ModelSpec
from shardwright.specs.plan import CONTEXT_PARALLEL
from shardwright.specs.trainable import Trainable
from shardwright.specs.training import TrainingSpec
from tests.planner.small_problems import tiny_cluster, tiny_model

_MODEL = tiny_model(layers=6)
_TRAINING = TrainingSpec(seq_len=256, global_batch=32)


def test_divisors() -> None:
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
    assert divisors(1) == [1]


def test_everything_divides() -> None:
    space = enumerate_space(_MODEL, tiny_cluster(devices=16, devices_per_node=4), _TRAINING)
    dp = space.column("dp_replicate") * space.column("dp_shard")
    assert (space.column("pp") * dp * space.column("tp") == 16).all()
    assert (dp * space.column("micro_batch") * space.column("microbatches") == 32).all()
    assert (space.column("pp") * space.stages_per_rank <= 6).all()
    assert set(space.column("tp")) == {1, 2}  # 2 KV heads
    assert ((space.column("zero_stage") == 0) == (space.column("dp_shard") == 1)).all()
    interleaved = space.schedule == SCHEDULES.index("interleaved-1f1b")
    assert interleaved.any()
    assert (space.column("microbatches")[interleaved] % space.column("pp")[interleaved] == 0).all()
    in_a_v = np.isin(space.schedule, [SCHEDULES.index(name) for name in ("zb-v", "v-half", "v-min", "dualpipe-v")])
    assert set(space.stages_per_rank[in_a_v]) == {2}
    by_chunk = space.schedule == SCHEDULES.index("breadth-first")
    assert by_chunk.any()
    assert (space.stages_per_rank[by_chunk] > 1).all()
    assert (space.column("zero_stage")[by_chunk] >= 2).all()  # else nothing is gathered or reduced less often
    assert (space.column("microbatches")[by_chunk] > 1).all()
    assert (space.stages_per_rank[~interleaved & ~in_a_v & ~by_chunk] == 1).all()
    assert (space.column("zero_stage")[space.splits] <= 1).all()  # what the executor runs
    assert (space.column("pp")[space.splits] > 1).all()


def test_no_entry_twice() -> None:
    space = enumerate_space(_MODEL, tiny_cluster(devices=8), _TRAINING)
    rows = np.stack([*(space.column(name) for name in vars(space.base)), space.schedule, space.stages_per_rank])
    assert len(np.unique(rows, axis=1).T) == len(space)


def test_large_groups_are_split_at_nodes_only() -> None:
    space = enumerate_space(_MODEL, tiny_cluster(devices=16, devices_per_node=4), _TRAINING, Fixed(tp=1, pp=1))
    assert set(space.column("dp_shard")) == {1, 4, 8, 16}


def test_tp_leaves_the_node_only_where_it_is_fixed() -> None:
    cluster = tiny_cluster(devices=4, devices_per_node=1)
    assert set(enumerate_space(_MODEL, cluster, _TRAINING).column("tp")) == {1}
    assert set(enumerate_space(_MODEL, cluster, _TRAINING, Fixed(tp=2)).column("tp")) == {2}


@pytest.mark.parametrize(
    ("cluster", "degrees"),
    [("gb200:16", {1, 2, 4, 8, 16}), ("gb200:144", {1, 2, 4, 8}), ("h100-sxm:16", {1, 2, 4, 8})],
)
def test_tp_spans_the_hosts_of_one_domain_of_links(cluster: str, degrees: set[int]) -> None:
    """A rack joins trays of 4; 16 ranks do not divide a domain of 72, so that some of their groups would lie on two."""
    heads = MultiHeadAttention(heads=16, kv_heads=16, head_size=64)
    block = Block(attention=heads, ffn=FeedForward(width=4096, gated=True))
    model = tiny_model(layers=2, hidden=1024).model_copy(update={"blocks": (BlockRun(count=2, block=block),)})
    space = enumerate_space(model, load_cluster(cluster), TrainingSpec(seq_len=1024, global_batch=144))
    assert set(np.unique(space.column("tp")).tolist()) == degrees


def test_cpu_has_no_offload() -> None:
    cluster = _cpu_cluster()
    assert set(enumerate_space(_MODEL, cluster, _TRAINING).column("offload_optimizer")) == {0}
    with pytest.raises(SpecError, match="offload_optimizer 1 moves the optimizer to the host"):
        enumerate_space(_MODEL, cluster, _TRAINING, Fixed(offload_optimizer=1))


def test_even_stages_may_be_as_many_as_there_are_layers() -> None:
    """Uneven ones stop at `MAX_STAGES_PER_RANK`, and few are shorter."""
    deep, cluster = tiny_model(layers=24), tiny_cluster(devices=2)
    training = TrainingSpec(seq_len=64, global_batch=8)
    free = enumerate_space(deep, cluster, training, Fixed(pp=2))
    even = enumerate_space(deep, cluster, training, Fixed(pp=2, even_stages=True))
    assert set(free.stages_per_rank) == {1, 2, 3, 4, 6, 12}
    uneven = enumerate_space(tiny_model(layers=23), cluster, training, Fixed(pp=2))
    assert set(uneven.stages_per_rank) == {1, 2, 3, 4, 6}
    assert max(uneven.stages_per_rank) <= MAX_STAGES_PER_RANK
    assert set(even.stages_per_rank) == {1, 2, 3, 4, 6, 12}


def test_embedding_and_head_count_where_the_stack_counts_them() -> None:
    """24 + 2 layers are 2 x 13 stages of one; 6 + 2 are 2 x 4 of one, which uneven plans reach too."""
    deep, cluster = tiny_model(layers=24), tiny_cluster(devices=2)
    counting = TrainingSpec(seq_len=64, global_batch=8, stack="megatron-core")
    even = enumerate_space(deep, cluster, counting, Fixed(pp=2, even_stages=True))
    assert set(even.stages_per_rank) == {1, 2, 3, 4, 6, 12, 13}
    for fixed in (Fixed(pp=2), Fixed(pp=2, even_stages=True)):
        others = _TRAINING.model_copy(update={"stack": "megatron-lm"})
        assert 4 in enumerate_space(_MODEL, cluster, counting, fixed).stages_per_rank
        assert 4 not in enumerate_space(_MODEL, cluster, others, fixed).stages_per_rank


def test_gpipe_where_it_differs_from_1f1b() -> None:
    cluster, gpipe = tiny_cluster(devices=4), SCHEDULES.index("gpipe")
    space = enumerate_space(_MODEL, cluster, _TRAINING)
    several = (space.column("pp") > 1) & (space.column("microbatches") > 1)
    assert several[space.schedule == gpipe].all()
    assert (space.schedule == gpipe).sum() == (several & (space.schedule == SCHEDULES.index("1f1b"))).sum()
    assert set(enumerate_space(_MODEL, cluster, _TRAINING, Fixed(schedule="gpipe")).schedule) == {gpipe}


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        (Fixed(tp=4), "tp 4 does not divide the 2 KV heads of tiny; allowed: 1, 2"),
        (Fixed(pp=3), "pp 3 does not divide the 8 devices of tiny; their product must be one of 1, 2, 4, 8"),
        (Fixed(pp=4, tp=2, dp_shard=2), "tp 2 x pp 4 x dp_shard 2 does not divide the 8 devices"),
        (Fixed(pp=8), "pp 8 is more than the 6 layers of tiny; give 6 or fewer"),
        (Fixed(micro_batch=3), "micro_batch 3 does not divide the sequences of a data-parallel rank"),
        (Fixed(zero_stage=2, dp_shard=1), "zero_stage 2 shards over dp_shard, which is 1"),
        (Fixed(zero_stage=0, dp_shard=4), "zero_stage 0 shards nothing and dp_shard is 4"),
        (Fixed(zero_stage=1, tp=2, pp=4), "zero_stage 1 needs two or more data-parallel ranks"),
        (Fixed(schedule="1f1b", stages_per_rank=2), "1f1b runs one stage on each rank and stages_per_rank is 2"),
        (
            Fixed(schedule="zb-v", pp=1),
            "zb-v needs pp of 2 or more, pp x 2 stages that hold the 6 layers of tiny nearly evenly, zero_stage 0, 1; "
            "nothing with pp 1, schedule zb-v has all of it, where pp is 1",
        ),
        (
            Fixed(schedule="zb-h1", zero_stage=2, pp=2),
            "stack 'shardwright' runs zb-h1 with zero_stage 0, 1, not 2; give one of these, or schedule 1f1b",
        ),
        (
            Fixed(schedule="v-min", recompute="full", pp=2),
            "stack 'shardwright' runs v-min with recompute none, not full; give that, or schedule 1f1b",
        ),
        (
            Fixed(schedule="zb-2p", stages_per_rank=2, pp=2),
            "zb-2p runs one stage on each rank and stages_per_rank is 2; give 1, or interleaved-1f1b",
        ),
        (Fixed(schedule="interleaved-1f1b", pp=1), "interleaved-1f1b needs pp of 2 or more"),
        (
            Fixed(pp=2, stages_per_rank=4, even_stages=True),
            "pp 2 x stages_per_rank 4 divides the 6 layers of tiny only with a layer each for embedding and head, which stack "
            "'shardwright' does not count; plan with --stack megatron-core",
        ),
        (
            Fixed(micro_batch=32, pp=4, tp=2, offload_optimizer=1, offload_gradients=1),
            "offload_gradients 1 keeps gradients on the host between the microbatches of one data-parallel rank",
        ),
        (
            Fixed(dp_shard=8, zero_stage=3, offload_optimizer=1, offload_parameters=1),
            "weights are streamed to one data-parallel rank, or to several with zero_stage 0; leave out one of them",
        ),
        (
            Fixed(even_stages=True, pp=4),
            "even_stages needs pp that divides the 6 layers of tiny, not 4; allowed: 1, 2, 3, 6",
        ),
    ],
)
def test_contradictions(fixed: Fixed, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        enumerate_space(_MODEL, tiny_cluster(devices=8), _TRAINING, fixed)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_batch_that_no_mesh_divides_names_the_nearest() -> None:
    training = TrainingSpec(seq_len=256, global_batch=7)
    with pytest.raises(
        SpecError, match=r"global batch 7 does not divide .* one of 8; the nearest batch that does is 8"
    ):
        enumerate_space(_MODEL, tiny_cluster(devices=8), training, Fixed(tp=1, pp=1))


def _cpu_cluster() -> ClusterSpec:
    cluster = tiny_cluster(devices=2)
    group = cluster.groups[0]
    cpu = group.device.model_copy(update={"kind": "cpu", "context_bytes": 0.0})
    return cluster.model_copy(update={"groups": (group.model_copy(update={"device": cpu}),)})


_EXPERTS = tiny_model(layers=6, experts=4)


def test_experts_spread_over_what_divides_them() -> None:
    """4 experts over 8 ranks: ep 1, 2, 4; with tp 2 either what ep leaves of it or both ranks share an expert."""
    space = enumerate_space(_EXPERTS, tiny_cluster(devices=8), _TRAINING)
    assert set(space.column("ep")) == {1, 2, 4}
    pairs = {
        (int(ep), int(etp)) for ep, etp, tp in zip(*map(space.column, ("ep", "etp", "tp")), strict=True) if tp == 2
    }
    assert pairs == {(1, 0), (2, 0), (2, 2), (4, 0), (4, 2)}
    assert set(enumerate_space(_MODEL, tiny_cluster(devices=8), _TRAINING).column("ep")) == {1}


def test_context_is_cut_where_a_rank_keeps_2048_tokens() -> None:
    long = TrainingSpec(seq_len=8192, global_batch=8)
    space = enumerate_space(_MODEL, tiny_cluster(devices=8), long)
    assert set(space.column("cp")) == {1, 2, 4}
    assert set(space.column("context_parallel")[space.column("cp") > 1]) == {0, 1, 2, 3}
    assert set(space.column("context_parallel")[space.column("cp") == 1]) == {0}
    assert set(space.column("micro_batch")[space.column("cp") > 1]) == {1}
    assert set(enumerate_space(_MODEL, tiny_cluster(devices=8), long, Fixed(cp=8)).column("cp")) == {8}


def test_heads_are_traded_by_as_many_ranks_as_whole_kv_heads_and_a_node_allow() -> None:
    """8 KV heads: 8 ranks of a node of 8; 4 where tp is 2, where a node has 4, or where cp is 8; none of two."""
    block = Block(
        attention=MultiHeadAttention(heads=16, kv_heads=8, head_size=64), ffn=FeedForward(width=512, gated=True)
    )
    model = ModelSpec(
        name="m", family="llama", hidden_size=256, vocab_size=1000, blocks=(BlockRun(count=2, block=block),)
    )
    long = TrainingSpec(seq_len=2**17, global_batch=8)
    for tp, cp, per_node, degrees in ((1, 32, 8, {8}), (2, 32, 8, {4}), (1, 32, 4, {4}), (1, 8, 8, {4})):
        cluster = tiny_cluster(devices=64, devices_per_node=per_node)
        fixed = Fixed(tp=tp, cp=cp, context_parallel="ulysses-ring")
        assert set(enumerate_space(model, cluster, long, fixed).column("ulysses_degree")) == degrees
    with pytest.raises(SpecError, match="ulysses-ring needs a number of ranks from 2 on, fewer than cp"):
        enumerate_space(model, tiny_cluster(devices=64), long, Fixed(cp=2, context_parallel="ulysses-ring"))
    fixed = Fixed(cp=16, ulysses_degree=2)
    space = enumerate_space(model, tiny_cluster(devices=64, devices_per_node=8), long, fixed)
    assert set(space.column("context_parallel")) == {CONTEXT_PARALLEL.index("ulysses-ring")}
    assert set(space.column("ulysses_degree")) == {2}


@pytest.mark.parametrize(
    ("fixed", "why"),
    [
        (Fixed(cp=8, ulysses_degree=3), r"ulysses_degree 3 needs .* divides cp 8; allowed: 2"),
        (Fixed(cp=8, ulysses_degree=2, context_parallel="ring"), "belongs to context_parallel ulysses-ring, not ring"),
        (Fixed(ulysses_degree=5), "ulysses_degree 5 needs .* allowed: 2"),
    ],
)
def test_heads_that_cannot_be_traded_are_named(fixed: Fixed, why: str) -> None:
    with pytest.raises(SpecError, match=why):
        enumerate_space(_MODEL, tiny_cluster(devices=8), TrainingSpec(seq_len=16384, global_batch=8), fixed)


@pytest.mark.parametrize(
    ("stack", "name", "values"),
    [
        ("fsdp", "pp", {1}),
        ("fsdp", "tp", {1}),
        ("fsdp", "cp", {1}),
        ("fsdp", "ep", {1}),
        ("fsdp", "zero_stage", {0, 2, 3}),
        ("megatron-deepspeed", "schedule", {SCHEDULES.index("1f1b")}),
        ("nanotron", "schedule", {SCHEDULES.index("1f1b"), SCHEDULES.index("gpipe")}),
        ("megatron-lm", "zero_stage", {0, 1}),
        ("megatron-lm", "offload_optimizer", {0}),
        ("hf-deepspeed", "context_parallel", {CONTEXT_PARALLEL.index("ulysses")}),
        ("megatron-core", "expert_dispatch", {0, 1}),
        ("shardwright", "expert_dispatch", {0}),
    ],
)
def test_what_a_stack_runs_bounds_the_space(stack: str, name: str, values: set[int]) -> None:
    training = TrainingSpec(seq_len=8192, global_batch=8, stack=stack)
    assert set(enumerate_space(_EXPERTS, tiny_cluster(devices=8), training).column(name)) == values


def test_a_degree_of_cp_that_one_kind_can_cut_is_searched() -> None:
    """All-gather and ring cut 12 tokens into 2 cp chunks, so cp 4 divides under Ulysses alone."""
    short, ring = TrainingSpec(seq_len=12, global_batch=8), Fixed(cp=4, context_parallel="ring")
    space = enumerate_space(_MODEL, tiny_cluster(devices=4), short, Fixed(cp=4))
    assert set(space.column("context_parallel")) == {CONTEXT_PARALLEL.index("ulysses")}
    with pytest.raises(SpecError, match=r"cp 4 \(ring\) cuts a sequence into 8 parts"):
        enumerate_space(_MODEL, tiny_cluster(devices=4), short, ring)


def test_a_degree_of_tp_that_divides_no_heads_is_named_for_experts_too() -> None:
    with pytest.raises(SpecError, match="tp 4 does not divide the 2 KV heads"):
        enumerate_space(_EXPERTS, tiny_cluster(devices=4), _TRAINING, Fixed(tp=4))


def test_ep_may_be_fixed_without_its_tensor_parallelism() -> None:
    """The same pairs as where ep is open."""
    space = enumerate_space(_EXPERTS, tiny_cluster(devices=4), _TRAINING, Fixed(ep=2, tp=2))
    assert set(space.column("etp")) == {0, 2}


@pytest.mark.parametrize(
    "shared",
    [
        Fixed(vocabulary_parallel="vocab-2", pp=3, even_stages=True),
        Fixed(context_parallel="ulysses-ring", dp_shard=8, pp=2),
    ],
)
def test_the_reason_is_another_where_nothing_divides_without_the_choice(shared: Fixed) -> None:
    """Three stages of four layers are not even; sixteen ranks are more than there are."""
    free = shared.but(vocabulary_parallel=None, context_parallel=None)
    cluster, training = tiny_cluster(devices=6 if shared.pp == 3 else 8), TrainingSpec(seq_len=64, global_batch=24)
    reasons = []
    for fixed in (shared, free):
        with pytest.raises(SpecError) as refused:
            enumerate_space(tiny_model(layers=4), cluster, training, fixed)
        reasons.append(str(refused.value))
    assert reasons[0] == reasons[1]


def test_the_own_executor_streams_no_weights_that_ranks_shard() -> None:
    own = TrainingSpec(seq_len=16, global_batch=8)
    other = own.model_copy(update={"stack": "megatron-core"})
    streamed = Placement(optimizer=1, parameters=0.5)
    assert _can_be_placed(streamed, 0, 2, own, alone=False)
    for zero_stage in (1, 2):
        assert not _can_be_placed(streamed, zero_stage, 2, own, alone=False)
        assert _can_be_placed(streamed, zero_stage, 2, own, alone=True)
        assert _can_be_placed(streamed, zero_stage, 2, other, alone=False)
    assert not _can_be_placed(streamed, 3, 2, other, alone=False)
    frozen = other.model_copy(update={"trainable": Trainable(kind="lora", rank=4, targets=("attention",))})
    assert not _can_be_placed(streamed, 0, 2, frozen, alone=True)
