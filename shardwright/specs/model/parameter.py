"""One weight, as memory and communication see it."""

from typing import NamedTuple


class Parameter(NamedTuple):
    """One weight of a block or of the model's ends.

    `elements` counts the whole tensor. `split`: tensor parallelism divides it; otherwise every tp rank holds it
    whole. `expert`: it belongs to a routed expert, and expert parallelism divides the experts. `idle`: transformers
    allocates it and nothing reads it.
    """

    name: str
    elements: int
    split: bool
    expert: bool = False
    idle: bool = False
