"""State, work and exchanges of each optimizer, worked out by hand for a small layer, and passes counted in torch's own steps."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from shardwright.base.errors import SpecError
from shardwright.costmodel.optimizers import (
    deal,
    factor_seconds,
    imbalance,
    layer_matrices,
    moved_bytes_per_element,
    work_of,
)
from shardwright.costmodel.optimizers.checks import check_optimizer
from shardwright.costmodel.optimizers.matrices import Matrix
from shardwright.costmodel.tables.build import build_tables
from shardwright.costmodel.tables.cost_tables import CostTables
from shardwright.specs.optimizers import Optimizer
from shardwright.specs.training import Precision, TrainingSpec
from tests.costmodel.fakes import RoundTimes, small_experts, small_model
from tests.costmodel.layers.test_counted_traffic import _Traffic
from tests.specs.test_candidates import candidates

MODEL = small_model()
MATRICES = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128
LAYER = MATRICES + 2 * 64  # and two norms
HEAD = EMBEDDING = 1000 * 64


def tables(optimizer: str, **degrees: float) -> CostTables:
    given = {"seq_len": 128, "global_batch": 64, "optimizer": optimizer}
    training = TrainingSpec.parse(given, source="job")
    degrees.setdefault("offload_optimizer", 0)
    return build_tables(MODEL, training, candidates(**degrees), RoundTimes())


def test_the_matrices_of_a_layer() -> None:
    found = layer_matrices(MODEL.layer_classes[0], 64)
    assert found == (
        *((64, 64, True), (32, 64, True), (32, 64, True), (64, 64, True)),
        *((128, 64, True), (128, 64, True), (64, 128, True)),
    )
    assert sum(matrix.elements for matrix in found) == MATRICES


@pytest.mark.parametrize(
    ("optimizer", "state_bytes"),
    [
        ("adamw", 8 * LAYER),
        ("sgd", 0),
        ("sgd:momentum=0.9", 4 * LAYER),
        ("lion", 4 * LAYER),
        ("adamw8bit", 2 * (1 + 4 / 256) * LAYER),
        ("muon", 4 * MATRICES + 8 * 128),
        ("adafactor", 4 * (2 * 128 + 2 * 96 + 3 * 192) + 0),
        ("soap:max_size=100", 4 * (2 * MATRICES + 2 * (2 * (4096 + 4096) + 2 * (1024 + 4096) + 3 * 4096)) + 8 * 128),
        ("galore:rank=8", 4 * (2 * 1536 + 2 * 1280 + 3 * 2560) + 8 * 128),  # s r + 2 r l
        (
            "galore:rank=8,bits=8",
            4 * (2 * 512 + 2 * 256 + 3 * 512) + (1 + 4 / 256) * 2 * 8 * (4 * 64 + 3 * 128) + 8 * 128,
        ),
        ("frugal:rank=8", 4 * (2 * 1536 + 2 * 1280 + 3 * 2560) + 8 * 128),
        ("cosmos:rank=8", 4 * (MATRICES + 8 * 2 * 512 + 7 * 8 * 8) + 8 * 128),
        ("sinkgd", 8 * 128),
    ],
)
def test_bytes_of_state(optimizer: str, state_bytes: float) -> None:
    state = tables(optimizer).static.optimizer_state[0]
    if optimizer == "adafactor":
        assert state[1] == pytest.approx(
            4 * (1000 + 64)
        )  # of the embedding; norms have no matrix, and their state is left out
    assert state[0] == pytest.approx(state_bytes)


def test_shards_and_tp_share_the_state_of_whole_matrices() -> None:
    """Four layers are 8 matrices of 4096, 8 of 2048 and 12 of 8192 elements. Over two ranks they are dealt evenly."""
    found = tables("muon", dp_shard=2, zero_stage=1).static.optimizer_state[0, 0]
    assert found == pytest.approx((4 * MATRICES + 8 * 128) / 2)
    over_tp = tables("muon", tp=2).static.optimizer_state[0, 0]
    assert over_tp == pytest.approx(4 * MATRICES / 2 + 8 * 128)  # norms are whole on every rank of tp


def test_newton_schulz_by_hand() -> None:
    """5 (4 s^2 l + 2 s^3) FLOPs of each matrix; a TFLOP takes the round device a second, and memory is free."""
    flops = 2 * 5 * 6 * 64**3 + 2 * 5 * (4 * 32**2 * 64 + 2 * 32**3) + 3 * 5 * (4 * 64**2 * 128 + 2 * 64**3)
    assert flops == 58_327_040
    one = tables("muon").optimizer_seconds[0, 0]
    assert one == pytest.approx(flops * 1e-12)
    assert tables("muon:steps=10").optimizer_seconds[0, 0] == pytest.approx(2 * one)
    assert tables("muon", dp_shard=2, zero_stage=1).optimizer_seconds[0, 0] == pytest.approx(one / 2)
    assert tables("muon", dp_replicate=2).optimizer_seconds[0, 0] == pytest.approx(one)  # replicas do the same


def test_a_decomposition_comes_once_a_period() -> None:
    """6 l s^2 + 20 s^3 FLOPs at 4% of 10 TFLOP/s in fp32, every 200 steps; two products of 2 s l r in each."""
    matrix = Matrix(64, 128)
    work = work_of(Optimizer.model_validate("galore:rank=8"), matrix, 4)
    assert work.factor_flops == (6 * 128 * 64**2 + 20 * 64**3) / 200
    assert factor_seconds(4e11, RoundTimes()) == pytest.approx(1.0)
    assert sum(count * m * k * n for count, (m, k, n) in work.matmuls) == 2 * 64 * 128 * 8


@pytest.mark.parametrize(
    ("degrees", "over_shards", "over_tp"),
    [
        (dict(), 0, 0),
        (dict(dp_shard=8, zero_stage=1), 2 * 4 * MATRICES / 8, 0),
        (dict(tp=2), 0, 2 * 4 * MATRICES / 2),
        (dict(dp_shard=4, tp=2, zero_stage=3), 2 * 4 * MATRICES / 8, 2 * 4 * MATRICES / 8),
        (dict(dp_shard=4, dp_replicate=2, zero_stage=1), 2 * 4 * MATRICES / 4, 0),
    ],
)
def test_bytes_of_the_exchanges(degrees: dict[str, float], over_shards: float, over_tp: float) -> None:
    """A gigabyte of a collective takes the round network a second. SGD has all but the exchanges."""
    with_them, without = tables("muon", **degrees).last_backward, tables("sgd", **degrees).last_backward
    assert (with_them.data_parallel - without.data_parallel)[0, 0, 0] == pytest.approx(over_shards * 1e-9)
    assert (with_them.tensor_parallel - without.tensor_parallel)[0, 0, 0] == pytest.approx(over_tp * 1e-9)


def test_temporaries_are_those_of_the_largest_matrix() -> None:
    """Gradient, update, and what a round sends and receives in fp32, Nesterov's sum, and bf16: the matrix twice and two of 64 x 64."""
    window = tables("muon").static.step_window[0]
    assert window[0] == 5 * 4 * 64 * 128 + 2 * (2 * 64 * 128 + 2 * 64 * 64)
    assert window[1:].tolist() == [0, 0]
    assert tables("adamw").static.step_window.max() == 0


def test_matrices_are_dealt_in_rounds() -> None:
    assert deal([2, 8, 4, 4], 2) == [(1, 0), (0, 0), (0, 1), (1, 1)]
    assert imbalance((2, 8, 4, 4), 2) == pytest.approx(10 / 9)
    assert imbalance((1, 1), 4) == 2  # two ranks of four have nothing to do


_MOVED: list[tuple[str, Callable[[Any], torch.optim.Optimizer], float]] = [
    ("sgd:momentum=0.9", lambda own: torch.optim.SGD(own, lr=0.1, momentum=0.9, foreach=True), 8),
    ("adafactor", lambda own: torch.optim.Adafactor(own, lr=0.1, weight_decay=0), 16),
    ("muon", lambda own: torch.optim.Muon(own, lr=0.1, weight_decay=0, ns_steps=0), 13.5),
]


@pytest.mark.parametrize(("optimizer", "build", "passes"), _MOVED)
def test_a_step_moves_what_its_kernels_move(
    optimizer: str, build: Callable[[Any], torch.optim.Optimizer], passes: float
) -> None:
    weight = torch.nn.Parameter(torch.randn(256, 384))
    built = build([weight])
    for _ in range(2):
        weight.grad = torch.randn(256, 384)
        with _Traffic() as step:
            built.step()
    assert step.moved / (4 * weight.numel()) == pytest.approx(passes, rel=0.01)
    method = Optimizer.model_validate(optimizer)
    stack = TrainingSpec(seq_len=1, global_batch=1).software
    said = (
        work_of(method, Matrix(256, 384), 4).passes
        if method.whole_matrix
        else moved_bytes_per_element(method, 4, stack) / 4
    )
    assert said == passes


def test_lion_moves_what_its_kernels_move() -> None:
    package = pytest.importorskip("pytorch_optimizer")
    weight = torch.nn.Parameter(torch.randn(256, 384))
    built = package.Lion([weight], weight_decay=0.1)
    for _ in range(2):
        weight.grad = torch.randn(256, 384)
        with _Traffic() as step:
            built.step()
    assert step.moved / (4 * weight.numel()) == pytest.approx(13, rel=0.01)


def test_experts_are_refused_by_name() -> None:
    with pytest.raises(SpecError, match="stacked ones of the experts of small experts"):
        check_optimizer(small_experts(), TrainingSpec(seq_len=1, global_batch=1, optimizer="muon"))
    check_optimizer(small_experts(), TrainingSpec(seq_len=1, global_batch=1, optimizer="lion"))


def test_states_in_bf16_are_half() -> None:
    training = TrainingSpec(seq_len=128, global_batch=64, optimizer="lion", precision=Precision(parameters="bf16"))
    found = build_tables(MODEL, training, candidates(offload_optimizer=0), RoundTimes())
    assert np.isclose(found.static.optimizer_state[0, 0], 2 * LAYER)
