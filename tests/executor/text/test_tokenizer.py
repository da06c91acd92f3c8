import json
import logging
from pathlib import Path
from typing import Any

import pytest

from shardwright.base.errors import SpecError
from shardwright.executor.text import Tokenizer, holds_tokenizer
from tests.executor.tokenizers import IDS, VOCABULARY, tokenizer_folder


def refused(folder: Path, vocab_size: int = VOCABULARY) -> str:
    with pytest.raises(SpecError) as caught:
        Tokenizer(folder, vocab_size)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_document_ends_with_the_end_token_and_begins_as_the_tokenizer_begins(tmp_path: Path) -> None:
    own = Tokenizer(tokenizer_folder(tmp_path), IDS)
    pieces = own.documents(["3 times ", "3"])
    assert own.framed(pieces).tolist() == [*pieces[0], *pieces[1], own.end]
    own._begin = [1]
    assert own.framed(pieces).tolist() == [1, *pieces[0], *pieces[1], own.end]


def test_a_tokenizer_without_an_end_token_ends_no_document(tmp_path: Path) -> None:
    own = Tokenizer(tokenizer_folder(tmp_path, end=None), IDS)
    assert own.end is None
    assert own.framed(own.documents(["3"])).tolist() == own.documents(["3"])[0].tolist()


@pytest.mark.parametrize("limit", [4, "four", None])
def test_the_length_that_a_tokenizer_was_made_for_is_no_limit_of_a_document(
    tmp_path: Path, limit: Any, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    """Sequences are cut later. An export still says the length."""
    path = tokenizer_folder(tmp_path / "given") / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": limit}))
    logging.getLogger("transformers").addHandler(caplog.handler)
    own = Tokenizer(tmp_path / "given", VOCABULARY)
    assert len(own.documents(["3 times 3 is 9. " * 9])[0]) > 4
    assert not recwarn.list
    assert "longer than" not in caplog.text
    own.save(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert limit is None or saved["model_max_length"] == limit


def test_more_ids_than_the_model_has_tokens(tmp_path: Path) -> None:
    message = refused(tokenizer_folder(tmp_path), IDS - 1)
    assert f"has ids up to {IDS - 1}, and the model's vocabulary ends at {IDS - 2}" in message


def test_folders_without_a_tokenizer(tmp_path: Path) -> None:
    assert "no such folder" in refused(tmp_path / "absent")
    assert not holds_tokenizer(tmp_path)
    assert "holds no tokenizer" in refused(tmp_path)
    tokenizer_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    assert "its tokenizer cannot be read" in refused(tmp_path)


def test_other_rules_have_another_digest(tmp_path: Path) -> None:
    first, same, other = (
        Tokenizer(tokenizer_folder(tmp_path / name, template=template), IDS).digest
        for name, template in (("a", "x"), ("b", "x"), ("c", "y"))
    )
    assert first == same != other


def test_no_code_of_a_folder_runs(tmp_path: Path) -> None:
    tokenizer_folder(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    text: Any = path.read_text().replace("{", '{"auto_map": {"AutoTokenizer": ["evil.Own", null]},', 1)
    path.write_text(text.replace('"tokenizer_class"', '"was_class"'))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    try:
        Tokenizer(tmp_path, IDS)
    except SpecError as error:
        assert "\n" not in str(error)  # noqa: PT017  # either is right, as long as nothing runs
    assert not (tmp_path / "ran").exists()
