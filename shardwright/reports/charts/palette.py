"""One colour for each meaning, the same in every chart, table and timeline; a light and a dark variant of each.

The hues follow the usual order of this field's figures: blue for compute, warm colours for communication, green for the optimizer.
Within that each colour was placed so that the two nearest of a chart stay apart for readers with protanopia, deuteranopia and
tritanopia, by the simulation of Machado, Oliveira and Fernandes (2009) and distances in OKLab; a test holds them to it.
Parts of memory have the hue of their cause where they have one: optimizer state is green, communication buffers are violet as
messages are. Greys are what nobody uses: waiting, slack, the context.
"""

from typing import NamedTuple


class Colour(NamedTuple):
    """A colour on a white and on a nearly black page, as `#rrggbb`."""

    light: str
    dark: str


CAUSES = {
    "compute": Colour("#308bd4", "#4585cd"),
    "recompute": Colour("#75b8ea", "#b6e3fb"),
    "tensor_parallel": Colour("#ee9102", "#faa213"),
    "context_parallel": Colour("#c6a090", "#854806"),
    "expert_parallel": Colour("#4e048e", "#dc98fc"),
    "data_parallel": Colour("#d94e1e", "#d66e31"),
    "pipeline_transfer": Colour("#520047", "#96606d"),
    "pipeline_bubble": Colour("#d2dadc", "#3a3d42"),
    "host_copy": Colour("#f1d006", "#f2e85c"),
    "straggler": Colour("#757c7e", "#949698"),
    "optimizer": Colour("#095021", "#3ad695"),
}
"""Where the time of a step goes, by the fields of `StepSeconds`."""

PASSES = {
    "forward": CAUSES["compute"],
    "backward": Colour("#345cc0", "#1d59d3"),
    "input_gradient": Colour("#345cc0", "#1d59d3"),
    "weight_gradient": Colour("#575276", "#564a88"),
}
"""Passes on the timeline. An input gradient is the backward without its weight gradients."""

PARTS = {
    "parameters": Colour("#09058f", "#6058c9"),
    "gathered_parameters": Colour("#6a62a6", "#c8c8fd"),
    "gradients": Colour("#f19182", "#cc3824"),
    "optimizer_state": Colour("#27733d", "#89b98f"),
    "optimizer_step": Colour("#004f16", "#8fe492"),
    "activations": Colour("#3a9fd2", "#49aee2"),
    "logits": Colour("#6dc2d3", "#b4f8ea"),
    "communication_buffers": Colour("#743568", "#912081"),
    "allocator_slack": Colour("#dcdedf", "#404346"),
    "communicators": Colour("#4f1648", "#975c73"),
    "context": Colour("#827f86", "#859399"),
}
"""What fills a device, by the fields of `MemoryBytes`."""

STATES = {
    "chosen": Colour("#00694b", "#5fd3ab"),
    "other": Colour("#8d9298", "#9aa4ae"),
    "measured": Colour("#1b1f24", "#e4e7ea"),
    "limit": Colour("#b3261e", "#ff6b5e"),
}
"""Plans and lines that are no cause and no part: the chosen plan, others, what was measured, a limit that must hold."""

SERIES = {
    f"series{place}": Colour(light, dark)
    for place, (light, dark) in enumerate(
        (
            ("#0072b2", "#3dacff"),
            ("#d55e00", "#ef7a2e"),
            ("#009e73", "#0c9168"),
            ("#cc79a7", "#dd7fb6"),
            ("#e69f00", "#f0c24b"),
            ("#56b4e9", "#a6dcff"),
            ("#000000", "#ffffff"),
            ("#6b4400", "#84561c"),
        )
    )
}
"""Curves that only their legend names, such as strategies, which also have a marker each: the colours of Okabe and Ito (2008)."""

MEANINGS: dict[str, Colour] = {**CAUSES, **PASSES, **PARTS, **STATES, **SERIES}


def series(place: int) -> str:
    """The meaning of the curve at that place."""
    return f"series{place % len(SERIES)}"
