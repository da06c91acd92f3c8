"""The tokens of a run's text on the disk, made once by one process and mapped into memory by all.

A folder holds `tokens.bin`, `ends.bin` (positions behind each document, int64), `counted.bin` (a byte for each token that the loss
counts) if not all are, and `meta.json`, whose presence means that it is complete.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardwright.base import PARTIAL, RunFailedError, SpecError, partial_folder, read_json
from shardwright.specs import NonNegativeInt, Spec

META = "meta.json"
_TOKENS, _ENDS, _COUNTED = "tokens.bin", "ends.bin", "counted.bin"
_SMALL_VOCABULARY = 2**16


class TokenDocument(NamedTuple):
    """Tokens of a document, (tokens,), and which of them the loss counts; None: all."""

    tokens: NDArray[np.int64]
    counted: NDArray[np.bool_] | None = None


class _Meta(Spec):
    """`digest`: of all tokens, ends and counts."""

    digest: str
    dtype: Literal["uint16", "uint32"]
    tokens: NonNegativeInt
    documents: NonNegativeInt
    counted: NonNegativeInt


class StoredTokens:
    """The tokens in a folder that `write_tokens` wrote, mapped into memory."""

    def __init__(self, folder: Path) -> None:
        meta = _Meta.parse(read_json(folder / META), source=str(folder / META))
        self.digest = meta.digest
        self.counted_share = meta.counted / max(1, meta.tokens)
        self._tokens = _mapped(folder / _TOKENS, np.dtype(meta.dtype).newbyteorder("<"), meta.tokens)
        self.ends: NDArray[np.int64] = _mapped(folder / _ENDS, np.dtype("<i8"), meta.documents)
        some = meta.counted < meta.tokens
        self._counted = _mapped(folder / _COUNTED, np.dtype(np.bool_), meta.tokens) if some else None

    @property
    def length(self) -> int:
        return len(self._tokens)

    def read(self, start: int, count: int) -> NDArray[np.int64]:
        """Return tokens from position `start` on."""
        return self._tokens[start : start + count].astype(np.int64)

    def counted(self, start: int, count: int) -> NDArray[np.bool_] | None:
        """Return which of these tokens the loss counts, None: all of all documents."""
        return None if self._counted is None else np.array(self._counted[start : start + count])


def find_tokens(folder: Path) -> StoredTokens | None:
    """Return the tokens in a folder, None where there are none or they are not complete."""
    return StoredTokens(folder) if (folder / META).is_file() else None


def write_tokens(folder: Path, documents: Iterable[TokenDocument], *, vocab_size: int) -> StoredTokens:
    """Write the tokens of documents, whole or not at all, in place of what the folder holds.

    Raises:
        RunFailedError: the disk is full or failed.
    """
    dtype: Literal["uint16", "uint32"] = "uint16" if vocab_size <= _SMALL_VOCABULARY else "uint32"
    with _whole_folder(folder) as partial:
        digest, total, ends, counted_tokens = hashlib.sha256(), 0, [], 0
        with (partial / _TOKENS).open("wb") as tokens, (partial / _COUNTED).open("wb") as counts:
            for document in documents:
                counted = np.ones(len(document.tokens), np.bool_) if document.counted is None else document.counted
                _write(tokens, document.tokens.astype(np.dtype(dtype).newbyteorder("<")), digest)
                _write(counts, counted, digest)
                total += len(document.tokens)
                counted_tokens += int(counted.sum())
                ends.append(total)
        with (partial / _ENDS).open("wb") as file:
            _write(file, np.array(ends, dtype="<i8"), digest)
        if counted_tokens == total:
            (partial / _COUNTED).unlink()
        meta = _Meta(
            digest=digest.hexdigest()[:16], dtype=dtype, tokens=total, documents=len(ends), counted=counted_tokens
        )
        (partial / META).write_text(meta.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return StoredTokens(folder)


def _write(file: IO[bytes], values: NDArray[Any], digest: Any) -> None:
    content = values.tobytes()
    digest.update(content)
    file.write(content)


def _mapped(path: Path, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    size = path.stat().st_size if path.is_file() else -1
    if size != count * dtype.itemsize:
        raise SpecError(
            f"{path}: is damaged ({size} bytes for {count} entries of {dtype}); delete {path.parent}, and start again"
        )
    return np.memmap(path, dtype=dtype, mode="r") if count else np.empty(0, dtype=dtype)


@contextlib.contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        try:
            partial = stack.enter_context(partial_folder(folder, leftovers=f".*{PARTIAL}"))
        except OSError as error:
            raise SpecError(f"{folder}: cannot be written ({error.strerror or error})") from None
        try:
            yield partial
            partial.chmod(0o755)  # mkdtemp's is for its user alone
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        except OSError as error:
            raise RunFailedError(f"{folder}: cannot be written ({error.strerror or error})") from error
