"""The training loop of one rank."""

import contextlib
import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.profiler import record_function

from shardwright.base import RunFailedError, RunStoppedError, SpecError, StopRequest
from shardwright.costmodel import PlanFile
from shardwright.costmodel.phases import Span
from shardwright.executor import TRACE_FOLDER, RunOptions
from shardwright.executor.data import Begins, Sequences, open_held_back, open_plan_batches, said_of
from shardwright.executor.loop import (
    Ending,
    Limits,
    RouterBias,
    evaluate,
    learning_rate_at,
)
from shardwright.executor.model import read_skeleton
from shardwright.executor.parallel import COMPUTE_DTYPES, SMALLEST_SCALE, Engine, build_engine, compiles
from shardwright.executor.ranks import Watch
from shardwright.executor.weights import read_pretrained
from shardwright.specs import Measurement, StepRecord, read_measurement

from .checkpoint import DamagedError, Trainee, load_checkpoint, load_pretrained
from .frozen_start import adapter_settings, adapter_start, frozen_from
from .handing_over import EarlierPhaseError, HandedOver, InPhase, hand_over, take_over
from .journal import Journal
from .manifest import Manifest, plan_digest
from .meter import MemoryMeter, MemoryPeak, StepMeter, measure_offload, read_fingerprint
from .optimizer import host_optimizer
from .run_folder import RunFolder, Start
from .same_everywhere import check_same
from .saver import Saver
from .traced_step import TracedStep


class Trainer:
    """One rank of a run: builds the model, resumes, takes the steps, measures. Needs a process group.

    `progress` receives a line every `log_every` steps, on rank 0 only. After the model is built nothing is random, as
    the engine trains without dropout. A step depends on parameters, optimizer and data alone. `stop`: a request to end after a
    step. `watch` is told where this rank is. `phase`: of a run in several; None: the run has one. `handed_over` is there after a phase that
    hands its state over. `hours_over`: the run is to end, because the hours of its options are over.
    """

    def __init__(
        self,
        plan_file: PlanFile,
        options: RunOptions,
        folder: RunFolder,
        *,
        device: torch.device,
        progress: Callable[[str], None],
        stop: StopRequest | None = None,
        watch: Watch | None = None,
        phase: InPhase | None = None,
    ) -> None:
        span = Span(1, plan_file, 0, options.steps, 0, from_memory=False) if phase is None else phase.span
        self._phase, self._last_step, self._grown_from = phase, span.last_step, span.grown_from
        self.handed_over: HandedOver | None = None
        self.hours_over = False
        self._stop, self._watch = stop or StopRequest(), watch
        self._plan_file, self._options, self._folder = plan_file, options, folder
        self._device, self._progress, self._leads = device, progress, dist.get_rank() == 0
        self._memory, self._meter = MemoryMeter(device), StepMeter(device)
        self._batches = open_plan_batches(plan_file, options, begins=Begins(span.steps_before, span.sequences_before))
        check_same(self._batches, plan_file)
        for line in said_of(self._batches, plan_file):
            self._tell(line)
        self._at(0, "building the model")
        self._engine: Engine = build_engine(
            plan_file,
            device=device,
            seed=options.seed,
            compile_layers=compiles(options.compile, device),
            offload_folder=options.offload_folder or options.out / "offload",
            draw=options.init_from is None,
            adapters=None if (start := adapter_start(plan_file, options, device)) is None else start.initial,
        )
        optimizer = host_optimizer(
            self._engine.model_parts,
            plan_file.training.method,
            options,
            self._engine.offload,
            scaled=self._engine.loss_scale is not None,
        )
        if optimizer.layerwise is not None:
            self._engine.gradient_of = optimizer.layerwise.norm_of
        self._trainee = Trainee(
            self._engine.model_parts,
            optimizer,
            self._engine.tied_names,
            leaves_frozen=not plan_file.training.trainable.trains_all,
            agreement=self._engine.agreement,
            replica=self._engine.replica,
        )
        self._router_bias: RouterBias | None = None
        if options.router_bias_rate is not None:
            self._router_bias = RouterBias(self._engine.model_parts, self._engine.mesh, options.router_bias_rate)
        keep, beside = options.keep_checkpoints, options.checkpoint == "async"
        self._saver = Saver(folder.checkpoints, self._trainee, keep=keep, beside=beside)
        self._limits = Limits(options, self._stop, device, began=None if phase is None else phase.began)
        self._held_back = open_held_back(plan_file, options)
        self._journal = Journal(plan_file, options, folder, device=device, memory=self._memory, tell=self._tell)

    def run(self) -> Measurement:
        """Take all remaining steps; return the measurement on every rank. Rank 0 writes it to the folder.

        Raises:
            RunStoppedError: a rank was asked to stop; a checkpoint of the last step was saved, if the options want any.
            RunFailedError: training diverged, or a checkpoint could not be written.
        """
        self._at(0, "loading")
        start = self._resume()
        self._traced = self._traced_step(start)
        if start == self._options.steps:  # a rank was lost after the last checkpoint, and all were started again
            return read_measurement(self._folder.measurement)
        self._journal.open(start)
        self._stop.first_step_begins()
        try:
            measurement = self._take_steps(start)
            self._at(self._last_step, "last checkpoint")
            self._saver.finish()
        finally:
            self._journal.close()
        if self._hands_over(measurement.steps[-1].step):
            self.handed_over = hand_over(self._trainee, self._last_step, self._engine.loss_scale)
        if self._engine.offload is not None:
            self._engine.offload.close()
        if self._engine.agreement is not None:
            self._engine.agreement.finish()
        return measurement

    def _hands_over(self, step: int) -> bool:
        return self._phase is not None and self._phase.hands_over and step == self._last_step

    def _take_steps(self, start: int) -> Measurement:
        for step in range(start + 1, self._last_step + 1):
            self._journal.add_step(self._step(step), self._meter.last_parts)
            self._at(step, "agreement")
            ending = self._limits.ask(unsaved=self._saver.failed)
            self._need_saved(ending)
            self.hours_over = over = ending.over and not ending.stopped
            last = over or step == self._last_step
            self._evaluate_if_due(step, last=over or step == self._options.steps)
            if last:
                measurement = self._measure()
            self._checkpoint_if_due(step, ending, last=over or (last and not self._hands_over(step)))
            if last:
                break
            if ending.stopped:
                self._saver.finish()
                raise RunStoppedError(f"stopped after step {step}")
        if self.hours_over and step < self._options.steps:
            self._tell(
                f"{self._options.until_hours:g} hours are over after step {step} of {self._options.steps}; the same command goes on"
            )
        return measurement

    def _need_saved(self, ending: Ending) -> None:
        """Raise what a checkpoint met that was written beside the steps."""
        if ending.unsaved:
            self._saver.finish()
            raise RunFailedError(
                "another rank could not write its part of a checkpoint; the checkpoints before it are whole"
            )

    def _evaluate_if_due(self, step: int, *, last: bool) -> None:
        every, held_back = self._options.eval_every, self._held_back
        if every is None or held_back is None or (step % every and not last):
            return
        self._at(step, "evaluation")

        def batch(number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
            given = held_back.at(number, dp_rank=self._engine.dp_rank, dp_size=self._engine.dp_size)
            places = given.places if isinstance(given, Sequences) else None
            return given[0].to(self._device), given[1].to(self._device), places

        whole = held_back.sequences // self._plan_file.training.global_batch
        batches = min(self._options.eval_batches, max(whole, 1))
        self._journal.add_evaluation(evaluate(self._engine, batch, batches=batches, step=step))

    def _resume(self) -> int:
        """Load the checkpoint to continue from, if any; return the number of steps already taken."""
        damaged: list[Path] = [] if self._phase is None else self._phase.damaged
        if self._phase is not None and self._phase.held is not None:
            return self._take_over(self._phase.held)
        while True:
            # ranks that look at different moments must agree
            found: list[Start | SpecError | None] = [self._start(damaged) if self._leads else None]
            dist.broadcast_object_list(found)
            start = found[0]
            if isinstance(start, SpecError):
                raise start
            assert start is not None
            for fault in start.passed:
                self._tell(f"passed over: {fault}")
            if self._phase is not None and start.step < self._phase.span.steps_before:
                raise EarlierPhaseError(start.step)
            if start.checkpoint is None or not self._plan_file.training.trainable.trains_all:
                self._start_from_weights()  # of which a checkpoint holds those alone that are trained
            if start.checkpoint is None:
                if self._engine.agreement is not None:
                    self._engine.agreement.restart()
                return start.step
            try:
                manifest = load_checkpoint(start.checkpoint, self._trainee, self._plan_file, self._grown_from)
            except DamagedError as fault:
                damaged.append(start.checkpoint)
                self._tell(f"passed over: {fault}")
                continue
            if self._engine.loss_scale is not None and manifest.loss_scale is not None:
                self._engine.loss_scale = manifest.loss_scale
            self._tell(f"continuing from {start.checkpoint} after step {start.step}")
            if manifest.plan_digest != plan_digest(self._plan_file) and self._engine.agreement is not None:
                self._tell(
                    "the checkpoint is of another plan: every replica starts from its first one, and what they exchange begins anew"
                )
            return start.step

    def _take_over(self, held: HandedOver) -> int:
        """Go on with what the phase before handed over; return the number of steps already taken."""
        if not self._plan_file.training.trainable.trains_all:
            self._start_from_weights()
        with self._memory.paused():
            take_over(held, self._trainee)
        self._engine.loss_scale = held.loss_scale
        held.tensors.clear()
        return held.step

    def _start_from_weights(self) -> None:
        """Read the weights that the run is to start from, unless the engine drew them."""
        folder = self._options.init_from
        if folder is None:
            return
        with self._memory.paused():  # pages of the files that are mapped count as resident
            pretrained = read_pretrained(folder, self._plan_file, read_skeleton(self._plan_file))
            dtype = COMPUTE_DTYPES[self._plan_file.training.precision.compute]
            load_pretrained(pretrained, self._trainee, frozen_dtype=dtype)
            del pretrained
        self._tell(f"starting from the weights in {folder}")

    def _start(self, damaged: list[Path]) -> Start | SpecError:
        try:
            grown = (
                None
                if self._grown_from is None or self._phase is None
                else (self._phase.span.steps_before, self._grown_from)
            )
            return self._folder.start(
                self._plan_file, self._options, damaged=damaged, last_step=self._last_step, grown=grown
            )
        except SpecError as error:
            return error

    def _at(self, step: int, part: str) -> None:
        if self._watch is not None:
            self._watch.at(step, part)

    @contextlib.contextmanager
    def _part(self, step: int, name: str) -> Iterator[None]:
        self._at(step, name)
        with self._meter.part(name):
            yield

    def _step(self, step: int) -> StepRecord:
        engine, options = self._engine, self._options
        rate = learning_rate_at(step, options)
        with self._traced(step), self._meter.step():
            with self._part(step, "data"):
                given = self._batches.at(step, dp_rank=engine.dp_rank, dp_size=engine.dp_size)
                inputs, labels = given[0].to(self._device), given[1].to(self._device)
                places = given.places if isinstance(given, Sequences) else None
            self._trainee.optimizer.set_learning_rate(rate)
            with self._part(step, "forward_backward"):
                loss = float(engine.forward_backward(inputs, labels, places))
            with self._part(step, "optimizer"), record_function("optimizer"):
                if engine.agreement is not None:
                    engine.agreement.before_clipping(step)
                scale, norm = engine.loss_scale, engine.clip_gradients(options.clip_norm)
                taken = engine.accepts(norm)
                self._need_finite(step, loss, norm)
                if taken:
                    self._update(step)
                if engine.agreement is not None:
                    engine.agreement.after_update(step)
                if self._router_bias is not None:
                    self._router_bias.step(taken=taken)
                engine.zero_gradients()
        return StepRecord(
            step=step,
            loss=loss,
            gradient_norm=norm if taken else None,
            learning_rate=rate,
            seconds=self._meter.last_seconds,
            loss_scale=scale and scale.value,
            skipped=not taken,
        )

    def _update(self, step: int) -> None:
        optimizer, agreement = self._trainee.optimizer, self._engine.agreement
        if agreement is None:
            optimizer.step()
        else:
            agreement.update(step, optimizer.on_device, optimizer.step)

    def _traced_step(self, start: int) -> Callable[[int], contextlib.AbstractContextManager[None]]:
        """What goes around each step: nothing, or a recorder of the first step that the timings count."""
        options = self._options
        if not options.trace_step:
            return lambda step: contextlib.nullcontext()
        number = min(start + options.timing_warmup_steps + 1, self._last_step)
        folder, rank = self._folder.path / TRACE_FOLDER, dist.get_rank()
        return TracedStep(self._plan_file.plan, folder, rank=rank, device=self._device, number=number).around

    def _checkpoint_if_due(self, step: int, ending: Ending, *, last: bool) -> None:
        every, minutes = self._options.checkpoint_every, self._options.every_minutes
        if every is None and minutes is None:
            return
        if not (last or ending.stopped or ending.save or (every is not None and step % every == 0)):
            return
        self._at(step, "checkpoint")
        plan_file = self._plan_file
        manifest = Manifest(
            step=step,
            model_name=plan_file.model_name,
            model_config_json=plan_file.model_config_json,
            optimizer=str(plan_file.training.method),
            plan_digest=plan_digest(plan_file),
            data_digest=self._batches.digest,
            seed=self._options.seed,
            files={},
            trainable=str(plan_file.training.trainable),
            frozen_from=frozen_from(plan_file, self._options),
            adapters=adapter_settings(plan_file, self._options),
            loss_scale=self._engine.loss_scale,
        )
        with self._memory.paused():
            self._saver.save(manifest)
        self._limits.saved()

    def _measure(self) -> Measurement:
        warmup = self._options.timing_warmup_steps
        gathered: list[tuple[MemoryPeak, dict[str, float]]] = [(MemoryPeak(0, 0, None), {})] * dist.get_world_size()
        dist.all_gather_object(gathered, (self._memory.read(), self._meter.part_medians_after(warmup)))
        peaks, parts = [peak for peak, _ in gathered], [part for _, part in gathered]
        seconds = self._meter.seconds_after(warmup)
        median = statistics.median(seconds)
        low, high = np.quantile(seconds, [0.1, 0.9])
        reserved = [peak.reserved for peak in peaks if peak.reserved is not None]
        measured = [
            Measurement(
                ranks=dist.get_world_size(),
                warmup_steps=self._meter.left_out(warmup),
                step_seconds=median,
                step_seconds_low=float(low),
                step_seconds_high=float(high),
                part_seconds=max(parts, key=lambda part: sum(part.values())),
                tokens_per_s=self._plan_file.training.tokens_per_step / median,
                mfu=self._journal.mfu(median),
                offload=measure_offload(self._engine.offload),
                checkpoints=self._saver.measured(),
                peak_memory_bytes=tuple(peak.peak for peak in peaks),
                memory_kind="allocated" if self._device.type == "cuda" else "resident",
                peak_reserved_bytes=tuple(reserved) or None,
                baseline_memory_bytes=tuple(peak.baseline for peak in peaks),
                steps=tuple(self._journal.records),
                fingerprint=read_fingerprint(self._device),
            )
        ]
        dist.broadcast_object_list(measured)  # only rank 0 has the records from before a resume
        if self._leads:
            self._folder.write_measurement(measured[0])
        return measured[0]

    def _need_finite(self, step: int, loss: float, gradient_norm: float) -> None:
        scale = self._engine.loss_scale
        if math.isfinite(loss) and (math.isfinite(gradient_norm) or (scale and scale.value >= SMALLEST_SCALE)):
            return
        # the update may have begun: without clipping that of the host, and layer by layer every one
        early = self._engine.offload is not None and self._options.clip_norm is None and scale is None
        early = early or self._trainee.optimizer.layerwise is not None
        kept = "the newest checkpoint is whole" if early else "the parameters are those of the step before"
        if scale is not None and math.isfinite(loss):
            said = f"gradients are not finite in fp16 at any loss scale down to {SMALLEST_SCALE:g}"
        else:
            said = f"the loss is {loss} and the gradient norm {gradient_norm}"
        fix = "" if scale is None else ", or bf16 or fp32, which hold values above 65,504"
        raise RunFailedError(
            f"step {step}: {said}; training has diverged, {kept}. Try a lower learning_rate or more warmup_steps{fix}"
        )

    def _tell(self, line: str) -> None:
        if self._leads:
            self._progress(line)
