"""`plan`: one search for a job, and its answer as people and programs read it."""

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from shardwright.base import SpecError, listed
from shardwright.catalog import keeps_apart, what_profile_lacks, without
from shardwright.catalog.huggingface import load_model
from shardwright.comparison import simplest_rival
from shardwright.costmodel import PlanFile, simulate_plan, write_plan_file
from shardwright.planner import TOLERANCE, SearchResult
from shardwright.planner.branching import TradeOff
from shardwright.planner.mixed import ACROSS
from shardwright.planner.nearby import search_job
from shardwright.planner.space import asked, changed, words_of
from shardwright.planner.why import (
    Alternative,
    assumed,
    explain,
    neighbours,
    overlooked,
    what_was_chosen,
    what_was_given_up,
)
from shardwright.reports.plan import OtherPlan, Summary, summary_text
from shardwright.specs import ClusterSpec, Estimate, Plan, Timeline, TrainingSpec
from shardwright.specs.model import ModelSpec

from .drawn import rivals_of_search, write_plan_report
from .options import PLAN_DEFAULTS, options_of
from .reading import read_cluster, read_may_choose, read_training

_SEARCH_OPTIONS = ("fix", "forbid", "avoid", "allow_fewer_devices", "fastest", "time_limit", "runners_up")


@dataclass(frozen=True, kw_only=True, repr=False)
class Planned:
    """The plan for a job, and what the search knows of it.

    Attributes:
        cluster: the devices that the plan is for, which may be a part of those given.
        training: with what the planner chose of it.
        result: the search: its gap, its bound, its seconds.
        others: plans that are faster, simpler or leave more memory free.
        nearby: sentences about fewer devices and other batches.
    """

    model: ModelSpec
    cluster: ClusterSpec
    training: TrainingSpec
    result: SearchResult
    others: tuple[OtherPlan, ...]
    nearby: tuple[str, ...] = ()

    @property
    def plan(self) -> Plan:
        return self.result.plan

    @property
    def estimate(self) -> Estimate:
        return self.result.estimate

    @property
    def plan_file(self) -> PlanFile:
        """What `shardwright run` and `sw.parallelize` train with."""
        return PlanFile(
            model_name=self.model.name,
            model_config_json=self.model.config,
            cluster=self.cluster,
            training=self.training,
            plan=self.plan,
            estimate=self.estimate,
        )

    @cached_property
    def notes(self) -> list[str]:
        """What was chosen and given up, what is near, and what the estimate lacks: sentences."""
        return [*what_was_chosen(self.result), *what_was_given_up(self.result), *self._rest]

    @property
    def _rest(self) -> list[str]:
        job = self.model, self.cluster, self.training
        lacking = what_profile_lacks(self.cluster, self.training, self.model)
        return [*self.nearby, *overlooked(*job, self.plan, self.estimate), *([lacking] if lacking else [])]

    @cached_property
    def why(self) -> list[str]:
        """What bounds the plan, what each change of it would cost, and the notes: sentences."""
        return [*explain(self.result, self.model, self.cluster, self.training, others=self._neighbours), *self.notes]

    @cached_property
    def _neighbours(self) -> list[Alternative]:
        return neighbours(self.result, self.model, self.cluster, self.training)

    def summary(self, further: Sequence[str] = ()) -> str:
        """The plan in about ten lines of at most 80 columns, with `further` notes at the end."""
        listed = any("fastest" in other.names for other in self.others)
        given_up = [] if listed else what_was_given_up(self.result)
        return summary_text(
            Summary(
                model=self.model,
                cluster=self.cluster,
                training=self.training,
                plan=self.plan,
                estimate=self.estimate,
                rival=simplest_rival(self.plan, self.model, self.cluster, self.training, fixed=self.result.fixed),
                candidates=self.result.candidates_total,
                gap=self.result.gap,
                complete=self.result.complete,
                assumed=assumed(self.cluster, self.model),
                others=self.others,
                notes=(*what_was_chosen(self.result), *given_up, *self._rest, *further),
            )
        )

    def simulate(self) -> Timeline:
        """One step, event by event."""
        return simulate_plan(self.model, self.cluster, self.training, self.plan)

    def save(self, path: Path | str) -> Path:
        """Write the plan file, over one that is there."""
        write_plan_file(Path(path), self.plan_file)
        return Path(path)

    def report(self, path: Path | str, *, why: Sequence[str] | None = None) -> Path:
        """Write the HTML report with the timeline, over one that is there."""
        rivals = rivals_of_search(self.plan_file, self.cluster, self.result, self._neighbours, self.others)
        write_plan_report(Path(path), self.plan_file, why=self.why if why is None else why, rivals=rivals)
        return Path(path)

    def __repr__(self) -> str:
        return f"<Planned {self.model.name} on {self.cluster.name}: {self.plan.mesh}, {self.estimate.words}>"

    def _repr_html_(self) -> str:
        """For notebooks."""
        return f"<pre>{escape(self.summary())}</pre>"


def plan(
    model: str | ModelSpec, cluster: str | ClusterSpec, *, seq_len: int, global_batch: int, **options: Any
) -> Planned:
    """Find the fastest plan that fits, as the command `plan` does.

    `model`: a preset, a config.json or a folder that holds one. `cluster`: `h100-sxm:64`, a TOML file or `local`. `options`: those of
    the command by name, such as `tp=8`, `pp="2..8"`, `precision="bf16"`, `stack="megatron-core"`, `trainable="lora"`, `offload=True`;
    and `fix`, `forbid`, `avoid` (lists of words), `allow_fewer_devices`, `fastest`, `time_limit` (seconds), `profile` (a file),
    `memory_reserve`, `host_memory_reserve` (shares).

    Raises:
        SpecError: a name, a number or an option is not valid, or nothing divides.
        InfeasibleError: no plan fits.
    """
    search = {name: options.pop(name) for name in _SEARCH_OPTIONS if name in options}
    job = read_job(model, cluster, options)
    return plan_job(*job, options_of(options, PLAN_DEFAULTS, seq_len=seq_len, global_batch=global_batch), **search)


def read_job(
    model: str | ModelSpec, cluster: str | ClusterSpec, options: dict[str, Any]
) -> tuple[ModelSpec, ClusterSpec]:
    """Read what is named, the cluster with its reserves and profile, which are taken out of `options`.

    Raises:
        SpecError: a name or a number is not valid; reserves or a profile beside a cluster that is read already.
    """
    given = {
        name: options.pop(name) for name in ("profile", "memory_reserve", "host_memory_reserve") if name in options
    }
    if isinstance(cluster, str):
        cluster = read_cluster(cluster, **given, safe=True)
    elif given:
        raise SpecError(f"{listed(given)}: is for a cluster given by its name, and this one is read already")
    return load_model(model) if isinstance(model, str) else model, cluster


def plan_job(
    model: ModelSpec,
    cluster: ClusterSpec,
    options: Mapping[str, Any],
    *,
    fix: Sequence[str] | None = None,
    forbid: Sequence[str] | None = None,
    avoid: Collection[str] | None = None,
    allow_fewer_devices: bool = False,
    fastest: bool = False,
    time_limit: float = 30.0,
    runners_up: int = 0,
    tell: Callable[[str], object] = warnings.warn,
) -> Planned:
    """Find the plan for a job whose `options` are all there by name (`PLAN_DEFAULTS`). `time_limit`: seconds. `tell`: takes notes.

    Raises:
        SpecError, InfeasibleError: see `plan`.
    """
    if not time_limit > 0:
        raise SpecError(f"--time-limit is {time_limit}: give a number of seconds above 0")
    closed, may_choose = read_may_choose(options)
    fixed = asked(options, fix=fix or (), forbid=forbid or ())
    apart, devices = keeps_apart(cluster, avoid or ()), without(cluster, avoid or ())
    found = search_job(
        model,
        devices,
        read_training(closed, model, devices, tell),
        fixed=fixed,
        allow_fewer_devices=allow_fewer_devices,
        across=() if apart else ACROSS,
        may_choose=may_choose,
        time_limit_seconds=time_limit,
        runners_up=runners_up,
        tolerance=0.0 if fastest else TOLERANCE,
        list_trade_offs=True,
    )
    return Planned(
        model=model,
        cluster=found.cluster,
        training=found.result.training,
        result=found.result,
        others=tuple(_other(one, found.result.training) for one in found.result.trade_offs),
        nearby=found.notes,
    )


def _other(one: TradeOff, training: TrainingSpec) -> OtherPlan:
    """A plan with what its training spec has otherwise; modules only where it repeats some."""
    policies = {run.recompute for stage in one.plan.stages for run in stage.layers}
    differs = changed(one.training, training)
    said = [name for name in differs if name != "recompute_modules" or "selective" in policies]
    return OtherPlan(
        one.names, one.plan, one.estimate, one.free_bytes, tuple(words_of(one.training, name) for name in said)
    )
