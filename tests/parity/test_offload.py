"""A plan with shares off the device trains as the same plan without, bit for bit, and the comparison notices when it does not."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.offload.fetching import Fetcher
from shardwright.executor.offload.shards import Shard
from shardwright.specs.plan import Plan
from tests.parity.cases import layers, model_config, plan, plan_file
from tests.parity.families import FAMILIES
from tests.parity.faults_of_offload import (
    bring_up_before_the_way_down,
    drop_a_bucket,
    evaluate_before_the_update,
    fetch_before_the_update,
    forget_earlier_microbatches,
    forget_the_clipping,
    keep_stale_parameters,
    leave_state_behind,
    lose_the_front_of_activations,
    mix_up_streamed_values,
    overwrite_gradients_on_their_way,
    replace_by,
    update_before_the_gradient,
)
from tests.parity.offload import Trained, offloaded, train
from tests.parity.worlds import run_again, run_in_turn, run_world

# so large that every place holds whole pages of it under every mesh
LLAMA = model_config("llama", layers=4, hidden_size=64, intermediate_size=96, vocab_size=1031)
# so are its adapters
LLAMA_256 = model_config("llama", layers=4, hidden_size=256, intermediate_size=384, head_dim=64)
QWEN3_TIED = model_config("qwen3", layers=4, tied=True, vocab_size=1031)

MESHES = {
    "fsdp": plan((layers(4, zero=3),), dp_shard=2),
    "tp x fsdp": plan((layers(2, zero=2), layers(2, zero=3)), dp_shard=2, tp=2),
    "pp x fsdp": plan((layers(2, zero=3),), (layers(2, zero=1),), pp=2, dp_shard=2),
}
FRACTIONS = (0.25, 0.5, 1)


def adamw(config: dict[str, Any], of: Plan, *, activation_offload_layers: int = 0, **given: Any) -> PlanFile:
    file = plan_file(config, of, **given)
    changes = {"optimizer": "adamw", "activation_offload_layers": activation_offload_layers}
    return file.model_copy(update={"training": file.training.model_copy(update=changes)})


def runs(
    file: PlanFile, clip_norm: float | None, folder: Path, fault: Callable[[], None] | None = None
) -> list[Trained]:
    return run_again(file.plan.mesh.ranks, train, file, clip_norm, folder, fault)


def differing(own: Sequence[Trained], other: Sequence[Trained]) -> list[str]:
    """Names of the shards that differ in any bit."""
    assert all(mine.shards.keys() == theirs.shards.keys() for mine, theirs in zip(own, other, strict=True))
    return [
        name
        for mine, theirs in zip(own, other, strict=True)
        for name, value in mine.shards.items()
        if not torch.equal(value, theirs.shards[name])
    ]


def assert_same(own: Sequence[Trained], other: Sequence[Trained]) -> None:
    assert differing(own, other) == []
    for mine, theirs in zip(own, other, strict=True):
        assert mine.losses == theirs.losses
        assert mine.norms == theirs.norms


Without = Callable[[PlanFile, float | None], list[Trained]]


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Without:
    """The run of a plan without offload, trained once."""
    done: dict[tuple[str, float | None], list[Trained]] = {}

    def of(file: PlanFile, clip_norm: float | None) -> list[Trained]:
        key = file.model_dump_json(), clip_norm
        if key not in done:
            done[key] = runs(file, clip_norm, tmp_path_factory.mktemp("without"))
        return done[key]

    return of


SHARES: dict[str, tuple[float, int, float | None]] = {
    f"{fraction}-{place}-{'beside the backward' if clip_norm is None else f'clipped to {clip_norm}'}": (
        fraction,
        nvme,
        clip_norm,
    )
    for nvme, place in enumerate(("host", "nvme"))
    for fraction, clip_norm in [*((fraction, None) for fraction in FRACTIONS), (0.5, 0.5)]
}


@pytest.fixture(scope="module")
def with_shares(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], dict[str, list[Trained]]]:
    """The runs of a mesh with its optimizer on the host or on drives, in one world."""

    @cache
    def of(mesh: str, nvme: int) -> dict[str, list[Trained]]:
        given = {
            name: (
                offloaded(adamw(LLAMA, MESHES[mesh]), optimizer_fraction=fraction, nvme_fraction=nvme),
                clip_norm,
                tmp_path_factory.mktemp("with"),
            )
            for name, (fraction, place, clip_norm) in SHARES.items()
            if place == nvme
        }
        return run_in_turn(MESHES[mesh].mesh.ranks, train, given)

    return of


@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize("mesh", MESHES)
def test_a_share_of_the_optimizer(
    mesh: str, shares: str, without: Without, with_shares: Callable[[str, int], dict[str, list[Trained]]]
) -> None:
    _, nvme, clip_norm = SHARES[shares]
    own = with_shares(mesh, nvme)[shares]
    assert_same(own, without(adamw(LLAMA, MESHES[mesh]), clip_norm))
    for rank in own:
        assert rank.held["optimizer_state", "nvme" if nvme else "host"] > 0
        assert rank.host_peak_bytes <= rank.host_limit_bytes


class Case(NamedTuple):
    """A plan file, and the shares of it that leave the device."""

    plan_file: PlanFile
    shares: dict[str, float]


CASES = {
    "half of it on drives": Case(adamw(LLAMA, MESHES["fsdp"]), {"optimizer_fraction": 1, "nvme_fraction": 0.5}),
    "odd share": Case(adamw(LLAMA, MESHES["fsdp"]), {"optimizer_fraction": 0.37}),
    "uneven shards": Case(
        adamw({**LLAMA, "vocab_size": 1033}, plan((layers(4, zero=3),), dp_shard=4)), {"optimizer_fraction": 1}
    ),
    "replicas": Case(adamw(LLAMA, plan((layers(4),), dp_replicate=2)), {"optimizer_fraction": 0.5}),
    "hsdp": Case(adamw(LLAMA, plan((layers(4, zero=2),), dp_replicate=2, dp_shard=2)), {"optimizer_fraction": 0.5}),
    "bf16": Case(adamw(LLAMA, MESHES["fsdp"], compute="bf16"), {"optimizer_fraction": 0.5}),
    "split backward": Case(
        adamw(LLAMA, plan((layers(2),), (layers(2),), pp=2, microbatches=4, schedule="zb-h1")),
        {"optimizer_fraction": 0.5},
    ),
    "tied embedding on two stages": Case(
        adamw(QWEN3_TIED, plan((layers(2, zero=3),), (layers(2, zero=3),), pp=2, dp_shard=2, microbatches=4)),
        {"optimizer_fraction": 1},
    ),
    "tied embedding on one": Case(adamw(QWEN3_TIED, plan((layers(4),))), {"optimizer_fraction": 0.5}),
    "experts": Case(
        adamw(FAMILIES["qwen3_moe"], plan((layers(zero=3),), dp_shard=2, ep=2)), {"optimizer_fraction": 0.5}
    ),
    "gradients": Case(
        adamw(LLAMA, plan((layers(4),), microbatches=4)), {"optimizer_fraction": 0.5, "gradient_fraction": 0.5}
    ),
    "streamed weights": Case(adamw(LLAMA, plan((layers(4),))), {"optimizer_fraction": 1, "parameter_fraction": 1}),
    "half of the weights streamed from drives": Case(
        adamw(LLAMA, plan((layers(4, recompute="full"),), microbatches=4)),
        {"optimizer_fraction": 1, "gradient_fraction": 1, "parameter_fraction": 0.5, "nvme_fraction": 1},
    ),
    "streamed weights, replicas": Case(
        adamw(LLAMA, plan((layers(4),), dp_replicate=2, cp=2)), {"optimizer_fraction": 1, "parameter_fraction": 0.5}
    ),
    "streamed weights, pp x tp": Case(
        adamw(LLAMA, plan((layers(2),), (layers(2),), pp=2, tp=2)), {"optimizer_fraction": 1, "parameter_fraction": 1}
    ),
    "adapters": Case(
        adamw(LLAMA_256, plan((layers(4, zero=2),), dp_shard=2), trainable="lora:r=16"), {"optimizer_fraction": 0.5}
    ),
    "adapters, gradients, drives": Case(
        adamw(LLAMA_256, plan((layers(4),), microbatches=4), trainable="lora:r=16"),
        {"optimizer_fraction": 1, "gradient_fraction": 1, "nvme_fraction": 0.5},
    ),
    "last layers": Case(
        adamw(LLAMA, plan((layers(2, zero=3),), (layers(2, zero=3),), pp=2, dp_shard=2), trainable="layers:3"),
        {"optimizer_fraction": 0.5},
    ),
    "activations": Case(adamw(LLAMA, plan((layers(4),))), {"activations": 1}),
    "half of the activations": Case(adamw(LLAMA, MESHES["fsdp"]), {"activations": 0.5}),
    "activations, gpt2": Case(adamw(model_config("gpt2", layers=4), plan((layers(4),))), {"activations": 1}),
    "activations, experts": Case(
        adamw(FAMILIES["qwen3_moe"], plan((layers(zero=3),), dp_shard=2, ep=2)), {"activations": 1}
    ),
    "activations, selective recompute": Case(
        adamw(LLAMA, plan((layers(4, recompute="selective"),)), attention="unfused"), {"activations": 1}
    ),
    "activations of two layers": Case(
        adamw(LLAMA, plan((layers(2),), (layers(2),), pp=2), activation_offload_layers=1), {}
    ),
    "checkpoints of recomputed layers": Case(
        adamw(LLAMA, plan((layers(4, zero=3, recompute="full"),), dp_shard=2)), {"activations": 1}
    ),
    "everything, pp x tp": Case(
        adamw(LLAMA, plan((layers(2),), (layers(2),), pp=2, tp=2, microbatches=4)),
        {"activations": 0.75, "optimizer_fraction": 1, "parameter_fraction": 1, "nvme_fraction": 0.5},
    ),
}


CLIPPED = {name: (None, 0.5)[turn % 2] for turn, name in enumerate(CASES)}
# a world serves several in turn
IN_TURN = sorted(CLIPPED.items(), key=lambda of: CASES[of[0]].plan_file.plan.mesh.ranks)


@pytest.mark.parametrize(("name", "clip_norm"), IN_TURN)
def test_other_shares(name: str, clip_norm: float | None, without: Without, tmp_path: Path) -> None:
    case = CASES[name]
    own = runs(offloaded(case.plan_file, **case.shares), clip_norm, tmp_path)
    changes = {"activation_offload_layers": 0}
    alone = case.plan_file.model_copy(update={"training": case.plan_file.training.model_copy(update=changes)})
    assert_same(own, without(alone, clip_norm))
    for rank in own:
        assert 0 < rank.host_peak_bytes <= rank.host_limit_bytes


def test_gradients_that_tp_sums_after_each_microbatch_agree_to_rounding(without: Without, tmp_path: Path) -> None:
    """Without offload, tp sums its parts of the microbatches' sum: another order of additions."""
    file = adamw(LLAMA, plan((layers(2),), (layers(2),), pp=2, tp=2, microbatches=4))
    own = runs(offloaded(file, optimizer_fraction=1, gradient_fraction=1), None, tmp_path)
    for mine, theirs in zip(own, without(file, None), strict=True):
        assert mine.losses == pytest.approx(theirs.losses, rel=1e-5)
        assert mine.norms == pytest.approx(theirs.norms, rel=1e-5)


EVALUATED = ("half of the weights streamed from drives", "everything, pp x tp")


@pytest.mark.parametrize("name", EVALUATED)
def test_evaluation_beside_shares_off_the_device(name: str, tmp_path: Path) -> None:
    """Its losses, and the updates around it, are those without offload; every step brings its parameters up in the same order."""
    case = CASES[name]
    own, alone = (
        run_again(file.plan.mesh.ranks, train, file, None, tmp_path, None, True)
        for file in (offloaded(case.plan_file, **case.shares), case.plan_file)
    )
    assert_same(own, alone)


def test_an_evaluation_with_parameters_of_before_the_update_shows(tmp_path: Path) -> None:
    case = CASES["half of the weights streamed from drives"]
    own, alone = (
        run_again(1, train, file, 0.5, tmp_path, fault, True)[0]
        for file, fault in (
            (offloaded(case.plan_file, **case.shares), evaluate_before_the_update),
            (case.plan_file, None),
        )
    )
    assert own.losses[0] == alone.losses[0]
    assert own.losses[1:3] != alone.losses[1:3]


FAULTS: list[tuple[str, float | None, Callable[[], None]]] = [
    ("odd share", None, drop_a_bucket),
    ("odd share", 0.5, drop_a_bucket),
    ("odd share", None, keep_stale_parameters),
    ("odd share", 0.5, fetch_before_the_update),
    ("odd share", None, fetch_before_the_update),
    ("odd share", None, update_before_the_gradient),
    ("replicas", 0.5, overwrite_gradients_on_their_way),
    ("odd share", 0.5, forget_the_clipping),
    ("odd share", None, forget_earlier_microbatches),
    ("gradients", None, forget_earlier_microbatches),
    ("streamed weights", None, mix_up_streamed_values),
    ("streamed weights, replicas", None, mix_up_streamed_values),
    ("adapters", 0.5, drop_a_bucket),
    ("streamed weights", None, keep_stale_parameters),
    ("half of it on drives", None, leave_state_behind),
    ("activations", None, lose_the_front_of_activations),
    ("half of the activations", None, lose_the_front_of_activations),
    ("checkpoints of recomputed layers", None, lose_the_front_of_activations),
    ("activations", None, bring_up_before_the_way_down),
]


@pytest.mark.parametrize(
    ("name", "clip_norm", "fault"),
    FAULTS,
    ids=[f"{name}: {fault.__name__}{'' if clip is None else ', clipped'}" for name, clip, fault in FAULTS],
)
def test_a_fault_shows(
    name: str, clip_norm: float | None, fault: Callable[[], None], without: Without, tmp_path: Path
) -> None:
    case = CASES[name]
    own = runs(offloaded(case.plan_file, **case.shares), clip_norm, tmp_path, fault)
    assert differing(own, without(case.plan_file, clip_norm))


def gathered_peak_bytes(file: PlanFile, folder: Path) -> int:
    """The most bytes of gathered parameters at once, in one rank's steps."""
    peak = 0

    def watched(start: Any) -> Any:
        def remember(self: Fetcher, sources: Any, **given: Any) -> None:
            start(self, sources, **given)
            fetch, outputs = self.fetch, [shard._fsdp_parameter for shard in sources]

            def watch(shard: Shard) -> Tensor:
                nonlocal peak
                sizes = (tensor.untyped_storage().nbytes() for held in outputs for tensor in held.all_gather_outputs)
                peak = max(peak, sum(sizes))
                return fetch(shard)

            setattr(self, "fetch", watch)  # noqa: B010  # a method, in this process

        return remember

    replace_by(Fetcher, "__init__", watched)
    train(file, None, folder)
    return peak


def test_streamed_layers_leave_the_device(tmp_path: Path) -> None:
    """Of eight layers two at most are there at once, beside embedding and head."""
    config = model_config("llama", layers=8, hidden_size=64, intermediate_size=96, vocab_size=259)
    file = adamw(config, plan((layers(8),)))
    stay, streamed = (
        run_world(1, gathered_peak_bytes, offloaded(file, optimizer_fraction=1, parameter_fraction=share), tmp_path)[0]
        for share in (0, 1)
    )
    ends = 4 * (2 * 259 * 64 + 64)
    layer = (stay - ends) / 8
    assert 0.9 < stay / (4 * 8 * (2 * 64 * 32 + 2 * 64 * 16 + 3 * 64 * 96 + 2 * 64) + ends) <= 1
    assert streamed <= ends + 2 * layer
