from pathlib import Path
from typing import Any

import pytest

from shardwright.base.errors import SpecError
from shardwright.executor.options import RunOptions


def refused(**given: Any) -> str:
    with pytest.raises(SpecError) as caught:
        RunOptions.parse({"out": "run", **given}, source="options")
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("field", ["learning_rate", "eps", "clip_norm"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
def test_numbers_that_must_be_positive(field: str, value: float) -> None:
    assert f"'{field}'" in refused(**{field: value})


@pytest.mark.parametrize("field", ["steps", "checkpoint_every", "log_every", "keep_checkpoints", "ranks"])
@pytest.mark.parametrize("value", [0, -3, 2.5, float("nan")])
def test_counts_that_must_be_whole_and_positive(field: str, value: float) -> None:
    assert f"'{field}'" in refused(**{field: value})


@pytest.mark.parametrize("betas", [(1.0, 0.9), (0.9, -0.1), (0.9, float("nan"))])
def test_betas_lie_below_one(betas: tuple[float, float]) -> None:
    assert "'betas." in refused(betas=betas)


def test_weight_decay_may_be_zero_but_not_nan() -> None:
    assert RunOptions(out=Path("run"), weight_decay=0).weight_decay == 0
    assert "'weight_decay'" in refused(weight_decay=float("nan"))


def test_clipping_can_be_turned_off() -> None:
    assert RunOptions(out=Path("run"), clip_norm=None).clip_norm is None


def test_an_unknown_key_names_the_nearest() -> None:
    assert "Did you mean 'learning_rate'?" in refused(learning_rat=1e-3)


def test_warm_up_is_a_tenth_of_the_steps_unless_given() -> None:
    assert RunOptions(out=Path("run"), steps=50).learning_rate_warmup_steps == 5
    assert RunOptions(out=Path("run"), steps=50, warmup_steps=0).learning_rate_warmup_steps == 0


def test_warm_up_longer_than_the_run_is_refused() -> None:
    assert "warmup_steps 11 exceeds steps 10" in refused(steps=10, warmup_steps=11)


def test_options_of_one_data_format_are_refused_for_another() -> None:
    assert "data_format 'tokens' needs data" in refused(data_format="tokens")
    assert "token_dtype is for data_format 'tokens'" in refused(token_dtype="uint16")
    assert "data_column is for data_format 'hf'" in refused(data_column="text")


def test_options_survive_their_file() -> None:
    options = RunOptions(out=Path("/run"), data=(Path("/a"), Path("/b")), clip_norm=None, betas=(0.8, 0.99), seed=3)
    assert RunOptions.model_validate_json(options.model_dump_json()) == options


def test_conversations_need_a_tokenizer() -> None:
    assert "'chat' needs a tokenizer" in refused(data_format="chat", data=["a.jsonl"])
    for beside in ({"init_from": Path("weights")}, {"resume_from": Path("run/checkpoints/step-000100")}):
        assert RunOptions(out=Path("run"), data_format="chat", data=(Path("a"),), **beside).tokenizer is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"decay_steps": 3}, "decay_steps is for schedule 'wsd', not 'cosine'; leave it out"),
        (
            {"schedule": "wsd", "steps": 10, "warmup_steps": 5, "decay_steps": 6},
            "5 warmup_steps and 6 decay_steps exceed steps 10; give fewer",
        ),
        ({"schedule": "cosin"}, "schedule"),
        ({"eval_data": ("a.txt",)}, "eval_data and eval_every go together; give both or neither"),
        ({"eval_every": 3}, "eval_data and eval_every go together"),
        ({"checkpoint": "asynchronous"}, "checkpoint"),
        ({"until_hours": 0}, "until_hours"),
        ({"until_tokens": 0}, "until_tokens"),
        ({"every_minutes": -1}, "every_minutes"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
    ],
)
def test_what_goes_on_around_the_steps(given: dict[str, Any], says: str) -> None:
    assert says in refused(**given)
