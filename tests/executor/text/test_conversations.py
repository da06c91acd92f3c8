import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from shardwright.base.errors import SpecError
from shardwright.executor.text import TokenDocument, Tokenizer, read_conversations
from tests.executor.tokenizers import MARKED, TEMPLATE, VOCABULARY, tokenizer_folder

ASK, ANSWER = {"role": "user", "content": "3 times 3?"}, {"role": "assistant", "content": "It is 9."}
AGAIN, MORE = {"role": "user", "content": "and 4?"}, {"role": "assistant", "content": "16"}


def read(folder: Path, *rows: Any, template: str | None = TEMPLATE) -> list[TokenDocument]:
    tokenizer = Tokenizer(tokenizer_folder(folder / "tokenizer", template=template), VOCABULARY)
    (folder / "a.jsonl").write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return list(read_conversations([folder / "a.jsonl"], tokenizer))


def texts(folder: Path, document: TokenDocument) -> tuple[str, str]:
    """The whole document, and what the loss counts of it."""
    own: Any = AutoTokenizer.from_pretrained(folder / "tokenizer")
    assert document.counted is not None
    return own.decode(document.tokens), own.decode(document.tokens[document.counted])


@pytest.mark.parametrize("template", [TEMPLATE, MARKED], ids=["plain template", "template that marks answers"])
def test_the_loss_counts_each_answer_with_the_token_that_ends_it(tmp_path: Path, template: str) -> None:
    (found,) = read(tmp_path, {"messages": [ASK, ANSWER, AGAIN, MORE]}, template=template)
    whole, counted = texts(tmp_path, found)
    assert whole == (
        "<|start|>user\n3 times 3?<|stop|>\n<|start|>assistant\nIt is 9.<|stop|>\n"
        "<|start|>user\nand 4?<|stop|>\n<|start|>assistant\n16<|stop|>\n"
    )
    assert counted.replace("\n", "") == "It is 9.<|stop|>16<|stop|>"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "3 times 3?", "response": "It is 9."},
        {"prompt": "3 times 3?", "completion": "It is 9."},
        {"prompt": [ASK], "completion": [ANSWER]},
        {"messages": [ASK, ANSWER], "source": "a book"},
    ],
)
def test_a_prompt_and_its_response_are_a_conversation(row: dict[str, Any], tmp_path: Path) -> None:
    (found,) = read(tmp_path, row)
    assert texts(tmp_path, found) == (
        "<|start|>user\n3 times 3?<|stop|>\n<|start|>assistant\nIt is 9.<|stop|>\n",
        "It is 9.<|stop|>\n",
    )


def test_without_a_template_a_response_follows_its_prompt_and_ends_with_the_end_token(tmp_path: Path) -> None:
    (found,) = read(tmp_path, {"prompt": "3 times 3 is ", "response": "9"}, template=None)
    assert texts(tmp_path, found) == ("3 times 3 is 9<end>", "9<end>")


def test_empty_lines_are_passed_over(tmp_path: Path) -> None:
    assert len(read(tmp_path, {"messages": [ASK, ANSWER]}, "", {"messages": [ASK, MORE]})) == 2


REWRITING = TEMPLATE.replace("{{ message.content }}", "{{ message.content if loop.last else message.content | upper }}")


@pytest.mark.parametrize(
    ("row", "template", "message"),
    [
        ("{", TEMPLATE, "line 2 is no JSON"),
        ("[1]", TEMPLATE, "line 2 is no JSON object"),
        ({"text": "a"}, TEMPLATE, "line 2 has neither 'messages' nor 'prompt' and 'response'"),
        ({"prompt": "a"}, TEMPLATE, "line 2 has neither 'messages' nor"),
        ({"prompt": "a", "response": 3}, TEMPLATE, "line 2 'prompt' and 'response' are both texts"),
        ({"messages": [{"content": "a"}]}, TEMPLATE, "line 2 'messages' is no list of messages with a role each"),
        ({"messages": [ASK]}, TEMPLATE, "line 2 has no message of the role 'assistant'"),
        (
            {"messages": [ASK, ANSWER, AGAIN, MORE]},
            REWRITING,
            "line 2 has an answer that the chat template writes otherwise",
        ),
        (
            {"messages": [ASK, ANSWER]},
            "{{ raise_exception('no roles') }}",
            "line 2 is refused by the chat template (no roles)",
        ),
        ({"messages": [ASK, ANSWER]}, None, "line 2 holds messages, and the tokenizer in"),
    ],
)
def test_a_wrong_line_is_named(row: Any, template: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        read(tmp_path, "", row, template=template)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/a.jsonl: line 2")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{}, {"content": None}, {"content": 7}, {"contents": "9"}], ids=["none", "null", "number", "misspelled"]
)
def test_a_message_without_content_is_refused_and_not_trained_on_as_a_word(
    wrong: dict[str, Any], tmp_path: Path
) -> None:
    """A template would write None, 7 or nothing in its place."""
    with pytest.raises(SpecError, match=r"line 2 message 2 of 'messages' \(assistant\) has no text 'content'"):
        read(tmp_path, {"messages": [ASK, ANSWER]}, {"messages": [ASK, {"role": "assistant", **wrong}]})


def test_a_message_that_calls_tools_needs_no_content(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": {}}}]}
    assert len(read(tmp_path, {"messages": [ASK, call, AGAIN, MORE]})) == 1
