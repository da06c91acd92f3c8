"""What several test files of the profiler need."""

import pytest

from shardwright.profiler.session import crew, measure
from tests.profiler.forked import forked_ranks

__all__ = ["forked_ranks", "quick_reference"]


@pytest.fixture
def quick_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference matmul takes virtual time, not real time."""
    monkeypatch.setattr(crew, "reference_work", lambda machine: lambda: None)
    monkeypatch.setattr(measure, "reference_work", lambda machine: lambda: None)
