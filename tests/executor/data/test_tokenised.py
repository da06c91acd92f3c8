import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shardwright.base.errors import SpecError
from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.data import tokenised
from shardwright.executor.data.batches import open_held_back, open_plan_batches
from shardwright.executor.data.documents import DocumentBatches
from shardwright.executor.data.tokenised import TokenisedDocuments, new_tokens_go_with_a_mistake
from shardwright.executor.data.windows import open_batches, open_stream
from shardwright.executor.options import RunOptions
from shardwright.executor.text import StoredTokens, Tokenizer
from shardwright.specs.lengths import Lengths
from shardwright.specs.plan import Plan
from tests.executor.runs import losses, tiny
from tests.executor.tokenizers import VOCABULARY, tokenizer_folder
from tests.parity.cases import layers, plan

LENGTHS = Lengths(name="two", tokens=(8, 16), shares=(0.5, 0.5))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer_folder(tmp_path_factory.mktemp("tokenizer"))


def run(out: Path, data: Path, tokenizer: Path | None, **given: Any) -> RunOptions:
    return RunOptions(out=out, data=(data,), tokenizer=tokenizer, **given)


def opened(options: RunOptions, told: list[str] | None = None) -> TokenisedDocuments:
    stream = open_stream(options, VOCABULARY, progress=(told if told is not None else []).append)
    assert isinstance(stream, TokenisedDocuments)
    return stream


def pages(folder: Path) -> Path:
    folder.mkdir()
    for number in range(30):
        (folder / f"{number:02d}.txt").write_text(f"{number} times 3 is {3 * number}. " * (1 + number % 4))
    return folder


class TestText:
    def test_each_file_is_a_document_of_its_own_tokens_and_an_end(self, tmp_path: Path, tokenizer: Path) -> None:
        told: list[str] = []
        stream = opened(run(tmp_path / "run", pages(tmp_path / "data"), tokenizer), told)
        own = Tokenizer(tokenizer, VOCABULARY)
        texts = [file.read_text() for file in sorted((tmp_path / "data").iterdir())]
        expected = [[*tokens.tolist(), own.end] for tokens in own.documents(texts)]
        assert stream.read(0, stream.length).tolist() == list(itertools.chain(*expected))
        assert np.diff([0, *stream.document_ends]).tolist() == [len(tokens) for tokens in expected]
        assert stream.counted(3, 5) is None
        assert len(told) == 1
        assert told[0].startswith(f"tokenised 30 documents by {tokenizer} into {stream.length} tokens, in ")

    def test_a_long_file_is_cut_at_ends_of_lines_and_its_tokens_are_those_of_the_whole(
        self, tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = "".join(f"{number} times 3\n  is {3 * number}.\n\n" for number in range(200))
        (tmp_path / "a.txt").write_text(text)
        monkeypatch.setattr(tokenised, "_BLOCK_CHARACTERS", 256)
        assert len(list(tokenised._pieces(tmp_path / "a.txt"))) > 10
        stream = opened(run(tmp_path / "run", tmp_path / "a.txt", tokenizer))
        (whole,) = Tokenizer(tokenizer, VOCABULARY).documents([text])
        assert stream.read(0, stream.length - 1).tolist() == whole.tolist()
        assert len(stream.document_ends) == 1

    def test_text_is_tokenised_once(self, tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        options = run(tmp_path / "run", pages(tmp_path / "data"), tokenizer)
        first = opened(options)
        monkeypatch.setattr(tokenised, "write_tokens", lambda *_args, **_options: pytest.fail("tokenised again"))
        told: list[str] = []
        again = opened(options, told)
        assert (again.digest, again.length, told) == (first.digest, first.length, [])

    def test_the_digest_is_of_the_content_and_not_of_names_sizes_and_times(
        self, tmp_path: Path, tokenizer: Path
    ) -> None:
        options = run(tmp_path / "run", pages(tmp_path / "data"), tokenizer)
        first = opened(options).digest
        os.utime(tmp_path / "data" / "00.txt", (1, 1))
        assert opened(options).digest == first
        assert len(list((tmp_path / "run" / "tokens").iterdir())) == 1, "the tokens of before are taken away"
        (tmp_path / "data" / "00.txt").write_text("1 times 3 is 0. ")  # as long as before
        assert opened(options).digest != first
        assert (
            opened(run(tmp_path / "run", tmp_path / "data", tokenizer_folder(tmp_path / "t", end=None))).digest != first
        )

    def test_what_a_mistake_ends_leaves_nothing(self, tmp_path: Path, tokenizer: Path) -> None:
        options = run(tmp_path / "run", pages(tmp_path / "data"), tokenizer)
        with pytest.raises(SpecError):
            self._mistaken(options)
        assert not options.out.exists()
        length = opened(options).length
        (tmp_path / "data" / "00.txt").write_text("other")
        with pytest.raises(SpecError):
            self._mistaken(options)
        (left,) = (tmp_path / "run" / "tokens").iterdir()
        assert StoredTokens(left).length == length

    @staticmethod
    def _mistaken(options: RunOptions) -> None:
        with new_tokens_go_with_a_mistake(options.out):
            opened(options)
            raise SpecError("other data than the run's")

    def test_a_dataset_of_text(self, tmp_path: Path, tokenizer: Path) -> None:
        datasets = pytest.importorskip("datasets", reason="the extra 'data' is not installed")
        datasets.Dataset.from_dict({"text": ["3 times 3", "", "is 9"]}).save_to_disk(tmp_path / "saved")
        stream = opened(run(tmp_path / "run", tmp_path / "saved", tokenizer, data_format="hf"))
        own = Tokenizer(tokenizer, VOCABULARY)
        first, last = (tokens.tolist() for tokens in own.documents(["3 times 3", "is 9"]))
        assert stream.read(0, stream.length).tolist() == [*first, own.end, own.end, *last, own.end]

    def test_damaged_tokens_are_told(self, tmp_path: Path, tokenizer: Path) -> None:
        options = run(tmp_path / "run", pages(tmp_path / "data"), tokenizer)
        opened(options)
        (path,) = (tmp_path / "run" / "tokens").glob("*/tokens.bin")
        path.write_bytes(path.read_bytes()[:-2])
        with pytest.raises(SpecError, match=r"tokens.bin: is damaged .* delete .*, and start again"):
            opened(options)


class TestBytes:
    @pytest.mark.parametrize(("vocab_size", "lines"), [(50_257, 1), (300, 0)])
    def test_a_large_vocabulary_without_a_tokenizer_is_told_of(
        self, tmp_path: Path, vocab_size: int, lines: int
    ) -> None:
        told: list[str] = []
        options = run(tmp_path / "run", pages(tmp_path / "data"), None)
        open_batches(options, seq_len=4, global_batch=1, vocab_size=vocab_size, progress=told.append)
        assert len(told) == lines
        if lines:
            assert told[0].startswith(
                "text is read as bytes, which takes 257 of the model's 50,257 tokens; give --tokenizer"
            )


def chats(folder: Path) -> Path:
    rows = [
        {"prompt": f"{number} times 3?", "response": f"It is {3 * number}. " * (1 + number % 3)} for number in range(40)
    ]
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "chats.jsonl"


def for_chats(divided: Plan, **changes: Any) -> PlanFile:
    file = tiny(divided)
    config = {**file.model_config_json, "vocab_size": VOCABULARY}
    training = file.training.model_copy(update={"lengths": LENGTHS, "seq_len": 64, **changes})
    return file.model_copy(update={"model_config_json": config, "training": training})


class TestChat:
    def test_a_label_is_a_token_of_an_answer(self, tmp_path: Path, tokenizer: Path) -> None:
        options = run(tmp_path / "run", chats(tmp_path), tokenizer, data_format="chat")
        batches = open_plan_batches(for_chats(plan((layers(),))), options)
        assert isinstance(batches, DocumentBatches)
        inputs, labels, places = batches.at(1)
        assert places is not None
        own: Any = Tokenizer(tokenizer, VOCABULARY)._own
        row = own.decode(labels[0][labels[0] >= 0])
        assert row.startswith("It is ")
        assert "times" not in row
        assert "times 3?" in own.decode(inputs[0])
        assert 0.2 < float((labels >= 0).float().mean()) < 0.8

    def test_two_ranks_train_as_one(self, tmp_path: Path, tokenizer: Path) -> None:
        """The loss is that of all answers of a step, however many a rank or a microbatch has."""
        data = chats(tmp_path)
        found = {}
        for name, divided in (
            ("one", plan((layers(),), microbatches=1)),
            ("dp", plan((layers(zero=2),), dp_shard=2)),
            ("pp", plan((layers(1),), (layers(1),), pp=2, microbatches=4)),
        ):
            options = run(
                tmp_path / name,
                data,
                tokenizer,
                data_format="chat",
                steps=3,
                checkpoint_every=None,
                timing_warmup_steps=0,
            )
            open_plan_batches(for_chats(divided), options)
            found[name] = losses(for_chats(divided), options)
        assert found["dp"] == pytest.approx(found["one"], abs=1e-5)
        assert found["pp"] == pytest.approx(found["one"], abs=1e-5)

    def test_a_plan_without_documents_is_refused(self, tmp_path: Path, tokenizer: Path) -> None:
        options = run(tmp_path / "run", chats(tmp_path), tokenizer, data_format="chat")
        with pytest.raises(
            SpecError, match=r"whole conversations, .* plan with --lengths, such as --lengths uniform:8..64"
        ):
            open_plan_batches(for_chats(plan((layers(),)), lengths=None), options)

    def test_without_a_tokenizer_it_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="data_format 'chat' needs a tokenizer"):
            run(tmp_path / "run", tmp_path, None, data_format="chat")


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    options = run(tmp_path / "run", pages(tmp_path / "data"), tokenizer)
    with pytest.raises(SpecError, match="has ids up to 299, and the model's vocabulary ends at 279"):
        open_stream(options, 280)
    shutil.rmtree(tmp_path / "data")
    assert not options.out.exists()


def test_held_back_data_equal_to_the_data_leaves_both_there(tmp_path: Path, tokenizer: Path) -> None:
    """Other ranks wait for either."""
    data = pages(tmp_path / "data")
    copied = tmp_path / "copy"
    copied.mkdir()
    for file in data.iterdir():
        (copied / f"copy-{file.name}").write_text(file.read_text())
    given = run(tmp_path / "run", data, tokenizer, eval_data=(copied,), eval_every=1)
    made = tiny(plan((layers(),)))
    config = {**made.model_config_json, "vocab_size": VOCABULARY}
    made = made.model_copy(update={"model_config_json": config})
    assert open_held_back(made, given) is not None
    batches = open_plan_batches(made, given)
    assert len(list((tmp_path / "run" / "tokens").iterdir())) == 2
    assert open_plan_batches(made, given.model_copy(update={"data": (copied,)})).digest == batches.digest


def test_conversations_without_a_tokenizer_beside_the_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n")
    given = RunOptions(
        out=tmp_path / "run", data=(tmp_path / "a.jsonl",), data_format="chat", init_from=tmp_path / "weights"
    )
    with pytest.raises(SpecError, match=r"needs a tokenizer, and there is none beside .*weights; give its folder"):
        open_stream(given, VOCABULARY)
