"""Command lines as people keep them: in a script with continued lines, comments, variables and arrays. No shell runs."""

import ast
import operator
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from shardwright.base import SpecError

_ASSIGNED = re.compile(r"^(?:export\s+|local\s+|declare\s+(?:-\w+\s+)?)?([A-Za-z_]\w*)(\+?)=(.*)$", re.DOTALL)
_USED = re.compile(r"\$\(\((?P<sum>[^()]*(?:\([^()]*\)[^()]*)*)\)\)|\$\{(?P<braced>[^}]*)\}|\$(?P<plain>[A-Za-z_]\w*)")
_CONTROL = re.compile(r"^(if|then|else|elif|fi|for|while|do|done|case|esac|function)\b|^\w+\s*\(\)")
_NAME = re.compile(r"[A-Za-z_]\w*")
_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
}
_MANY = re.compile(r"(ARG|ARGS|ARGUMENTS|OPTS|OPTIONS|FLAGS)(\[[@*]\])?$", re.IGNORECASE)
_NEGATIVE = re.compile(r"^-\.?\d")


def read_flags(text: str, source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the flags of the last command in `text` that has any, and those of its launcher (before the script).

    A flag without a value is True, one with several values has a list. `$NAME`, `${NAME:-default}`, `${NAME[@]}` and
    `$((A * B))` are replaced by what the text itself assigns; a value that it does not set stays as it is written.

    Raises:
        SpecError: flags in a variable that the text does not set, a quote that does not end, or no command with flags.
    """
    variables: dict[str, str] = {}
    commands: list[str] = []
    for statement in _statements(text, source):
        assigned = _ASSIGNED.match(statement)
        if assigned and (value := _value(assigned[3])) is not None:
            name, more = assigned[1], bool(assigned[2])
            value = _expanded(value, variables, source)
            variables[name] = f"{variables.get(name, '')} {value}".strip() if more else value
        elif re.search(r"(^|\s)--?[A-Za-z]", statement) or "$" in statement:
            commands.append(statement)
    found = [tokens for command in commands if any(map(_is_flag, tokens := _tokens(command, variables, source)))]
    if not found and any(map(_is_flag, bare := _tokens(" ".join(variables.values()), variables, source))):
        found = [bare]  # arguments alone, kept in variables
    if not found:
        raise SpecError(f"{source}: holds no command with flags such as --tensor-model-parallel-size 2")
    launcher, own = _split_at_script(found[-1])
    return _flags(own, source), _flags(launcher, source)


def _statements(text: str, source: str) -> list[str]:
    """Lines with continuations joined; an array or a quoted text over several lines is one statement."""
    joined = re.sub(r"\\\r?\n", " ", text)
    statements: list[str] = []
    held = ""
    for number, line in enumerate(joined.splitlines(), start=1):
        stripped = _without_comment(line).strip()
        held = f"{held} {stripped}".strip()
        if not held:
            continue
        if _CONTROL.match(held):
            raise SpecError(
                f"{source}: line {number} has '{held.split()[0]}', and no shell runs here; give the command line that results"
            )
        if _is_open(held):
            continue
        statements.append(held)
        held = ""
    if held:
        raise SpecError(f"{source}: a quote or a parenthesis that begins with '{held[:30]}' does not end")
    return statements


def _without_comment(line: str) -> str:
    quote = ""
    for place, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "#" and (place == 0 or line[place - 1].isspace()):
            return line[:place]
    return line


def _is_open(statement: str) -> bool:
    """Whether a quote or an array has begun and not ended."""
    quote, depth = "", 0
    for letter in statement:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter == "(") - (letter == ")")
    return bool(quote) or depth > 0


def _value(text: str) -> str | None:
    """The right-hand side of an assignment; None where more than an assignment stands on the line (`A=1 python x.py`)."""
    text = text.strip()
    if text.startswith("(") and text.endswith(")"):
        return text[1:-1]
    if text.startswith("$((") or not re.search(r"\s", text):
        return _unquoted(text)
    if text[0] in "'\"" and text.find(text[0], 1) == len(text) - 1:
        return _unquoted(text)
    return None


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _tokens(command: str, variables: Mapping[str, str], source: str) -> list[str]:
    expanded = _expanded(command, variables, source)
    try:
        return shlex.split(expanded)
    except ValueError as error:
        raise SpecError(f"{source}: the command cannot be read: {error}") from None


def _expanded(text: str, variables: Mapping[str, str], source: str) -> str:
    """Replace variables by what was assigned before, as a shell does."""

    def of(name: str, default: str | None = None) -> str:
        value = variables.get(name, default)
        if value is None and _MANY.search(name):
            raise SpecError(f"{source}: ${name} is used, and the file does not set it; write its flags")
        return f"${name}" if value is None else value

    def replaced(found: re.Match[str]) -> str:
        if found["sum"] is not None:
            named = re.sub(r"\$\{?(\w+)\}?", r"\1", found["sum"])
            summed = _NAME.sub(lambda name: of(name[0]), named)
            written = "$((" + "".join(named.split()) + "))"
            return written if "$" in summed else str(_computed(summed, source))
        if found["plain"]:
            return of(found["plain"])
        name, colon, default = found["braced"].partition(":-")
        if not colon:
            name, colon, default = found["braced"].partition("-")
        return of(name.removesuffix("[@]").removesuffix("[*]"), default if colon else None)

    quoted_arrays = re.sub(r'"(\$\{\w+\[[@*]\]\})"', r"\1", text)
    return _USED.sub(replaced, quoted_arrays)


def _computed(text: str, source: str) -> int:
    """A sum of whole numbers, as a shell computes it."""
    try:
        return _number_of(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, KeyError, ZeroDivisionError):
        raise SpecError(f"{source}: $(({text})) is no sum of whole numbers; write its value") from None


def _number_of(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_number_of(node.left), _number_of(node.right))
    raise ValueError


def _is_flag(token: str) -> bool:
    return token.startswith("-") and len(token) > 1 and not _NEGATIVE.match(token)


def _split_at_script(tokens: list[str]) -> tuple[list[str], list[str]]:
    """Launcher and arguments: they part at the script that runs."""
    scripts = [place for place, token in enumerate(tokens) if token.endswith(".py")]
    return (tokens[: scripts[0]], tokens[scripts[0] + 1 :]) if scripts else ([], tokens)


def _flags(tokens: list[str], source: str) -> dict[str, Any]:
    """Flags by name without dashes in front and with underscores inside. Redirections and pipes end the command."""
    values: dict[str, list[str]] = {}
    name = ""
    for token in tokens:
        if token in ("|", "&", "&&", ";", "||") or re.match(r"^\d?[>&|]", token):
            break
        if _is_flag(token):
            flag, equals, value = token.partition("=")
            name = flag.lstrip("-").replace("-", "_")
            values[name] = [value] if equals else []
        elif token == "$@":
            continue
        elif token.startswith("$") and (not name or values[name]):
            raise SpecError(f"{source}: {token} is used, and the file does not set it; write what it stands for")
        elif name:
            values[name].append(token)
    return {key: True if not given else given[0] if len(given) == 1 else given for key, given in values.items()}
