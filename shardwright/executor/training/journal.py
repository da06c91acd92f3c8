"""What rank 0 writes and tells of the steps of a run."""

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist

from shardwright.base import GIB
from shardwright.costmodel import PlanFile
from shardwright.executor import RunOptions
from shardwright.executor.loop import EarlyWarning, Evaluation, Evaluations, EventFiles, Log, WandbLog
from shardwright.specs import StepRecord

from .meter import MemoryMeter
from .run_folder import RunFolder


class Journal:
    """The records of steps and evaluations, the logs, a line of progress every `log_every` steps, and an early warning.

    Only rank 0 keeps any of them. `tell` receives the lines.
    """

    def __init__(
        self,
        plan_file: PlanFile,
        options: RunOptions,
        folder: RunFolder,
        *,
        device: torch.device,
        memory: MemoryMeter,
        tell: Callable[[str], None],
    ) -> None:
        self._plan_file, self._options, self._folder = plan_file, options, folder
        self._device, self._memory = device, memory
        self._tell, self._leads = tell, dist.get_rank() == 0
        self.records: list[StepRecord] = []
        self._evaluations = Evaluations(folder.evaluations)
        self._logs: list[Log] = []
        estimate, planned_type = plan_file.estimate, plan_file.cluster.node.device.torch_type
        self._warning: EarlyWarning | None = None
        if estimate is not None and planned_type == device.type:
            self._warning = EarlyWarning(estimate, warmup_steps=options.timing_warmup_steps)

    def open(self, start: int) -> None:
        """Take up the records of the run's first `start` steps."""
        if not self._leads:
            return
        self.records = self._folder.keep_steps_until(start)
        self._evaluations.keep_until(start)
        if self._options.tensorboard:
            tokens = self._plan_file.training.tokens_per_step
            self._logs.append(EventFiles(self._folder.events, start, self._plan_file.estimate, tokens))
        if self._options.wandb is not None:
            log = WandbLog(self._folder.path, self._plan_file, self._options, self._options.wandb, self._tell)
            self._logs.append(log)

    def close(self) -> None:
        for log in self._logs:
            log.close()

    def add_evaluation(self, evaluation: Evaluation) -> None:
        if self._leads:
            self._evaluations.append(evaluation)
            for log in self._logs:
                log.add_evaluation(evaluation)
        self._tell(str(evaluation))

    def add_step(self, record: StepRecord, parts: Mapping[str, float]) -> None:
        """Take up a step of which `parts` took their seconds."""
        if not self._leads:
            return
        self.records.append(record)
        self._folder.append_step(record)
        for log in self._logs:
            log.add_step(record)
        if record.step % self._options.log_every == 0 or record.step == self._options.steps:
            self._tell(self._progress_line(record))
        if self._warning is not None:
            warning = self._warning.after(record.step, record.seconds, parts)
            if warning:
                self._tell(warning)

    def _progress_line(self, record: StepRecord) -> str:
        mfu, estimate = self.mfu(record.seconds), self._plan_file.estimate
        parts = [
            f"step {record.step}/{self._options.steps}",
            f"loss {record.loss:.4f}",
            f"lr {record.learning_rate:.2e}",
            *([f"skipped, not finite at loss scale {record.loss_scale:,.0f}"] if record.skipped else []),
            f"{self._plan_file.training.tokens_per_step / record.seconds:,.0f} tokens/s",
            *([f"MFU {mfu:.1%}"] if mfu else []),
            f"{record.seconds:.3f} s" + (f" (predicted {estimate.step_seconds:.3f} s)" if estimate else ""),
            f"memory {self._memory.read().peak / GIB:.2f} GiB",
        ]
        return "  ".join(parts)

    def mfu(self, step_seconds: float) -> float | None:
        """Model FLOPs of a step over the peak FLOPs of the ranks' devices in that
        time (Chowdhery et al. 2022, appendix B)."""
        device = self._plan_file.cluster.node.device
        peak = device.peak_flops_per_s.get(self._plan_file.training.precision.compute)
        estimate = self._plan_file.estimate
        if estimate is None or peak is None or device.torch_type != self._device.type:
            return None
        return estimate.model_flops / (step_seconds * dist.get_world_size() * peak)
