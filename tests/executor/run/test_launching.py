"""What `launch` refuses before it starts a process or writes a file."""

from pathlib import Path
from typing import Any, Literal

import pytest

from shardwright.base.errors import SpecError
from shardwright.costmodel.plan_file import PlanFile, write_plan_file
from shardwright.executor.can_run import check_can_run
from shardwright.executor.options import RunOptions
from shardwright.executor.run import launching
from shardwright.executor.run.launching import launch
from shardwright.specs.plan import RecomputePolicy
from shardwright.specs.schedules import ScheduleName
from tests.executor.runs import losses, options, text_file, tiny
from tests.parity.cases import layers, plan

ONE = tiny(plan((layers(),)))


@pytest.fixture(autouse=True)
def no_process_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*args: object, **options: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(launching, "run_workers", started)
    monkeypatch.setattr(launching, "run_rank", started)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def write(folder: Path, plan_file: PlanFile) -> Path:
    path = folder / "plan.json"
    write_plan_file(path, plan_file)
    return path


def refused(folder: Path, plan_file: PlanFile, **given: Any) -> str:
    out = folder / "run"
    with pytest.raises(SpecError) as caught:
        launch(write(folder, plan_file), RunOptions(out=out, **given))
    assert "\n" not in str(caught.value)
    assert not out.exists()
    return str(caught.value)


class TestRanks:
    EIGHT = tiny(plan((layers(zero=3),), dp_shard=4, tp=2, microbatches=1))

    def test_eight_ranks_on_two(self, tmp_path: Path) -> None:
        message = refused(tmp_path, self.EIGHT, ranks=2)
        assert "the plan needs 8 ranks (dp_shard4 x tp2) and the options offer 2; plan for 2" in message

    def test_more_than_a_machine_of_cpus_takes(self, tmp_path: Path) -> None:
        sixteen = tiny(plan((layers(zero=3),), dp_shard=16, global_batch=16, microbatches=1))
        assert "needs 16 ranks (dp_shard16) and on CPUs one machine runs at most 8" in refused(tmp_path, sixteen)

    def test_under_torchrun_the_number_must_be_the_plans(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "16")
        assert "needs 8 ranks (dp_shard4 x tp2) and torchrun was started with 16" in refused(tmp_path, self.EIGHT)

    def test_under_torchrun_one_rank_alone_tells(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RANK", "3")
        monkeypatch.setenv("WORLD_SIZE", "16")
        with pytest.raises(SystemExit) as caught:
            launch(write(tmp_path, self.EIGHT), RunOptions(out=tmp_path / "run"))
        assert caught.value.code == 2


class TestSplitBackward:
    @pytest.mark.parametrize(
        ("zero", "recompute", "message"),
        [
            (
                2,
                "none",
                "zb-h1 reduces gradients once a step, which is ZeRO 0 or 1, and the plan has zero_stage 2; set 1",
            ),
            (1, "full", "zb-h1 does not run with recompute 'full'"),
            (1, "selective", "zb-h1 does not run with recompute 'selective'"),
        ],
    )
    def test_what_it_does_not_run_with(
        self, zero: Literal[1, 2], recompute: RecomputePolicy, message: str, tmp_path: Path
    ) -> None:
        stage = (layers(1, zero=zero, recompute=recompute),)
        split = tiny(plan(stage, stage, pp=2, dp_shard=2, schedule="zb-h1"))
        assert message in refused(tmp_path, split)

    @pytest.mark.parametrize("schedule", ["zb-v", "v-half", "v-min", "dualpipe-v"])
    def test_the_ends_of_a_v_share_no_weights(self, schedule: ScheduleName, tmp_path: Path) -> None:
        ends = plan(*[(layers(1),)] * 4, pp=2, microbatches=4, schedule=schedule)
        message = refused(tmp_path, tiny(ends, layers=4, tied=True))
        assert f"{schedule} puts the first and the last stage on one rank" in message
        assert "plan with zb-h1 or interleaved-1f1b" in message


class TestPlanAndData:
    def test_a_batch_that_is_not_the_trainings(self, tmp_path: Path) -> None:
        training = ONE.training.model_copy(update={"global_batch": 12})
        message = refused(tmp_path, ONE.model_copy(update={"training": training}))
        assert "makes a global batch of 8 sequences" in message
        assert "asks for 12" in message

    def test_a_family_that_is_not_trained(self, tmp_path: Path) -> None:
        config = {**ONE.model_config_json, "model_type": "qwen33"}
        message = refused(tmp_path, ONE.model_copy(update={"model_config_json": config}))
        assert message == "model_type 'qwen33' of tiny-llama is no causal language model of transformers"
        assert "Did you mean" not in message  # a family whose name is spelled alike is another architecture

    def test_data_that_is_missing_or_does_not_fit(self, tmp_path: Path) -> None:
        assert "no such file or folder" in refused(tmp_path, ONE, data=(tmp_path / "absent",))
        (tmp_path / "short.txt").write_text("short")
        assert "needs 17; give more data" in refused(tmp_path, ONE, data=(tmp_path / "short.txt",))

    @pytest.mark.parametrize("given", ["data", "eval_data"])
    def test_a_folder_of_the_run_within_its_data(self, tmp_path: Path, given: str) -> None:
        """The run could not go on: its own files would be other data."""
        text_file(tmp_path)
        data = {"data": (tmp_path / "text.txt",), "eval_every": 1 if given == "eval_data" else None, given: (tmp_path,)}
        assert "would become data itself; give --out outside of it" in refused(tmp_path, ONE, **data)

    def test_a_plan_file_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "plan.json").write_text('{"kind": "shardwright-plan", "schema_version": 2}')
        with pytest.raises(SpecError, match="plan schema version 2"):
            launch(tmp_path / "plan.json", RunOptions(out=tmp_path / "run"))

    def test_a_checkpoint_to_start_from_that_is_none(self, tmp_path: Path) -> None:
        data = text_file(tmp_path)
        assert "is no complete checkpoint" in refused(tmp_path, ONE, data=(data,), resume_from=tmp_path)

    def test_a_run_to_start_from_in_place_of_its_checkpoint(self, tmp_path: Path) -> None:
        first = options(tmp_path / "first", data=text_file(tmp_path), steps=2)
        losses(ONE, first)
        for given in (first.out, first.out / "checkpoints", first.out / "checkpoints" / "step-000001"):
            message = refused(tmp_path, ONE, data=first.data, resume_from=given)
            assert f"give {first.out / 'checkpoints' / 'step-000002'}" in message


class TestHeldBack:
    def test_data_that_is_missing(self, tmp_path: Path) -> None:
        says = refused(tmp_path, ONE, data=(text_file(tmp_path),), eval_data=(tmp_path / "absent",), eval_every=2)
        assert says == f"{tmp_path}/absent: no such file or folder; give data that exists"


class TestFinished:
    def test_a_finished_run_is_not_run_again(self, tmp_path: Path) -> None:
        data = text_file(tmp_path)
        first = options(tmp_path / "first", data=data, steps=2)
        losses(ONE, first)
        again = options(tmp_path / "again", data=data, steps=2, resume_from=first.out / "checkpoints" / "step-000002")
        with pytest.raises(SpecError, match="is of step 2 and the run is to end at step 2; give more steps"):
            launch(write(tmp_path, ONE), again)
        assert not again.out.exists()


class TestWhatIsNotRunYet:
    """It can be estimated and compared; the engine would leave it out in silence."""

    @staticmethod
    def changed(mesh: dict[str, object] | None = None, **training: object) -> PlanFile:
        four = tiny(plan((layers(zero=3),), dp_shard=4, microbatches=1))
        data = four.model_dump(mode="json")
        data["plan"]["mesh"].update(mesh or {})
        data["training"].update(training)
        return PlanFile.parse(data, source="test")

    def test_stages_that_are_left_out(self) -> None:
        """Beside the other refusals, whose plans have no pipeline."""
        given = plan(*[(layers(1),)] * 4, pp=4, microbatches=4, schedule="skippipe-25")
        with pytest.raises(
            SpecError,
            match=r"microbatches that leave out stages \(skippipe-25\) can be estimated and compared, not run yet",
        ):
            check_can_run(tiny(given))

    @pytest.mark.parametrize(
        ("mesh", "training", "says"),
        [
            (
                {"ep": 2},
                {"overlaps_dispatch": True},
                "a dispatch beside another microbatch can be estimated and compared, not run yet; plan without",
            ),
            ({"ep": 2}, {"dispatch_pieces": 2}, "a dispatch in 2 pieces can be estimated and compared, not run yet"),
            (
                {},
                {"global_balance": True},
                "a loss on routers over all data-parallel ranks can be estimated and compared",
            ),
            ({}, {"precision": {"parameters": "bf16"}}, "bf16 parameters can be estimated and compared, not run yet"),
            (
                {},
                {"precision": {"linear": "mxfp8"}},
                "linear precision mxfp8 can be estimated and compared, not run yet; plan with --linear-precision fp8, or without it",
            ),
            ({}, {"stack": "megatron-core"}, "the plan is for stack 'megatron-core'; this executor is 'shardwright'"),
            ({}, {"cuda_graphs": "whole"}, "CUDA graphs can be estimated and compared, not run yet; plan without"),
            ({}, {"mtp_layers": 1}, "multi-token prediction can be estimated and compared, not run yet; plan without"),
            ({}, {"fp8_attention": True}, "attention in fp8 can be estimated and compared, not run yet; plan without"),
            ({}, {"expert_capacity": 1.5}, "expert_capacity can be estimated and compared, not run yet; leave it out"),
        ],
    )
    def test_is_refused(self, tmp_path: Path, mesh: dict[str, object], training: dict[str, object], says: str) -> None:
        assert says in refused(tmp_path, self.changed(mesh, **training))

    @pytest.mark.parametrize(
        ("offload", "says"),
        [
            (
                {"optimizer_fraction": 0.5, "gradient_fraction": 0.25},
                "0.25 of the gradients on the host beside 0.5 of the optimizer can be estimated and compared, not run yet; "
                "plan with --offload-gradients 0 or 0.5",
            ),
            (
                {"optimizer_fraction": 0.5, "parameter_fraction": 0.25},
                "plan with --offload-optimizer 1, or with --offload-parameters 0",
            ),
        ],
    )
    def test_shares_off_the_device(self, tmp_path: Path, offload: dict[str, float], says: str) -> None:
        data = tiny(plan((layers(4),), microbatches=2)).model_dump(mode="json")
        data["plan"]["offload"] = offload
        assert says in refused(tmp_path, PlanFile.parse(data, source="test"))

    def test_ladders_of_residuals(self, tmp_path: Path) -> None:
        data = tiny(plan((layers(2),))).model_dump(mode="json")
        data["model_config_json"]["ladder_residual"] = True
        said = refused(tmp_path, PlanFile.parse(data, source="test"))
        assert "has ladders for residuals" in said
        assert "remove 'ladder_residual' from its config" in said

    def test_a_split_vocabulary(self, tmp_path: Path) -> None:
        data = tiny(plan((layers(2),), (layers(2),), pp=2)).model_dump(mode="json")
        data["plan"]["vocabulary_parallel"] = "vocab-1"
        says = refused(tmp_path, PlanFile.parse(data, source="test"))
        assert "split over the pipeline (vocab-1) can be estimated and compared, not run yet" in says

    def test_a_dispatch_by_nodes(self, tmp_path: Path) -> None:
        data = self.changed({"ep": 2}).model_dump(mode="json")
        data["plan"]["expert_dispatch"] = "deduplicated"
        assert "plan with --expert-dispatch all-to-all" in refused(tmp_path, PlanFile.parse(data, source="test"))

    def test_sharded_weights_streamed(self, tmp_path: Path) -> None:
        data = tiny(plan((layers(2, zero=2),), dp_shard=2)).model_dump(mode="json")
        data["plan"]["offload"] = {"optimizer_fraction": 1, "parameter_fraction": 0.5}
        said = refused(tmp_path, PlanFile.parse(data, source="test"))
        assert (
            "weights that 2 data-parallel ranks shard, streamed from the host, can be estimated and compared, not run yet"
            in said
        )
        assert "or with ZeRO-3 and --offload-optimizer 1" in said

    def test_a_stage_without_layers(self, tmp_path: Path) -> None:
        data = tiny(plan((layers(1),), (layers(1),), pp=2)).model_dump(mode="json")
        first, second = data["plan"]["stages"]
        second["layers"][0]["count"] += first["layers"][0]["count"]
        first["layers"] = []
        assert "of which one holds no layer" in refused(tmp_path, PlanFile.parse(data, source="test"))
