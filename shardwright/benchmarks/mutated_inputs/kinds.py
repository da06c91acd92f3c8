"""What a case is made of: a kind of input, and a command that is given one of it."""

from typing import NamedTuple


class Input(NamedTuple):
    """A kind of input, and the commands that read it. `{}` stands for its path, `{folder}` for the folder that holds it."""

    name: str
    commands: tuple[tuple[str, ...], ...]


class Case(NamedTuple):
    """What a command is given: its arguments, and the content of a file beside the good ones."""

    arguments: tuple[str, ...]
    name: str
    content: bytes | None
