import pytest
import torch

from shardwright.profiler.timing.number_format import BYTES, random_tensor, torch_dtype, with_tf32
from shardwright.profiler.timing.probe import UnavailableError

_CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("number_format", "dtype"),
    [
        ("fp32", torch.float32),
        ("fp16", torch.float16),
        ("bf16", torch.bfloat16),
        ("fp8", torch.float8_e4m3fn),
    ],
)
def test_formats_are_torchs_and_as_wide_as_said(number_format: str, dtype: torch.dtype) -> None:
    assert torch_dtype(number_format, _CPU) == dtype  # type: ignore[arg-type]  # parametrized
    assert BYTES[number_format] == dtype.itemsize  # type: ignore[index]  # parametrized
    assert random_tensor((3, 4), dtype, _CPU).dtype == dtype


def test_tf32_is_fp32_on_cuda_and_nowhere_else() -> None:
    assert torch_dtype("tf32", torch.device("cuda")) == torch.float32
    with pytest.raises(UnavailableError, match="tf32 needs a CUDA device, this is a cpu"):
        torch_dtype("tf32", _CPU)


def test_a_torch_without_the_dtype_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "float8_e4m3fn")
    with pytest.raises(UnavailableError, match="has no float8_e4m3fn for fp8"):
        torch_dtype("fp8", _CPU)


def test_tf32_is_on_for_the_work_and_put_back_whatever_happens() -> None:
    before = torch.get_float32_matmul_precision()
    seen: list[str] = []

    def failing() -> None:
        seen.append(torch.get_float32_matmul_precision())
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  # our own, without a message
        with_tf32(failing)()
    assert (seen, torch.get_float32_matmul_precision()) == (["high"], before)
