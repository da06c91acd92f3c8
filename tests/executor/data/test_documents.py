"""Sequences of documents: packed whole, padded, with labels that never cross from one to the next."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from shardwright.base.errors import SpecError
from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.data.batches import open_plan_batches
from shardwright.executor.data.documents import DocumentBatches, best_fit
from shardwright.executor.options import RunOptions
from shardwright.executor.passes import IGNORED_LABEL
from shardwright.specs.lengths import Lengths, Packing
from shardwright.specs.plan import Plan
from tests.executor.runs import losses, options, tiny
from tests.parity.cases import layers, plan

SEQ = 8


class Documents:
    """Documents of the given lengths, whose tokens count up from 1 over all of them."""

    def __init__(self, *lengths: int) -> None:
        self.document_ends: NDArray[np.int64] = np.cumsum(lengths)
        self.length, self.digest = int(self.document_ends[-1]), "made up"

    def read(self, start: int, count: int) -> NDArray[np.int64]:
        assert start >= 0
        assert start + count <= self.length
        return np.arange(start, start + count) + 1

    def counted(self, start: int, count: int) -> NDArray[np.bool_] | None:
        return None


class Answers(Documents):
    """Of which the loss counts the even tokens."""

    def counted(self, start: int, count: int) -> NDArray[np.bool_] | None:
        even: NDArray[np.bool_] = self.read(start, count) % 2 == 0
        return even


def batches(*lengths: int, packing: Packing = "packed", global_batch: int = 1) -> DocumentBatches:
    return DocumentBatches(Documents(*lengths), packing=packing, seq_len=SEQ, global_batch=global_batch, seed=0)


def epoch(of: DocumentBatches) -> list[tuple[list[int], list[int], list[int]]]:
    found = []
    for step in range(1, of.sequences + 1):
        inputs, labels, places = of.at(step)
        found.append((inputs[0].tolist(), labels[0].tolist(), [] if places is None else places[0].tolist()))
    return sorted(found)


def test_documents_are_packed_whole_and_keep_their_labels() -> None:
    """5 and 3 tokens share a sequence; 4 tokens have one with padding."""
    x = IGNORED_LABEL
    assert epoch(batches(3, 5, 4)) == [
        ([1, 2, 3, 4, 5, 6, 7, 8], [2, 3, x, 5, 6, 7, 8, x], [0, 1, 2, 0, 1, 2, 3, 4]),
        ([9, 10, 11, 12, 0, 0, 0, 0], [10, 11, 12, x, x, x, x, x], [0, 1, 2, 3, 0, 1, 2, 3]),
    ]


def test_labels_are_the_tokens_that_the_stream_counts() -> None:
    """In short documents, and behind a cut."""
    x = IGNORED_LABEL
    of = DocumentBatches(Answers(3, 5, 9), packing="packed", seq_len=SEQ, global_batch=1, seed=0)
    assert epoch(of) == [
        ([1, 2, 3, 4, 5, 6, 7, 8], [2, x, x, x, 6, x, 8, x], [0, 1, 2, 0, 1, 2, 3, 4]),
        ([9, 10, 11, 12, 13, 14, 15, 16], [10, x, 12, x, 14, x, 16, x], [0, 1, 2, 3, 4, 5, 6, 7]),
    ]


class LateAnswers(Documents):
    """Of which the loss counts tokens 20 and 23."""

    def counted(self, start: int, count: int) -> NDArray[np.bool_] | None:
        return np.isin(self.read(start, count), (20, 23))


@pytest.mark.parametrize("at_once", [1, 2**14])
def test_pieces_without_a_label_are_left_out(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of them alone would have no loss, and still decay the weights."""
    monkeypatch.setattr("shardwright.executor.data.documents._PIECES_AT_ONCE", at_once)
    x = IGNORED_LABEL
    padded = DocumentBatches(LateAnswers(20, 5), packing="padded", seq_len=SEQ, global_batch=1, seed=0)
    assert padded.left_out_share == 0.5
    assert epoch(padded) == [([21, 22, 23, 24, 25, 0, 0, 0], [x, 23, x, x, x, x, x, x], [])]
    packed = DocumentBatches(LateAnswers(20, 5), packing="packed", seq_len=SEQ, global_batch=1, seed=0)
    assert packed.left_out_share == 0.5
    labels = [label for _, labels, _ in epoch(packed) for label in labels if label != x]
    assert sorted(labels) == [20, 23]


def test_data_whose_answers_are_all_cut_off() -> None:
    with pytest.raises(SpecError, match=r"a\.jsonl holds no conversation with an answer within 8 tokens"):
        DocumentBatches(LateAnswers(20), packing="padded", seq_len=SEQ, global_batch=1, seed=0, named="a.jsonl")


def test_a_long_document_fills_sequences_and_its_rest_is_packed() -> None:
    """The label behind a cut is the token that follows there; a rest of one token is left out."""
    x = IGNORED_LABEL
    found = epoch(batches(8 + 8 + 3, 5, 9))
    assert found[0] == ([1, 2, 3, 4, 5, 6, 7, 8], [2, 3, 4, 5, 6, 7, 8, 9], list(range(8)))
    assert found[1][1] == [10, 11, 12, 13, 14, 15, 16, 17]
    assert found[2] == (list(range(17, 25)), [18, 19, x, 21, 22, 23, 24, x], [0, 1, 2, 0, 1, 2, 3, 4])
    assert found[3] == (list(range(25, 33)), list(range(26, 34)), list(range(8)))
    assert len(found) == 4


def test_padded_documents_are_cut_off() -> None:
    x = IGNORED_LABEL
    assert epoch(batches(3, 20, packing="padded")) == [
        ([1, 2, 3, 0, 0, 0, 0, 0], [2, 3, x, x, x, x, x, x], []),
        (list(range(4, 12)), list(range(5, 13)), []),
    ]


def test_every_piece_has_one_place_and_no_sequence_is_too_full() -> None:
    tokens = np.random.default_rng(0).integers(2, 100, size=2000)
    sequence_of = best_fit(tokens, 100)
    filled = np.bincount(sequence_of, weights=tokens)
    assert len(sequence_of) == 2000
    assert filled.min() > 0
    assert filled.max() <= 100
    assert filled.mean() > 98, "best fit leaves little room"


def test_ranks_share_a_step_and_an_epoch_has_every_sequence_once() -> None:
    of = batches(*range(2, 30), global_batch=2)
    whole = of.at(1)
    halves = [of.at(1, dp_rank=rank, dp_size=2) for rank in range(2)]
    for index, half in enumerate(halves):
        assert half.inputs.tolist() == [whole.inputs[index].tolist()]
    first = [of._sequence(number)[0].tolist() for number in range(of.sequences)]
    second = [of._sequence(number)[0].tolist() for number in range(of.sequences, 2 * of.sequences)]
    assert sorted(first) == sorted(second)
    assert first != second


def test_no_document_to_train_on() -> None:
    with pytest.raises(SpecError, match="no document with two tokens"):
        batches(1, 1)


def test_the_plan_says_how_documents_lie(tmp_path: Path) -> None:
    """Of text files; `.bin` files do not say where documents end."""
    for name, text in (("a.txt", "abc"), ("b.txt", "defgh")):
        (tmp_path / name).write_text(text)
    file = tiny(plan((layers(),)))
    lengths = Lengths(name="two", tokens=(4, 6), shares=(0.5, 0.5))
    file = file.model_copy(update={"training": file.training.model_copy(update={"lengths": lengths})})
    run = RunOptions(out=tmp_path / "out", data=(tmp_path / "a.txt", tmp_path / "b.txt"))
    found = open_plan_batches(file, run)
    assert isinstance(found, DocumentBatches)
    assert (found.sequences, found.used_share) == (1, 10 / 16)  # with the tokens that end them
    padded = file.model_copy(update={"training": file.training.model_copy(update={"packing": "padded"})})
    assert open_plan_batches(padded, run).digest != found.digest
    with pytest.raises(SpecError, match="'tokens' does not say where documents end"):
        open_plan_batches(file, run.model_copy(update={"data_format": "tokens"}))


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_two_ranks_train_as_one_does_and_go_on_where_they_stopped(tmp_path: Path, packing: Packing) -> None:
    """On documents of a few tokens, in three steps and then three more."""
    data = tmp_path / "data"
    data.mkdir()
    for number in range(40):
        (data / f"{number:02}.txt").write_text("".join(f"{number} plus {other}. " for other in range(number % 5 + 1)))
    lengths = Lengths(name="one", tokens=(30,), shares=(1,))

    def documents(mesh: Plan) -> PlanFile:
        file = tiny(mesh)
        return file.model_copy(
            update={"training": file.training.model_copy(update={"lengths": lengths, "packing": packing})}
        )

    told: list[str] = []
    alone = losses(documents(plan((layers(),))), options(tmp_path / "one", data=data), told=told)
    assert told[0].startswith(f"{packing} documents: ")
    two = documents(plan((layers(zero=3),), dp_shard=2))
    with pytest.raises(AssertionError, match="Stopped"):
        losses(two, options(tmp_path / "two", data=data), stop_after_step=4)
    assert losses(two, options(tmp_path / "two", data=data)) == pytest.approx(alone, rel=1e-5)
    stream = losses(tiny(plan((layers(),))), options(tmp_path / "stream", data=data))
    assert stream[0] != pytest.approx(alone[0], rel=1e-3)
