from typing import Literal, NamedTuple

Part = Literal["planning", "training", "several machines", "optional"]
State = Literal["there", "missing", "limited"]


class Finding(NamedTuple):
    """One thing that was looked for, and the part of the product that it serves.

    `found`: what is there, in words. `advice`: how to get what is missing, or what the limit means; None where nothing needs doing.
    """

    part: Part
    name: str
    state: State
    found: str
    advice: str | None = None
