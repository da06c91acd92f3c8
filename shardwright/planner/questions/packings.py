"""What to do with documents of several lengths: pack them, pad them, or put them into buckets, each with its own batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from shardwright.base import InfeasibleError, SpecError
from shardwright.planner import search
from shardwright.planner.space import Fixed
from shardwright.specs import ClusterSpec, Lengths, Plan, TrainingSpec
from shardwright.specs.model import ModelSpec

from .asking import Case

_SHORTEST_BUCKET = 512


class Bucket(NamedTuple):
    """Documents of at most `longest` tokens that are longer than those of the bucket before, padded to that. `share`: of all
    tokens. `case`: a step of such documents alone."""

    longest: int
    share: float
    case: Case


@dataclass(frozen=True)
class Bucketed:
    """Steps of one bucket each, as often as it has tokens, under one layout of the parameters."""

    buckets: tuple[Bucket, ...]

    @property
    def tokens_per_s(self) -> float:
        return 1 / sum(bucket.share / bucket.case.estimate.tokens_per_s for bucket in self.buckets)


@dataclass(frozen=True)
class Packings:
    """The three ways; None for one that does not fit, with its reason in `refused`. `searches`: how many that took."""

    packed: Case | None
    padded: Case | None
    bucketed: Bucketed | None
    refused: dict[str, str]
    searches: int

    @property
    def fastest(self) -> str:
        """The name of the way with most tokens/s, padding not counted; of equals the first."""
        rates = {
            "packed": self.packed.estimate.tokens_per_s if self.packed else 0.0,
            "bucketed": self.bucketed.tokens_per_s if self.bucketed else 0.0,
            "padded": self.padded.estimate.tokens_per_s if self.padded else 0.0,
        }
        return max(rates, key=lambda name: rates[name])


def packings(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, *, fixed: Fixed | None = None, **options: Any
) -> Packings:
    """Return how fast `training`, whose `lengths` say how long documents are, goes in each of three ways.

    Every step has `seq_len` times `global_batch` tokens, padding counted. Packed: sequences are full of documents, each of which
    attends to itself alone. Padded: each holds one document. Bucketed (Pouransari et al. 2024, arXiv 2405.13226): a step has
    documents of one bucket, such as 1,025 to 2,048 tokens, padded to its longest, and more of them the shorter they are. A
    bucket has its own micro batch and context parallelism (Ge et al. 2025, arXiv 2502.21231), and all have one layout of the
    parameters: pp, tp, ep, replicas and ZeRO stage. Layouts that are tried are those of the other ways and of each bucket
    alone. `options` are those of `search`.

    Raises:
        SpecError: the job has no lengths, or the cluster is mixed; as `search`.
        InfeasibleError: none of the three fits.
    """
    if training.lengths is None:
        raise SpecError("all documents fill their sequence; give --lengths, such as uniform:512..8192")
    cluster.check_one_kind()
    asker = _Asker(model, cluster, fixed or Fixed(), options)
    packed = asker.case("packed", training.model_copy(update={"packing": "packed"}))
    padded = asker.case("padded", training.model_copy(update={"packing": "padded"}))
    jobs = list(_bucket_jobs(training, training.lengths))
    bucketed = asker.bucketed(jobs, [case.plan for case in (packed, padded) if case is not None])
    if packed is None and padded is None and bucketed is None:
        raise InfeasibleError(f"no way to train on these documents fits: {asker.refused['packed']}")
    return Packings(packed, padded, bucketed, asker.refused, asker.searches)


class _BucketJob(NamedTuple):
    """A step of one bucket, and its `share` of all tokens."""

    share: float
    training: TrainingSpec


def _bucket_jobs(training: TrainingSpec, lengths: Lengths) -> Iterator[_BucketJob]:
    """Yield the job of each bucket that holds documents, shortest first. A bucket's longest is half of the next one's, and the
    last one's is `seq_len`, where longer documents are cut off."""
    edges = [training.seq_len]
    while edges[-1] % 2 == 0 and edges[-1] > _SHORTEST_BUCKET:
        edges.append(edges[-1] // 2)
    tokens = lengths.used_share(training.seq_len) * training.seq_len
    for shorter, longest in zip((0, *edges[:0:-1]), edges[::-1], strict=True):
        held = [
            (length, share)
            for length, share in zip(lengths.tokens, lengths.shares, strict=True)
            if shorter < min(length, training.seq_len) <= longest
        ]
        if not held:
            continue
        count = sum(share for _, share in held)
        own = Lengths(
            name=f"{lengths.name}, {shorter + 1:,} to {longest:,}",
            tokens=tuple(length for length, _ in held),
            shares=tuple(share / count for _, share in held),
        )
        batch = training.global_batch * (training.seq_len // longest)
        changes = {"seq_len": longest, "global_batch": batch, "lengths": own, "packing": "padded"}
        share = count * own.used_share(longest) * longest / tokens
        yield _BucketJob(share, training.model_copy(update=changes))


@dataclass
class _Asker:
    """Searches the ways; `refused` says why one has no plan."""

    model: ModelSpec
    cluster: ClusterSpec
    fixed: Fixed
    options: dict[str, Any]

    def __post_init__(self) -> None:
        self.refused: dict[str, str] = {}
        self.searches = 0

    def case(self, name: str, training: TrainingSpec, fixed: Fixed | None = None) -> Case | None:
        """The fastest plan of a job, None where there is none."""
        self.searches += 1
        try:
            result = search(
                self.model,
                self.cluster,
                training,
                fixed=fixed or self.fixed,
                runners_up=0,
                explain_none="limit",
                **self.options,
            )
        except (SpecError, InfeasibleError) as reason:
            self.refused.setdefault(name, str(reason))
            return None
        return Case(training.seq_len, self.model, self.cluster, result)

    def bucketed(self, jobs: list[_BucketJob], plans: list[Plan]) -> Bucketed | None:
        """The fastest of the layouts that serve every bucket."""
        alone = [self.case("bucketed", job.training) for job in jobs]
        layouts = [_layout(plan) for plan in (*plans, *(case.plan for case in alone if case is not None))]
        tried = [layout for place, layout in enumerate(layouts) if layout not in layouts[:place]]
        found = [bucketed for layout in tried if (bucketed := self._of_layout(jobs, layout)) is not None]
        if found:
            self.refused.pop("bucketed", None)
        return max(found, key=lambda bucketed: bucketed.tokens_per_s, default=None)

    def _of_layout(self, jobs: list[_BucketJob], layout: dict[str, Any]) -> Bucketed | None:
        try:
            fixed = self.fixed.but(**layout)
        except SpecError:
            return None
        cases = [self.case("bucketed", job.training, fixed) for job in jobs]
        return (
            Bucketed(
                tuple(
                    Bucket(case.value, job.share, case)
                    for job, case in zip(jobs, cases, strict=True)
                    if case is not None
                )
            )
            if None not in cases
            else None
        )


def _layout(plan: Plan) -> dict[str, Any]:
    """The choices that decide where parameters are. The product of dp_shard and cp follows from them."""
    mesh = plan.mesh
    held: dict[str, Any] = {"pp": mesh.pp, "tp": mesh.tp, "ep": mesh.ep, "dp_replicate": mesh.dp_replicate}
    held |= {"zero_stage": plan.zero_stage, "offload_optimizer": int(plan.offload.optimizer_fraction)}
    if mesh.pp > 1:
        held |= {"stages_per_rank": plan.stages_per_rank, "schedule": plan.schedule, "even_stages": True}
    return held
