"""Sources of tokens: files of text as bytes, arrays of token ids, Hugging Face
datasets. Read by position, never as a whole."""

import bisect
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from shardwright.base import SpecError, files_digest, install, listed, read_json, rows_digest
from shardwright.specs import Spec

Tokens = NDArray[np.int64]
BYTE_VALUES = 256


class TokenStream(Protocol):
    """Tokens in one fixed order. `digest` distinguishes two streams without reading them completely."""

    @property
    def length(self) -> int: ...

    @property
    def digest(self) -> str: ...

    def read(self, start: int, count: int) -> Tokens:
        """Return the `count` tokens from position `start` on, int64. The range must be within the stream."""
        ...


class _Documents:
    """Documents in sequence, each found by bisection. Only the requested range of a document is read."""

    def __init__(self, lengths: Sequence[int], described: Iterable[str]) -> None:
        self._ends = list(itertools.accumulate(lengths))
        self.digest = hashlib.sha256("\n".join(described).encode()).hexdigest()[:16]

    @property
    def length(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def document_ends(self) -> Tokens:
        """Positions behind the last token of each document, ascending, (documents,)."""
        return np.array(self._ends, dtype=np.int64)

    def read(self, start: int, count: int) -> Tokens:
        pieces, position, end = [], start, start + count
        index = bisect.bisect_right(self._ends, start)
        while position < end:
            first = self._ends[index - 1] if index else 0
            stop = min(end, self._ends[index])
            pieces.append(self._document(index, position - first, stop - first))
            position, index = stop, index + 1
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)

    def counted(self, start: int, count: int) -> NDArray[np.bool_] | None:
        """Return which tokens the loss counts, None: all."""
        return None

    def _document(self, index: int, start: int, stop: int) -> Tokens:
        raise NotImplementedError


class TextFiles(_Documents):
    """Text files as bytes: token = byte value, and token 256 after each file where the vocabulary holds it.

    Raises:
        SpecError: the vocabulary has fewer than 256 tokens.
    """

    def __init__(self, files: Sequence[Path], vocab_size: int) -> None:
        _need_byte_vocabulary(vocab_size)
        self._files = files
        self._separator = [BYTE_VALUES] if vocab_size > BYTE_VALUES else []
        sizes = [file.stat().st_size for file in files]
        described = [f"{file.name} {size}" for file, size in zip(files, sizes, strict=True)]
        content = files_digest(files, sizes)
        super().__init__([size + len(self._separator) for size in sizes], ["text", *described, content])

    def _document(self, index: int, start: int, stop: int) -> Tokens:
        file = self._files[index]
        tokens = np.frombuffer(_read_part(file, start, stop - start), dtype=np.uint8).astype(np.int64)
        missing = stop - start - len(tokens)
        if missing > len(self._separator):
            raise SpecError(f"{file}: became shorter while the run was reading it; data must not change during a run")
        return np.concatenate([tokens, np.array(self._separator[:missing], dtype=np.int64)])


class TokenFiles(_Documents):
    """`.bin` files of token ids, little-endian unsigned integers, read where they are asked for.

    The type comes from `dtype` or from a sidecar `NAME.bin.json` with {"dtype": "uint16"} (or "uint32").

    Raises:
        SpecError: the type is unknown, or the size of the file is no multiple of it; on reading, a token is outside the
            vocabulary.
    """

    def __init__(self, files: Sequence[Path], vocab_size: int, dtype: Literal["uint16", "uint32"] | None) -> None:
        self._files, self._vocab_size = files, vocab_size
        self._kinds = [_token_type(file, dtype) for file in files]
        sizes = [_whole_tokens(file, kind) for file, kind in zip(files, self._kinds, strict=True)]
        lengths = [size // kind.itemsize for size, kind in zip(sizes, self._kinds, strict=True)]
        described = [
            f"{file.name} {kind} {length}" for file, kind, length in zip(files, self._kinds, lengths, strict=True)
        ]
        super().__init__(lengths, ["tokens", *described, files_digest(files, sizes)])

    def _document(self, index: int, start: int, stop: int) -> Tokens:
        # not mapped: a file that becomes shorter would end the process without a word (SIGBUS)
        file, kind = self._files[index], self._kinds[index]
        content = _read_part(file, start * kind.itemsize, (stop - start) * kind.itemsize)
        if len(content) < (stop - start) * kind.itemsize:
            raise SpecError(f"{file}: became shorter while the run was reading it; data must not change during a run")
        tokens = np.frombuffer(content, dtype=kind).astype(np.int64)
        return _within_vocabulary(tokens, self._vocab_size, source=str(self._files[index]), start=start)


class _Sidecar(Spec):
    dtype: Literal["uint16", "uint32"]


def _read_part(file: Path, start: int, count: int) -> bytes:
    """Return `count` bytes from `start` on, fewer where the file ends.

    Raises:
        SpecError: the file is gone or cannot be read.
    """
    try:
        with file.open("rb") as opened:
            opened.seek(start)
            return opened.read(count)
    except OSError as error:
        raise SpecError(f"{file}: cannot be read ({error.strerror or error})") from None


def _token_type(file: Path, dtype: Literal["uint16", "uint32"] | None) -> "np.dtype[Any]":
    sidecar = file.with_name(file.name + ".json")
    if dtype is None and sidecar.is_file():
        dtype = _Sidecar.parse(read_json(sidecar), source=str(sidecar)).dtype
    if dtype is None:
        raise SpecError(
            f'{file}: the type of its tokens is unknown; give token_dtype uint16 or uint32, or write {{"dtype": "uint16"}} to {sidecar.name}'
        )
    return np.dtype(dtype).newbyteorder("<")


def _whole_tokens(file: Path, kind: "np.dtype[Any]") -> int:
    """Return the size of a file in bytes, which must be a whole number of tokens."""
    size = file.stat().st_size
    if size % kind.itemsize:
        raise SpecError(f"{file}: {size} bytes are no whole number of {kind.name} tokens; is the file complete?")
    return size


class HuggingFaceDataset(_Documents):
    """A dataset on disk: one that `save_to_disk` wrote, or files of Parquet, JSON lines or CSV.

    `column` holds token ids (lists of integers) or text (read as bytes, like `TextFiles`). The default is `input_ids`,
    else `text`.

    Raises:
        SpecError: the package `datasets` is absent, the path holds no dataset, or the dataset has no such column.
    """

    def __init__(self, paths: Sequence[Path], vocab_size: int, column: str | None) -> None:
        self._vocab_size, self._paths = vocab_size, paths
        dataset, self._column = _open_dataset(paths, column)
        self._dataset = dataset.select_columns([self._column]).with_format("arrow")
        self._is_text = _holds_text(dataset, self._column, source=listed(paths))
        if self._is_text:
            _need_byte_vocabulary(vocab_size)
        self._separator = [BYTE_VALUES] if self._is_text and vocab_size > BYTE_VALUES else []
        lengths = [length + len(self._separator) for length in self._document_lengths()]
        content = rows_digest(lambda row: self._dataset[row][self._column][0].as_py(), len(lengths))
        described = [str(dataset.features[self._column]), self._column, str(len(lengths)), str(sum(lengths)), content]
        super().__init__(lengths, ["hf", *(path.name for path in paths), *described])

    def _document_lengths(self) -> Iterable[int]:
        import pyarrow.compute as arrow  # comes with datasets

        measure = arrow.binary_length if self._is_text else arrow.list_value_length
        for table in self._dataset.iter(batch_size=10_000):
            yield from (length or 0 for length in measure(table[self._column]).to_pylist())

    def _document(self, index: int, start: int, stop: int) -> Tokens:
        value = self._dataset[index][self._column][0].as_py() or ()
        if self._is_text:
            whole = np.frombuffer(value.encode() if value else b"", dtype=np.uint8).astype(np.int64)
            whole = np.concatenate([whole, np.array(self._separator, dtype=np.int64)])
        else:
            whole = np.array(value, dtype=np.int64)
        source = f"{listed(self._paths)} (row {index})"
        return _within_vocabulary(whole[start:stop], self._vocab_size, source=source, start=start)


def dataset_texts(paths: Sequence[Path], column: str | None) -> Iterator[str]:
    """Yield the texts of a dataset's column in order.

    Raises:
        SpecError: as `HuggingFaceDataset`.
    """
    dataset, name = _open_dataset(paths, column)
    for rows in dataset.select_columns([name]).iter(batch_size=1_000):
        yield from (text or "" for text in rows[name])


def dataset_holds_text(paths: Sequence[Path], column: str | None) -> bool:
    """Whether the column holds text, not token ids.

    Raises:
        SpecError: as `HuggingFaceDataset`.
    """
    dataset, name = _open_dataset(paths, column)
    return _holds_text(dataset, name, source=listed(paths))


def _open_dataset(paths: Sequence[Path], column: str | None) -> tuple[Any, str]:
    """Return the dataset at `paths` and the name of its column of tokens or text."""
    try:
        import datasets
    except ImportError:
        raise SpecError(f"data_format 'hf' needs the package datasets: {install('data')}") from None
    datasets.disable_progress_bars()
    builders = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv"}
    shown = listed(paths)
    try:
        if len(paths) == 1 and paths[0].is_dir():
            dataset = datasets.load_from_disk(str(paths[0]))
        elif len({path.suffix for path in paths}) == 1 and paths[0].suffix in builders:
            files = [str(path) for path in paths]
            dataset = datasets.load_dataset(builders[paths[0].suffix], data_files=files, split="train")
        else:
            raise SpecError(
                f"{shown}: give one folder that save_to_disk wrote, or files all ending in one of {', '.join(builders)}"
            )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"{shown}: is not a readable dataset ({str(error).splitlines()[0]})") from None
    if isinstance(dataset, datasets.DatasetDict):
        if "train" not in dataset:
            raise SpecError(
                f"{shown}: holds the splits {', '.join(dataset)}, none called 'train'; give one split's folder"
            )
        dataset = dataset["train"]
    wanted = [column] if column else ["input_ids", "text"]
    found = [name for name in wanted if name in dataset.column_names]
    if not found:
        raise SpecError(
            f"{shown}: has no column '{wanted[0]}'; give data_column one of {', '.join(dataset.column_names)}"
        )
    return dataset, found[0]


def _holds_text(dataset: Any, column: str, *, source: str) -> bool:
    """Whether the column holds text, not token ids. Any other kind is refused."""
    import pyarrow

    kind, is_kind = dataset.features.arrow_schema.field(column).type, pyarrow.types
    if is_kind.is_string(kind) or is_kind.is_large_string(kind):
        return True
    listed = is_kind.is_list(kind) or is_kind.is_large_list(kind) or is_kind.is_fixed_size_list(kind)
    if not (listed and is_kind.is_integer(kind.value_type)):
        raise SpecError(
            f"{source}: column '{column}' holds {kind}; give a data_column of text or of lists of token ids"
        )
    return False


def _need_byte_vocabulary(vocab_size: int) -> None:
    if vocab_size < BYTE_VALUES:
        raise SpecError(
            f"text is read as bytes, which needs a vocabulary of at least {BYTE_VALUES}, and this model's is {vocab_size}; give a larger vocab_size or data of tokens"
        )


def _within_vocabulary(tokens: Tokens, vocab_size: int, *, source: str, start: int) -> Tokens:
    outside = (tokens < 0) | (tokens >= vocab_size)
    if outside.any():
        at = int(outside.argmax())
        raise SpecError(
            f"{source}: holds token {tokens[at]} at position {start + at}, and the model's vocabulary ends at {vocab_size - 1}; tokenize for this model"
        )
    return tokens
