"""Conversations as JSON lines: their tokens, and which of them are answers, which the loss counts.

A line has `messages` (role and content), or `prompt` with `response` (or `completion`), texts or messages.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from shardwright.base import SpecError, check_values

from .store import TokenDocument
from .tokenizer import Tokenizer

_ANSWERS = ("response", "completion")
_MARK = "{% generation"


def read_conversations(files: list[Path], tokenizer: Tokenizer) -> Iterator[TokenDocument]:
    """Yield each line of the files as a document. Empty lines are passed over.

    Raises:
        SpecError: a line is no conversation, or the chat template refuses it; names file and line.
    """
    for file in files:
        try:
            with file.open(encoding="utf-8") as opened:
                for number, line in enumerate(opened, 1):
                    if line.strip():
                        yield _Line(file, number, tokenizer).document(line)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
            raise SpecError(f"{file}: cannot be read ({reason})") from None


class _Line:
    def __init__(self, file: Path, number: int, tokenizer: Tokenizer) -> None:
        self._where, self._tokenizer = f"{file}: line {number}", tokenizer

    def document(self, line: str) -> TokenDocument:
        row = self._parsed(line)
        if "messages" in row:
            return self._conversation(self._messages(row["messages"], "messages"), row.get("tools"))
        answer = next((name for name in _ANSWERS if name in row), None)
        if "prompt" not in row or answer is None:
            self._refuse("has neither 'messages' nor 'prompt' and 'response'")
        prompt, response = row["prompt"], row[answer]
        if isinstance(prompt, list) or isinstance(response, list):
            return self._conversation(
                [*self._messages(prompt, "prompt"), *self._messages(response, answer)], row.get("tools")
            )
        if not isinstance(prompt, str) or not isinstance(response, str):
            self._refuse(f"'prompt' and '{answer}' are both texts or both lists of messages")
        if self._tokenizer.template is None:
            return self._plain(prompt, response)
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        return self._conversation(messages, row.get("tools"))

    def _parsed(self, line: str) -> Mapping[str, Any]:
        try:
            row = json.loads(line)
            check_values(row, self._where)
        except SpecError:
            raise
        except (ValueError, RecursionError):
            self._refuse("is no JSON")
        if not isinstance(row, dict):
            self._refuse("is no JSON object")
        return row

    def _messages(self, given: Any, name: str) -> list[Any]:
        valid = (
            isinstance(given, list)
            and given
            and all(isinstance(one, dict) and isinstance(one.get("role"), str) for one in given)
        )
        if not valid:
            self._refuse(f"'{name}' is no list of messages with a role each")
        messages: list[Any] = given
        for number, message in enumerate(messages, 1):
            content = message.get("content")
            if not isinstance(content, (str, list)) and not (content is None and message.get("tool_calls")):
                self._refuse(f"message {number} of '{name}' ({message['role'][:20]}) has no text 'content'; give one")
        return messages

    def _plain(self, prompt: str, response: str) -> TokenDocument:
        """A prompt and its response as they are, for a tokenizer without a chat template."""
        asked, answered = self._tokenizer.documents([prompt, response])
        tokens = self._tokenizer.framed([asked, answered])
        ends = len(tokens) - (self._tokenizer.end is not None)
        counted = np.arange(len(tokens)) >= ends - len(answered)
        return TokenDocument(tokens, counted)

    def _conversation(self, messages: list[Any], tools: Any) -> TokenDocument:
        if self._tokenizer.template is None:
            self._refuse(
                f"holds messages, and the tokenizer in {self._tokenizer.folder} has no chat template; give one with a template"
            )
        answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        if not answers:
            self._refuse("has no message of the role 'assistant', so nothing to train on")
        try:
            if _MARK in self._tokenizer.template.replace("{%-", "{%"):
                tokens, counted = self._tokenizer.marked(messages, tools=tools)
            else:
                tokens, counted = self._by_prefixes(messages, answers, tools)
        except SpecError:
            raise
        except Exception as problem:  # whatever a template raises
            self._refuse(f"is refused by the chat template ({' '.join(str(problem).split())[:120]})")
        if not counted.any():
            self._refuse("has no token of an answer after the chat template")
        return TokenDocument(tokens, counted)

    def _by_prefixes(
        self, messages: list[Any], answers: list[int], tools: Any
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Find each answer between the conversation up to where it is asked for, and the one up to its end.

        A template may write an answer otherwise once the conversation goes on: then its tokens cannot be told apart.
        """
        whole = self._tokenizer.rendered(messages, tools=tools)
        spans = self._tokenizer.spans(whole)
        counted = np.zeros(len(spans.tokens), dtype=np.bool_)
        for index in answers:
            before = self._tokenizer.rendered(messages[:index], tools=tools, asks=True)
            after = self._tokenizer.rendered(messages[: index + 1], tools=tools)
            if not (whole.startswith(before) and whole.startswith(after)):
                self._refuse(
                    "has an answer that the chat template writes otherwise in the whole conversation; give a template with {% generation %}, or "
                    "one answer a line"
                )
            counted |= (
                (spans.characters[:, 0] >= len(before))
                & (spans.characters[:, 1] <= len(after))
                & (spans.characters[:, 1] > spans.characters[:, 0])
            )
        return spans.tokens, counted

    def _refuse(self, what: str) -> NoReturn:
        raise SpecError(f"{self._where} {what}")
