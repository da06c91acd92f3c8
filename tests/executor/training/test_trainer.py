"""The training loop in worlds of this machine's ranks, without torchrun."""

import json
import math
from pathlib import Path

import pytest
import torch.distributed as dist

from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.data.windows import Batches
from shardwright.executor.parallel import engine
from shardwright.executor.parallel.precision import LossScale
from shardwright.specs.plan import Plan
from shardwright.specs.results.estimate import Estimate, Interval, MemoryBytes, StepSeconds
from shardwright.specs.results.measurement import read_measurement
from tests.executor.runs import losses, options, text_file, tiny
from tests.parity.cases import layers, plan
from tests.parity.worlds import RankFailedError

ONE = plan((layers(),))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("data"))


def with_estimate(plan_file: PlanFile, *, model_flops: float) -> PlanFile:
    parts = dict.fromkeys(StepSeconds.model_fields, 0.25)
    sizes = dict.fromkeys(MemoryBytes.model_fields, 1.0)
    estimate = Estimate(
        step=StepSeconds(**parts),
        step_seconds_intervals=(Interval(level=0.8, low=1.0, high=3.0),),
        memory=(MemoryBytes(**sizes),),
        host_bytes=(0.0,),
        tokens_per_s=1.0,
        model_flops=model_flops,
        hardware_flops=model_flops,
        mfu=0.5,
        hfu=0.5,
        device_count=1,
        basis="catalog",
    )
    return plan_file.model_copy(update={"estimate": estimate})


def test_plans_see_the_same_data_and_take_the_same_steps(tmp_path: Path, data: Path) -> None:
    expected = losses(tiny(ONE), options(tmp_path / "one", data=data, steps=3, checkpoint_every=None))
    assert expected[0] == pytest.approx(math.log(259), rel=0.2)
    for name, other in {
        "ddp": plan((layers(),), dp_replicate=2),
        "tp": plan((layers(),), tp=2),
        "pp": plan((layers(1),), (layers(1),), pp=2, microbatches=4),
        "offload": plan((layers(zero=2),), dp_shard=2, offload=True),
    }.items():
        run = options(tmp_path / name, data=data, steps=3, checkpoint_every=None)
        assert losses(tiny(other), run) == pytest.approx(expected, abs=1e-5), name


def test_sgd_takes_the_same_steps_too(tmp_path: Path, data: Path) -> None:
    found = [
        losses(tiny(split, optimizer="sgd"), options(tmp_path / name, data=data, steps=3, checkpoint_every=None))
        for name, split in (("one", ONE), ("tp x fsdp", plan((layers(zero=3),), tp=2, dp_shard=2)))
    ]
    assert found[1] == pytest.approx(found[0], abs=1e-5)


def test_the_measurement_says_what_the_run_showed(tmp_path: Path, data: Path) -> None:
    plan_file = with_estimate(tiny(plan((layers(zero=3),), dp_shard=2)), model_flops=1e9)
    run = options(tmp_path / "run", data=data, steps=5, checkpoint_every=None, timing_warmup_steps=2)
    found = losses(plan_file, run)
    measured = read_measurement(run.out / "measurement.json")
    assert [record.loss for record in measured.steps] == found
    assert [record.step for record in measured.steps] == [1, 2, 3, 4, 5]
    assert measured.warmup_steps == 2
    timed = sorted(record.seconds for record in measured.steps[2:])
    assert measured.step_seconds == timed[1]
    assert timed[0] <= measured.step_seconds_low <= timed[1] <= measured.step_seconds_high <= timed[2]
    assert measured.tokens_per_s == pytest.approx(8 * 16 / timed[1])
    assert measured.mfu == pytest.approx(1e9 / (timed[1] * 2 * 1e11))
    assert measured.part_seconds.keys() == {"data", "forward_backward", "optimizer"}
    assert 0 < sum(measured.part_seconds.values()) < 1.5 * timed[2]
    assert measured.memory_kind == "resident"
    assert len(measured.peak_memory_bytes) == 2
    assert measured.baseline_memory_bytes is not None
    for peak, baseline in zip(measured.peak_memory_bytes, measured.baseline_memory_bytes, strict=True):
        assert 0 < baseline <= peak < 8e9


def test_every_step_is_on_disk_when_the_run_is_killed(tmp_path: Path, data: Path) -> None:
    run = options(tmp_path / "run", data=data, checkpoint_every=None)
    with pytest.raises(RankFailedError, match="Stopped"):
        losses(tiny(ONE), run, stop_after_step=4)
    records = [json.loads(line) for line in (run.out / "steps.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert not (run.out / "measurement.json").exists()


def test_without_clipping_the_norm_is_told_and_with_it_the_step_is_smaller(tmp_path: Path, data: Path) -> None:
    plan_file = tiny(ONE, optimizer="sgd")
    common = {"steps": 2, "checkpoint_every": None, "learning_rate": 0.5, "weight_decay": 0.0}
    free = losses(plan_file, options(tmp_path / "free", data=data, clip_norm=None, **common))
    clipped = losses(plan_file, options(tmp_path / "clipped", data=data, clip_norm=1e-4, **common))
    norms = [
        read_measurement(tmp_path / name / "measurement.json").steps[0].gradient_norm for name in ("free", "clipped")
    ]
    assert norms[0] == norms[1]
    assert norms[0] is not None
    assert norms[0] > 0.1
    assert clipped[1] == pytest.approx(clipped[0], abs=0.05)
    assert abs(free[1] - free[0]) > 0.05


def test_divergence_stops_the_run_before_it_spoils_the_parameters(tmp_path: Path, data: Path) -> None:
    run = options(tmp_path / "run", data=data, learning_rate=1e30, clip_norm=None, checkpoint_every=1, steps=20)
    with pytest.raises(RankFailedError, match="training has diverged"):
        losses(tiny(ONE, optimizer="sgd"), run)
    records = [json.loads(line) for line in (run.out / "steps.jsonl").read_text().splitlines()]
    assert all(math.isfinite(record["loss"]) for record in records)


def see_other_data_on_rank_1() -> None:
    Batches.digest = property(lambda self: f"data {dist.get_rank()}")  # type: ignore[assignment,method-assign]  # in a rank's own process


def test_ranks_with_different_data_are_refused(tmp_path: Path, data: Path) -> None:
    with pytest.raises(RankFailedError, match="rank 1 finds other data than rank 0"):
        losses(
            tiny(plan((layers(),), dp_replicate=2)),
            options(tmp_path / "run", data=data),
            before=see_other_data_on_rank_1,
        )


def test_the_progress_line(tmp_path: Path, data: Path) -> None:
    lines: list[str] = []
    plan_file = with_estimate(tiny(ONE), model_flops=1e9)
    losses(plan_file, options(tmp_path / "run", data=data, steps=4, checkpoint_every=2, log_every=2), told=lines)
    assert len(lines) == 2
    first = lines[0].split("  ")
    assert [part.split()[0] for part in first[:5]] == ["step", "loss", "lr", first[3].split()[0], "MFU"]
    assert first[0] == "step 2/4"
    assert "tokens/s" in first[3]
    assert plan_file.estimate is not None
    assert f"(predicted {plan_file.estimate.step_seconds:.3f} s)" in first[5]
    assert "GiB" in first[6]
    losses(plan_file, options(tmp_path / "run", data=data, steps=6), told=lines)
    assert lines[2] == f"continuing from {tmp_path}/run/checkpoints/step-000004 after step 4"
    assert lines[3].startswith("step 5/6")


class TestFp16:
    """The scale of the loss in a run: told, saved, and the same after a kill."""

    @staticmethod
    def plan_file(split: Plan = ONE) -> PlanFile:
        file = tiny(split)
        precision = file.training.precision.model_copy(update={"compute": "fp16"})
        return file.model_copy(update={"training": file.training.model_copy(update={"precision": precision})})

    def test_skipped_steps_are_told_and_the_scale_goes_on_after_a_kill(self, tmp_path: Path, data: Path) -> None:
        told: list[str] = []
        whole = options(tmp_path / "whole", data=data, steps=5, checkpoint_every=2)
        losses(self.plan_file(), whole, before=start_high, told=told)
        records = [json.loads(line) for line in (whole.out / "steps.jsonl").read_text().splitlines()]
        scales = [record["loss_scale"] for record in records]
        assert scales[:2] == [2.0**21, 2.0**20]
        assert records[0]["skipped"]
        assert records[0]["gradient_norm"] is None
        assert "skipped" not in records[-1]
        assert records[-1]["gradient_norm"] > 0
        assert any("skipped, not finite at loss scale 2,097,152" in line for line in told)
        killed = options(tmp_path / "killed", data=data, steps=5, checkpoint_every=2)
        with pytest.raises(RankFailedError, match="Stopped"):
            losses(self.plan_file(), killed, before=start_high, stop_after_step=3)
        losses(self.plan_file(), killed)  # which starts at 2^16, unless the checkpoint says otherwise
        again = read_measurement(killed.out / "measurement.json").steps
        assert [record.loss_scale for record in again] == scales
        assert [record.loss for record in again] == [record["loss"] for record in records]

    def test_a_checkpoint_of_another_format_has_none(self, tmp_path: Path, data: Path) -> None:
        first = options(tmp_path / "first", data=data, steps=2, checkpoint_every=2)
        losses(tiny(ONE), first)
        then = options(tmp_path / "then", data=data, steps=3, resume_from=first.out / "checkpoints" / "step-000002")
        losses(self.plan_file(), then)
        assert read_measurement(then.out / "measurement.json").steps[-1].loss_scale == 2.0**16

    def test_a_run_that_no_scale_saves_ends(self, tmp_path: Path, data: Path) -> None:
        run = options(tmp_path / "run", data=data, checkpoint_every=None)
        with pytest.raises(
            RankFailedError,
            match=r"step 2: gradients are not finite in fp16 at any loss scale down to 1;.*, or bf16 or",
        ):
            losses(self.plan_file(), run, before=never_finite)


def start_high() -> None:
    LossScale.model_fields["value"].default = 2.0**21
    LossScale.model_rebuild(force=True)


def never_finite() -> None:
    LossScale.model_fields["value"].default = 2.0
    LossScale.model_rebuild(force=True)
    engine.gradient_norm = lambda *_args, **_options: math.inf  # type: ignore[attr-defined]
