"""The choices of a plan that are fixed or limited; the planner makes the others."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, model_validator

from shardwright.base import SpecError, listed
from shardwright.specs import (
    CHOICES,
    SKIPPIPE,
    ContextParallel,
    ExpertDispatch,
    Fraction,
    MeshOrder,
    NonNegativeInt,
    Plan,
    PositiveInt,
    RecomputePolicy,
    ScheduleName,
    Spec,
    Stage,
    Sync,
    VocabularyParallel,
    ZeroStage,
    named_approximation,
)

from .limits import SHARES, Limit, have_common_value, read_limits


def _separate(given: object) -> object:
    """Read `diloco,co2` too, and count each name once."""
    named = [name.strip() for name in given.split(",") if name.strip()] if isinstance(given, str) else given
    return tuple(dict.fromkeys(named)) if isinstance(named, list | tuple) else given


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        named_approximation(name)
    return names


class Fixed(Spec):
    """Choices that the search must keep; None leaves a choice to the planner. One field for each row of `CHOICES`.

    `within` limits choices to several values: `within={"tp": "1,2,8", "pp": "..4"}`. A search finds the best plan that
    it finds with any of the values fixed; a neighbour of a plan may change a fixed value, but it keeps the limits.

    `recompute` holds for every layer; limited to several policies, each layer takes one of them. `offload_optimizer` is the share of the
    optimizer on the host, which updates it one step late only with `delayed_update`, `offload_activations` that of the tokens whose activations go there, in every layer. `even_stages` gives every stage the same number of layers, for frameworks that can't split unevenly; a stack may count embedding and head as a
    layer each there (`Stack.counts_ends`). `sequence_parallel` splits the operators
    outside the tensor-parallel parts along the sequence; left open it follows tensor parallelism. `etp` 0 is what ep leaves
    of tp. `sync` left open is an exact reduction of gradients, or one of the approximations that `approximate` names. `order` left open is the usual one, and `search` tries others for the best entries. `stages` fix everything in a stage: its layers and their recomputation.
    """

    pp: PositiveInt | None = None
    dp_replicate: PositiveInt | None = None
    dp_shard: PositiveInt | None = None
    cp: PositiveInt | None = None
    tp: PositiveInt | None = None
    ep: PositiveInt | None = None
    etp: NonNegativeInt | None = None
    order: MeshOrder | None = None
    micro_batch: PositiveInt | None = None
    stages_per_rank: PositiveInt | None = None
    zero_stage: ZeroStage | None = None
    sequence_parallel: bool | None = None
    offload_optimizer: Fraction | None = None
    offload_gradients: Fraction | None = None
    offload_parameters: Fraction | None = None
    offload_nvme: Fraction | None = None
    delayed_update: bool | None = None
    context_parallel: ContextParallel | None = None
    ulysses_degree: PositiveInt | None = None
    expert_dispatch: ExpertDispatch | None = None
    schedule: ScheduleName | None = None
    vocabulary_parallel: VocabularyParallel | None = None
    recompute: RecomputePolicy | None = None
    offload_activations: Fraction | None = None
    even_stages: bool | None = None
    stages: tuple[Stage, ...] | None = None
    sync: Sync | None = None
    within: Annotated[tuple[Limit, ...], BeforeValidator(read_limits)] = ()
    approximate: Annotated[tuple[str, ...], BeforeValidator(_separate), AfterValidator(_known)] = ()

    @model_validator(mode="after")
    def _can_be_kept(self) -> Self:
        for limit in self.within:
            value = getattr(self, limit.choice)
            if value is not None and value not in limit:
                raise ValueError(f"{limit.choice} {value} is fixed, and {limit} is a limit; leave out one of them")
            same = [other for other in self.within if other.choice == limit.choice]
            if not have_common_value(same):
                raise ValueError(f"{' and '.join(map(str, same))} have no value in common; leave out one of them")
        return self

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """Fix every choice of `plan`, so that a search finds that plan again.

        Raises:
            SpecError: the layers of the plan have several ZeRO stages, its replicas have batches of their own in several groups, or its
                pipeline is interlaced, which the planner does not choose: "vocab-2" is never slower.
        """
        if plan.replicas:
            raise SpecError(
                f"the plan has replicas in {len(plan.replicas)} groups, each with a batch and stages of its own, and fixed choices are the "
                "same for all; fix some of its choices by name"
            )
        if plan.vocabulary_parallel == "interlaced":
            raise SpecError(
                f"the plan has vocabulary_parallel '{plan.vocabulary_parallel}', which the planner does not choose; set 'vocab-2', or leave it out of the plan"
            )
        stages = {run.zero_stage for stage in plan.stages for run in stage.layers}
        if len(stages) > 1:
            raise SpecError(
                f"the plan's layers have ZeRO stages {listed(sorted(stages))}; the planner gives all layers one"
            )
        return cls(**{choice.name: choice.of_plan(plan) for choice in CHOICES})

    def but(self, **changes: Any) -> "Fixed":
        """Return these choices with some of them changed; None frees one.

        Raises:
            SpecError: a value is not allowed for its choice.
        """
        return Fixed.parse(dict(self) | changes, source="fixed")

    @property
    def syncs(self) -> tuple[Sync, ...]:
        """The ways in which replicas may agree on their weights, the exact one first unless another is fixed."""
        if self.sync is not None:
            return (self.sync,)
        return (Sync(), *(sync for name in self.approximate for sync in named_approximation(name).syncs))

    def with_offload(self) -> "Fixed":
        """Return these choices with every share of what may leave the device open that is not stated."""
        free = [share for share in SHARES if not self.gives(share) and self.allows(share, 1)]
        return self.but(within=(*self.within, *(Limit.read(share, "0..1") for share in free)))

    def without_limit(self, choice: str) -> "Fixed":
        """Return these choices with all values of one choice allowed."""
        return self.but(within=tuple(limit for limit in self.within if limit.choice != choice))

    def gives(self, choice: str) -> bool:
        """Whether the values of a choice are stated, by a value or by a limit that lists them."""
        return getattr(self, choice) is not None or any(
            limit.choice == choice and not limit.excluded for limit in self.within
        )

    def allows(self, choice: str, value: float | str) -> bool:
        """Whether a choice may take `value`."""
        return getattr(self, choice) in (None, value) and self.permits({choice: value})

    def permits(self, values: Mapping[str, Any]) -> bool:
        """Whether `values` of choices are within the limits. Fixed values don't matter."""
        return all(limit.choice not in values or values[limit.choice] in limit for limit in self.within)

    def allowed(self, choice: str, options: Iterable[Any]) -> tuple[Any, ...]:
        """Return those `options` of a choice that are allowed, or its fixed value."""
        value = getattr(self, choice)
        return tuple(option for option in options if self.allows(choice, option)) if value is None else (value,)

    def __str__(self) -> str:
        apart = ("stages", "within", "approximate")
        kept = [(name, value) for name, value in self if name not in apart and value is not None]
        shown = [(name, f"{value:g}" if isinstance(value, float) else value) for name, value in kept]
        syncs = [name for name in self.approximate if name != SKIPPIPE]
        offered = [f"sync exact or {' or '.join(syncs)}"] if syncs else []
        offered += [SKIPPIPE] if SKIPPIPE in self.approximate else []
        words = (*(f"{name} {value}" for name, value in shown), *map(str, self.within), *offered)
        return ", ".join(words) or "nothing fixed"
