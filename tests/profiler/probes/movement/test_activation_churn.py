"""The peak that is told is the peak that was."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from shardwright.profiler.probes.movement.activation_churn import ChurnSizes, churn

SIZES = ChurnSizes(tokens=8, hidden=32, dtype=torch.float32)


class Alive:
    """Bytes of the tensors that were made and are still there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.size_bytes = 0
        for name in ("ones", "ones_like"):
            monkeypatch.setattr(torch, name, self._counted(getattr(torch, name)))

    def _counted(self, make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def counted(*args: Any, **options: Any) -> torch.Tensor:
            tensor = make(*args, **options)
            self.size_bytes += tensor.nbytes
            weakref.finalize(tensor, self._gone, tensor.nbytes)
            return tensor

        return counted

    def _gone(self, size_bytes: int) -> None:
        self.size_bytes -= size_bytes


def test_the_peak_is_what_was_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    alive, seen = Alive(monkeypatch), [0]
    peak = churn(SIZES, torch.device("cpu"), lambda: seen.append(alive.size_bytes))
    assert peak == max(seen)
    assert alive.size_bytes == 0


def test_the_peak_can_be_asked_for_beforehand() -> None:
    assert churn(SIZES, torch.device("cpu"), lambda: None) == SIZES.peak_bytes


def test_a_layer_keeps_what_a_transformer_layer_does() -> None:
    assert SIZES.layer_elements(2) == [512] * 5 + [1408] * 3
    assert SIZES.peak_bytes == 4 * (3 * (5 * 768 + 3 * 2112) + 2112)


def test_memory_is_looked_at_after_each_tensor_is_made() -> None:
    """24 tensors kept and as many gradients, of two micro batches."""
    looks: list[None] = []
    churn(SIZES, torch.device("cpu"), lambda: looks.append(None))
    assert len(looks) == 2 * 2 * 24
