"""Published approximations by name, of the gradient reduction and of what travels to experts: what a planner may offer, and what is known of
the loss in quality."""

import json
from collections.abc import Mapping
from typing import NamedTuple

from shardwright.base import SpecError, listed, nearest

from .sync import Outer, Sync


class Approximation(NamedTuple):
    """`syncs`: what may be offered under this name, the one that differs least from an exact reduction first; none where it is no way in which
    replicas agree. `quality`: what its authors report, with the source."""

    syncs: tuple[Sync, ...]
    quality: str


_LATE = Outer(keeps_local=0.5)
_CO2_ROUNDS = tuple(2**power for power in range(1, 10))

SKIPPIPE = "skippipe"
APPROXIMATIONS: Mapping[str, Approximation] = {
    "8-bit-gradients": Approximation(
        (Sync(bits=8),),
        "no study of language models at this width is known to us; 1-bit Adam, with an eighth of the bits and the same error feedback, "
        "reports the convergence of Adam (arXiv 2102.02888)",
    ),
    "1-bit-adam": Approximation(
        (Sync(bits=1, warmup_steps=23_000),),
        "its authors report the convergence speed of Adam for BERT-Large with a warm-up of 23,000 steps in full precision (Tang et al. "
        "2021, arXiv 2102.02888)",
    ),
    "co2": Approximation(
        tuple(Sync(inner_steps=steps, delay=steps, outer=Outer()) for steps in _CO2_ROUNDS),
        "its authors report convergence comparable to AdamW on up to 128 GPUs with a staleness penalty and clipping of the outer momentum, "
        "which are left out here (Sun et al. 2024, arXiv 2401.16265)",
    ),
    "diloco": Approximation(
        (Sync(inner_steps=500, outer=Outer()),),
        "its authors report that 8 replicas do as well as fully synchronous training on C4 (Douillard et al. 2023, arXiv 2311.08105)",
    ),
    "streaming-diloco": Approximation(
        (Sync(inner_steps=100, fragments=4, bits=4, delay=5, outer=_LATE),),
        "its authors report similar quality to synchronous training at a bandwidth two orders of magnitude lower (Douillard et al. 2025, "
        "arXiv 2501.18512)",
    ),
    "islands": Approximation(
        (Sync(inner_steps=None),),
        "each island becomes an expert of its own data; a mean or an ensemble of them is another model than one trained on all data (Li et "
        "al. 2022, Branch-Train-Merge, arXiv 2208.03306)",
    ),
    SKIPPIPE: Approximation(
        (),
        "its authors report convergence preserved for LLaMa models of 500M to 8B on up to 20 nodes, where stages are swapped too, which is left "
        "out here (Blagoev et al. 2025, SkipPipe, arXiv 2502.19913)",
    ),
}
"""By the names of `--allow-approximate` and `--sync`. Warm-up and rounds are the authors' where the text says so, else our own."""

LSH_MOE = "lsh-moe"
PER_CENTROID = 5
"""Tokens of a mean that the planner tries: the fifth of them that the authors of LSH-MoE find best (arXiv 2411.08446, section 4.5)."""
QUALITY_OF_MEANS = (
    "its authors report nearly the convergence of uncompressed training where a fifth of the tokens travels, for RoBERTa, T5, GPT and Swin of "
    "up to 52B with experts; their data say how many hash alike, here the number is set (Nie et al. 2024, LSH-MoE, arXiv 2411.08446)"
)


def named_approximation(name: str) -> Approximation:
    """Return the approximation called `name`.

    Raises:
        SpecError: there is none.
    """
    if name not in APPROXIMATIONS:
        raise SpecError(
            f"'{name}' is no approximation of the gradient reduction; allowed: {listed(APPROXIMATIONS)}."
            f"{nearest(name, APPROXIMATIONS)}"
        )
    return APPROXIMATIONS[name]


def read_sync(text: str) -> Sync:
    """Read `exact`, a name of `APPROXIMATIONS`, or a name with other numbers: `diloco:inner_steps=100,bits=8`.

    Raises:
        SpecError: the name or a number is not known, or they make no method.
    """
    name, colon, rest = text.strip().partition(":")
    if name == SKIPPIPE:
        raise SpecError(
            f"sync '{text}': {name} is a schedule, which --allow-approximate {name} offers, not how replicas agree"
        )
    whole = {} if name == "exact" else named_approximation(name).syncs[0].model_dump()
    changes, outer = dict[str, object](), dict[str, object]()
    for part in rest.split(",") if colon else ():
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not value:
            raise SpecError(
                f"sync '{text}': write {part.strip() or 'what follows the colon'} as NAME=NUMBER, such as inner_steps=100"
            )
        if name == "co2" and key == "inner_steps":  # the exchange has a whole round
            changes["delay"] = _plain(value)
        if key in Outer.model_fields and whole.get("outer"):
            outer[key] = _plain(value)
        else:
            changes[key] = _plain(value)
    if outer:
        changes["outer"] = {**whole["outer"], **outer}
    return Sync.parse({**whole, **changes}, source=f"sync '{text}'")


def _plain(value: str) -> object:
    """Read a value as JSON has it, or leave it as text."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def quality_of(sync: Sync) -> str | None:
    """Say what is known of the quality of training with `sync`, with the source; None for an exact reduction."""
    if not sync.approximate:
        return None
    if sync.method == "local-steps":
        whole_round = sync.delay == sync.inner_steps
        name = "co2" if whole_round else "streaming-diloco" if sync.fragments > 1 or sync.delay else "diloco"
    else:
        name = sync.method
    return APPROXIMATIONS[name].quality
