"""Batches: the tokens of each step, the same under every plan."""

import hashlib
import os
import sysconfig
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import torch

from shardwright.base import SpecError
from shardwright.executor import RunOptions

from .token_streams import (
    BYTE_VALUES,
    HuggingFaceDataset,
    TextFiles,
    TokenFiles,
    Tokens,
    TokenStream,
    dataset_holds_text,
)
from .tokenised import TokenisedDocuments, open_tokenised

_FEISTEL_ROUNDS = 4
_LARGE_VOCABULARY = 1024
"""A vocabulary beyond it was made by a tokenizer, not for bytes."""


class Begins(NamedTuple):
    """Where a phase of a run begins: after so many steps, at the sequence of that number."""

    steps: int = 0
    sequences: int = 0

    def first(self, step: int, global_batch: int) -> int:
        """Return the number of the first sequence of `step` (from 1 on over the whole run)."""
        return self.sequences + (step - self.steps - 1) * global_batch


START = Begins()


class Batches:
    """The global batch of a step, as a pure function of (seed, step, data).

    The stream is cut into windows of `seq_len` + 1 tokens that overlap by one. Each epoch takes every window once, in
    its own order. The sequences of step k are the k-th `global_batch` windows of that order. Data-parallel rank r takes
    the r-th contiguous slice of them, so plans with different meshes see the same steps. A phase of a run counts from where it `begins`.

    Raises:
        SpecError: the data holds less than one window.
    """

    def __init__(
        self,
        stream: TokenStream,
        *,
        seq_len: int,
        global_batch: int,
        seed: int,
        named: str = "the data",
        begins: Begins = START,
    ) -> None:
        self._stream, self._seq_len, self._global_batch, self._seed = stream, seq_len, global_batch, seed
        self._begins = begins
        self._windows = (stream.length - 1) // seq_len
        if self._windows < 1:
            raise SpecError(
                f"{named} holds {stream.length:,} token{'s' * (stream.length != 1)} and one sequence of seq_len {seq_len} needs {seq_len + 1}; give more data or a shorter seq_len"
            )

    @property
    def digest(self) -> str:
        return self._stream.digest

    @property
    def sequences(self) -> int:
        """Sequences of an epoch."""
        return self._windows

    def at(self, step: int, *, dp_rank: int = 0, dp_size: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and labels of one data-parallel rank in `step` (from 1): both (global_batch / dp_size,
        seq_len), int64.

        A label is the token after the input at its place.
        """
        share = self._global_batch // dp_size
        first = self._begins.first(step, self._global_batch) + dp_rank * share
        rows = torch.from_numpy(np.stack([self._sequence(first + row) for row in range(share)]))
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def row(self, number: int) -> tuple[Tokens, Tokens, None]:
        """Return inputs and labels of the sequence of that number, (seq_len,) each."""
        sequence = self._sequence(number)
        return sequence[:-1], sequence[1:], None

    def _sequence(self, number: int) -> Tokens:
        epoch, place = divmod(number, self._windows)
        window = shuffled(place, self._windows, key=f"{self._seed}/{epoch}")
        return self._stream.read(window * self._seq_len, self._seq_len + 1)


def shuffled(place: int, count: int, *, key: str) -> int:
    """Return the image of `place` in the permutation of range(count) that `key` names. It needs no table for any count.

    A balanced Feistel network over the next power of four is repeated until the result is inside the range (Black and
    Rogaway 2002, section 4: cycle walking).
    """
    half_bits = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1
    while True:
        left, right = place >> half_bits, place & mask
        for turn in range(_FEISTEL_ROUNDS):
            mixed = hashlib.blake2b(f"{key}/{turn}/{right}".encode(), digest_size=8).digest()
            left, right = right, left ^ (int.from_bytes(mixed, "little") & mask)
        place = left << half_bits | right
        if place < count:
            return place


Say = Callable[[str], None]


def open_batches(
    options: RunOptions,
    *,
    seq_len: int,
    global_batch: int,
    vocab_size: int,
    progress: Say = lambda _line: None,
    begins: Begins = START,
) -> Batches:
    """Return the batches that `options` request.

    Raises:
        SpecError: a path is missing or empty, its tokens don't fit the vocabulary, or there are too few.
    """
    stream = open_stream(options, vocab_size, progress=progress)
    named = named_data(options)
    return Batches(stream, seq_len=seq_len, global_batch=global_batch, seed=options.seed, named=named, begins=begins)


def named_data(options: RunOptions) -> str:
    """Return words for the data of a run in a message."""
    if not options.data:
        return "the data"
    others = f" and {len(options.data) - 1} more" if len(options.data) > 1 else ""
    return f"the data {options.data[0]}{others}"


def open_stream(
    options: RunOptions, vocab_size: int, *, progress: Say = lambda _line: None
) -> TextFiles | TokenFiles | HuggingFaceDataset | TokenisedDocuments:
    """Return the tokens of the data that `options` name. `progress` is told what becomes of text.

    Raises:
        SpecError: see `open_batches`.
    """
    for path in options.data:
        if not path.exists():
            raise SpecError(f"{path}: no such file or folder; give data that exists")
    if options.data_format == "chat":
        if options.tokenizer is None:
            beside = options.init_from or options.resume_from
            raise SpecError(
                f"data_format 'chat' needs a tokenizer, and there is none beside {beside}; give its folder with --tokenizer"
            )
        return open_tokenised(options, _files_under(options.data, pattern="*.jsonl"), vocab_size, progress=progress)
    if options.data_format == "hf" and dataset_holds_text(options.data, options.data_column):
        if options.tokenizer is not None:
            return open_tokenised(options, _files_under(options.data, pattern="*"), vocab_size, progress=progress)
        if vocab_size > _LARGE_VOCABULARY:
            progress(_said_of_bytes(vocab_size))
    if options.data_format == "hf":
        return HuggingFaceDataset(options.data, vocab_size, options.data_column)
    if options.data_format == "tokens":
        return TokenFiles(_files_under(options.data, pattern="*.bin"), vocab_size, options.token_dtype)
    files = _files_under(options.data, pattern="*") if options.data else _standard_library_sources()
    if options.tokenizer is not None:
        return open_tokenised(options, files, vocab_size, progress=progress)
    if vocab_size > _LARGE_VOCABULARY:
        progress(_said_of_bytes(vocab_size))
    return TextFiles(files, vocab_size)


def _said_of_bytes(vocab_size: int) -> str:
    return f"text is read as bytes, which takes {BYTE_VALUES + 1} of the model's {vocab_size:,} tokens; give --tokenizer FOLDER for tokens of its own"


def _files_under(paths: tuple[Path, ...], *, pattern: str) -> list[Path]:
    """Return each given file and the files below each given folder, without hidden ones, in a fixed order."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(_below(path, pattern))
            if not found:
                raise SpecError(f"{path}: holds no file {pattern}; give a folder with data in it")
            files += found
        else:
            files.append(path)
    return files


def _below(folder: Path, pattern: str) -> Iterator[Path]:
    for place, folders, names in os.walk(folder, onerror=_refuse_folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        visible = (Path(place, name) for name in names if not name.startswith(".") and fnmatch(name, pattern))
        yield from (file for file in visible if file.is_file())


def _refuse_folder(error: OSError) -> NoReturn:
    raise SpecError(f"{error.filename}: cannot be read ({error.strerror}); give data that this user may read") from None


def _standard_library_sources() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "dist-packages", "test", "tests", "__pycache__"}
    below = ((file, file.relative_to(root).parts) for file in root.rglob("*.py"))
    files = sorted(file for file, parts in below if not left_out & set(parts))
    if not files:
        raise SpecError(f"{root}: holds no sources of Python's standard library, the default data; give data")
    return files
