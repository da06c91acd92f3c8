"""The run of one rank: its device, and in each phase its process group and the training in it."""

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from shardwright.base import StopRequest, threads_per_rank
from shardwright.costmodel import PlanFile, write_plan_file
from shardwright.costmodel.phases import PhasesFile, Span
from shardwright.executor import RunOptions
from shardwright.executor.ranks import Watch, join_process_group, say_misplaced
from shardwright.executor.training import EarlierPhaseError, HandedOver, InPhase, RunFolder, Trainer
from shardwright.specs import Measurement

_LATER = 2.0
"""torch's own timeout comes later than the watch, which knows what the other ranks do."""


def run_rank(
    phases: PhasesFile,
    options: RunOptions,
    folder: RunFolder,
    progress: Callable[[str], None],
    stop: StopRequest,
) -> Measurement:
    """Take the phases that are left, each in a process group of its own that the environment describes. Return the measurement of the last
    one. Rank 0 reports to `progress`.

    A phase begins with the state that the one before handed over in memory, or with the newest checkpoint.

    Raises:
        RunStoppedError: `stop` was asked of a rank, and the run ended after a step.
        SpecError: the plan, the options or the data are not valid for the run.
        RunFailedError: training diverged.
    """
    device = pick_device(phases.phases[0].plan_file)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(threads_per_rank(int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    watch = Watch(
        folder.failures,
        rank=int(os.environ["RANK"]),
        ranks=int(os.environ["WORLD_SIZE"]),
        limit_seconds=options.timeout_seconds,
    )
    watch.start()
    try:
        return _Rank(phases, options, folder, progress, stop, device, watch).run()
    finally:
        watch.close()


class _Rank:
    """This rank on its way through the phases."""

    def __init__(
        self,
        phases: PhasesFile,
        options: RunOptions,
        folder: RunFolder,
        progress: Callable[[str], None],
        stop: StopRequest,
        device: torch.device,
        watch: Watch,
    ) -> None:
        self._phases, self._options, self._folder, self._progress = phases, options, folder, progress
        self._stop, self._device, self._watch = stop, device, watch
        self._began, self._times, self._damaged = time.monotonic(), 0, list[Path]()

    def run(self) -> Measurement:
        held: HandedOver | None = None
        step = self._folder.step_before(self._phases, self._options)
        while True:
            span = self._phases.span_after(step)
            try:
                measurement, held, over = self._take(span, held)
            except EarlierPhaseError as earlier:  # the checkpoint that the phase was chosen by is damaged
                step = earlier.step
                continue
            if over or span.last_step == self._phases.steps:
                return measurement
            step = span.last_step

    def _take(self, span: Span, held: HandedOver | None) -> tuple[Measurement, HandedOver | None, bool]:
        """Take one phase. Return its measurement, what it hands over, and whether the hours of the run are over."""
        self._times += 1
        join_process_group(self._device, timeout_seconds=_LATER * self._options.timeout_seconds, time=self._times)
        try:
            self._say(span)
            spans = self._phases.spans
            following = spans[span.number : span.number + 1]
            phase = InPhase(
                span,
                began=self._began,
                held=held,
                hands_over=any(each.from_memory for each in following),
                damaged=self._damaged,
            )
            trainer = Trainer(
                span.plan_file,
                self._options,
                self._folder,
                device=self._device,
                progress=self._progress,
                stop=self._stop,
                watch=self._watch,
                phase=phase,
            )
            measurement = trainer.run()
            return measurement, trainer.handed_over, trainer.hours_over
        finally:
            trainer = None  # type: ignore[assignment]  # its tensors go before the next phase builds its own
            gc.collect()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            dist.destroy_process_group()

    def _say(self, span: Span) -> None:
        """Say where ranks are not where the plan puts them, and which of several phases begins, whose plan is then the folder's."""
        plan_file, several = span.plan_file, len(self._phases.spans) > 1
        if self._device.type == "cuda" and self._times == 1:  # on CPUs a plan for several machines may run on one
            wrong = say_misplaced(plan_file.cluster.node.devices_per_host)
            if wrong and dist.get_rank() == 0:
                self._progress(f"note: {wrong}")
        if several and dist.get_rank() == 0:
            training = plan_file.training
            self._progress(
                f"phase {span.number} of {len(self._phases.spans)}: steps {span.steps_before + 1} to {span.last_step}, "
                f"{training.global_batch} sequences of {training.seq_len} tokens, {plan_file.plan.mesh}"
            )
            write_plan_file(self._folder.plan, plan_file)


def plans_for_gpus(plan_file: PlanFile) -> bool:
    """Return whether the plan is for GPUs; a machine without them trains it on its CPUs."""
    return plan_file.cluster.node.device.torch_type == "cuda"


def pick_device(plan_file: PlanFile) -> torch.device:
    """Return this rank's GPU where the plan is for GPUs and the machine has them, else the CPU."""
    if plans_for_gpus(plan_file) and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")
