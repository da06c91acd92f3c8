"""What a user asks of the choices: values, ranges, lists, what is forbidden, and wishes that contradict each other."""

import pytest

from shardwright.base.errors import SpecError
from shardwright.costmodel.op_times.choice import op_times
from shardwright.planner.best_plan import search
from shardwright.planner.space.asked import asked
from shardwright.planner.space.enumerate import enumerate_space
from shardwright.planner.space.fixed import Fixed
from shardwright.planner.space.software import check_runs
from shardwright.planner.space.space import SCHEDULES
from shardwright.planner.why.alternatives import alternatives
from shardwright.specs.schedules import EXACT_SCHEDULES
from shardwright.specs.training import TrainingSpec
from tests.planner.small_problems import tiny_cluster, tiny_model

_MODEL = tiny_model(layers=8, hidden=256)
_CLUSTER = tiny_cluster(devices=8, devices_per_node=4)
_TRAINING = TrainingSpec(seq_len=4096, global_batch=16)


def _column(fixed: Fixed, name: str) -> set[int]:
    return set(enumerate_space(_MODEL, _CLUSTER, _TRAINING, fixed).column(name).tolist())


class TestWhatIsRead:
    @pytest.mark.parametrize(
        ("options", "values"),
        [
            ({"pp": "2..4"}, {2, 4}),
            ({"pp": "..2"}, {1, 2}),
            ({"pp": "3.."}, {4, 8}),
            ({"pp": "1,8"}, {1, 8}),
            ({"pp": "1, 3..5"}, {1, 4}),
            ({"pp": "4"}, {4}),
            ({"pp": 4}, {4}),
        ],
    )
    def test_degrees(self, options: dict[str, object], values: set[int]) -> None:
        assert _column(asked(options), "pp") == values

    def test_names(self) -> None:
        kept = asked({"schedule": "1f1b,gpipe"})
        assert {SCHEDULES[index] for index in _column(kept, "schedule")} == {"1f1b", "gpipe"}

    def test_fix_is_the_option_of_that_name(self) -> None:
        assert asked({}, fix=["tp=2", "zero-stage=1..2", "even_stages=true"]) == asked(
            {"tp": "2", "zero_stage": "1..2", "even_stages": True}
        )

    def test_shares_on_the_host_are_eighths_and_the_ends_of_a_range(self) -> None:
        assert _column(asked({"offload_optimizer": "0.25..0.6"}), "offload_optimizer") == {0.25, 0.375, 0.5, 0.6}
        assert _column(asked({"offload_optimizer": "0,0.5"}), "offload_optimizer") == {0, 0.5}
        assert _column(asked({"offload_optimizer": "0.3"}), "offload_optimizer") == {0.3}
        assert _column(asked({}), "offload_optimizer") == {0, 1}

    def test_updates_of_the_host_are_late_only_where_that_is_asked_for(self) -> None:
        late = asked({"delayed_update": True, "offload_nvme": "0,1"})
        assert late == asked({"offload_nvme": "0,1"}, fix=["delayed-update=yes"])
        assert _column(late, "delayed_update") == {1}
        assert _column(late, "offload_optimizer") == {1}
        assert _column(late, "offload_nvme") == {0}
        assert _column(asked({"offload_optimizer": "0..1"}), "delayed_update") == {0}

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (
                {"offload_optimizer": 0},
                "delayed_update is of the host's update, and the whole optimizer stays on the device",
            ),
            (
                {"offload_nvme": 1},
                "keeps parameters of two steps in the host's memory, not on drives; leave out offload_nvme",
            ),
        ],
    )
    def test_late_updates_need_the_host(self, options: dict[str, object], words: str) -> None:
        with pytest.raises(SpecError, match=words):
            enumerate_space(_MODEL, _CLUSTER, _TRAINING, asked({"delayed_update": True, **options}))

    def test_other_software_does_not_delay_updates(self) -> None:
        training = TrainingSpec(seq_len=4096, global_batch=16, stack="megatron-core")
        with pytest.raises(SpecError, match="stack 'megatron-core' does not run delayed_update True"):
            check_runs(training, asked({"delayed_update": True}))

    def test_a_single_value_is_fixed(self) -> None:
        assert asked({"tp": "2", "schedule": "1f1b"}) == Fixed(tp=2, schedule="1f1b")

    @pytest.mark.parametrize(
        ("word", "column", "values"),
        [
            ("cp", "cp", {1}),
            ("context-parallel", "cp", {1}),
            ("pipeline", "pp", {1}),
            ("offload_optimizer", "offload_optimizer", {0}),
            ("interleaving", "stages_per_rank", {1}),
            ("zero_stage=3", "zero_stage", {0, 1, 2}),
            ("pp=3..8", "pp", {1, 2}),
        ],
    )
    def test_forbidden(self, word: str, column: str, values: set[int]) -> None:
        assert _column(asked({}, forbid=[word]), column) == values

    def test_forbidden_with_commas(self) -> None:
        kept = asked({}, forbid=["tp,interleaved-1f1b", "gpipe"])
        assert _column(kept, "tp") == {1}
        assert {SCHEDULES[index] for index in _column(kept, "schedule")} == set(EXACT_SCHEDULES) - {
            "interleaved-1f1b",
            "gpipe",
        }

    def test_offload_opens_what_is_not_stated(self) -> None:
        kept = asked({"offload": True, "offload_activations": "0.5"})
        assert kept.offload_activations == 0.5
        assert _column(kept, "offload_optimizer") == {step / 8 for step in range(9)}
        assert _column(kept, "offload_parameters") == {step / 8 for step in range(9)}
        none = asked({}, forbid=["offload"])
        assert _column(none, "offload_optimizer") == {0}
        assert not none.permits({"offload_activations": 0.125})
        assert none.permits({"offload_nvme": 0})

    def test_forbidden_recompute(self) -> None:
        found = search(_MODEL, _CLUSTER, _TRAINING, fixed=asked({}, forbid=["recompute"]))
        assert {run.recompute for stage in found.plan.stages for run in stage.layers} == {"none"}

    def test_limits_in_python(self) -> None:
        assert Fixed.model_validate({"within": {"pp": {2, 4}}}) == Fixed.model_validate({"within": {"pp": "2,4"}})
        assert hash(Fixed.model_validate({"within": {"pp": "2,4"}}))


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "fix", "forbid", "message"),
        [
            ({"tp": "8"}, [], ["tp"], "--tp 8 and --forbid tp contradict each other"),
            ({"tp": "8"}, ["tp=4"], [], "--tp 8 and --fix tp=4 contradict each other"),
            ({"schedule": "gpipe"}, [], ["gpipe"], "--schedule gpipe and --forbid gpipe contradict each other"),
            ({"pp": "2.."}, [], ["pipeline"], "--pp 2.. and --forbid pipeline contradict each other"),
            ({"even_stages": True}, ["even_stages=no"], [], "--fix even_stages=no contradicts even_stages true"),
            ({}, ["tpp=4"], [], "'tpp' is no choice of a plan"),
            ({}, ["tp"], [], "write it as NAME=VALUE"),
            ({}, [], ["ring-attention"], "that is no axis, choice or value of one"),
            ({"tp": "8..4"}, [], [], "the range 8..4 holds no value; write it as 4..8"),
            ({"tp": "-2..4"}, [], [], "-2..4 is outside 1 or more"),
            ({"tp": "0..4"}, [], [], "0..4 is outside 1 or more"),
            ({"zero_stage": "2..4"}, [], [], "2..4 is outside 0 to 3"),
            ({"tp": "two"}, [], [], "'two' is not a whole number"),
            ({"offload": True}, [], ["offload"], "--offload and --forbid offload contradict each other"),
            (
                {"offload_optimizer": "half"},
                [],
                [],
                "--offload-optimizer half: 'half' is no share; give 0.5, a range 0..1",
            ),
            ({"offload_optimizer": "0.5..2"}, [], [], "0.5..2 is outside 0 to 1"),
            (
                {"offload_optimizer": "1.5"},
                [],
                [],
                "'offload_optimizer' is 1.5: Input should be less than or equal to 1",
            ),
            (
                {"offload_optimizer": "0.5"},
                [],
                ["offload_optimizer"],
                "--forbid offload_optimizer contradict each other",
            ),
            ({"tp": "1,two"}, [], [], "--tp: 'two' is not a whole number"),
            ({"schedule": "1f1b,1f2b"}, [], [], "'1f2b' is not known; allowed: gpipe, 1f1b"),
        ],
    )
    def test_one_line(self, options: dict[str, object], fix: list[str], forbid: list[str], message: str) -> None:
        with pytest.raises(SpecError) as refused:
            asked(options, fix=fix, forbid=forbid)
        assert message in str(refused.value)
        assert "\n" not in str(refused.value)

    @pytest.mark.parametrize(
        ("within", "message"),
        [
            (
                {"pp": "5..7"},
                "no plan with pp within 5..7 divides; without that limit pp can be 1, 2, 4, 8; the nearest is 4",
            ),
            ({"micro_batch": "5,7"}, "micro_batch can be 1, 2, 4, 8, 16; the nearest is 4"),
            (
                {"tp": "3", "pp": "3"},
                "no plan divides that keeps all of tp 3, pp 3; leave out one of them",
            ),
        ],
    )
    def test_limits_that_leave_nothing(self, within: dict[str, str], message: str) -> None:
        with pytest.raises(SpecError, match=message):
            search(_MODEL, _CLUSTER, _TRAINING, fixed=Fixed.model_validate({"within": within}))

    def test_a_limit_that_another_choice_rules_out(self) -> None:
        both = asked({"schedule": "interleaved-1f1b"}, forbid=["pipeline"])
        with pytest.raises(SpecError, match="no plan with pp 1 divides; with schedule interleaved-1f1b pp can be 2, 4"):
            search(_MODEL, _CLUSTER, _TRAINING, fixed=both)

    def test_a_fixed_value_outside_its_limit(self) -> None:
        with pytest.raises(SpecError, match=r"tp 8 is fixed, and tp within 1\.\.4 is a limit"):
            Fixed.parse({"tp": 8, "within": {"tp": "..4"}}, source="test")

    def test_software_that_runs_none_of_the_values(self) -> None:
        deepspeed = _TRAINING.model_copy(update={"stack": "fsdp"})
        assert not deepspeed.software.runs.context_parallel
        with pytest.raises(SpecError, match="stack 'fsdp' runs only cp 1, and cp within 2, 4 rules that out"):
            search(_MODEL, _CLUSTER, deepspeed, fixed=asked({"cp": "2,4"}))


def test_neighbours_keep_the_limits() -> None:
    """A neighbour may change what is fixed; it never takes what is forbidden."""
    fixed = asked({"tp": "2"}, forbid=["cp", "zero_stage=3", "pp=4"])
    plan = search(_MODEL, _CLUSTER, _TRAINING, fixed=fixed).plan
    found = list(alternatives(plan, _MODEL, _CLUSTER, _TRAINING, op_times(_CLUSTER, _TRAINING), fixed=fixed))
    plans = [other.plan for other in found if other.plan is not None]
    assert {plan.mesh.cp for plan in plans} == {1}
    assert all(plan.zero_stage != 3 and plan.mesh.pp != 4 for plan in plans)
    assert any(plan.mesh.tp != 2 for plan in plans)
    assert not any(other.change.startswith("FSDP") for other in found)
