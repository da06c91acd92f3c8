"""Answers in words: each sentence where it holds, and only there."""

from typing import Any

from shardwright.catalog import load_cluster
from shardwright.catalog.huggingface import load_model
from shardwright.comparison.answers import (
    batch_answer,
    cost_answer,
    deadline_answer,
    model_answer,
    sequence_answer,
    shape_answer,
)
from shardwright.planner.questions import (
    costs,
    fewest_devices,
    largest_global_batch,
    largest_micro_batch,
    largest_model,
    longest_sequence,
    shapes,
)
from shardwright.planner.space import asked
from shardwright.reports.questions import Answer
from shardwright.specs import TrainingSpec

_MODEL = load_model("qwen3-0.6b")
_CLUSTER = load_cluster("h100-sxm:16")
_TRAINING = TrainingSpec(seq_len=4096, global_batch=64)
_JOB = (_MODEL, _CLUSTER, _TRAINING)


def _check(answer: Answer) -> str:
    assert answer.rows
    assert all(len(figures) == len(answer.columns) for _, _, figures in answer.rows)
    assert answer.curve is not None
    assert len(answer.curve.points) == len(answer.curve.labels) == len(answer.rows)
    return "\n".join(answer.lines)


def test_longest_sequence() -> None:
    found = longest_sequence(*_JOB, step=65536)
    words = _check(sequence_answer(found, 65536))
    assert f"The longest sequence that fits is {found.best.value:,} tokens, in steps of 65,536" in words
    assert f"With the next, {found.best.value + 65536:,} tokens: no plan fits" in words
    assert "The model's configuration has positions for 40,960 tokens" in words
    model = _MODEL.model_copy(update={"config": {}})
    assert "positions for" not in "\n".join(
        sequence_answer(longest_sequence(model, *_JOB[1:], step=65536), 65536).lines
    )


def test_batches() -> None:
    micro = largest_micro_batch(*_JOB)
    words = _check(batch_answer(micro, micro=True))
    assert "Tried were divisors of the global batch 64." in words
    assert f"Most tokens/s of those tried: {micro.fastest.value:,} " in words
    whole = _check(batch_answer(largest_global_batch(*_JOB, up_to=256), micro=False))
    assert "None larger was tried." in whole
    assert "Gradients accumulate over microbatches" in whole
    assert "the smallest within 1% of that: " in whole


def test_models_and_shapes() -> None:
    found = largest_model(*_JOB, by="width")
    assert found.best.plan.offload.optimizer_fraction
    assert "--forbid offload_optimizer" in _check(model_answer(found, _MODEL, "width"))
    kept = largest_model(*_JOB, by="width", fixed=asked({}, forbid=["offload_optimizer"]))
    assert kept.best.model.parameter_count < found.best.model.parameter_count
    assert "--forbid offload_optimizer" not in _check(model_answer(kept, _MODEL, "width"))
    compared = shapes(*_JOB)
    answer = shape_answer(compared, _MODEL)
    _check(answer)
    own = [figures[-1] for shape, _, figures in answer.rows if shape == f"{_MODEL.layer_count} x 1,024"]
    assert own == ["+0.0%"]


def test_deadline() -> None:
    seconds = costs(*_JOB, tokens=1e11).times[-1].seconds
    options: dict[str, Any] = {"tokens": 1e11, "deadline_seconds": seconds * 1.01}
    found = fewest_devices(*_JOB, **options)
    words = _check(deadline_answer(found, **options, at_slow_end=False, most_devices=16))
    assert "The fewest devices are 16: " in words
    assert "One node less, 8 devices, takes " in words
    assert "--at-slow-end plans for that" in words
    missed: dict[str, Any] = {**options, "deadline_seconds": seconds * 0.9}
    answer = deadline_answer(fewest_devices(*_JOB, **missed), **missed, at_slow_end=False, most_devices=16)
    assert answer.best is None
    assert "None that was tried meets" in _check(answer)
    assert {figures[-1] for _, _, figures in answer.rows} == {"missed"}
    slow: dict[str, Any] = {**options, "deadline_seconds": seconds * 1.5}
    sure = deadline_answer(fewest_devices(*_JOB, **slow, at_slow_end=True), **slow, at_slow_end=True, most_devices=16)
    assert "with 90% probability" in _check(sure)


def test_cost() -> None:
    priced = cost_answer(costs(*_JOB, tokens=1e11, price=2.0), tokens=1e11, price=2.0)
    words = _check(priced)
    assert priced.columns == ("step", "time", "device hours", "cost", "energy")
    assert "at 2 for a device hour" in words
    assert "Cheapest are 8 devices" in words
    plain = cost_answer(costs(*_JOB, tokens=1e11), tokens=1e11, price=None)
    assert plain.columns == ("step", "time", "device hours", "energy")
    assert plain.curve is not None
    assert plain.curve.y_label == "device hours"
