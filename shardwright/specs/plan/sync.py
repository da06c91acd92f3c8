"""How replicas agree on their weights: by default they reduce every gradient in full at each step, and here approximations of that."""

from typing import Literal, Self

import numpy as np
from pydantic import model_validator

from shardwright.base import Array, Number
from shardwright.specs.spec import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Spec

SyncMethod = Literal["exact", "1-bit-adam", "8-bit-gradients", "local-steps", "islands"]
SENT_BLOCK = 2048
"""Elements that share one scale in a message of few bits, as in block-wise quantisation (Dettmers et al. 2022, arXiv 2110.02861,
section 2.1)."""
_SCALE_BYTES = 4


class Outer(Spec):
    """The outer optimizer of local steps: SGD on the mean over replicas of how far each has moved (the outer gradient).

    With base b, momentum buffer u and outer gradient d: u <- momentum u + d, and then b <- b - learning_rate (d + momentum u) with
    `nesterov`, else b <- b - learning_rate u. `keeps_local`: share a of a replica's own weights w that stays when the new base comes,
    w <- a w + (1 - a) b (Streaming DiLoCo, arXiv 2501.18512, mixes so where the base comes late). The defaults are those of DiLoCo
    (arXiv 2311.08105). Learning rate 1 without momentum is the plain mean of local SGD.
    """

    learning_rate: PositiveFloat = 0.7
    momentum: Fraction = 0.9
    nesterov: bool = True
    keeps_local: Fraction = 0

    @model_validator(mode="after")
    def _hears_the_others(self) -> Self:
        if self.keeps_local == 1:
            raise ValueError(
                "keeps_local 1 would keep a replica's own weights and never take the base; set less than 1, or inner_steps null for "
                "islands that never meet"
            )
        return self


class Sync(Spec):
    """How the replicas (`dp_replicate`) keep one model. Everything inside a replica stays exact.

    The default reduces every gradient in full at each step. Everything else changes the gradient on purpose (`approximate`):

    - `bits` 1, with `warmup_steps`: 1-bit Adam (Tang et al. 2021, arXiv 2102.02888, algorithm 1). After the warm-up Adam's variance is
      frozen, and replicas exchange their momentum in one bit for each element, with error feedback.
    - `bits` 8: gradients in 8 bits with error feedback, in full for `warmup_steps` at first.
    - `inner_steps` H with `outer`: each replica takes H steps of its own, then the outer optimizer moves the common base by the mean
      of how far replicas have moved (DiLoCo, arXiv 2311.08105). `fragments`: parts of the model that do so in turn, each once in H
      steps; `bits` of the exchanged differences; `delay`: steps between the start of an exchange and the use of its result
      (Streaming DiLoCo, arXiv 2501.18512). With `delay` equal to `inner_steps` the exchange has a whole round to hide in (CO2,
      arXiv 2401.16265, without its staleness penalty and its clipping of the outer momentum).
    - `inner_steps` None: replicas never meet (Branch-Train-Merge, arXiv 2208.03306); `export-weights --merge` averages them.
    """

    inner_steps: PositiveInt | None = 1
    fragments: PositiveInt = 1
    bits: Literal[1, 4, 8, 16] | None = None
    delay: NonNegativeInt = 0
    warmup_steps: NonNegativeInt = 0
    outer: Outer | None = None

    @property
    def approximate(self) -> bool:
        """Whether the weights after a step are others than those of an exact reduction, on purpose."""
        return self.method != "exact"

    @property
    def method(self) -> SyncMethod:
        if self.inner_steps is None:
            return "islands"
        if self.outer is not None:
            return "local-steps"
        return "exact" if self.bits is None else "1-bit-adam" if self.bits == 1 else "8-bit-gradients"

    @property
    def takes_local_steps(self) -> bool:
        """Whether replicas hold different weights between exchanges."""
        return self.method in ("local-steps", "islands")

    def __str__(self) -> str:
        if self.inner_steps is None:
            return "islands that never meet"
        if self.outer is None:
            return "exact" if self.bits is None else f"{self.method}, warm-up of {self.warmup_steps:,} steps"
        parts = [f"outer step every {self.inner_steps:,} steps"]
        parts += [f"{self.fragments} fragments in turn"] if self.fragments > 1 else []
        parts += [f"differences in {self.bits} bits"] if self.bits else []
        parts += [f"used {self.delay:,} steps later"] if self.delay else []
        return ", ".join(parts)

    @model_validator(mode="after")
    def _is_a_method(self) -> Self:
        self._check_islands()
        self._check_compression()
        self._check_local_steps()
        return self

    def _check_islands(self) -> None:
        if self.inner_steps is not None:
            return
        given = [name for name in self.model_fields_set if name != "inner_steps" and getattr(self, name)]
        others = [name for name in given if (name, getattr(self, name)) != ("fragments", 1)]
        if others:
            raise ValueError(
                f"inner_steps null means islands that never meet, and {others[0]} is of an exchange; leave it out, or set inner_steps"
            )

    def _check_compression(self) -> None:
        if self.outer is not None or self.inner_steps is None:
            if self.bits == 1:
                raise ValueError(
                    "bits 1 is of 1-bit Adam, which has no outer optimizer; set 4, 8 or 16, or leave outer out"
                )
            if self.warmup_steps:
                raise ValueError(
                    f"warmup_steps {self.warmup_steps} are of compressed gradients, not of local steps; leave them out"
                )
            return
        if self.inner_steps != 1:
            raise ValueError(
                f"inner_steps {self.inner_steps} need an outer optimizer; set outer, such as "
                '{"learning_rate": 0.7, "momentum": 0.9}, or inner_steps 1'
            )
        if self.bits in (4, 16):
            raise ValueError(f"bits {self.bits} are of an outer optimizer's differences; gradients go in 1 or 8 bits")
        if self.bits == 1 and not self.warmup_steps:
            raise ValueError(
                "bits 1 needs warmup_steps of 1 or more, in which Adam's variance is measured; set warmup_steps"
            )
        if self.bits is None and self.warmup_steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} come before compressed gradients; set bits to 1 or 8")

    def _check_local_steps(self) -> None:
        for name, least in (("fragments", 1), ("delay", 0)):
            value, most = getattr(self, name), self.inner_steps or 1
            if self.outer is None and value != least:
                raise ValueError(
                    f"{name} {value} is of an outer optimizer, and there is none; set outer, or leave {name} out"
                )
            if self.inner_steps is not None and value > most:
                raise ValueError(f"{name} {value} is more than inner_steps {most}; set at most {most}")


def sent_bytes(elements: Number, bits: Number, ranks: Number) -> Array:
    """Return the bytes of a message of `elements` in `bits` each (1, 4, 8 or 16), of which each of `ranks` ranks gets an equal part.

    A part is filled up to a multiple of 8 elements, and has a scale in fp32 for each `SENT_BLOCK` of them, but in 16 bits. The
    arrays broadcast.
    """
    part = np.ceil(np.asarray(elements, dtype=float) / (8 * np.asarray(ranks))) * 8
    scales = np.where(np.asarray(bits) == 16, 0, _SCALE_BYTES * np.ceil(part / SENT_BLOCK))
    return np.asarray(ranks * (part * bits / 8 + scales))
