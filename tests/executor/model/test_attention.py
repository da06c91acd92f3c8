import pytest
import torch

from shardwright.executor.model.attention import attention_mask

CPU = torch.device("cpu")


def _seen(window: int | None, kernel: str = "eager") -> list[list[int]]:
    mask = attention_mask(seq_len=4, window=window, kernel=kernel, dtype=torch.float32, device=CPU)
    assert mask is not None
    assert mask.shape == (1, 1, 4, 4)
    return (mask[0, 0] == 0).int().tolist()


def test_a_query_sees_itself_and_what_came_before() -> None:
    assert _seen(None) == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_a_window_counts_the_query_itself(kernel: str) -> None:
    assert _seen(2, kernel) == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


@pytest.mark.parametrize("window", [None, 4, 9])
def test_the_flash_kernel_is_causal_without_a_mask(window: int | None) -> None:
    assert attention_mask(seq_len=4, window=window, kernel="sdpa", dtype=torch.float32, device=CPU) is None


def test_what_is_hidden_gets_no_weight_in_bf16() -> None:
    mask = attention_mask(seq_len=4, window=None, kernel="eager", dtype=torch.bfloat16, device=CPU)
    assert mask is not None
    assert torch.equal(torch.softmax(mask[0, 0, 0].float() + 50.0, dim=-1), torch.tensor([1.0, 0.0, 0.0, 0.0]))
