"""What a user asks to be measured, and what of it cannot be."""

from pathlib import Path
from typing import Any

import pytest

from shardwright.base.errors import SpecError
from shardwright.profiler.profile_options import ProfileOptions, read_formats


def options(**values: Any) -> ProfileOptions:
    return ProfileOptions.parse(values, source="profile options")


class TestFormats:
    @pytest.mark.parametrize(
        ("words", "formats"),
        [
            (None, None),
            ([], None),
            (["fp32"], ("fp32",)),
            (["bf16,fp32", "BF16"], ("bf16", "fp32")),
            ([" tf32 , fp8 "], ("tf32", "fp8")),
        ],
    )
    def test_by_name(self, words: list[str] | None, formats: tuple[str, ...] | None) -> None:
        assert read_formats(words) == formats

    def test_one_that_is_none(self) -> None:
        with pytest.raises(SpecError, match=r"--precision bf61: is not one of fp32, .*fp8\. Did you mean 'bf16'\?"):
            read_formats(["fp32,bf61"])

    def test_by_default_what_plans_for_the_device_need(self) -> None:
        assert options().formats_on("cpu") == ("fp32", "bf16")
        assert options().formats_on("cuda") == ("bf16", "tf32", "fp8")
        assert options(formats=("fp16",)).formats_on("cuda") == ("fp16",)

    def test_casts_asked_for_by_name_need_eight_bits(self) -> None:
        assert options(only=("casts",)).formats_on("cpu") == ("fp32", "bf16", "fp8")
        assert options(only=("matmul",)).formats_on("cpu") == ("fp32", "bf16")
        assert options(only=("casts",), formats=("fp8",)).formats_on("cpu") == ("fp8",)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": "llama-3.2-1b"}, "give --seq-len as well"),
        ({"seq_len": 64}, "give --model as well"),
        ({"disk": "/nowhere"}, "--disk /nowhere: is not a folder"),
        ({"only": ["disk"]}, "give --disk FOLDER"),
        ({"only": ["layers"]}, "give --model and --seq-len"),
        ({"only": ["casts"], "formats": ["bf16"]}, "give --precision fp8"),
        ({"only": ["matmul"], "sustained_seconds": 5}, "add figures to --only"),
        ({"sustained_seconds": 300}, "--sustained 300 does not fit into --budget 180: give --budget 660"),
        ({"sustained_seconds": -1}, "greater than or equal to 0"),
        ({"only": ["mamtul"]}, "Did you mean 'matmul'?"),
        ({"budget_seconds": 0}, "greater than 0"),
        ({"micro_batch": True}, "should be a number"),
    ],
)
def test_what_does_not_fit_together(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as raised:
        options(**values)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_how_long_a_load_is_sustained() -> None:
    """A few seconds of the budget on a GPU, none on a CPU, or as requested."""
    assert options().sustained_on("cuda") == pytest.approx(5.4)
    assert options(budget_seconds=3600).sustained_on("cuda") == 10
    assert options().sustained_on("cpu") == 0
    assert options(sustained_seconds=60).sustained_on("cuda") == options(sustained_seconds=60).sustained_on("cpu") == 60
    assert options(sustained_seconds=0).sustained_on("cuda") == 0
    assert options(sustained_seconds=60).asked() == {"--sustained": "60.0"}


def test_what_makes_a_run_another_one(tmp_path: Path) -> None:
    """Not the budget: one that was cut short may be given more time."""
    assert options(budget_seconds=5, fresh=True).asked() == {}
    asked = options(
        formats=("fp32",), model="llama-3.2-1b", seq_len=64, micro_batch=2, only=("matmul,disk",), disk=tmp_path
    ).asked()
    assert asked == {
        "--precision": "fp32",
        "--model": "llama-3.2-1b",
        "--seq-len": "64",
        "--micro-batch": "2",
        "--only": "disk_read,disk_write,matmul",
        "--disk": str(tmp_path),
    }


def test_the_training_that_a_layer_is_checked_in() -> None:
    asked = options(model="llama-3.2-1b", seq_len=64, micro_batch=2)
    training = asked.training("fp32")
    assert (training.seq_len, training.global_batch, training.precision.compute) == (64, 2, "fp32")
    model = asked.model_spec()
    assert model is not None
    assert model.name == "llama-3.2-1b"
    assert options().model_spec() is None


def test_they_pass_through_a_file_to_other_ranks(tmp_path: Path) -> None:
    asked = options(formats=("fp32",), only=("matmul",), disk=tmp_path, fresh=True, budget_seconds=7)
    assert ProfileOptions.parse(asked.model_dump(mode="json"), source="file") == asked
