"""Tokens on the disk: whole, or made again."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from shardwright.executor.data.tokenised import _folders
from shardwright.executor.text import store
from shardwright.executor.text.store import TokenDocument, find_tokens, write_tokens
from tests.killed import until_killed


def documents(die: Callable[[], None] | None = None) -> Iterator[TokenDocument]:
    yield TokenDocument(np.arange(5))
    if die:
        die()
    yield TokenDocument(np.arange(7))


def test_a_kill_while_tokens_are_written_leaves_none_and_the_next_start_makes_them(tmp_path: Path) -> None:
    folder = tmp_path / "tokens" / "abc"
    assert until_killed(lambda die: write_tokens(folder, documents(die), vocab_size=100))
    assert find_tokens(folder) is None
    assert len(list(folder.parent.iterdir())) == 1, "the kill left its part"
    written = write_tokens(folder, documents(), vocab_size=100)
    assert written.length == 12
    assert list(folder.parent.iterdir()) == [folder]


def test_tokens_without_their_name_yet_are_none(tmp_path: Path) -> None:
    """Killed when all files are written; other data is tokenised next."""

    def killed(die: Callable[[], None]) -> None:
        store.shutil.rmtree = lambda *_args, **_options: die()  # type: ignore[attr-defined]
        write_tokens(tmp_path / "tokens" / "abc", documents(), vocab_size=100)

    assert until_killed(killed)
    assert list((tmp_path / "tokens").glob("*/meta.json"))
    assert _folders(tmp_path) == set()
    write_tokens(tmp_path / "tokens" / "other", documents(), vocab_size=100)
    assert [path.name for path in (tmp_path / "tokens").iterdir()] == ["other"]
