"""Variants of a training spec: what holds for a whole run and changes the cost tables, where the planner may choose it.

Each variant has cost tables of its own, so there are few of them.
"""

from itertools import product
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from shardwright.base import SpecError, listed
from shardwright.costmodel import check_optimizer
from shardwright.costmodel.op_times import op_times
from shardwright.specs import (
    LSH_MOE,
    OWN_STACK,
    PER_CENTROID,
    QUALITY,
    ClusterSpec,
    LinearFormat,
    Optimizer,
    RecomputeModule,
    Spec,
    TrainingSpec,
    named_stack,
    stack_names,
)
from shardwright.specs.model import ModelSpec

from .fixed import Fixed
from .meshes import has_experts
from .module_sets import module_sets

# A quarter or a sixteenth of the logits is alive. More pieces save little beside the other activations.
TRIED_LOSS_CHUNKS = (4, 16)
UNSTATED_TRIED = 256
"""With a change that nobody asked for so many entries are tried, those of the lowest bounds, beside data parallelism alone."""
ALL = "all"
Unstated = Literal["loss_chunks", "recompute_modules"]


def _optimizers(given: object) -> object:
    """Read `adamw8bit,galore:rank=128,period=200` too: what has an = and no name belongs to the optimizer before it."""
    if not isinstance(given, str):
        return given
    named: list[str] = []
    for piece in filter(None, (part.strip() for part in given.split(","))):
        if named and "=" in piece and ":" not in piece:
            named[-1] += f",{piece}"
        else:
            named.append(piece)
    return tuple(dict.fromkeys(named))


def _separate(given: object) -> object:
    """Read `fp8,mxfp8` too, and count each format once."""
    named = [name.strip() for name in given.split(",") if name.strip()] if isinstance(given, str) else given
    return tuple(dict.fromkeys(named)) if isinstance(named, list | tuple) else given


class OpenChoices(Spec):
    """What of a training spec the planner may choose. What it chooses beside the given values:

    `linear_formats`: formats of the layers' weight matmuls; "all" for every one that the device and the software have.
    `optimizers`: others than the given one, which train otherwise: their update is not AdamW's.
    `tokens_per_centroid`: whether tokens travel to their experts as means of several, which changes the gradient.
    `loss_chunks`: whether head and loss run in pieces, and in how many.
    `recompute_modules`: which modules selective recompute repeats, by module_sets.py.
    `unstated`: those of the last two that nobody stated. Where they are not opened, they are tried for few entries only, if the
    software has them; on a mixed cluster they stay as given.
    """

    linear_formats: Annotated[tuple[Literal[LinearFormat, "all"], ...], BeforeValidator(_separate)] = ()
    optimizers: Annotated[tuple[Optimizer, ...], BeforeValidator(_optimizers)] = ()
    tokens_per_centroid: bool = False
    loss_chunks: bool = False
    recompute_modules: bool = False
    unstated: tuple[Unstated, ...] = ()

    @property
    def stated(self) -> "OpenChoices":
        """What somebody asked for."""
        return self.model_copy(update=dict.fromkeys(self.unstated, False) | {"unstated": ()})


def training_variants(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, may_choose: OpenChoices
) -> list[TrainingSpec]:
    """Return the training specs to choose from: `training` itself, then those that change one thing, then more.

    Raises:
        SpecError: the device or the software has no such format, or the software runs no loss in pieces or names no modules, or no tokens
            travel as means.
    """
    formats = (training.precision.linear, *_formats(model, cluster, training, may_choose))
    chunks = (training.loss_chunks, *_loss_chunks(training, may_choose))
    modules = (training.recompute_modules, *_module_sets(model, cluster, training, may_choose))
    methods = dict.fromkeys((training.method, *may_choose.optimizers))
    means = (training.tokens_per_centroid, *_means(model, training, may_choose))
    found = [
        training.model_copy(
            update={
                "precision": _precision(training, linear),
                "loss_chunks": count,
                "recompute_modules": names,
                "optimizer": method.name,
                "optimizer_settings": method.settings,
                "tokens_per_centroid": tokens,
            }
        )
        for linear, count, names, method, tokens in product(
            dict.fromkeys(formats), dict.fromkeys(chunks), dict.fromkeys(modules), methods, dict.fromkeys(means)
        )
    ]
    for variant in found:
        check_optimizer(model, variant)
    return sorted(found, key=lambda variant: len(changed(variant, training)))


def unstated_variants(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, may_choose: OpenChoices, fixed: Fixed
) -> list[TrainingSpec]:
    """Return the training specs that differ from `training` in what nobody stated and its software has, fewest changes first.

    With other modules the loss is tried in the fewest pieces only.
    """
    has = {
        "loss_chunks": training.software.runs.loss_chunks,
        "recompute_modules": bool(training.software.recompute_modules) and fixed.allows("recompute", "selective"),
    }
    tried = {name: has[name] for name in may_choose.unstated if not getattr(may_choose, name)}
    found = training_variants(model, cluster, training, OpenChoices(**tried))
    many = [each for each in found if each.loss_chunks > TRIED_LOSS_CHUNKS[0] and len(changed(each, training)) > 1]
    return [each for each in found[1:] if each not in many]


def changed(variant: TrainingSpec, training: TrainingSpec) -> list[str]:
    """Return the names of what the planner may choose and `variant` has otherwise than `training`."""
    return [name for name, of in _CHOSEN.items() if of(variant) != of(training)]


def keeps(variant: TrainingSpec, training: TrainingSpec, name: str) -> bool:
    """Whether `variant` has the choice called `name` as `training` has it."""
    return bool(_CHOSEN[name](variant) == _CHOSEN[name](training))


def words_of(training: TrainingSpec, name: str) -> str:
    """Say what `training` has for the choice called `name`."""
    if name == "loss_chunks":
        return f"the loss in {training.loss_chunks} pieces" if training.loss_chunks > 1 else "the loss in one piece"
    if name == "recompute_modules":
        modules = "+".join(training.recompute_modules)
        return f"selective recompute of {modules or 'the attention core'}"
    if name == "optimizers":
        known = QUALITY.get(training.optimizer)
        return f"optimizer {training.method}{f' ({known})' if known else ''}"
    if name == "tokens_per_centroid":
        tokens = training.tokens_per_centroid
        return f"approximate: means of {tokens} tokens to experts" if tokens > 1 else "every token to its experts"
    return f"linears in {training.precision.linear or training.precision.compute}"


_CHOSEN: dict[str, Any] = {
    "linear_formats": lambda training: training.precision.linear,
    "optimizers": lambda training: training.method,
    "tokens_per_centroid": lambda training: training.tokens_per_centroid,
    "loss_chunks": lambda training: training.loss_chunks,
    "recompute_modules": lambda training: training.recompute_modules,
}


def _precision(training: TrainingSpec, linear: LinearFormat | None) -> Any:
    """The formats with other linears. What was gathered in the given format is gathered in the compute format."""
    given = training.precision
    return given if linear == given.linear else given.model_copy(update={"linear": linear, "gather": None})


def _formats(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, may_choose: OpenChoices
) -> list[LinearFormat]:
    """Return the formats to try beside the given one.

    Raises:
        SpecError: see `training_variants`.
    """
    found = list[LinearFormat]()
    runs = named_stack(training.stack).runs.linear_formats
    for name in may_choose.linear_formats:
        if name == ALL:
            has = [each for each in runs if _refusal(cluster, training, each) is None]
            if not has:
                raise SpecError(_no_format(cluster, training))
            found += has
        elif name not in runs:
            others = [stack for stack in stack_names() if name in named_stack(stack).runs.linear_formats]
            only = f"only in {listed(runs)}" if runs else "nor in any lower format"
            raise SpecError(
                f"stack '{training.stack}' runs no linears in {name}, {only}; stacks that do: {listed(others)}"
            )
        elif refusal := _refusal(cluster, training, name):
            raise refusal
        else:
            found.append(name)
    return found


def _refusal(cluster: ClusterSpec, training: TrainingSpec, linear: LinearFormat) -> SpecError | None:
    """Why the device has no matmuls in this format, if it has none."""
    try:
        op_times(cluster, training.model_copy(update={"precision": _precision(training, linear)}))
    except SpecError as refusal:
        return refusal
    return None


def _no_format(cluster: ClusterSpec, training: TrainingSpec) -> str:
    runs, device = named_stack(training.stack).runs.linear_formats, cluster.node.device.name
    if not runs:
        return f"stack '{training.stack}' runs no linears in a lower format than {training.precision.compute}; allow none, or choose another --stack"
    return f"{device} has no matmuls in {listed(runs)}, which stack '{training.stack}' runs; allow no lower format"


def _means(model: ModelSpec, training: TrainingSpec, may_choose: OpenChoices) -> tuple[int, ...]:
    """Return the tokens of a mean to try beside the given number.

    Raises:
        SpecError: the software sends every token, or the model has no experts.
    """
    if not may_choose.tokens_per_centroid:
        return ()
    if training.stack != OWN_STACK:
        raise SpecError(
            f"stack '{training.stack}' sends every token to its experts, and {LSH_MOE} is asked for; leave it out, or plan for stack '{OWN_STACK}'"
        )
    if not has_experts(model):
        raise SpecError(f"{LSH_MOE} is about tokens on their way to experts, and {model.name} has none; leave it out")
    return (PER_CENTROID,)


def _loss_chunks(training: TrainingSpec, may_choose: OpenChoices) -> tuple[int, ...]:
    """Return the numbers of pieces to try beside the given one.

    Raises:
        SpecError: the software runs no loss in pieces.
    """
    if not may_choose.loss_chunks:
        return ()
    if not training.software.runs.loss_chunks:
        others = [stack for stack in stack_names() if named_stack(stack).runs.loss_chunks]
        raise SpecError(
            f"stack '{training.stack}' runs no loss in pieces; leave out --loss-chunks auto, or choose {listed(others)}"
        )
    return TRIED_LOSS_CHUNKS


def _module_sets(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, may_choose: OpenChoices
) -> list[tuple[RecomputeModule, ...]]:
    """Return the sets of modules to try beside the given one.

    Raises:
        SpecError: jobs of the software name no modules.
    """
    if not may_choose.recompute_modules:
        return []
    if not training.software.recompute_modules:
        others = [stack for stack in stack_names() if named_stack(stack).recompute_modules]
        raise SpecError(
            f"stack '{training.stack}' names no modules to recompute; leave out --recompute-modules auto, or choose {listed(others)}"
        )
    return module_sets(model, training, op_times(cluster, training))
