"""Documents of several lengths: what a histogram keeps, and what becomes of it in sequences."""

import pytest

from shardwright.base import SpecError
from shardwright.specs.lengths import MOST_CLASSES, Lengths
from shardwright.specs.training import TrainingSpec

_TWO = Lengths(name="two", tokens=(1000.0, 5000.0), shares=(0.75, 0.25))


def test_uniform_lengths_have_the_mean_of_their_ends() -> None:
    assert Lengths.uniform(512, 8192).mean_tokens == pytest.approx((512 + 8192) / 2)
    assert Lengths.uniform(7, 7).tokens == (7.0,)
    assert Lengths.uniform(3, 5).tokens == (3.0, 4.0, 5.0)


def test_classes_are_joined_with_their_documents_and_tokens() -> None:
    counts = {length: 1.0 + length % 7 for length in range(1, 5000)}
    found = Lengths.of_counts("many", counts)
    total = sum(counts.values())
    assert len(found.tokens) <= MOST_CLASSES
    assert found.mean_tokens == pytest.approx(sum(length * n for length, n in counts.items()) / total)
    square = sum(share * length**2 for length, share in zip(found.tokens, found.shares, strict=True))
    assert square == pytest.approx(sum(length**2 * n for length, n in counts.items()) / total, rel=1e-3)


def test_a_document_longer_than_a_sequence_is_packed_in_pieces() -> None:
    """5,000 tokens fill two sequences of 2,048 and leave 904; three documents of 1,000 tokens come with it."""
    pieces = _TWO.pieces(2048)
    assert pieces.tokens == (904.0, 1000.0, 2048.0)
    assert pieces.shares == pytest.approx((1 / 6, 3 / 6, 2 / 6))


def test_padding_cuts_documents_off() -> None:
    assert _TWO.used_share(2048) == pytest.approx((0.75 * 1000 + 0.25 * 2048) / 2048)
    assert _TWO.used_share(8000) == pytest.approx(2000 / 8000)
    assert _TWO.longer_than(2048) == 0.25


@pytest.mark.parametrize(
    ("tokens", "shares", "told"),
    [
        ((5.0, 3.0), (0.5, 0.5), "ascend"),
        ((3.0, 5.0), (0.5, 0.4), "sum to 0.9"),
        ((3.0,), (0.5, 0.5), "as many tokens as shares"),
    ],
)
def test_what_is_no_histogram_is_refused(tokens: tuple[float, ...], shares: tuple[float, ...], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        Lengths.parse({"name": "x", "tokens": tokens, "shares": shares}, source="lengths")


def test_tokens_of_a_step_count_no_padding() -> None:
    packed = TrainingSpec(seq_len=2048, global_batch=100, lengths=_TWO)
    padded = TrainingSpec(seq_len=2048, global_batch=100, lengths=_TWO, packing="padded")
    assert packed.tokens_per_step == 204_800
    assert padded.tokens_per_step == 75_000 + 51_200
    assert padded.documents is None
    assert TrainingSpec(seq_len=2048, global_batch=100).documents is None
