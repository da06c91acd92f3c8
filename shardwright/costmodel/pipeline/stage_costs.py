"""The costs of one pipeline step: seconds per stage, for one plan or for an array of plans."""

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import ArrayLike

from shardwright.base import FloatArray, SpecError

from .action import ActionKind, Overlap, Work

_ROUNDING = 1e-12  # relative, of a sum of parts


@dataclass(frozen=True, eq=False)
class StageCosts:
    """Seconds, one entry per stage on the last axis; leading axes, where there are any, run over plans.

    The schedule determines the rank of a stage. Scalars and arrays with fewer axes are broadcast.

    Attributes:
        pp: pipeline ranks.
        forward, backward: [..., stages], of one microbatch; exposed tensor-parallel communication and recomputation
            included.
        weight_gradient: [..., stages], the part of `backward` that schedules with split backwards may postpone.
        overlap_saving: [..., stages], seconds by which a forward on stage s, overlapped with a backward on the rank's
            other stage, is shorter than the two in sequence.
        first_forward_extra: [..., stages], added to the first microbatch's forward: exposed gather of parameters.
        send: [..., stages - 1], from the end of a forward on stage s until s + 1 may start, and the same for the
            gradient back from s + 1 to s. It is a delay and does not occupy the rank.
        reduce_tail: [..., stages], gradient reduction left exposed after the stage's last backward; the tails of a
            rank's stages add up.
        optimizer: [..., pp], clipping and optimizer step. It starts when all ranks have reduced, because clipping by
            the global norm synchronises them.
    """

    pp: int
    forward: FloatArray
    backward: FloatArray
    weight_gradient: FloatArray
    overlap_saving: FloatArray
    first_forward_extra: FloatArray
    send: FloatArray
    reduce_tail: FloatArray
    optimizer: FloatArray

    def __init__(
        self,
        *,
        pp: int,
        forward: ArrayLike,
        backward: ArrayLike,
        weight_gradient: ArrayLike = 0.0,
        overlap_saving: ArrayLike = 0.0,
        first_forward_extra: ArrayLike = 0.0,
        send: ArrayLike = 0.0,
        reduce_tail: ArrayLike = 0.0,
        optimizer: ArrayLike = 0.0,
    ) -> None:
        """Check and broadcast.

        Raises:
            SpecError: stages are no multiple of pp, shapes do not fit, or a value is negative or not finite.
        """
        given = {
            "forward": np.array(forward, dtype=np.float64),
            "backward": np.array(backward, dtype=np.float64),
            "weight_gradient": np.array(weight_gradient, dtype=np.float64),
            "overlap_saving": np.array(overlap_saving, dtype=np.float64),
            "first_forward_extra": np.array(first_forward_extra, dtype=np.float64),
            "send": np.array(send, dtype=np.float64),
            "reduce_tail": np.array(reduce_tail, dtype=np.float64),
            "optimizer": np.array(optimizer, dtype=np.float64),
        }
        stages = given["forward"].shape[-1] if given["forward"].ndim else 0
        if pp < 1 or stages < 1 or stages % pp:
            raise SpecError(
                f"forward costs of {stages} stages for pp {pp}: give a multiple of pp stages, and pp of 1 or more"
            )
        widths = {"send": stages - 1, "optimizer": pp}
        object.__setattr__(self, "pp", pp)
        for name, seconds in given.items():
            valid = np.isfinite(seconds) & (seconds >= 0)
            if not valid.all():
                raise SpecError(f"stage cost '{name}' must be 0 or more seconds and finite, not {seconds[~valid][0]}")
        try:
            batch = np.broadcast_shapes(*(seconds.shape[:-1] for seconds in given.values()))
            for name, seconds in given.items():
                object.__setattr__(self, name, np.broadcast_to(seconds, (*batch, widths.get(name, stages))))
        except ValueError:
            shapes = ", ".join(f"{name} {seconds.shape}" for name, seconds in given.items())
            raise SpecError(
                f"stage costs of {stages} stages on pp {pp} do not fit together: {shapes}; send needs {stages - 1} entries, optimizer {pp}"
            ) from None
        self._check_parts()

    def _check_parts(self) -> None:
        for part, whole, what in (
            (self.weight_gradient, self.backward, "the backward that it is part of"),
            (self.overlap_saving, self.forward + self.backward[..., ::-1], "the two passes that it is saved on"),
        ):
            over = part > whole * (1 + _ROUNDING)
            if over.any():
                name = "weight_gradient" if part is self.weight_gradient else "overlap_saving"
                raise SpecError(
                    f"stage cost '{name}' is {part[over][0]} seconds and {what} {whole[over][0]}; give at most that"
                )

    @property
    def stages(self) -> int:
        return int(self.forward.shape[-1])

    @property
    def stages_per_rank(self) -> int:
        return self.stages // self.pp

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The axes over plans; () for one plan."""
        return self.forward.shape[:-1]

    def seconds(self, work: Work) -> FloatArray:
        """[...] seconds of a pass or an overlapped pair, without first-forward extra.

        A pair takes the sum of its two passes minus the forward's `overlap_saving`.
        """
        if isinstance(work, Overlap):
            passes = self.seconds(work.forward) + self.seconds(work.backward)
            return np.asarray(passes - self.overlap_saving[..., work.forward.stage])
        if work.kind is ActionKind.INPUT_GRADIENT:
            return np.asarray(self.backward[..., work.stage] - self.weight_gradient[..., work.stage])
        of_kind = {
            ActionKind.FORWARD: self.forward,
            ActionKind.BACKWARD: self.backward,
            ActionKind.WEIGHT_GRADIENT: self.weight_gradient,
        }
        return np.asarray(of_kind[work.kind][..., work.stage])

    def without_sends(self) -> "StageCosts":
        """Return the same costs with messages that take no time."""
        return replace(self, send=np.zeros(self.stages - 1))

    def __getitem__(self, index: int | tuple[int, ...]) -> "StageCosts":
        """Return the costs of one plan of an array of plans."""
        arrays = {field.name: getattr(self, field.name)[index] for field in fields(self) if field.name != "pp"}
        return StageCosts(pp=self.pp, **arrays)
