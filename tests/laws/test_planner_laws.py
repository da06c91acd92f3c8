"""What must hold of the planner on every problem: tried on random small ones against every plan there is."""

import os
import random
from itertools import islice

import numpy as np
import pytest

from shardwright.base.errors import InfeasibleError, SpecError
from shardwright.costmodel.checks import check_memory
from shardwright.costmodel.op_times.choice import op_times
from shardwright.planner.best_plan import search
from shardwright.planner.bounds.entry_bounds import lower_bounds, quick_bounds
from shardwright.planner.branching.branch_and_bound import BranchAndBound
from shardwright.planner.branching.nothing_fits import what_would_fit
from shardwright.planner.branching.result import SearchResult
from shardwright.planner.space.enumerate import enumerate_space
from shardwright.planner.space.fixed import Fixed
from shardwright.specs.choices import AXES
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.mesh import ORDERS, PIPELINE_INSIDE_DATA, PIPELINE_OUTERMOST
from shardwright.specs.model.feed_forward import MixtureOfExperts
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.optimizers import Optimizer
from shardwright.specs.plan import APPROXIMATIONS, CONTEXT_PARALLEL, Plan, VocabularyParallel
from shardwright.specs.schedules import ScheduleName
from shardwright.specs.stack import _stacks, named_stack
from tests.planner.brute_force import all_plans, fastest
from tests.planner.priced_plans import priced_plans
from tests.planner.small_problems import Problem, random_problem, tiny_model

# PLANNER_CASES=500 tries more problems than CI does.
_CASES = int(os.environ.get("PLANNER_CASES", "100"))
_FIRST_MORE, _FIRST_OPTIMIZERS, _FIRST_FIXED = 1000, 1_000_000, 2_000_000
_MOST_PLANS = 100
_FIELDS = (
    "micro_batch",
    "offload_optimizer",
    "tp",
    "zero_stage",
    "dp_shard",
    "pp",
    "cp",
    "ep",
    "etp",
    "context_parallel",
)

_FIXED_VALUES: dict[str, list[int | str]] = {
    **{axis: [1, 2, 4] for axis in ("pp", "tp", "cp", "dp_shard", "dp_replicate", "micro_batch")},
    "zero_stage": [0, 1, 2, 3],
    "schedule": ["1f1b", "gpipe", "interleaved-1f1b"],
    "recompute": ["none", "selective", "full"],
    "offload_optimizer": [0, 1],
    "stages_per_rank": [1, 2],
    "context_parallel": ["all-gather", "ring", "ulysses"],
}


class TestEqualsBruteForce:
    """The planner's step is that of the fastest of all plans, each estimated on its own; it fails where all fail."""

    @pytest.mark.parametrize("seed", [*range(100), *range(_FIRST_MORE, _FIRST_MORE + _CASES - 100)])
    def test_step(self, seed: int) -> None:
        problem = random_problem(seed)
        found = _equal_to_brute_force(problem, _few_enough(problem, seed))
        assert found is None or found.gap <= 1e-9

    @pytest.mark.parametrize("seed", range(_FIRST_FIXED, _FIRST_FIXED + _CASES // 12))
    def test_step_with_a_choice_fixed(self, seed: int) -> None:
        """Any choice at any value; what is fixed lifts rules of thumb, so that short sequences may be cut and tp may leave a node."""
        problem, chance = random_problem(seed), random.Random(f"fixed {seed}")
        name = chance.choice(list(_FIXED_VALUES))
        try:
            fixed = _few_enough(problem, seed, Fixed.parse({name: chance.choice(_FIXED_VALUES[name])}, source="law"))
        except SpecError:
            return
        _equal_to_brute_force(problem, fixed, SpecError)

    @pytest.mark.parametrize("seed", range(100, 110))
    def test_step_under_gpipe(self, seed: int) -> None:
        problem = random_problem(seed)
        _equal_to_brute_force(problem, _few_enough(problem, seed, Fixed(schedule="gpipe")))

    @pytest.mark.parametrize("seed", range(130, 138))
    @pytest.mark.parametrize("schedule", ["zb-h1", "zb-2p", "zb-v", "v-half", "v-min", "dualpipe-v"])
    def test_step_under_schedules_that_split_the_backward(self, schedule: ScheduleName, seed: int) -> None:
        problem, fixed = random_problem(seed), Fixed(schedule=schedule)
        try:
            fixed = _few_enough(problem, seed, fixed)
        except SpecError:  # too few layers for it, or tied ends
            assert fastest(*problem, fixed) is None
            return
        found = _equal_to_brute_force(problem, fixed)
        assert found is None or found.plan.schedule == schedule

    @pytest.mark.parametrize("seed", range(110, 122))
    def test_step_of_even_stages_without_sequence_parallelism(self, seed: int) -> None:
        problem, fixed = random_problem(seed), Fixed(even_stages=True, sequence_parallel=False)
        try:
            fixed = _few_enough(problem, seed, fixed)
        except SpecError:  # no pipeline that divides the layers goes with the batch
            assert fastest(*problem, fixed) is None
            return
        found = _equal_to_brute_force(problem, fixed, SpecError)
        if found is not None:
            assert len({stage.layer_count for stage in found.plan.stages}) == 1
            assert not found.plan.sequence_parallel

    @pytest.mark.parametrize("seed", range(122, 134))
    def test_step_in_another_order_of_the_axes(self, seed: int) -> None:
        problem = _for_megatron(random_problem(seed))
        inside = Fixed(order=PIPELINE_INSIDE_DATA, schedule="1f1b", zero_stage=1, ep=1, etp=0)
        try:
            fixed = _few_enough(problem, seed, inside)
        except SpecError:
            return
        found = _equal_to_brute_force(problem, fixed)
        assert found is None or found.plan.mesh.order == PIPELINE_INSIDE_DATA

    @pytest.mark.parametrize("seed", range(700, 710))
    @pytest.mark.parametrize("kind", [None, "vocab-1", "vocab-2"])
    def test_step_where_ranks_may_share_the_vocabulary(
        self, kind: VocabularyParallel | None, seed: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _share_vocabulary(monkeypatch)
        problem = random_problem(seed)
        pp = 2 if problem.cluster.devices > 1 else 1
        try:
            fixed = _few_enough(problem, seed, Fixed(vocabulary_parallel=kind, pp=pp))
        except SpecError:  # nothing to share
            assert kind is not None
            assert pp == 1
            return
        found = _equal_to_brute_force(problem, fixed)
        assert found is None or kind in (None, found.plan.vocabulary_parallel)

    @pytest.mark.parametrize("seed", range(_FIRST_OPTIMIZERS, _FIRST_OPTIMIZERS + _CASES // 12))
    def test_step_with_other_optimizers_and_approximations(self, seed: int) -> None:
        problem, chance = random_problem(seed), random.Random(f"optimizer {seed}")
        optimizer = _random_optimizer(chance, problem)
        method = Optimizer.model_validate(optimizer)
        update = {"optimizer": method.name, "optimizer_settings": method.settings}
        problem = problem._replace(training=problem.training.model_copy(update=update))
        names = [name for name in APPROXIMATIONS if optimizer == "adamw" or name != "1-bit-adam"]
        try:
            fixed = _few_enough(
                problem, seed, Fixed(approximate=tuple(chance.sample(names, k=chance.choice([0, 1, 2]))))
            )
        except SpecError:  # one microbatch divides nothing
            assert fastest(*problem, Fixed(order=PIPELINE_OUTERMOST)) is None
            return
        _equal_to_brute_force(problem, fixed, SpecError)

    @pytest.mark.parametrize("seed", range(134, 150))
    def test_a_free_order_is_as_fast_as_the_usual_and_no_faster_than_both(self, seed: int) -> None:
        """Small spaces have so few entries that all near the best are tried in the other order."""
        problem = _for_megatron(random_problem(seed))
        steps = []
        for order in ORDERS:
            try:
                steps.append(_search(problem, Fixed(order=order)).estimate.step_seconds)
            except (InfeasibleError, SpecError):
                steps.append(np.inf)
        try:
            found = _search(problem)
        except InfeasibleError:
            assert steps[0] == np.inf
            return
        assert min(steps) * (1 - 1e-9) <= found.estimate.step_seconds <= steps[0] * (1 + 1e-9)
        assert found.bound_seconds <= found.estimate.step_seconds * (1 + 1e-9)


class TestSharesOnTheHost:
    """With shares of the optimizer and of activations open, the planner is within its gap of the fastest plan, and its bound below."""

    @pytest.mark.parametrize("all_mixes", [True, False])
    @pytest.mark.parametrize("seed", range(800, 816))
    def test_step(self, seed: int, all_mixes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """Small entries try every mix, so that nothing is left unproven; large ones take the relaxation's."""
        if not all_mixes:
            monkeypatch.setattr("shardwright.planner.stages.solve_entry.is_small", lambda *_: False)
        problem, chance = random_problem(seed), random.Random(seed)
        if problem.model.layer_count > 3:
            return
        shares = {
            "offload_optimizer": chance.choice(["0,0.625", "0.25,1", "0,1"]),
            "offload_activations": chance.choice(["0,0.5", "0,1", "0.125,0.75"]),
        }
        fixed = Fixed.parse({"schedule": "1f1b", "within": shares | {"recompute": "none,full"}}, source="law")
        fixed = _few_enough(problem, seed, fixed.but(order=PIPELINE_OUTERMOST))
        expected = fastest(*problem, fixed)
        if expected is None:
            with pytest.raises(InfeasibleError):
                _search(problem, fixed)
            return
        found = _search(problem, fixed)
        step = found.estimate.step_seconds
        check_memory(found.estimate, problem.cluster)
        assert found.bound_seconds <= expected * (1 + 1e-9)
        assert expected <= step * (1 + 1e-9)
        assert not all_mixes or step == pytest.approx(expected, rel=1e-9)


class TestBoundIsAdmissible:
    """The bound of an entry of the space is not above the step of any plan of that entry that fits."""

    @pytest.mark.parametrize("seed", range(200, 216))
    def test_bound(self, seed: int) -> None:
        problem = random_problem(seed)
        self._check(problem, _few_enough(problem, seed))

    @pytest.mark.parametrize("seed", range(256, 268))
    def test_bound_where_ranks_share_the_vocabulary(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        _share_vocabulary(monkeypatch)
        problem, shared = random_problem(seed), Fixed(vocabulary_parallel="vocab-2")
        if problem.cluster.devices > 1:
            self._check(problem, _few_enough(problem, seed, shared))

    @pytest.mark.parametrize("schedule", ["1f1b", "zb-h1", "interleaved-1f1b", "zb-v"])
    @pytest.mark.parametrize("seed", range(270, 274))
    def test_bound_where_one_class_follows_the_other(self, seed: int, schedule: ScheduleName) -> None:
        """Then a rank may hold layers of some classes only, as in models whose first layers are dense."""
        problem = random_problem(seed)
        model = tiny_model(layers=6, classes=2, hidden=1024, experts=4 * (seed % 2))
        ordered = model.model_dump() | {"blocks": sorted(model.blocks, key=lambda run: repr(run.block))}
        problem = problem._replace(model=ModelSpec.model_validate(ordered))
        chunks = 2 if schedule in ("interleaved-1f1b", "zb-v") else 1
        fixed = Fixed(schedule=schedule, stages_per_rank=chunks, pp=2)
        if problem.cluster.devices % 2 == 0 and problem.training.trainable.trains_all:
            self._check(problem, _few_enough(problem, seed, fixed))

    def _check(self, problem: Problem, fixed: Fixed) -> None:
        run = BranchAndBound.start(*problem, fixed, op_times(problem.cluster, problem.training))
        bounds = {_key_of_entry(run, entry): run.entries.bound(entry) for entry in range(len(run.space))}
        for some in priced_plans(*problem, all_plans(*problem, fixed)):
            key = _key_of_plan(some.plans[0])
            if key in bounds:  # ZeRO-2 in a pipeline is not in the space
                for plan, seconds, _ in some.fitting:
                    assert bounds[key] <= seconds * (1 + 1e-9), plan

    @pytest.mark.parametrize("seed", range(216, 256))
    def test_the_quick_one_is_below_the_sharp_one(self, seed: int) -> None:
        """For every entry of the space, those that don't fit included."""
        problem = random_problem(seed)
        run = BranchAndBound.start(*problem, Fixed(), op_times(problem.cluster, problem.training))
        of_solver = (run.solver.costs, run.solver.ranges, run.solver.allowed)
        assert (quick_bounds(*of_solver) <= lower_bounds(*of_solver)).all()


class TestMoreIsNeverWorse:
    """More device memory, more host memory or faster links never make a plan infeasible or slower."""

    @pytest.mark.parametrize("seed", range(300, 320))
    def test_memory(self, seed: int) -> None:
        problem = random_problem(seed)
        before = _step(problem)
        factor = 1 + random.Random(seed).random()
        assert _step(problem._replace(cluster=_scaled(problem.cluster, "device", "memory_bytes", factor))) <= before
        assert _step(problem._replace(cluster=_scaled(problem.cluster, "host", "memory_bytes", factor))) <= before

    @pytest.mark.parametrize("seed", range(320, 340))
    def test_bandwidth(self, seed: int) -> None:
        problem = random_problem(seed)
        before = _step(problem) * (1 + 1e-9)
        factor = 1 + 3 * random.Random(seed).random()
        for link in ("intra_node", "nic", "host_link"):
            assert _step(problem._replace(cluster=_scaled(problem.cluster, link, "bytes_per_s", factor))) <= before


class TestFixedIsKept:
    """Whatever is fixed stands in the plan, and fixing never makes it faster."""

    @pytest.mark.parametrize("seed", range(400, 430))
    def test_fixed(self, seed: int) -> None:
        problem, chance = random_problem(seed), random.Random(seed)
        free = _step(problem)
        space = enumerate_space(*problem)
        entry = chance.randrange(len(space))
        names = chance.sample(["tp", "pp", "dp_replicate", "dp_shard", "zero_stage", "micro_batch"], k=3)
        fixed = Fixed(
            **{name: int(space.column(name)[entry]) for name in names}, recompute=chance.choice([None, "full"])
        )
        try:
            found = _search(problem, fixed)
        except InfeasibleError:
            return
        plan = found.plan
        shown = plan.mesh.model_dump() | {"zero_stage": plan.zero_stage, "micro_batch": plan.micro_batch}
        assert all(shown[name] == getattr(fixed, name) for name in names)
        if fixed.recompute:
            assert {run.recompute for stage in plan.stages for run in stage.layers} == {"full"}
        assert found.estimate.step_seconds >= free * (1 - 1e-9)


class TestAdviceIsTrue:
    """With each change that an infeasible request is answered with, a plan is found that fits."""

    @pytest.mark.parametrize("seed", range(500, 530))
    def test_advice(self, seed: int) -> None:
        problem = random_problem(seed)
        starved = problem._replace(cluster=_scaled(problem.cluster, "device", "memory_bytes", 0.55))
        fixed = Fixed(recompute="none")
        try:
            _search(starved, fixed)
        except InfeasibleError:
            for change in what_would_fit(*starved, fixed, op_times(starved.cluster, starved.training)):
                found = _search(starved._replace(cluster=change.cluster, training=change.training), change.fixed)
                check_memory(found.estimate, change.cluster)


def test_updates_that_are_one_step_late() -> None:
    """As fast as every plan allows, where the host outlasts the passes and where it does not."""
    gains = []
    for seed in range(3000, 3020):
        problem, late = random_problem(seed), Fixed(delayed_update=True, micro_batch=1)
        if problem.model.layer_count > 4 or problem.cluster.devices > 4:
            continue
        found = _equal_to_brute_force(problem, late)
        if found is not None:
            at_once = _search(problem, late.but(delayed_update=None, offload_optimizer=1))
            gains.append(at_once.estimate.step_seconds / found.estimate.step_seconds)
    assert len(gains) > 3
    assert max(gains) > 1.01


def _equal_to_brute_force(problem: Problem, fixed: Fixed, *refusals: type[Exception]) -> SearchResult | None:
    """Compare the search with every plan; None where it and all plans fail. It may also fail by one of `refusals`.

    In the usual order of the axes where no other is fixed: of another one only the best few entries are tried.
    """
    fixed = fixed.but(order=fixed.order or PIPELINE_OUTERMOST)
    expected = fastest(*problem, fixed)
    if expected is None:
        with pytest.raises((InfeasibleError, *refusals)):
            _search(problem, fixed)
        return None
    found = _search(problem, fixed)
    assert found.estimate.step_seconds == pytest.approx(expected, rel=1e-9)
    check_memory(found.estimate, problem.cluster)
    return found


def _search(problem: Problem, fixed: Fixed | None = None) -> SearchResult:
    """Without what a command adds to the answer: the next best meshes, and, where no plan fits, the changes with which one would."""
    return search(*problem, fixed=fixed, runners_up=0, explain_none="nothing")


def _random_optimizer(chance: random.Random, problem: Problem) -> str:
    """Any that updates what the problem trains."""
    every = ["adamw", "lion", "adamw8bit", "adamw8bit:layerwise=1"]
    experts = any(isinstance(block.ffn, MixtureOfExperts) for block in problem.model.layer_classes)
    if problem.training.trainable.trains_all and not experts:
        every += ["muon", "galore:rank=64", "galore:rank=32,layerwise=1"]
    return chance.choice(every)


def _few_enough(problem: Problem, seed: int, fixed: Fixed | None = None) -> Fixed:
    """Fix choices of some entry of the space, one after the other, until few plans are left."""
    fixed, chance = fixed or Fixed(), random.Random(seed)
    names = list(_FIELDS)
    chance.shuffle(names)
    space = enumerate_space(*problem, fixed)
    entry = chance.randrange(len(space))
    while names and len(list(islice(all_plans(*problem, fixed), _MOST_PLANS + 1))) > _MOST_PLANS:
        name = names.pop()
        number = space.column(name)[entry].item()
        fixed = fixed.model_copy(update={name: CONTEXT_PARALLEL[number] if name == "context_parallel" else number})
    return fixed


def _share_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the ranks of a pipeline share embedding and head."""
    own = named_stack("shardwright")
    runs = own.runs.model_copy(update={"vocabulary_parallel": ("vocab-1", "vocab-2")})
    monkeypatch.setitem(_stacks(), "shardwright", own.model_copy(update={"runs": runs}))


def _for_megatron(problem: Problem) -> Problem:
    """For software that lays the axes in two orders."""
    return problem._replace(training=problem.training.model_copy(update={"stack": "megatron-core"}))


def _step(problem: Problem) -> float:
    try:
        return _search(problem).estimate.step_seconds
    except InfeasibleError:
        return np.inf


def _scaled(cluster: ClusterSpec, part: str, name: str, factor: float) -> ClusterSpec:
    group = cluster.groups[0]
    old = getattr(group, part)
    new = old.model_copy(update={name: getattr(old, name) * factor})
    return cluster.model_copy(update={"groups": (group.model_copy(update={part: new}),)})


def _key_of_entry(run: BranchAndBound, entry: int) -> tuple[object, ...]:
    space = run.space
    names = (*AXES, "micro_batch", "zero_stage", "offload_optimizer", "context_parallel")
    numbers = tuple(int(space.column(name)[entry]) for name in names)
    shape = space.schedule_name(entry), int(space.stages_per_rank[entry]), space.vocabulary_name(entry)
    return (*numbers, *shape)


def _key_of_plan(plan: Plan) -> tuple[object, ...]:
    choice = (plan.micro_batch, plan.zero_stage, plan.offload.optimizer_fraction)
    kind = CONTEXT_PARALLEL.index(plan.context_parallel)
    shape = plan.schedule, plan.stages_per_rank, plan.vocabulary_parallel
    return (*(getattr(plan.mesh, name) for name in AXES), *choice, kind, *shape)
