"""A tokenizer of transformers, read from a folder without the network and without code from it."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardwright.base import SpecError

_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "spiece.model")
_NO_LIMIT = 10**30
"""Tokens of a text; transformers has this number for a tokenizer without a limit."""
_BATCH_CHARACTERS = 2**20
"""Of text that is handed to the tokenizer at once, so that its threads have work and memory stays small."""


class Spans(NamedTuple):
    """Tokens of a text, and where in it each begins and ends, in characters; (tokens,) and (tokens, 2)."""

    tokens: NDArray[np.int64]
    characters: NDArray[np.int64]


def holds_tokenizer(folder: Path) -> bool:
    """Whether a folder has files of a tokenizer."""
    return any((folder / name).is_file() for name in _FILES)


class Tokenizer:
    """The tokenizer in `folder`, for a model of `vocab_size` tokens.

    Raises:
        SpecError: there is none that transformers reads, or it has more ids than the model has tokens.
    """

    def __init__(self, folder: Path, vocab_size: int) -> None:
        from transformers import AutoTokenizer

        if not folder.is_dir():
            raise SpecError(f"{folder}: no such folder; give one with a tokenizer, such as tokenizer.json")
        if not holds_tokenizer(folder):
            raise SpecError(
                f"{folder}: holds no tokenizer ({_FILES[0]} or {_FILES[2]}); give a folder that save_pretrained wrote"
            )
        load: Any = AutoTokenizer.from_pretrained
        try:
            self._own = load(str(folder), local_files_only=True, trust_remote_code=False)
            vocabulary = self._own.get_vocab()
        except Exception as problem:  # transformers and tokenizers each raise their own for a damaged file
            detail = " ".join(str(problem).split())[:160]
            raise SpecError(
                f"{folder}: its tokenizer cannot be read ({detail}); give a folder that save_pretrained wrote"
            ) from None
        self.folder = folder
        # sequences are cut later, and transformers would warn of every tokenizer with a shorter limit
        self._limit, self._own.model_max_length = self._own.model_max_length, _NO_LIMIT
        largest = max(vocabulary.values(), default=-1)
        if largest >= vocab_size:
            raise SpecError(
                f"{folder}: its tokenizer has ids up to {largest:,}, and the model's vocabulary ends at {vocab_size - 1:,}; give the model's own "
                "tokenizer, or plan with a larger vocab_size"
            )
        self.end: int | None = self._own.eos_token_id
        begin = list(self._own("")["input_ids"])
        self._begin = begin[:-1] if begin and begin[-1] == self.end else begin
        described = [type(self._own).__name__, vocabulary, self._own.special_tokens_map, self.template, self._begin]
        rules = self._own.backend_tokenizer.to_str() if self._own.is_fast else ""
        self.digest = hashlib.sha256((json.dumps(described, sort_keys=True, default=str) + rules).encode()).hexdigest()[
            :16
        ]

    @property
    def template(self) -> str | None:
        """The chat template, None where it has none."""
        found: str | None = self._own.chat_template
        return found

    def save(self, folder: Path) -> None:
        """Write the files of the tokenizer into a folder.

        Raises:
            SpecError: they hold what is no text.
        """
        self._own.model_max_length = self._limit
        try:
            self._own.save_pretrained(folder)
        except UnicodeEncodeError as problem:  # JSON may name halves of characters, which no file in UTF-8 holds
            raise SpecError(
                f"{self.folder}: its tokenizer cannot be written again ({problem.reason}); give a folder that save_pretrained wrote"
            ) from None
        self._own.model_max_length = _NO_LIMIT

    def documents(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the tokens of each text, without those that begin or end a document."""
        if not texts:
            return []
        return [np.array(ids, dtype=np.int64) for ids in self._own(list(texts), add_special_tokens=False)["input_ids"]]

    def framed(self, pieces: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        """Return a document of pieces, with the tokens that the tokenizer puts first, and the end token if it has one."""
        end = [] if self.end is None else [self.end]
        return np.concatenate([np.array(self._begin, dtype=np.int64), *pieces, np.array(end, dtype=np.int64)])

    def spans(self, text: str) -> Spans:
        """Return tokens with their places in the text.

        Raises:
            SpecError: the tokenizer does not tell them.
        """
        if not self._own.is_fast:
            raise SpecError(
                f"{self.folder}: its tokenizer does not tell where tokens lie, which conversations need; give one with tokenizer.json"
            )
        found = self._own(text, add_special_tokens=False, return_offsets_mapping=True)
        return Spans(
            np.array(found["input_ids"], dtype=np.int64),
            np.array(found["offset_mapping"], dtype=np.int64).reshape(-1, 2),
        )

    def rendered(self, messages: Sequence[Any], *, tools: Any = None, asks: bool = False) -> str:
        """Return a conversation as the chat template writes it; `asks`: up to where the next answer begins.

        Raises:
            Exception: whatever the template raises.
        """
        text: str = self._own.apply_chat_template(
            list(messages), tools=tools, tokenize=False, add_generation_prompt=asks
        )
        return text

    def marked(self, messages: Sequence[Any], *, tools: Any = None) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return tokens of a conversation, and which of them the template marks as answers by {% generation %}."""
        found = self._own.apply_chat_template(
            list(messages), tools=tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        return np.array(found["input_ids"], dtype=np.int64), np.array(found["assistant_masks"], dtype=np.bool_)


def in_batches(texts: Iterator[str]) -> Iterator[list[str]]:
    """Yield lists of texts of about a million characters together."""
    batch, characters = [], 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
