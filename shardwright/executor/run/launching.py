"""The start of a plan's run: check everything first, then train in this process or start one for each rank."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from shardwright.base import STOPPED, RunStoppedError, SpecError, StopRequest, end_with_parent
from shardwright.base import units as readable
from shardwright.costmodel import PlanFile, read_plan_file
from shardwright.costmodel.phases import Phase, PhasesFile, Span, is_phases_file, read_phases_file
from shardwright.executor import RunOptions, check_can_run
from shardwright.executor.adapters import check_quantised_device
from shardwright.executor.data import Begins, new_tokens_go_with_a_mistake, open_held_back, open_plan_batches
from shardwright.executor.loop import check_event_files, check_router_bias, check_wandb
from shardwright.executor.low_precision import check_linear_precision
from shardwright.executor.model import lacks_fused_attention, read_config, read_skeleton
from shardwright.executor.optimizers import check_clipping
from shardwright.executor.parallel import check_compile, compiles
from shardwright.executor.text import holds_tokenizer
from shardwright.executor.training import (
    RunFolder,
    RunIdentity,
    adapter_start,
    newest_checkpoint,
    phases_digest,
    plan_digest,
)
from shardwright.executor.weights import check_growth, read_pretrained
from shardwright.specs import Measurement, read_measurement

from .checks import check_plan
from .elastic import Devices, PlanFor, RanksGoneError, plan_for_what_is_left
from .rank import pick_device, plans_for_gpus, run_rank
from .workers import run_workers, while_heard

MOST_CPU_RANKS = 8


def launch(
    plan_path: Path,
    options: RunOptions,
    *,
    progress: Callable[[str], None] = print,
    plan_for: PlanFor | None = None,
) -> Measurement:
    """Train with the plan or the phases in `plan_path`; return the measurement, which is also written to `options.out`.

    Everything that can be checked is checked before a process starts or a file is written. In a process that torchrun
    started (RANK is set) this rank trains in this process. Otherwise one process is started for each rank. `progress` receives the lines that rank 0 tells. If the folder holds the finished run, its measurement is
    returned again. `plan_for` plans anew where the plan is for another number of ranks than are there, and for those that are left once some are gone for good, when no restart is left.
    The folder stays that of the given plan's run.

    Raises:
        SpecError: the plan, options, data or folder are not valid for the run.
        RunFailedError: the run began and a rank failed.
        SystemExit: with 2, on the other ranks of a torchrun, instead of a SpecError that rank 0 also raises. With 128 + its
            number where a signal stopped the run.
    """
    leads, folder = os.environ.get("RANK", "0") == "0", RunFolder(options.out.absolute())
    progress = while_heard(progress)
    try:
        given, phases, options = _read(plan_path, _from_anywhere(options), plan_for)
        plan_file = phases.phases[0].plan_file
        if leads and isinstance(given, PlanFile) and plan_file is not given:
            progress(f"{_instead(given, options)}: planned anew, {_described(plan_file)}")
        for span in phases.spans:
            _check_plan(span.plan_file, options)
            if span.grown_from is not None:
                check_growth(span.plan_file)
        weights_digest = _weights_digest(plan_file, options)
        adapters = adapter_start(plan_file, options, torch.device("cpu"))
        if leads:
            folder.check_place()
            _check_apart(options)
        with new_tokens_go_with_a_mistake(options.out):
            digests = [_data_digest(span, options, progress if leads else lambda _line: None) for span in phases.spans]
            identity = RunIdentity(
                plan_digest=plan_digest(given) if isinstance(given, PlanFile) else phases_digest(given),
                data_digest=digests[0],
                seed=options.seed,
                weights_digest=weights_digest,
                adapters="" if adapters is None else adapters.digest,
            )
            if leads:
                folder.check(identity, options)
            span = phases.span_after(folder.step_before(phases, options))
            grown = None if span.grown_from is None else (span.steps_before, span.grown_from)
            start = folder.start(span.plan_file, options, last_step=span.last_step, grown=grown)
    except SpecError:
        if not leads:
            raise SystemExit(2) from None
        raise
    if start.step == options.steps:
        progress(f"{folder.path}: already holds all {options.steps} steps; give more steps to go on")
        return read_measurement(folder.measurement)
    if not leads:
        return _run_here(phases, options, folder, progress)
    for line in _otherwise(plan_file, options):
        progress(line)
    with folder.locked():
        folder.prepare(span.plan_file, options, identity, None if isinstance(given, PlanFile) else phases)
        folder.keep_beside(options, plan_file.model_config_json["vocab_size"])
        if "RANK" in os.environ:
            return _run_here(phases, options, folder, progress)
        job = Job(given if isinstance(given, PlanFile) else plan_file, plan_file, options, folder, identity)
        _run_ranks(job, Devices.present(plan_file.plan.mesh.ranks, _gpus(plan_file, options)), progress, plan_for)
    return read_measurement(folder.measurement)


def _read(
    path: Path, options: RunOptions, plan_for: PlanFor | None
) -> tuple[PlanFile | PhasesFile, PhasesFile, RunOptions]:
    """Return what the file holds, the phases to run, one of them for a plan, and the options with their steps.

    Raises:
        SpecError: the file is neither, or options do not go with it.
    """
    if not is_phases_file(path):
        plan_file = given = read_plan_file(path)
        if plan_for is not None:
            plan_file = _for_what_is_there(given, options, plan_for)
        options = options.with_steps_of_tokens(plan_file.training.tokens_per_step)
        return given, PhasesFile(phases=(Phase(steps=options.steps, plan_file=plan_file),)), options
    phases, stated = read_phases_file(path), options.model_fields_set
    if plan_for is not None:
        raise SpecError(f"{path}: has the plans of several phases, and --replan makes one; leave it out")
    if options.until_tokens is not None or ("steps" in stated and options.steps != phases.steps):
        raise SpecError(f"{path}: its phases have {phases.steps} steps in all; leave out --steps and --until-tokens")
    if options.checkpoint_every is None and not all(span.from_memory for span in phases.spans[1:]):
        raise SpecError(
            f"{path}: a phase begins with a checkpoint of the one before; give a --checkpoint-every other than 0"
        )
    given_options = options.model_dump(include=stated, mode="json")
    return phases, phases, RunOptions.parse({**given_options, "steps": phases.steps}, source="run options")


def _data_digest(span: Span, options: RunOptions, progress: Callable[[str], None]) -> str:
    """Check the data and what goes on around the steps of a phase; return the digest of the data.

    Raises:
        SpecError: see `_check_loop`; the data is not valid.
    """
    _check_loop(span.plan_file, options)
    begins = Begins(span.steps_before, span.sequences_before)
    return open_plan_batches(span.plan_file, options, progress=progress, begins=begins).digest


class Job(NamedTuple):
    """A run in its folder: the plan that it was given, and the one that it trains with."""

    given: PlanFile
    plan_file: PlanFile
    options: RunOptions
    folder: RunFolder
    identity: RunIdentity


def _run_ranks(job: Job, devices: Devices, progress: Callable[[str], None], plan_for: PlanFor | None) -> None:
    """Run all ranks as processes of this machine, with `plan_for` again on what is left once some are gone for good."""
    while True:
        ranks = job.plan_file.plan.mesh.ranks
        try:
            return run_workers(job.folder, ranks, job.options.restarts, progress, environment=devices.environment)
        except SystemExit:
            progress(_how_to_go_on(job.folder))
            raise
        except RanksGoneError as gone:
            if plan_for is None or not devices.lose(gone):
                raise
            job = job._replace(plan_file=plan_for_what_is_left(job.given, devices, plan_for, gone))
            _check_plan(job.plan_file, job.options)
            job.folder.prepare(job.plan_file, job.options, job.identity)
            progress(f"{gone}; going on with what is left, {_described(job.plan_file)}")


def _for_what_is_there(given: PlanFile, options: RunOptions, plan_for: PlanFor) -> PlanFile:
    """Return the plan, or one for the ranks that are there if these are others.

    Raises:
        SpecError: the engine does not run the given plan, or nothing divides.
        InfeasibleError: nothing fits.
    """
    check_can_run(given)
    needed, (offered, _) = given.plan.mesh.ranks, _offered_ranks(given, options)
    under_torchrun = "RANK" in os.environ
    counted = under_torchrun or options.ranks is not None or _gpus(given, options) > 0
    if needed == offered or (needed < offered and not counted):  # what CPUs offer at most is no number of devices
        return given
    return plan_for(given, offered, exactly=under_torchrun)


def _instead(given: PlanFile, options: RunOptions) -> str:
    offered, offer = _offered_ranks(given, options)
    return f"the plan is for {given.plan.mesh.ranks} ranks, and {offer} {offered}"


def _described(plan_file: PlanFile) -> str:
    ranks, estimate = plan_file.plan.mesh.ranks, plan_file.estimated()
    return f"{ranks} {'rank' if ranks == 1 else 'ranks'} as {plan_file.plan.mesh}, predicted {readable.seconds(estimate.step_seconds)} a step"


def _otherwise(plan_file: PlanFile, options: RunOptions) -> Iterator[str]:
    """Yield lines on what runs otherwise than the plan's prediction says."""
    if plans_for_gpus(plan_file) and not torch.cuda.is_available():
        yield "no GPU here: training on this machine's CPUs; the plan's prediction is for GPUs"
    if plan_file.training.attention == "flash" and lacks_fused_attention(read_config(plan_file)):
        yield (
            f"transformers has no fused attention for {plan_file.model_name}: it runs unfused, and the plan's prediction is for a fused kernel"
        )
    trainable = plan_file.training.trainable
    if not trainable.trains_all and options.init_from is None:
        yield f"{trainable} is trained beside weights drawn from the seed; give --init-from to fine-tune those of a model"
    if compiles(options.compile, pick_device(plan_file)):
        yield "layers are compiled, and the plan's prediction is for layers that are not"


def _run_here(
    phases: PhasesFile, options: RunOptions, folder: RunFolder, progress: Callable[[str], None]
) -> Measurement:
    """Train as a rank of the user's own torchrun."""
    end_with_parent()
    try:
        return run_rank(phases, options, folder, progress, StopRequest().listen())
    except RunStoppedError:
        if os.environ["RANK"] == "0":
            progress(_how_to_go_on(folder))
        raise SystemExit(STOPPED) from None


def _how_to_go_on(folder: RunFolder) -> str:
    newest = newest_checkpoint(folder.checkpoints)
    where = f"continues after {newest.name}" if newest else "begins again, as there is no checkpoint yet"
    return f"stopped; the same command {where}"


def _from_anywhere(options: RunOptions) -> RunOptions:
    """Return the same options with absolute paths, because workers may start in another folder."""
    absolute = {
        "out": options.out.absolute(),
        "data": tuple(path.absolute() for path in options.data),
        "eval_data": tuple(path.absolute() for path in options.eval_data),
        "resume_from": options.resume_from and options.resume_from.absolute(),
        "init_from": options.init_from and options.init_from.absolute(),
        "tokenizer": _tokenizer(options),
        "adapters_from": options.adapters_from and options.adapters_from.absolute(),
        "offload_folder": options.offload_folder and options.offload_folder.absolute(),
    }
    return options.model_copy(update=absolute)


def _tokenizer(options: RunOptions) -> Path | None:
    """Return the folder of the tokenizer: the given one, or that beside the weights or the run that this one starts from."""
    if options.tokenizer is not None:
        return options.tokenizer.absolute()
    run = options.resume_from and options.resume_from.absolute().parent.parent
    beside = [options.init_from, run and RunFolder(run).tokenizer]
    return next((folder.absolute() for folder in beside if folder is not None and holds_tokenizer(folder)), None)


def _weights_digest(plan_file: PlanFile, options: RunOptions) -> str:
    """Check the weights that the run starts from, by their headers; "" where they are drawn.

    Raises:
        SpecError: they are not those of the plan's model, or cannot be read.
    """
    if options.init_from is None:
        return ""
    return read_pretrained(options.init_from, plan_file, read_skeleton(plan_file)).digest


def _check_apart(options: RunOptions) -> None:
    """Check that the run does not write into its own data.

    Raises:
        SpecError: its folder lies in that of the data, whose digest would change with every file of the run.
    """
    for path in (*options.data, *options.eval_data):
        if path.is_dir() and options.out.resolve().is_relative_to(path.resolve()):
            raise SpecError(
                f"{options.out}: the folder of the run lies in that of its data, {path}, and would become data itself; give --out outside of it"
            )


def _check_plan(plan_file: PlanFile, options: RunOptions) -> None:
    """Check the plan against the engine, the ranks and its training.

    Raises:
        SpecError: as `check_plan`, or there are too few ranks.
    """
    check_can_run(plan_file)
    plan = plan_file.plan
    needed, (offered, offer) = plan.mesh.ranks, _offered_ranks(plan_file, options)
    if needed > offered or ("RANK" in os.environ and needed != offered):
        raise SpecError(
            f"the plan needs {needed} ranks ({plan.mesh}) and {offer} {offered}; plan for {offered} (--replan does), or run it where there are {needed}"
        )
    check_plan(plan_file)
    check_compile(plan, options.compile, pick_device(plan_file))
    check_linear_precision(plan_file.training.precision, pick_device(plan_file))
    check_quantised_device(plan_file.training.trainable, pick_device(plan_file))


def _check_loop(plan_file: PlanFile, options: RunOptions) -> None:
    """Check what goes on around the steps.

    Raises:
        SpecError: the held-back data is not valid; a package is absent; the model has no router whose bias could move; gradients
            are to be clipped that the optimizer does not keep.
    """
    check_clipping(plan_file.training.method, options.clip_norm)
    if options.tensorboard:
        check_event_files()
    check_router_bias(plan_file, options.router_bias_rate)
    if options.wandb is not None:
        check_wandb()
    open_held_back(plan_file, options)


def _offered_ranks(plan_file: PlanFile, options: RunOptions) -> tuple[int, str]:
    """Return the number of available ranks, and words for a message that say why."""
    if "RANK" in os.environ:
        return int(os.environ["WORLD_SIZE"]), "torchrun was started with"
    if gpus := _gpus(plan_file, options):
        return gpus, "the GPUs to run on are"
    if options.ranks is not None:
        return options.ranks, "the options offer"
    return MOST_CPU_RANKS, "on CPUs one machine runs at most"


def _gpus(plan_file: PlanFile, options: RunOptions) -> int:
    """Return the number of GPUs to run on; 0 where the ranks run on CPUs."""
    if not plans_for_gpus(plan_file) or not torch.cuda.is_available():
        return 0
    present = torch.cuda.device_count()
    return min(present, options.ranks or present)
