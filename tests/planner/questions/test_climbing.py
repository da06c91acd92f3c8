"""What the climbing rules promise, for any pattern of what fits."""

from hypothesis import given
from hypothesis import strategies as st

from shardwright.planner.questions.climbing import Verdict, largest, least

_PATTERNS = st.lists(st.sampled_from(list(Verdict)), min_size=1, max_size=80)


class TestLargest:
    @given(_PATTERNS, st.sampled_from([(), (3,), (5,), (7, 3)]))
    def test_the_answer_fits_and_the_next_does_not(self, pattern: list[Verdict], coarse: tuple[int, ...]) -> None:
        number = largest(len(pattern), lambda place: pattern[place - 1], coarse)
        assert number == 0 or pattern[number - 1] is Verdict.FITS
        if 0 < number < len(pattern):
            assert pattern[number] is not Verdict.FITS

    @given(_PATTERNS)
    def test_the_next_multiples_of_powers_of_two_do_not_fit(self, pattern: list[Verdict]) -> None:
        """One that divides better than the answer was tried, up to the next power of two."""
        number = largest(len(pattern), lambda place: pattern[place - 1])
        unit = 1
        while number and unit <= 2 * number:
            following = (number // unit + 1) * unit
            assert following > len(pattern) or pattern[following - 1] is not Verdict.FITS
            unit *= 2

    @given(st.integers(1, 5000), st.integers(0, 5000))
    def test_monotone_rows_are_exact_in_few_tries(self, count: int, fitting: int) -> None:
        tried: list[int] = []

        def verdict(number: int) -> Verdict:
            tried.append(number)
            return Verdict.FITS if number <= fitting else Verdict.TOO_LARGE

        assert largest(count, verdict) == min(count, fitting)
        assert len(set(tried)) <= max(24, 2 * count.bit_length() + 2)

    def test_passes_over_what_does_not_divide_before_the_first_that_fits(self) -> None:
        pattern = [Verdict.NOTHING_DIVIDES, Verdict.NOTHING_DIVIDES, Verdict.NOTHING_DIVIDES, Verdict.FITS]
        whole = [*pattern, *[Verdict.TOO_LARGE] * 60]
        assert largest(64, lambda place: whole[place - 1]) == 4

    def test_one_failure_does_not_end_the_doubling(self) -> None:
        fits = {1, 2, 8, 9}
        assert largest(64, lambda place: Verdict.FITS if place in fits else Verdict.TOO_LARGE) == 9

    @given(_PATTERNS)
    def test_short_rows_are_exact(self, pattern: list[Verdict]) -> None:
        short = pattern[:24]
        fitting = [place for place, verdict in enumerate(short, start=1) if verdict is Verdict.FITS]
        assert largest(len(short), lambda place: short[place - 1]) == max(fitting, default=0)

    def test_a_coarse_unit_finds_what_only_its_multiples_allow(self) -> None:
        def verdict(number: int) -> Verdict:
            return Verdict.FITS if number <= 4 or (number % 3 == 0 and number <= 12) else Verdict.TOO_LARGE

        assert largest(100, verdict) == 6
        assert largest(100, verdict, [3]) == 12


class TestLeast:
    @given(st.lists(st.booleans(), min_size=1, max_size=80))
    def test_the_answer_holds_and_the_one_before_does_not(self, pattern: list[bool]) -> None:
        number = least(len(pattern), lambda place: pattern[place - 1])
        if number is None:
            assert not pattern[-1]
        else:
            assert pattern[number - 1]
            assert number == 1 or not pattern[number - 2]

    @given(st.integers(1, 5000), st.integers(1, 5000))
    def test_monotone_rows_are_exact(self, count: int, first: int) -> None:
        assert least(count, lambda number: number >= first) == (first if first <= count else None)
