"""One weight, as memory and communication see it."""

from typing import NamedTuple


class Parameter(NamedTuple):
    """One weight of a block or of the model's ends.

    `elements` counts the whole tensor. `split` says that tensor parallelism divides it (else every tp rank holds it
    whole); `expert` that it belongs to one of the routed experts, which expert parallelism divides.
    """

    name: str
    elements: int
    split: bool
    expert: bool = False
