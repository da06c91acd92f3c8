import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardwright.base.errors import SpecError
from shardwright.executor.data.token_streams import TextFiles, TokenFiles, TokenStream
from shardwright.executor.data.windows import Batches, open_batches, shuffled
from shardwright.executor.options import RunOptions

VOCABULARY = 300


def batches(
    *data: Path, seq_len: int = 4, global_batch: int = 4, vocab_size: int = VOCABULARY, **options: Any
) -> Batches:
    run = RunOptions(out=Path("run"), data=data, **options)
    return open_batches(run, seq_len=seq_len, global_batch=global_batch, vocab_size=vocab_size)


def tokens_file(path: Path, tokens: list[int], dtype: str = "uint16") -> Path:
    np.array(tokens, dtype=dtype).tofile(path)
    return path


def refused(*data: Path, **options: Any) -> str:
    with pytest.raises(SpecError) as caught:
        batches(*data, **options).at(1)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestText:
    def test_bytes_with_a_separator_after_each_file(self, tmp_path: Path) -> None:
        (tmp_path / "b.txt").write_bytes(b"xy")
        (tmp_path / "a.txt").write_bytes(b"\x00\xff")
        stream = TextFiles([tmp_path / "a.txt", tmp_path / "b.txt"], VOCABULARY)
        assert stream.length == 6
        assert stream.read(0, 6).tolist() == [0, 255, 256, ord("x"), ord("y"), 256]

    def test_no_separator_where_the_vocabulary_has_no_place_for_it(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_bytes(b"ab")
        assert TextFiles([tmp_path / "a.txt"] * 2, 256).read(0, 4).tolist() == [97, 98, 97, 98]

    def test_every_range_is_the_same_slice_of_the_whole(self, tmp_path: Path) -> None:
        for index, content in enumerate([b"abc", b"", b"d", b"efgh"]):
            (tmp_path / f"{index}.txt").write_bytes(content)
        stream = TextFiles(sorted(tmp_path.iterdir()), VOCABULARY)
        whole = stream.read(0, stream.length).tolist()
        assert len(whole) == 12
        for start in range(stream.length):
            for stop in range(start, stream.length + 1):
                assert stream.read(start, stop - start).tolist() == whole[start:stop]

    @pytest.mark.parametrize("closed", ["data", "data/inner"])
    def test_a_folder_that_may_not_be_read_is_named(
        self, tmp_path: Path, closed: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else the run would train on the rest."""
        (tmp_path / "data" / "inner").mkdir(parents=True)
        (tmp_path / "data" / "a.txt").write_text("a" * 100)
        scandir = os.scandir

        def refusing(path: str) -> Any:
            if Path(path) == tmp_path / closed:
                raise PermissionError(13, "Permission denied", path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refusing)
        assert refused(tmp_path / "data").startswith(f"{tmp_path / closed}: cannot be read (Permission denied)")

    def test_folders_are_read_in_a_fixed_order_without_hidden_files(self, tmp_path: Path) -> None:
        (tmp_path / "data" / "inner").mkdir(parents=True)
        (tmp_path / "data" / "z.txt").write_text("zz")
        (tmp_path / "data" / "inner" / "a.txt").write_text("aaa")
        (tmp_path / "data" / ".hidden").write_text("h" * 100)
        found = batches(tmp_path / "data", seq_len=6, global_batch=1)
        assert found.at(1)[0].tolist() == [[97, 97, 97, 256, 122, 122]]

    def test_a_small_vocabulary_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("text")
        assert "at least 256, and this model's is 255" in refused(tmp_path / "a.txt", vocab_size=255)

    def test_a_file_that_shrinks_under_the_run_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "a.txt"
        file.write_text("x" * 40)
        opened = batches(file)
        file.write_text("x")
        with pytest.raises(SpecError, match="became shorter"):
            opened.at(1)

    def test_the_default_is_the_standard_library(self) -> None:
        inputs, _ = batches(seq_len=64, global_batch=8).at(1)
        assert inputs.shape == (8, 64)
        assert int(inputs.max()) < 257


class TestTokenFiles:
    @pytest.mark.parametrize("dtype", ["uint16", "uint32"])
    def test_type_from_the_sidecar(self, tmp_path: Path, dtype: str) -> None:
        file = tokens_file(tmp_path / "a.bin", [1, 2, 3, 4, 299], dtype)
        (tmp_path / "a.bin.json").write_text(json.dumps({"dtype": dtype}))
        inputs, labels = batches(file, data_format="tokens", global_batch=1).at(1)
        assert inputs.tolist() == [[1, 2, 3, 4]]
        assert labels.tolist() == [[2, 3, 4, 299]]
        assert inputs.dtype == labels.dtype == torch.int64

    def test_type_from_the_options(self, tmp_path: Path) -> None:
        tokens_file(tmp_path / "a.bin", [5, 6, 7, 8, 9])
        assert batches(tmp_path, data_format="tokens", token_dtype="uint16").at(1)[0][0].tolist() == [5, 6, 7, 8]

    def test_an_unknown_type_is_refused(self, tmp_path: Path) -> None:
        file = tokens_file(tmp_path / "a.bin", [1] * 9)
        assert "give token_dtype uint16 or uint32" in refused(file, data_format="tokens")

    def test_a_sidecar_of_another_type_is_refused(self, tmp_path: Path) -> None:
        file = tokens_file(tmp_path / "a.bin", [1] * 9)
        (tmp_path / "a.bin.json").write_text('{"dtype": "float64"}')
        assert "'dtype' is 'float64'" in refused(file, data_format="tokens")

    def test_a_token_outside_the_vocabulary_is_named(self, tmp_path: Path) -> None:
        file = tokens_file(tmp_path / "a.bin", [1, 2, 300, 4, 5])
        message = refused(file, data_format="tokens", token_dtype="uint16")
        assert "holds token 300 at position 2" in message
        assert "ends at 299" in message

    def test_a_torn_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.bin").write_bytes(b"\x01\x00\x02")
        message = refused(tmp_path / "a.bin", data_format="tokens", token_dtype="uint16")
        assert "3 bytes are no whole number of uint16 tokens" in message

    def test_several_files_end_to_end(self, tmp_path: Path) -> None:
        files = [tokens_file(tmp_path / "a.bin", [1, 2, 3]), tokens_file(tmp_path / "b.bin", [4, 5])]
        assert TokenFiles(files, VOCABULARY, "uint16").read(1, 4).tolist() == [2, 3, 4, 5]


class TestHuggingFace:
    datasets = pytest.importorskip("datasets", reason="the extra 'data' is not installed")

    def test_saved_text(self, tmp_path: Path) -> None:
        self.datasets.Dataset.from_dict({"text": ["ab", "", "é"]}).save_to_disk(tmp_path / "saved")
        found = batches(tmp_path / "saved", data_format="hf", seq_len=6, global_batch=1)
        assert found.at(1)[1].tolist() == [[98, 256, 256, 0xC3, 0xA9, 256]]

    def test_token_ids_in_parquet(self, tmp_path: Path) -> None:
        self.datasets.Dataset.from_dict({"input_ids": [[1, 2], [3, 4, 5]]}).to_parquet(tmp_path / "a.parquet")
        assert batches(tmp_path / "a.parquet", data_format="hf").at(1)[0][0].tolist() == [1, 2, 3, 4]

    def test_a_token_outside_the_vocabulary_is_named(self, tmp_path: Path) -> None:
        self.datasets.Dataset.from_dict({"input_ids": [[1, 2], [3, -1, 5]]}).to_parquet(tmp_path / "a.parquet")
        assert "(row 1): holds token -1 at position 1" in refused(tmp_path / "a.parquet", data_format="hf")

    def test_columns_that_do_not_serve_are_refused(self, tmp_path: Path) -> None:
        self.datasets.Dataset.from_dict({"body": ["a"], "score": [0.5]}).save_to_disk(tmp_path / "saved")
        assert "give data_column one of body, score" in refused(tmp_path / "saved", data_format="hf")
        assert "column 'score' holds double" in refused(tmp_path / "saved", data_format="hf", data_column="score")

    def test_a_folder_without_a_dataset_is_refused(self, tmp_path: Path) -> None:
        assert "is not a readable dataset" in refused(tmp_path, data_format="hf")

    def test_without_the_package_the_extra_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)
        assert "pip install '.[data]'" in refused(tmp_path, data_format="hf")


class Counting:
    """A stream whose token at position i is i."""

    digest = "counting"

    def __init__(self, length: int) -> None:
        self.length = length

    def read(self, start: int, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        assert start + count <= self.length
        return np.arange(start, start + count)


def counting(length: int, *, seq_len: int = 4, global_batch: int = 4, seed: int = 0) -> Batches:
    stream: TokenStream = Counting(length)
    return Batches(stream, seq_len=seq_len, global_batch=global_batch, seed=seed)


class TestBatches:
    def test_labels_are_the_next_tokens(self) -> None:
        inputs, labels = counting(1000).at(3)
        assert torch.equal(labels, inputs + 1)

    def test_an_epoch_takes_every_window_once(self) -> None:
        found = counting(4 * 8 + 1)
        starts = torch.cat([found.at(step)[0][:, 0] for step in (1, 2)])
        assert sorted(starts.tolist()) == [0, 4, 8, 12, 16, 20, 24, 28]

    def test_epochs_and_seeds_have_orders_of_their_own(self) -> None:
        def starts(step: int, seed: int) -> list[int]:
            return [int(start) for start in counting(4 * 64 + 1, global_batch=64, seed=seed).at(step)[0][:, 0]]

        assert starts(1, 0) != starts(2, 0)
        assert starts(1, 0) != starts(1, 1)
        assert sorted(starts(1, 0)) == sorted(starts(2, 0))

    @pytest.mark.parametrize("dp_size", [1, 2, 4])
    def test_the_ranks_slices_make_up_the_same_batch_for_every_size(self, dp_size: int) -> None:
        found = counting(1000)
        parts = [found.at(7, dp_rank=rank, dp_size=dp_size)[0] for rank in range(dp_size)]
        assert torch.equal(torch.cat(parts), found.at(7)[0])

    def test_a_step_depends_on_no_step_before(self) -> None:
        fresh, used = counting(1000), counting(1000)
        for step in range(1, 9):
            used.at(step)
        assert torch.equal(fresh.at(9)[0], used.at(9)[0])

    def test_data_shorter_than_a_sequence_is_refused(self) -> None:
        with pytest.raises(SpecError, match="holds 4 tokens and one sequence of seq_len 4 needs 5"):
            counting(4)
        assert counting(5).at(1)[0].tolist() == [[0, 1, 2, 3]] * 4

    def test_a_missing_path_is_refused(self, tmp_path: Path) -> None:
        assert "no such file or folder" in refused(tmp_path / "absent")
        assert "holds no file" in refused(tmp_path)

    def test_other_data_has_another_digest(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("x" * 50)
        before = batches(tmp_path).digest
        assert batches(tmp_path).digest == before
        (tmp_path / "a.txt").write_text("x" * 51)
        assert batches(tmp_path).digest != before


class TestShuffle:
    """The shuffle is a permutation."""

    @given(count=st.integers(1, 500), key=st.text(max_size=8))
    def test_of_every_range(self, count: int, key: str) -> None:
        assert sorted(shuffled(place, count, key=key) for place in range(count)) == list(range(count))

    def test_of_a_range_too_large_for_a_table(self) -> None:
        count = 10**15
        places = [shuffled(place, count, key="0/0") for place in range(2000)]
        assert len(set(places)) == 2000
        assert max(places) < count
        assert 0.4 < sum(places) / len(places) / count < 0.6
