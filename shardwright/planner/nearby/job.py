"""The search for a job as a user gives it, with what is near: fewer devices, and other batches."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from shardwright.base import InfeasibleError, SpecError, units
from shardwright.costmodel import estimate_plan
from shardwright.planner import OF_OTHER_AXES, TOLERANCE, search
from shardwright.planner.branching import RunnerUp, SearchResult
from shardwright.planner.mixed import ACROSS, Across, search_mixed
from shardwright.planner.space import Fixed, OpenChoices, check_fixed, check_runs, kept_by, training_variants
from shardwright.specs import (
    QUALITY_OF_MEANS,
    SKIPPIPE,
    ClusterSpec,
    Sync,
    TrainingSpec,
    named_approximation,
    quality_of,
    skips_stages,
)
from shardwright.specs.model import ModelSpec

from .fewer_devices import faster_on_fewer, largest_that_fits
from .other_batches import batches_that_fit, faster_batches
from .skipping import skipping


@dataclass(frozen=True)
class FoundJob:
    """The result of a search, the devices that it is for, and sentences about what is near."""

    result: SearchResult
    cluster: ClusterSpec
    notes: tuple[str, ...]


def search_job(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, *, fixed: Fixed | None = None, **options: Any
) -> FoundJob:
    """Search for the best plan on all devices, and look at fewer devices and other batches. `options` are those of `search`.

    On a mixed cluster the plan may leave whole groups idle, if that is faster, and no other batch is looked at (planner/mixed/);
    `across` says what may reach over groups there.
    With `allow_fewer_devices` the plan is for the part of the cluster that is fastest, by more than 2%, or for the largest part
    on which a plan was found where nothing divides over all devices. Otherwise a note names the faster part.
    Where the plan approximates the reduction of gradients, or what travels to experts, the best exact plan is searched too. It is taken
    instead unless the approximation saves more than what counts as none between plans with other axes, or was asked for.

    Raises:
        SpecError: as `search`; the message offers a number of devices and batches with which a plan was found.
        InfeasibleError: as `search`.
    """
    found = _search_job(model, cluster, training, fixed=fixed, **options)
    if fixed is not None and not cluster.is_mixed:
        apart = ("allow_fewer_devices", "across", "may_choose")
        given = {name: value for name, value in options.items() if name not in apart}
        found = replace(found, result=skipping(found.result, model, found.cluster, training, fixed, **given))
    if not (found.result.plan.approximate or found.result.training.approximate):
        return found
    found = replace(found, result=_least_approximate(found, model, options.get("tolerance", 0.0)))
    same = (fixed or Fixed()).but(approximate=(), sync=Sync())
    every = training.model_copy(update={"tokens_per_centroid": 1})
    may_choose = (options.pop("may_choose", None) or OpenChoices()).model_copy(update={"tokens_per_centroid": False})
    try:
        exact = _search_job(model, cluster, every, fixed=same, may_choose=may_choose, **options)
    except (SpecError, InfeasibleError):
        return replace(found, notes=(*found.notes, _approximate(found.result)))
    counts_as_none = 1 + options.get("tolerance", 0.0) * OF_OTHER_AXES
    seconds = (exact.result.fastest or exact.result.estimate).step_seconds
    asked = training.approximate or (fixed or Fixed()).sync is not None
    if not asked and seconds <= counts_as_none * found.result.estimate.step_seconds:
        return exact
    result = replace(found.result, exact=RunnerUp(exact.result.plan, seconds))
    return replace(found, result=result, notes=(*found.notes, _approximate(result)))


def _least_approximate(found: FoundJob, model: ModelSpec, tolerance: float) -> SearchResult:
    """Return the result with the approximation that differs least from an exact reduction, of those under the same name, with which
    its plan takes at most `tolerance` longer: the fewest inner steps that hide an exchange. All under one name need the same memory."""
    result, chosen = found.result, found.result.plan.sync
    model = model.trained_as(result.training.trainable)
    alike = next(
        (
            named_approximation(name).syncs
            for name in result.fixed.approximate
            if chosen in named_approximation(name).syncs
        ),
        (),
    )
    for sync in alike[: alike.index(chosen)] if alike else ():
        plan = result.plan.model_copy(update={"sync": sync})
        estimate = estimate_plan(model, found.cluster, result.training, plan)
        if estimate.step_seconds <= (1 + tolerance) * result.estimate.step_seconds:
            return replace(result, plan=plan, estimate=estimate)
    return result


def _approximate(result: SearchResult) -> str:
    """What an approximation gains, and what is known of its quality."""
    seconds, sync, schedule = result.estimate.step_seconds, result.plan.sync, result.plan.schedule
    if result.exact is None:
        gain = "No exact plan was found"
    else:
        longer = result.exact.step_seconds / seconds - 1
        exact = "an exact reduction" if sync.approximate else "every token to its experts"
        exact = "every stage" if skips_stages(schedule) else exact
        gain = f"With {exact} the best plan takes {units.seconds(result.exact.step_seconds)} a step, {longer:.1%} more"
    what = [(str(sync), quality_of(sync))] if sync.approximate else []
    if skips_stages(schedule):
        paths = f"microbatches leave out stages ({schedule}, tried on the best 1F1B pipeline of each length alone)"
        what.append((paths, named_approximation(SKIPPIPE).quality))
    if result.training.approximate:
        means = f"means of {result.training.tokens_per_centroid} tokens travel to experts"
        what.append((means, QUALITY_OF_MEANS))
    changes, quality = (" and ".join(str(part) for part in parts) for parts in zip(*what, strict=True))
    return f"The plan changes gradients on purpose: {changes}. {gain}. Quality: {quality}."


def _search_job(
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    *,
    fixed: Fixed | None = None,
    allow_fewer_devices: bool = False,
    across: Collection[Across] = ACROSS,
    **options: Any,
) -> FoundJob:
    if cluster.is_mixed:
        return FoundJob(*search_mixed(model, cluster, training, fixed=fixed, across=across, **options))
    fixed = kept_by(fixed or Fixed(), training)
    try:
        result = search(model, cluster, training, fixed=fixed, **options)
    except SpecError as reason:
        if fixed.stages is None:
            check_runs(training, fixed)
        check_fixed(model, cluster, training, fixed)  # what contradicts itself does so on any number of devices
        training_variants(
            model, cluster, training, options.get("may_choose") or OpenChoices()
        )  # so does what is opened
        smaller = largest_that_fits(model, cluster, training, fixed)
        if smaller is None or not allow_fewer_devices:
            raise SpecError(f"{reason}{_offers(model, cluster, training, fixed, smaller)}") from None
        result = search(model, smaller, training, fixed=fixed, **options)
        fewer = faster_on_fewer(model, cluster, training, result, TOLERANCE)
        if fewer:
            smaller, result = fewer.cluster, search(model, fewer.cluster, training, fixed=fixed, **options)
        return FoundJob(result, smaller, (f"The plan leaves {_idle(cluster, smaller)}: {reason}.",))
    if not result.complete:
        return FoundJob(result, cluster, ())
    job = _Job(model, training, fixed, options)
    fewer = faster_on_fewer(model, cluster, training, result, TOLERANCE)
    there = job.search(fewer.cluster) if fewer else None
    if fewer is None or there is None or there.estimate.step_seconds >= result.estimate.step_seconds * (1 - TOLERANCE):
        return FoundJob(result, cluster, job.better_batches(cluster, result))
    if not allow_fewer_devices:
        note = _faster_there(cluster, fewer.cluster, result, there)
        return FoundJob(result, cluster, (note, *job.better_batches(cluster, result)))
    seconds = units.seconds(result.estimate.step_seconds)
    note = f"The plan leaves {_idle(cluster, fewer.cluster)}: on all of them a step takes {seconds}."
    return FoundJob(there, fewer.cluster, (note, *job.better_batches(fewer.cluster, there)))


@dataclass(frozen=True)
class _Job:
    model: ModelSpec
    training: TrainingSpec
    fixed: Fixed
    options: dict[str, Any]

    def search(self, cluster: ClusterSpec, training: TrainingSpec | None = None) -> SearchResult:
        """The result that `search` gives for other devices or another batch: what a user sees who asks for them."""
        return search(self.model, cluster, training or self.training, fixed=self.fixed, **self.options)

    def better_batches(self, cluster: ClusterSpec, result: SearchResult) -> tuple[str, ...]:
        """A sentence with the batches near that give more tokens/s, if there are any."""
        batch, gains = self.training.global_batch, []
        for near in faster_batches(self.model, cluster, self.training, result, TOLERANCE):
            tokens_per_s = self.search(cluster, near.training).estimate.tokens_per_s
            gain = tokens_per_s / result.estimate.tokens_per_s - 1
            if gain > TOLERANCE:
                gains.append(f"{near.training.global_batch} ({gain:.1%} more tokens/s)")
        if not gains:
            return ()
        faster = " or ".join(gains)
        return (f"The global batch {batch} divides poorly over {cluster.devices} devices; faster would be {faster}.",)


def _idle(whole: ClusterSpec, used: ClusterSpec) -> str:
    return f"{whole.devices - used.devices} of {whole.devices} devices idle"


def _offers(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed, smaller: ClusterSpec | None
) -> str:
    """What of devices and batches a plan was found with, to end a refusal."""
    batches = batches_that_fit(model, cluster, training, fixed)
    offers = [f"for a global batch of {' or '.join(map(str, batches))}"] if batches else []
    if smaller is not None:
        offers.append(f"on {smaller.devices} of the {cluster.devices} devices (--allow-fewer-devices)")
    return f"; a plan was found {', and '.join(offers)}" if offers else ""


def _faster_there(whole: ClusterSpec, part: ClusterSpec, here: SearchResult, there: SearchResult) -> str:
    before, after = here.estimate.step_seconds, there.estimate.step_seconds
    return (
        f"On {part.devices} of the {whole.devices} devices a step takes {units.seconds(after)} instead of "
        f"{units.seconds(before)}, {1 - after / before:.1%} less; --allow-fewer-devices plans for them."
    )
