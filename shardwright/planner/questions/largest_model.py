"""The largest model of a family that fits."""

from typing import Any, Literal, get_args

from shardwright.base import SpecError, nearest
from shardwright.planner.space import Fixed
from shardwright.specs import ClusterSpec, TrainingSpec
from shardwright.specs.model import ModelSpec

from .asking import Asker, Job, Largest
from .climbing import largest
from .family import Family

Growth = Literal["both", "depth", "width"]
_MOST_UNITS = 256
_MOST_LAYERS = 512  # deeper than any model that was trained


def largest_model(
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    *,
    by: Growth = "both",
    fixed: Fixed | None = None,
    **options: Any,
) -> Largest:
    """Return the largest model of the family of `model` for which `search` finds a plan; the next larger one does not fit.

    `by` "width": units of heads (`Family`) with the layers of `model`. "depth": units of layers with its width, up to 512. "both": units of
    heads, and layers in the same ratio to the width as in `model`, so that parameters grow with the cube. The values of the cases
    are units. Other widths change what divides, so `climbing.largest` says which are tried. `options` are those of `search`.

    Raises:
        SpecError: `by` is none of these; the model has no configuration that scales; as `search`.
        InfeasibleError: not even one unit fits.
    """
    if by not in get_args(Growth):
        raise SpecError(f"by '{by}': give one of {', '.join(get_args(Growth))}.{nearest(by, get_args(Growth))}")
    family = Family.of(model)

    def job(units: int) -> Job:
        return Job(_member(family, by, units), cluster, training, fixed or Fixed())

    asker = Asker(job, options)
    units = range(1, _most_units(family, by) + 1)
    return asker.largest(units, largest(len(units), asker.verdict))


def _most_units(family: Family, by: Growth) -> int:
    most_layers = max(_MOST_LAYERS, family.model.layer_count)
    return most_layers // family.layer_unit if by == "depth" else _MOST_UNITS


def _member(family: Family, by: Growth, units: int) -> ModelSpec:
    layers = family.model.layer_count
    if by == "depth":
        return family.member(family.heads, units * family.layer_unit)
    heads = units * family.head_unit
    if by == "both":
        layers = max(1, round(layers * heads / family.heads / family.layer_unit)) * family.layer_unit
    return family.member(heads, layers)
