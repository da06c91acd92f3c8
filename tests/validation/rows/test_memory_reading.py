"""Which reading of the memory a source states."""

import pytest

from shardwright.costmodel.evaluate import estimate_plan
from shardwright.specs.mesh import Mesh
from shardwright.specs.plan import LayerRun, Plan, Stage
from shardwright.specs.training import TrainingSpec
from shardwright.validation.rows.memory_reading import MemoryReading, memory_assumption, reading_of_row
from tests.costmodel.fakes import RoundTimes, round_cluster, small_model
from tests.validation.made_up_rows import row

PLAN = Plan(
    mesh=Mesh(pp=4, tp=2),
    micro_batch=1,
    microbatches=4,
    stages=tuple(Stage(layers=(LayerRun(count=1),)) for _ in "abcd"),
)
NODE = round_cluster().node
ESTIMATE = estimate_plan(small_model(), round_cluster(), TrainingSpec(seq_len=128, global_batch=4), PLAN, RoundTimes())


@pytest.mark.parametrize(
    ("family", "reading"),
    [
        ("torchtitan", MemoryReading("reserved", first_node=False)),
        ("nanotron", MemoryReading("reserved", first_node=False)),
        ("InternEvo", MemoryReading("device", first_node=False)),
        ("torchtune", None),
    ],
)
def test_by_framework(family: str, reading: MemoryReading | None) -> None:
    assert reading_of_row(row(), family) == reading


@pytest.mark.parametrize(
    ("framework", "ragged"), [("ms-swift 2.x (HF Trainer)", True), ("Megatron-SWIFT (Megatron-LM)", False)]
)
def test_swift_logs_what_the_allocator_reserved(framework: str, ragged: bool) -> None:
    reading = reading_of_row(row(framework=framework), "Megatron-LM")
    assert reading == MemoryReading("reserved", first_node=False, ragged=ragged)


@pytest.mark.parametrize(
    ("changes", "ragged"),
    [
        ({"notes": "LoRA r=8, nvidia-smi memory"}, True),
        ({"notes": "full fine-tune"}, True),
        ({"notes": "full fine-tune; packed sequences"}, False),
        ({"notes": "full fine-tune; padding_free"}, False),
        ({"notes": "full fine-tune; samples padded to max length"}, False),
        ({"notes": "full fine-tune; memory: peak allocated"}, False),
        ({"notes": "pretraining on C4"}, False),
    ],
)
def test_samples_of_many_lengths_are_those_of_fine_tuning_without_packing(
    changes: dict[str, object], ragged: bool
) -> None:
    reading = reading_of_row(row(framework="HF Trainer", **changes), "Hugging Face")
    assert reading is not None
    assert reading.ragged is ragged


def test_blocks_of_many_lengths_add_to_the_reserve_until_the_device_is_full() -> None:
    """One and a half times what the passes occupy; nothing more than the device has."""
    part = max(ESTIMATE.memory, key=lambda one: one.activations + one.logits)
    passes = part.activations + part.logits
    one = ESTIMATE.model_copy(update={"memory": (part,)})
    plain, ragged = (MemoryReading("reserved", first_node=False, ragged=so).of(one, PLAN, NODE) for so in (False, True))
    assert ragged - plain == pytest.approx(1.5 * passes)
    device = NODE.device.model_copy(update={"memory_bytes": part.total + passes})
    full = NODE.model_copy(update={"device": device})
    assert MemoryReading("device", first_node=False, ragged=True).of(one, PLAN, full) == part.total + passes


def test_notes_may_name_the_figure_of_a_log() -> None:
    """NeMo's callback logs peak_memory_usage, from torch's max_memory_allocated."""
    one = row(notes="log line: peak_memory_usage 72972500992 bytes (torch max allocated, NeMo callback)")
    assert reading_of_row(one, "NeMo") == MemoryReading("allocated", first_node=False)


def test_an_interactive_session_sees_its_own_node() -> None:
    one = row(source="bigscience-workshop/bigscience experiments/tr3m-1B3.md line 22")
    reading = reading_of_row(one, "Megatron-DeepSpeed")
    assert reading == MemoryReading("device", first_node=True)
    assert memory_assumption(reading) == "peak memory read as nvidia-smi shows it, on the first node"


def test_readings_are_ordered_and_of_the_fullest_device() -> None:
    allocated, reserved, device = (
        MemoryReading(kind, first_node=False).of(ESTIMATE, PLAN, NODE) for kind in ("allocated", "reserved", "device")
    )
    assert allocated < reserved < device == ESTIMATE.peak_memory_bytes


def test_the_first_node_has_the_first_stages_alone() -> None:
    """4 devices a node hold 2 of 4 stages of tp 2; the head is on the last."""
    seen = MemoryReading("device", first_node=True).of(ESTIMATE, PLAN, NODE)
    assert seen == max(part.total for part in ESTIMATE.memory[:2]) < ESTIMATE.memory[3].total


def test_what_is_not_compared_says_so() -> None:
    assert "not compared" in memory_assumption(reading_of_row(row(), "torchtune"))


def test_free_blocks_go_back_where_the_device_is_full() -> None:
    """Of 0.5 GB that the allocator holds without use only what fits is read; tensors never shrink."""
    part = ESTIMATE.memory[0].model_copy(update={"allocator_slack": 0.5e9})
    one = ESTIMATE.model_copy(update={"memory": (part,)})
    reading = MemoryReading("device", first_node=False)

    def read(memory_bytes: float) -> float:
        device = NODE.device.model_copy(update={"memory_bytes": memory_bytes})
        return reading.of(one, PLAN, NODE.model_copy(update={"device": device}))

    assert read(2 * part.total) == part.total
    assert read(part.total - 0.2e9) == pytest.approx(part.total - 0.2e9)
    assert read(part.total - 0.8e9) == pytest.approx(part.total - 0.5e9)
    big = 2 * part.total
    assert part.within(big) == part.total
    assert part.within(part.total - 0.2e9) == pytest.approx(part.total - 0.2e9)
    assert part.within(part.total - 0.8e9) == pytest.approx(part.total - 0.5e9)
