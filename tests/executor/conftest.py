"""Fixtures of the executor's tests."""

from tests.executor.forked import forked_ranks

__all__ = ["forked_ranks"]
