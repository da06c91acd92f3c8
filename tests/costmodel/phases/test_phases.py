"""Phases files and what a switch between two plans takes."""

from pathlib import Path
from typing import Any

import pytest

from shardwright.base.errors import SpecError
from shardwright.catalog import load_cluster
from shardwright.costmodel.phases import (
    Job,
    Phase,
    PhasesFile,
    Switching,
    grown_layers,
    read_phases_file,
    same_placement,
    state_bytes,
    switch_between,
    write_phases_file,
)
from shardwright.costmodel.plan_file import PlanFile
from shardwright.specs import Offload, Plan, Sync
from shardwright.specs.cluster import ClusterSpec
from tests.parity.cases import layers, model_config, plan, plan_file

SHARDED = plan((layers(zero=3),), dp_shard=2)
PIPED = plan((layers(1),), (layers(1),), pp=2)
GIVEN = Switching(build_seconds=3, write_bytes_per_s=1e6, read_bytes_per_s=2e6)


def file_of(chosen: Plan, *, seq_len: int = 16, **config: Any) -> PlanFile:
    return plan_file(model_config("llama", **config), chosen, seq_len=seq_len)


def test_a_phases_file_reads_as_it_was_written(tmp_path: Path) -> None:
    phases = PhasesFile(
        phases=(Phase(steps=3, plan_file=file_of(SHARDED)), Phase(steps=2, plan_file=file_of(PIPED, seq_len=32))),
        switching=GIVEN,
    )
    write_phases_file(tmp_path / "phases.json", phases)
    assert read_phases_file(tmp_path / "phases.json") == phases
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(SpecError, match="is not a phases file"):
        read_phases_file(tmp_path / "plan.json")


def test_spans_count_steps_and_sequences_and_join_equal_neighbours() -> None:
    """8 sequences of 16 tokens are 128 tokens a step. Before the third phase are 5 x 128 + 2 x 8 x 48 = 1408 tokens: 88 sequences of 16."""
    short, long = file_of(SHARDED), file_of(SHARDED, seq_len=48)
    steps = ((2, short), (3, short), (2, long), (4, short))
    spans = PhasesFile(phases=tuple(Phase(steps=count, plan_file=file) for count, file in steps)).spans
    assert [(span.number, span.steps_before, span.last_step) for span in spans] == [(1, 0, 5), (2, 5, 7), (3, 7, 11)]
    assert [span.sequences_before for span in spans] == [0, 14, 88]  # 640 tokens are 13.3 sequences of 48
    assert [span.from_memory for span in spans] == [False, True, True]


def test_the_phase_of_a_step() -> None:
    phases = PhasesFile(
        phases=(Phase(steps=3, plan_file=file_of(SHARDED)), Phase(steps=2, plan_file=file_of(PIPED, seq_len=32)))
    )
    assert [phases.span_after(step).number for step in range(6)] == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (file_of(SHARDED, hidden_size=64), "phase 2 trains another model .* grows by layers alone"),
        (file_of(plan((layers(1, zero=3),), dp_shard=2), layers=1), "grows by layers alone"),
        (file_of(plan((layers(zero=3),), dp_shard=4)), "phase 2 has 4 ranks and phase 1 has 2"),
        (
            plan_file(model_config("llama"), SHARDED, compute="bf16"),
            "phase 2 has another precision than phase 1; only seq_len, global_batch",
        ),
        (
            file_of(plan((layers(),), dp_replicate=2).model_copy(update={"sync": Sync(bits=8)})),
            "phase 2 has sync 8-bit-gradients",
        ),
    ],
)
def test_what_is_not_one_run_is_refused(second: PlanFile, words: str) -> None:
    given = [{"steps": 1, "plan_file": file.model_dump(mode="json")} for file in (file_of(SHARDED), second)]
    with pytest.raises(SpecError, match=words):
        PhasesFile.parse({"phases": given}, source="phases.json")


def test_a_placement_is_the_mesh_with_its_stages_and_what_is_sharded() -> None:
    smaller = plan((layers(zero=3, recompute="full"),), dp_shard=2, microbatches=4)
    assert same_placement(SHARDED, smaller)
    assert same_placement(SHARDED, plan((layers(zero=2),), dp_shard=2))  # weights are sharded between steps too
    assert not same_placement(SHARDED, PIPED)
    assert not same_placement(PIPED, plan((layers(2),), (layers(2),), pp=2))
    hosted = SHARDED.model_copy(update={"offload": Offload(optimizer_fraction=1)})
    assert not same_placement(hosted, hosted)


def test_a_switch_takes_what_its_bytes_take() -> None:
    """The model has 21,920 parameters: 100 x 32 twice, 2 layers of 7,744 and a norm of 32. SGD keeps no state, AdamW two. So S is 87,680 and
    263,040 bytes. By checkpoint 3 + S / 1e6 + 2 S / 2e6; where four ranks hold copies, each reads its own. In memory 3 + 2 (S / 2) / 1e9.
    """
    file = file_of(SHARDED)
    model, job = file.model(), file.training
    parameters = 2 * 100 * 32 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32) + 32
    assert model.parameter_count == parameters
    assert state_bytes(model, job) == 4 * parameters
    adamw = job.model_copy(update={"optimizer": "adamw"})
    assert state_bytes(model, adamw) == 12 * parameters
    size = 12 * parameters

    def check(first: Plan, second: Plan, kind: str, seconds: float) -> None:
        found = switch_between(file.cluster, Job(model, adamw, first), Job(model, adamw, second), GIVEN)
        assert found.kind == kind
        assert found.seconds == pytest.approx(seconds)

    check(SHARDED, SHARDED, "none", 0)
    check(SHARDED, PIPED, "checkpoint", 3 + size / 1e6 + 2 * size / 2e6)
    copies = plan((layers(),), dp_replicate=2)
    check(SHARDED, copies, "checkpoint", 3 + size / 1e6 + 3 * size / 2e6)
    smaller = plan((layers(zero=3),), dp_shard=2, microbatches=1)
    check(SHARDED, smaller, "memory", 3 + 2 * (size / 2) / 1e9)


def test_new_layers_are_spread_evenly() -> None:
    """Of 3 new layers, the first of two has floor(3 / 2) = 1 behind it, and the second the other two."""
    assert grown_layers(2, 5) == ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2))
    assert grown_layers(4, 5) == ((0, 0), (1, 0), (2, 0), (3, 0), (3, 1))
    assert grown_layers(3, 3) == ((0, 0), (1, 0), (2, 0))


def test_a_model_that_grows_begins_with_a_checkpoint_of_the_smaller_one() -> None:
    """A layer of 7,744 parameters more, of 12 bytes: 92,928 more bytes to read."""
    small, large = file_of(SHARDED), file_of(plan((layers(3, zero=3),), dp_shard=2), layers=3)
    spans = PhasesFile(phases=(Phase(steps=2, plan_file=small), Phase(steps=1, plan_file=large))).spans
    assert [span.grown_from for span in spans] == [None, small]
    adamw = small.training.model_copy(update={"optimizer": "adamw"})
    first, second = (Job(file.model(), adamw, file.plan) for file in (small, large))
    found, size = switch_between(small.cluster, first, second, GIVEN), state_bytes(small.model(), adamw)
    assert found.kind == "checkpoint"
    assert found.seconds == pytest.approx(3 + size / 1e6 + (size + size + 12 * 7744) / 2e6)


def test_experts_do_not_grow() -> None:
    config = {**model_config("llama"), "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
    files = [
        plan_file({**config, "num_hidden_layers": count}, plan((layers(count, zero=3),), dp_shard=2))
        for count in (2, 3)
    ]
    given = [{"steps": 1, "plan_file": file.model_dump(mode="json")} for file in files]
    with pytest.raises(SpecError, match="have experts or linear attention"):
        PhasesFile.parse({"phases": given}, source="phases.json")


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        (load_cluster("h100-sxm:16"), "its hosts share no drives"),
        (plan_file(model_config("llama"), PIPED).cluster, "one host has no drives"),
    ],
)
def test_storage_that_is_not_known_is_asked_for(cluster: ClusterSpec, words: str) -> None:
    with pytest.raises(SpecError, match=rf"{words}.*give write_bytes_per_s"):
        Switching().rates(cluster)


def test_the_drives_of_one_host_hold_checkpoints() -> None:
    cluster = load_cluster("h100-sxm:8")
    host = cluster.node.host
    assert Switching().rates(cluster) == (host.nvme_write_bytes_per_s, host.nvme_read_bytes_per_s)
    assert Switching(read_bytes_per_s=7.0).rates(cluster) == (host.nvme_write_bytes_per_s, 7.0)
