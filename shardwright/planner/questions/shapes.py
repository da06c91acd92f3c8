"""Which shape of a model trains fastest: widths and depths at nearly equal parameters."""

from dataclasses import dataclass
from typing import Any

from shardwright.planner.space import Fixed
from shardwright.specs import ClusterSpec, TrainingSpec
from shardwright.specs.model import ModelSpec

from .asking import Asker, Case, Job
from .family import Family

NEAR = 0.02
_MOST_SHAPES = 9
_NARROWEST, _WIDEST = 0.5, 2.0


@dataclass(frozen=True)
class Shapes:
    """Shapes of one model. `given`: the case of the model itself, None if it does not fit. `cases`: all that fit, by width;
    their value is the number of heads. `refused`: widths that do not fit, with the reason. `searches`: how many that took."""

    given: Case | None
    cases: tuple[Case, ...]
    refused: dict[int, str]
    searches: int

    @property
    def fastest(self) -> Case:
        return max(self.cases, key=work_per_s)


def work_per_s(case: Case) -> float:
    """Parameters that a token passes through, times tokens/s: compares shapes whose parameters differ by a few percent."""
    return case.model.active_parameter_count * case.estimate.tokens_per_s


def shapes(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, *, fixed: Fixed | None = None, **options: Any
) -> Shapes:
    """Return how fast shapes of `model` train: widths from half to twice its own, at most 9, and depths with its parameters.

    Widths are multiples of a unit of heads (`Family`). The depth is the one within 2% of the parameters that has most factors of
    two, so that it divides over stages; without one within 2%, the nearest. Pangu Ultra MoE (arXiv 2505.04519) chose
    its shape by simulating many. `options` are those of `search`.

    Raises:
        SpecError: the model has no configuration that scales; as `search`.
        InfeasibleError: no shape fits.
    """
    family = Family.of(model)
    members = {heads: family.member(heads, _depth(family, heads)) for heads in _widths(family)}
    members[family.heads] = model
    asker = Asker(lambda heads: Job(members[heads], cluster, training, fixed or Fixed()), options)
    for heads in members:
        asker.case(heads)
    cases = asker.fitting()
    if not cases:
        asker.refuse(family.heads)
    refused = {members[heads].hidden_size: asker.why_not(heads) for heads in members if not asker.tried[heads]}
    return Shapes(asker.case(family.heads), cases, refused, asker.searches)


def _widths(family: Family) -> list[int]:
    """Numbers of heads, evenly spaced, the model's own among them."""
    unit = family.head_unit
    first = max(1, round(_NARROWEST * family.heads / unit)) * unit
    every = list(range(first, int(_WIDEST * family.heads) + 1, unit))
    stride = -(-len(every) // _MOST_SHAPES)
    kept = [heads for heads in every if (heads - family.heads) // unit % stride == 0]
    return sorted({*kept, family.heads})


def _depth(family: Family, heads: int) -> int:
    """The layers with which a width has the parameters of the model."""
    wanted = family.model.parameter_count
    shallow, deep = 16, 32  # the count is linear in the depth, but for the first layers of some families
    counts = [family.member(heads, layers).parameter_count for layers in (shallow, deep)]
    each = (counts[1] - counts[0]) / (deep - shallow)
    exact = shallow + (wanted - counts[0]) / each
    near = NEAR * wanted / each
    within = range(max(1, -int(-(exact - near) // 1)), int(exact + near) + 1)
    best = max(within, key=lambda layers: (layers & -layers, -abs(layers - exact)), default=round(exact))
    return max(1, best)
