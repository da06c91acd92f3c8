"""Which repeats count of works that run at once."""

import pytest

from shardwright.profiler.together import Span, repeats_of_each, while_all_ran


class TestCounts:
    def test_all_last_equally_long(self) -> None:
        assert repeats_of_each([1.0, 0.25], 4) == [6, 24]

    def test_alike_works(self) -> None:
        assert repeats_of_each([0.5, 0.5], 10) == [15, 15]

    def test_a_work_without_end_to_its_repeats(self) -> None:
        assert repeats_of_each([1.0, 0.0], 10) == [15, 10_000]


class TestOverlap:
    def test_only_what_overlapped_counts(self) -> None:
        """The first of `slow` begins before the other runs, its last ends after: only the middle one counts."""
        slow = [Span(0, 2), Span(2, 5), Span(5, 9)]
        quick = [Span(1, 3), Span(3, 4), Span(4, 6)]
        assert while_all_ran([slow, quick]) == [[3], [2, 1, 2]]

    def test_all_where_none_did(self) -> None:
        assert while_all_ran([[Span(0, 10)], [Span(4, 5), Span(5, 6)]]) == [[10], [1, 1]]

    def test_seconds_are_of_one_call(self) -> None:
        assert Span(1.0, 3.0, calls=4).seconds == pytest.approx(0.5)
