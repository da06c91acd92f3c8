"""Mixtures of data, and the batches that a plan asks for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shardwright.base.errors import SpecError
from shardwright.cli.run import _mixture
from shardwright.executor.data.batches import BLOCK, Mixture, open_plan_batches, said_of
from shardwright.executor.data.documents import Sequences
from shardwright.executor.data.windows import Batches, Begins
from shardwright.executor.options import RunOptions
from shardwright.specs.lengths import Lengths
from tests.executor.runs import tiny
from tests.executor.tokenizers import VOCABULARY, tokenizer_folder
from tests.parity.cases import layers, plan

LENGTHS = Lengths(name="two", tokens=(8, 16), shares=(0.5, 0.5))


class Constant:
    """A stream of one token, so that its sequences are known by it."""

    def __init__(self, token: int) -> None:
        self.digest, self.length, self._token = f"constant {token}", 1001, token

    def read(self, start: int, count: int) -> NDArray[np.int64]:
        return np.full(count, self._token)


def mixture(*weights: float, global_batch: int = 8, seed: int = 0) -> Mixture:
    sources = [Batches(Constant(token), seq_len=4, global_batch=1, seed=seed) for token in range(len(weights))]
    return Mixture(sources, weights, global_batch=global_batch, seed=seed)


@settings(deadline=None, max_examples=25)
@given(weights=st.lists(st.floats(0.1, 10), min_size=1, max_size=5), seed=st.integers(0, 3))
def test_every_thousand_sequences_hold_the_shares_and_none_is_left_out(weights: list[float], seed: int) -> None:
    of = mixture(*weights, seed=seed)
    placed = [of.place(number) for number in range(2 * BLOCK)]
    for source, weight in enumerate(weights):
        first, both = ([number for found, number in part if found == source] for part in (placed[:BLOCK], placed))
        assert abs(len(first) - BLOCK * weight / sum(weights)) < 1
        assert sorted(both) == list(range(2 * len(first)))
    assert sum(of.shares) == pytest.approx(1)


def test_sources_take_turns_in_an_order_of_the_seed_and_the_block() -> None:
    orders = {
        tuple(mixture(1, 1, seed=seed).place(start + number)[0] for number in range(40))
        for seed in (0, 1)
        for start in (0, BLOCK)
    }
    assert len(orders) == 4
    for order in orders:
        assert 5 < sum(order) < 35


@pytest.mark.parametrize("dp_size", [1, 2, 4])
def test_ranks_take_slices_of_the_same_batch(dp_size: int) -> None:
    of = mixture(3, 1)
    parts = [of.at(5, dp_rank=rank, dp_size=dp_size) for rank in range(dp_size)]
    whole = of.at(5)
    assert torch.equal(torch.cat([part.inputs for part in parts]), whole.inputs)
    assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)
    assert whole.places is None
    assert set(whole.inputs[:, 0].tolist()) == {0, 1}


def test_a_share_of_less_than_a_thousandth_is_refused() -> None:
    with pytest.raises(SpecError, match=r"weight 0.0001 of 1.0001 is less than one sequence in 1,000"):
        mixture(1, 0.0001)


def test_other_weights_are_other_data() -> None:
    assert mixture(1, 1).digest != mixture(1, 2).digest
    assert mixture(1, 2).digest == mixture(2, 4).digest


class TestOfFiles:
    def options(self, folder: Path, **given: Any) -> RunOptions:
        for name, text in (("a", "abcd" * 200), ("b", "wxyz" * 300)):
            (folder / f"{name}.txt").write_text(text)
        return RunOptions(out=folder / "run", data=(folder / "a.txt", folder / "b.txt"), **given)

    def test_bytes_and_tokens(self, tmp_path: Path) -> None:
        file = tiny(plan((layers(),)))
        batches = open_plan_batches(file, self.options(tmp_path, data_weights=(1, 3)))
        assert isinstance(batches, Mixture)
        assert list(said_of(batches, file)) == ["a mixture of 25.0% and 75.0% of the sequences"]
        rows = torch.cat([batches.at(step)[0] for step in range(1, 126)])
        kinds = [row for row in rows.tolist() if 256 not in row]
        assert 0.2 < sum(97 in row for row in kinds) / len(kinds) < 0.3
        assert not any(97 in row and 120 in row for row in kinds), "sequences are of one source"

    def test_documents_through_a_tokenizer_even_equal_ones(self, tmp_path: Path) -> None:
        options = self.options(tmp_path, data_weights=(1, 1), tokenizer=tokenizer_folder(tmp_path / "tokenizer"))
        (tmp_path / "b.txt").write_text((tmp_path / "a.txt").read_text())
        file = tiny(plan((layers(),)))
        config = {**file.model_config_json, "vocab_size": VOCABULARY}
        training = file.training.model_copy(update={"lengths": LENGTHS})
        file = file.model_copy(update={"training": training, "model_config_json": config})
        found = open_plan_batches(file, options)
        again = open_plan_batches(file, options)
        assert len(list((tmp_path / "run" / "tokens").iterdir())) == 2
        assert torch.equal(found.at(1)[0], again.at(1)[0])
        first = found.at(1)
        assert isinstance(first, Sequences)
        assert first.places is not None
        assert first.places.shape == first.inputs.shape
        assert len(list(said_of(found, file))) == 3

    def test_weights_are_those_of_all_data_or_of_none(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="2 data have 1 weights; give one each"):
            self.options(tmp_path, data_weights=(1,))


class TestCommandLine:
    def test_a_weight_stands_behind_the_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert _mixture(["web:0.7", "books/:.3"]) == {"data": (Path("web"), Path("books")), "data_weights": (0.7, 0.3)}
        assert _mixture(["web", "c:books"]) == {"data": (Path("web"), Path("c:books")), "data_weights": ()}
        monkeypatch.chdir(tmp_path)
        (tmp_path / "of:2").write_text("")
        assert _mixture(["of:2"]) == {"data": (Path("of:2"),), "data_weights": ()}

    def test_some_with_and_some_without_are_refused(self) -> None:
        with pytest.raises(SpecError, match="--data books has no weight above 0, and others have one; give one each"):
            _mixture(["web:0.7", "books"])


@pytest.mark.parametrize("kind", ["windows", "documents", "mixture"])
def test_a_phase_begins_at_its_sequence(kind: str, tmp_path: Path) -> None:
    """Step 6, the first of a phase of 8 sequences a step that begins at sequence 21, has the sequences 21 to 28; rank 1 of 2 the last four."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(" ".join(f"{name}{number}" for number in range(900)))
    weights = (
        {"data": (tmp_path / "a", tmp_path / "b"), "data_weights": (0.7, 0.3)}
        if kind == "mixture"
        else {"data": (tmp_path / "a",)}
    )
    run, file = RunOptions(out=tmp_path, **weights), tiny(plan((layers(),), dp_replicate=2))
    if kind == "documents":
        file = file.model_copy(update={"training": file.training.model_copy(update={"lengths": LENGTHS})})
    plain, later = open_plan_batches(file, run), open_plan_batches(file, run, begins=Begins(steps=5, sequences=21))

    def sequence(number: int) -> list[int]:
        given = plain.at(number // 8 + 1)[0]
        return [int(token) for token in given[number % 8]]

    assert [list(map(int, row)) for row in later.at(6)[0]] == [sequence(number) for number in range(21, 29)]
    assert [list(map(int, row)) for row in later.at(7, dp_rank=1, dp_size=2)[0]] == [
        sequence(number) for number in range(33, 37)
    ]
