"""Meshes that fold, and what makes a plan consistent in itself."""

import pytest

from shardwright.base.errors import SpecError
from shardwright.specs.mesh import Mesh, experts_fold
from shardwright.specs.plan import LayerRun, Offload, Plan, Stage


def plan(*, zero_stage: int = 1, layers: tuple[int, ...] = (4,), **choices: object) -> Plan:
    stages = [
        {"layers": [LayerRun.parse({"count": count, "zero_stage": zero_stage}, source="test")] if count else []}
        for count in layers
    ]
    values: dict[str, object] = {"micro_batch": 1, "microbatches": 1, "stages": stages} | choices
    return Plan.parse(values, source="test")


@pytest.mark.parametrize(
    ("mesh", "expert_tp", "expert_shards"),
    [
        (Mesh(dp_shard=8, tp=4), 4, 8),  # ep 1: the mesh of the other layers
        (Mesh(dp_shard=8, tp=4, ep=2), 2, 8),  # half of tp splits columns, the other holds other experts
        (Mesh(dp_shard=8, tp=4, ep=4), 1, 8),
        (Mesh(dp_shard=8, tp=4, ep=32), 1, 1),
        (Mesh(dp_shard=2, cp=4, tp=2, ep=8), 1, 2),  # over cp, too
        (Mesh(dp_shard=8, tp=4, ep=4, etp=4), 4, 2),  # all of tp splits columns, and ep lies beyond it
        (Mesh(dp_shard=8, tp=4, ep=2, etp=1), 1, 16),
    ],
)
def test_experts_fold_into_the_ranks_of_shards_and_tp(mesh: Mesh, expert_tp: int, expert_shards: int) -> None:
    assert (mesh.expert_tp, mesh.expert_shard_ranks) == (expert_tp, expert_shards)
    assert mesh.ep * mesh.expert_tp * mesh.expert_shard_ranks == mesh.dp_shard * mesh.cp * mesh.tp


@pytest.mark.parametrize(
    ("degrees", "allowed"),
    [
        ({"dp_shard": 8, "tp": 2, "ep": 32}, "allowed: 1, 2, 4, 8, 16"),
        ({"dp_shard": 3, "tp": 4, "ep": 6}, "1, 2, 4, 12"),
        ({"dp_shard": 8, "tp": 4, "ep": 16, "etp": 4}, "ep must divide 8; allowed: 1, 2, 4, 8"),
        ({"dp_shard": 8, "tp": 4, "ep": 4, "etp": 3}, "etp 3 does not divide tp 4; allowed: 1, 2, 4"),
        ({"dp_shard": 8, "tp": 4, "etp": 4}, "ep is 1; set ep"),
    ],
)
def test_what_does_not_fold_names_what_does(degrees: dict[str, int], allowed: str) -> None:
    with pytest.raises(SpecError, match=allowed):
        Mesh.parse(degrees, source="test")


@pytest.mark.parametrize(
    ("degrees", "fits"),
    [
        ((32, 2, 32, 0), True),
        ((16, 2, 32, 0), False),
        ((32, 2, 32, 2), False),  # 64 ranks
        ((32, 4, 8, 4), True),
        ((32, 4, 8, 3), False),
        ((32, 4, 1, 4), False),
        ((12, 4, 6, 0), False),
    ],
)
def test_experts_fold_into_the_ranks_of_one_copy(degrees: tuple[int, int, int, int], fits: bool) -> None:
    """A mesh of these is valid exactly where they do."""
    block, tp, ep, etp = degrees
    assert experts_fold(*degrees) == fits
    given = {"dp_shard": block // tp, "tp": tp, "ep": ep, "etp": etp}
    if fits:
        assert Mesh.parse(given, source="test").ep == ep
    else:
        with pytest.raises(SpecError):
            Mesh.parse(given, source="test")


def test_experts_beside_tensor_parallelism_need_sequence_parallelism() -> None:
    mesh = Mesh(dp_shard=4, tp=2, ep=2)
    assert plan(mesh=mesh).mesh == mesh
    with pytest.raises(SpecError, match="every token 2 times"):
        plan(mesh=mesh, sequence_parallel=False)


def test_zero_shards_over_context_parallel_ranks_too() -> None:
    assert plan(mesh=Mesh(cp=8), zero_stage=3).mesh.shard_ranks == 8
    assert plan(mesh=Mesh(dp_replicate=2, cp=8), zero_stage=0).zero_stage == 0
    with pytest.raises(SpecError, match="dp_shard x cp of 2 or more"):
        plan(mesh=Mesh(dp_replicate=8), zero_stage=1)
    with pytest.raises(SpecError, match="0 needs dp_shard 1"):
        plan(mesh=Mesh(dp_shard=2, cp=2), zero_stage=0)


def test_only_the_ends_of_a_pipeline_may_hold_no_layer() -> None:
    pipeline = Mesh(pp=3, dp_shard=2)
    assert plan(mesh=pipeline, layers=(0, 4, 0)).layer_count == 4
    with pytest.raises(SpecError, match="stage 1 holds no layer"):
        plan(mesh=pipeline, layers=(2, 0, 2))
    with pytest.raises(SpecError, match="stage 0 holds no layer"):
        plan(mesh=Mesh(dp_shard=2), layers=(0,))
    assert Stage(layers=()).layer_count == 0


def test_the_interlaced_pipeline_is_refused_where_backwards_are_split() -> None:
    with pytest.raises(SpecError, match="not those of zb-h1; set 'vocab-1' or 'vocab-2', or schedule '1f1b'"):
        plan(mesh=Mesh(pp=2), zero_stage=0, layers=(2, 2), schedule="zb-h1", vocabulary_parallel="interlaced")


@pytest.mark.parametrize(
    ("written", "kind"), [(0, "none"), (1, "vocab-2"), (2, "vocab-1"), ("interlaced", "interlaced")]
)
def test_the_barriers_of_an_earlier_version_are_read(written: object, kind: str) -> None:
    assert plan(mesh={"pp": 2}, zero_stage=0, layers=(2, 2), vocabulary_parallel=written).vocabulary_parallel == kind


def test_one_rank_shares_no_vocabulary() -> None:
    with pytest.raises(
        SpecError, match="'vocab-2' splits embedding and head over the ranks of a pipeline, and pp is 1"
    ):
        plan(mesh={"dp_shard": 2}, vocabulary_parallel="vocab-2")


@pytest.mark.parametrize("written", [3, -1, 1.0, "vocab-3"])
def test_another_kind_of_vocabulary_parallelism_is_refused(written: object) -> None:
    with pytest.raises(SpecError, match="'none', 'vocab-1', 'vocab-2' or 'interlaced'"):
        plan(mesh={"dp_shard": 2}, vocabulary_parallel=written)


@pytest.mark.parametrize(
    ("offload", "mesh", "says"),
    [
        ({"optimizer_fraction": 0.5, "gradient_fraction": 0.75}, {}, "lower the first, or raise the second"),
        ({"nvme_fraction": 0.5}, {}, "optimizer_fraction is 0; set it, or leave nvme_fraction out"),
        ({"optimizer_fraction": 1.5}, {}, "less than or equal to 1"),
        (
            {"optimizer_fraction": 1, "gradient_fraction": 1},
            {"dp_shard": 2},
            "is for one data-parallel rank, and there are 2",
        ),
        (
            {"parameter_fraction": 0.5},
            {"dp_shard": 2},
            "zero_stage 3 shards them; leave it out, or set zero_stage to 2",
        ),
    ],
)
def test_shares_off_the_device_that_contradict_the_rest(
    offload: dict[str, float], mesh: dict[str, int], says: str
) -> None:
    layers = {"count": 1, "zero_stage": 3 if mesh else 0}
    with pytest.raises(SpecError, match=says):
        Plan.parse(
            {"mesh": mesh, "micro_batch": 1, "microbatches": 2, "stages": [{"layers": [layers]}], "offload": offload},
            source="t",
        )


def test_a_plan_says_in_words_what_leaves_the_device() -> None:
    offload = Offload(optimizer_fraction=1, gradient_fraction=0.5, parameter_fraction=0.25, nvme_fraction=1)
    assert (Offload().optimizer_place, Offload(optimizer_fraction=0.625).optimizer_place) == (
        "on the device",
        "62.5% on the host",
    )
    assert offload.others == [
        "50% of gradients on the host",
        "25% of the layers' weights streamed from the host",
        "its optimizer state on drives",
    ]
    runs = (LayerRun(count=3, activation_offload=0.5), LayerRun(count=1))
    plan = Plan(mesh=Mesh(), micro_batch=1, microbatches=1, stages=(Stage(layers=runs),))
    assert plan.activation_place == "in 3 of 4 layers 50% on the host"
