"""Text and conversations through the model's tokenizer: tokenised once, by the leader of a run, into the run's folder."""

import contextlib
import hashlib
import itertools
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shardwright.base import SpecError, units
from shardwright.executor import RunOptions
from shardwright.executor.text import (
    META,
    StoredTokens,
    TokenDocument,
    Tokenizer,
    find_tokens,
    in_batches,
    read_conversations,
    write_tokens,
)

from .token_streams import Tokens, dataset_texts

TOKENS_FOLDER = "tokens"
"""Of the run's folder, below which the tokens lie."""
_WAIT_SECONDS = 0.5
_BLOCK_CHARACTERS = 2**22
_LINE_END = re.compile(r"\n(?=\S)")
"""Where a long text is cut: before a line that begins with no space, so that tokens rarely run across."""


class TokenisedDocuments:
    """Documents of a run through its tokenizer, as a stream. See `token_streams.TokenStream`."""

    def __init__(self, stored: StoredTokens) -> None:
        self._stored = stored
        self.digest = hashlib.sha256(f"tokenised {stored.digest}".encode()).hexdigest()[:16]

    @property
    def length(self) -> int:
        return self._stored.length

    @property
    def document_ends(self) -> Tokens:
        """Positions behind the last token of each document, ascending, (documents,)."""
        return self._stored.ends

    def read(self, start: int, count: int) -> Tokens:
        return self._stored.read(start, count)

    def counted(self, start: int, count: int) -> NDArray[np.bool_] | None:
        return self._stored.counted(start, count)


def open_tokenised(
    options: RunOptions, files: Sequence[Path], vocab_size: int, *, progress: Callable[[str], None] = lambda _line: None
) -> TokenisedDocuments:
    """Return the tokens of `files`. The leader of the run makes them where the folder has none of these files; other ranks wait for it.

    Raises:
        SpecError: the tokenizer or the data is not valid.
        RunFailedError: the disk is full or failed.
    """
    assert options.tokenizer is not None
    tokenizer = Tokenizer(options.tokenizer, vocab_size)
    folder = options.out / TOKENS_FOLDER / _stamp(options, files, tokenizer)
    stored = find_tokens(folder)
    while stored is None and os.environ.get("RANK", "0") != "0":
        time.sleep(_WAIT_SECONDS)
        stored = find_tokens(folder)
    if stored is not None:
        return TokenisedDocuments(stored)
    begun = time.perf_counter()
    if tokenizer.end is None:
        progress(f"{tokenizer.folder}: has no end token, so documents follow each other without one")
    stored = write_tokens(folder, _documents(options, list(files), tokenizer), vocab_size=vocab_size)
    for other in _folders(options.out) - {folder}:
        several = (
            options.data_weights or options.eval_data
        )  # data of a mixture may be equal, and held-back data to data
        known = None if several else find_tokens(other)
        if known is not None and known.digest == stored.digest:  # the same files, touched or copied
            shutil.rmtree(other)
    answers = f", {stored.counted_share:.1%} of them answers" if options.data_format == "chat" else ""
    progress(
        f"tokenised {len(stored.ends):,} documents by {tokenizer.folder} into {stored.length:,} tokens{answers}, in {units.seconds(time.perf_counter() - begun)}"
    )
    return TokenisedDocuments(stored)


@contextlib.contextmanager
def new_tokens_go_with_a_mistake(out: Path) -> Iterator[None]:
    """Take away what was tokenised inside the block if a mistake of the user ends it, such as other data than the run's."""
    before, own = _folders(out), not out.exists()
    try:
        yield
    except SpecError:
        for made in _folders(out) - before:
            shutil.rmtree(made, ignore_errors=True)
        with contextlib.suppress(OSError):  # other tokens are there, or other files
            (out / TOKENS_FOLDER).rmdir()
            if own:
                out.rmdir()
        raise


def _folders(out: Path) -> set[Path]:
    return {path.parent for path in (out / TOKENS_FOLDER).glob(f"[!.]*/{META}")}  # others are not whole


def _stamp(options: RunOptions, files: Sequence[Path], tokenizer: Tokenizer) -> str:
    """Return what says whether tokens are of these files: names, sizes, times of change, and the tokenizer's rules."""
    states = [(file.name, file.stat()) for file in files]
    described = [f"{name} {state.st_size} {state.st_mtime_ns}" for name, state in states]
    given = [options.data_format, str(options.data_column), tokenizer.digest, *described]
    return hashlib.sha256("\n".join(given).encode()).hexdigest()[:16]


def _documents(options: RunOptions, files: list[Path], tokenizer: Tokenizer) -> Iterator[TokenDocument]:
    if options.data_format == "chat":
        yield from read_conversations(files, tokenizer)
    elif options.data_format == "hf":
        for batch in in_batches(dataset_texts(options.data, options.data_column)):
            yield from _whole(batch, tokenizer)
    else:
        for texts in _short_and_long(files):
            if isinstance(texts, Path):
                pieces = [tokens for text in _pieces(texts) for tokens in tokenizer.documents([text])]
                yield TokenDocument(tokenizer.framed(pieces))
            else:
                yield from _whole(texts, tokenizer)


def _whole(texts: list[str], tokenizer: Tokenizer) -> Iterator[TokenDocument]:
    for tokens in tokenizer.documents(texts):
        yield TokenDocument(tokenizer.framed([tokens]))


def _short_and_long(files: Sequence[Path]) -> Iterator[list[str] | Path]:
    """Yield the texts of short files in batches, and long files by themselves, in the order of the files."""
    for is_long, group in itertools.groupby(files, lambda file: file.stat().st_size > _BLOCK_CHARACTERS):
        if is_long:
            yield from group
        else:
            yield from in_batches("".join(_pieces(file)) for file in group)


def _pieces(file: Path) -> Iterator[str]:
    """Yield a text file in pieces of about four million characters, cut at ends of lines. What is no UTF-8 is replaced by a mark."""
    rest = ""
    try:
        with file.open(encoding="utf-8", errors="replace", newline="") as opened:
            while block := opened.read(_BLOCK_CHARACTERS):
                rest += block
                ends = [found.end() for found in _LINE_END.finditer(rest)]
                if ends and len(rest) >= _BLOCK_CHARACTERS:
                    yield rest[: ends[-1]]
                    rest = rest[ends[-1] :]
    except OSError as error:
        raise SpecError(f"{file}: cannot be read ({error.strerror or error})") from None
    if rest:
        yield rest
