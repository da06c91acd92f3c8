from collections.abc import Callable

import pytest

from shardwright.base.errors import SpecError
from shardwright.exports.text.documents import read_json_text, read_toml_text, read_yaml_text


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (read_json_text, "[1, 2]", "holds no table of settings"),
        (read_yaml_text, "- 1", "holds no table of settings"),
        (read_json_text, '{"a": ', "is no valid JSON: .* in line 1"),
        (read_json_text, '{"a": ' + "9" * 5000 + "}", "is no valid JSON: it holds a number of thousands of digits"),
        (read_json_text, "[" * 100_000, "is no valid JSON: it is nested too deep"),
        (read_toml_text, "a = ", "is no valid TOML"),
        (read_yaml_text, "a: [", "is no valid YAML: .* in line"),
    ],
)
def test_what_is_no_document_is_refused_with_its_own_reason(
    read: Callable[[str, str], object], text: str, words: str
) -> None:
    with pytest.raises(SpecError, match=f"^file: {words}") as caught:
        read(text, "file")
    assert "\n" not in str(caught.value)
