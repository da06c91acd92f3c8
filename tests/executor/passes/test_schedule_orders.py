"""Our schedules against the ones that torch's pipelining generates and runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardwright.costmodel.pipeline.schedule import make_schedule
from shardwright.specs.schedules import ScheduleName

schedules = pytest.importorskip("torch.distributed.pipelining.schedules", reason="torch is not installed")


class RecordingStage:
    """Stands where a stage of a torch schedule stands, and writes down what it is told to compute."""

    is_first = is_last = False
    has_backward = True

    def __init__(self, index: int) -> None:
        self.stage_index = index
        self.computed: list[str] = []

    def forward_one_chunk(self, microbatch: int, *args: object, **kwargs: object) -> None:
        self.computed.append(f"{self.stage_index}F{microbatch}")

    def backward_one_chunk(self, microbatch: int, **kwargs: object) -> None:
        self.computed.append(f"{self.stage_index}B{microbatch}")

    def perform_reduce_grad(self, divisor: int) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., list[Any]]:
        if name in ("get_fwd_recv_ops", "get_fwd_send_ops", "get_bwd_recv_ops", "get_bwd_send_ops"):
            return lambda microbatch: []
        raise AttributeError(name)


def what_torch_runs(class_name: str, rank: int, pp: int, microbatches: int) -> list[str]:
    """The order in which torch's single-stage runtime computes.

    Taken from the run, because `_get_pipeline_order` of torch 2.13's Schedule1F1B numbers the last rank's forwards from 1.
    """
    stage = RecordingStage(rank)
    running = object.__new__(getattr(schedules, class_name))
    running._stage, running._num_stages, running._n_microbatches = stage, pp, microbatches
    running._has_backward, running._loss_fn, running.scale_grads = True, None, False
    running._check_inputs = lambda *args: ([()] * microbatches, [{}] * microbatches)
    for ignored in ("_initialize_stage", "_maybe_compute_loss", "_maybe_get_loss", "_update_losses"):
        setattr(running, ignored, lambda *args: None)
    running._step_microbatches()
    return stage.computed


@pytest.mark.parametrize(("name", "class_name"), [("gpipe", "ScheduleGPipe"), ("1f1b", "Schedule1F1B")])
@pytest.mark.parametrize("pp", [1, 2, 3, 4, 8])
def test_gpipe_and_1f1b_are_what_torch_runs(name: ScheduleName, class_name: str, pp: int) -> None:
    for microbatches in (1, 2, 3, 4, 7, 8, 9, 32):
        for rank, order in enumerate(make_schedule(name, pp, 1, microbatches).orders):
            assert list(map(str, order)) == what_torch_runs(class_name, rank, pp, microbatches)


def torch_interleaved(pp: int, stages_per_rank: int, microbatches: int) -> dict[int, list[Any]]:
    generating = object.__new__(schedules.ScheduleInterleaved1F1B)
    generating.n_local_stages, generating.pp_group_size = stages_per_rank, pp
    generating._n_microbatches = microbatches
    generating.microbatches_per_round = microbatches // max(1, microbatches // pp)
    return {rank: generating._calculate_single_rank_operations(rank) for rank in range(pp)}


@pytest.mark.parametrize("pp", [2, 3, 4, 8])
@pytest.mark.parametrize("stages_per_rank", [2, 3, 4])
def test_interleaved_is_what_torch_generates(pp: int, stages_per_rank: int) -> None:
    for rounds in (1, 2, 3, 7):
        generated = torch_interleaved(pp, stages_per_rank, rounds * pp)
        for rank, order in enumerate(make_schedule("interleaved-1f1b", pp, stages_per_rank, rounds * pp).orders):
            assert list(map(str, order)) == [str(action) for action in generated[rank] if action]


@pytest.mark.parametrize("pp", [2, 3, 4])
@pytest.mark.parametrize("stages_per_rank", [2, 3])
def test_breadth_first_is_what_torch_generates(pp: int, stages_per_rank: int) -> None:
    for microbatches in (1, 3, 8):
        generating = object.__new__(schedules.ScheduleLoopedBFS)
        generating._stages, generating.pp_group_size = [None] * stages_per_rank, pp
        generating._n_microbatches = microbatches
        for rank, order in enumerate(make_schedule("breadth-first", pp, stages_per_rank, microbatches).orders):
            generated = generating._calculate_single_rank_operations(rank)
            assert list(map(str, order)) == [str(action) for action in generated if action]


def torch_zero_bubble(class_name: str, pp: int, stages_per_rank: int, microbatches: int) -> list[list[str]]:
    generating = object.__new__(getattr(schedules, class_name))
    generating.n_local_stages, generating.pp_group_size = stages_per_rank, pp
    generating.num_stages = generating._num_stages = pp * stages_per_rank
    generating._n_microbatches = microbatches
    generating.microbatches_per_round = microbatches // max(1, microbatches // pp)
    return [[str(a) for a in generating._calculate_single_rank_operations(rank) if a] for rank in range(pp)]


@pytest.mark.parametrize(
    ("name", "class_name", "stages_per_rank"),
    [
        ("zb-h1", "ScheduleInterleavedZeroBubble", 1),
        ("zb-v", "ScheduleZBVZeroBubble", 2),
        ("dualpipe-v", "ScheduleDualPipeV", 2),
    ],
)
@pytest.mark.parametrize("pp", [2, 3, 4, 8])
def test_zero_bubble_and_dualpipe_v_are_what_torch_generates(
    name: ScheduleName, class_name: str, stages_per_rank: int, pp: int
) -> None:
    for microbatches in (1, 3, 4, 2 * pp, 2 * pp + 1, 40):
        if name == "dualpipe-v" and microbatches < 2 * pp:
            continue
        orders = make_schedule(name, pp, stages_per_rank, microbatches).orders
        assert [list(map(str, order)) for order in orders] == torch_zero_bubble(
            class_name, pp, stages_per_rank, microbatches
        )


@pytest.mark.parametrize(
    ("name", "pp", "stages_per_rank", "microbatches"),
    [
        ("zb-h1", 4, 1, 6),
        ("zb-2p", 4, 1, 9),
        ("zb-2p", 4, 1, 3),
        ("zb-v", 3, 2, 7),
        ("v-half", 4, 2, 9),
        ("v-half", 5, 2, 2),
        ("v-min", 3, 2, 7),
        ("dualpipe-v", 4, 2, 9),
        ("gpipe", 2, 1, 3),
        ("1f1b", 4, 1, 6),
        ("interleaved-1f1b", 2, 3, 4),
        ("interleaved-1f1b", 4, 2, 8),
        ("breadth-first", 3, 2, 4),
    ],
)
def test_torch_reads_our_text_as_csv_and_finds_a_way_to_run_it(
    name: ScheduleName, pp: int, stages_per_rank: int, microbatches: int, tmp_path: Path
) -> None:
    schedule = make_schedule(name, pp, stages_per_rank, microbatches)
    file = tmp_path / "schedule.csv"
    file.write_text(str(schedule), encoding="utf-8")
    runtime = object.__new__(schedules._PipelineScheduleRuntime)
    runtime.pipeline_order = {}
    runtime.pp_group_size, runtime._num_stages, runtime._n_microbatches = pp, schedule.stages, microbatches
    runtime._stages, runtime._defer_pp_recv = [], False
    runtime._load_csv(str(file), "compute_only")
    assert runtime.stage_index_to_group_rank == schedule.rank_of_stage
    for rank, order in enumerate(schedule.orders):
        assert list(map(str, runtime.pipeline_order[rank])) == list(map(str, order))
    # torch's simulator knows messages and compute, not overlapped pairs nor the sharding of parameters
    without_sharding = {
        rank: [
            part
            for action in order
            for part in action.sub_actions or (action,)
            if part.computation_type.value not in ("UNSHARD", "RESHARD", "REDUCE_GRAD")
        ]
        for rank, order in runtime.pipeline_order_with_comms.items()
    }
    ran = schedules._simulate_comms_compute(without_sharding, schedule.rank_of_stage.__getitem__, schedule.stages)
    assert sorted(str(a) for order in ran.values() for a in order if a and a.is_compute_op) == sorted(
        map(str, schedule)
    )
