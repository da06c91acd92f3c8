"""The measurements so far, their journal, and the profile made from them."""

from collections import Counter
from collections.abc import Callable, Sequence

from shardwright.profiler.timing import Probe
from shardwright.specs import Figure, LayerCheck, MachineFingerprint, Profile, Series

from .agenda import Agenda, Item
from .journal import Begun, CheckedLayers, Journal, LeftOut, MeasuredFigures, MeasuredPoint, Record

_MANY_OUTLIERS = 0.05
_UNCERTAIN = 0.1


class Findings:
    """All measurements, in memory and in the journal.

    `spent_seconds`: seconds of measuring so far, earlier runs included.
    """

    def __init__(
        self, journal: Journal, agenda: Agenda, probes: Sequence[Probe], *, spent_seconds: Callable[[], float]
    ) -> None:
        self._journal, self._agenda = journal, agenda
        self._spent_seconds = spent_seconds
        self._keys = [agenda.series(index).key for index in range(len(probes))]
        self._figures: dict[str, Figure] = {}
        self._left_out: list[LeftOut] = []
        self._without_figures: dict[str, str] = {}
        self._outliers: Counter[str] = Counter()
        self._begun: tuple[Item, ...] = ()
        self.figure_probes_done: set[str] = set()
        self.layers: tuple[LayerCheck, ...] | None = None
        for record in journal.records:
            self._recall(record)

    def add(self, entry: Begun | MeasuredPoint | LeftOut | MeasuredFigures | CheckedLayers) -> None:
        """Add an entry, on disk first.

        Raises:
            SpecError: the journal cannot be written; the entry is in memory all the same.
        """
        try:
            self._journal.append(entry, self._spent_seconds())
        finally:
            self._take(entry)

    def begin(self, items: Sequence[Item]) -> None:
        """Record that these sizes are now measured side by side."""
        self.add(Begun(sizes=tuple((self._keys[item.probe], item.at) for item in items)))

    def key(self, item: Item) -> str:
        """Return the key of the series of a size."""
        return self._keys[item.probe]

    @property
    def unfinished(self) -> list[Item]:
        """Return the sizes that had begun and are neither measured nor left out."""
        return [item for item in self._begun if not self._agenda.settled(item)]

    def profile(self, fingerprint: MachineFingerprint, *, complete: bool, remarks: Sequence[str] = ()) -> Profile:
        """Return the profile of the measurements so far."""
        series = [self._agenda.series(index) for index in range(len(self._keys))]
        return Profile(
            fingerprint=fingerprint,
            series=tuple(each for each in series if each.points),
            figures=self._figures,
            layers=self.layers or (),
            remarks=(*remarks, *self._remarks(series)),
            complete=complete,
            seconds=self._spent_seconds(),
        )

    def _recall(self, record: Record) -> None:
        for entry in (record.begun, record.point, record.left_out, record.figures, record.layers):
            if entry is not None:
                self._take(entry)

    def _take(self, entry: Begun | MeasuredPoint | LeftOut | MeasuredFigures | CheckedLayers) -> None:
        match entry:
            case Begun():
                self._begun = tuple(Item(self._keys.index(key), at) for key, at in entry.sizes)
            case MeasuredPoint():
                self._agenda.record(Item(self._keys.index(entry.key), entry.point.at), entry.point)
                self._outliers[entry.key] += entry.outliers
            case LeftOut():
                self._agenda.leave_out(Item(self._keys.index(entry.key), entry.at))
                self._left_out.append(entry)
            case MeasuredFigures():
                self._figures |= entry.figures
                self.figure_probes_done.add(entry.name)
                if entry.reason:
                    self._without_figures[entry.name] = entry.reason
            case CheckedLayers():
                self.layers = entry.layers

    def _remarks(self, series: Sequence[Series]) -> list[str]:
        said = [f"{name}: not measured: {reason}" for name, reason in self._without_figures.items()]
        by_key: dict[str, list[LeftOut]] = {}
        for each in self._left_out:
            by_key.setdefault(each.key, []).append(each)
        measured = {each.key for each in series if each.points}
        for key, left_out in by_key.items():
            count = f"{len(left_out)} size{'s' * (len(left_out) > 1)} left out" if key in measured else "not measured"
            said.append(f"{key}: {count}: {left_out[0].reason}")
        return said + self._noise(series)

    def _noise(self, series: Sequence[Series]) -> list[str]:
        """Return remarks on the number of outliers among repeats, and of uncertain medians."""
        points = [point for each in series for point in each.points]
        repeats, outliers = sum(point.repeats for point in points), self._outliers.total()
        said = []
        if outliers > _MANY_OUTLIERS * repeats:
            key, most = self._outliers.most_common(1)[0]
            said.append(
                f"{outliers} of {repeats} repeats were outliers, most in {key} ({most}); the medians tolerate them"
            )
        if wide := sum(point.uncertainty > _UNCERTAIN for point in points):
            said.append(f"{wide} of {len(points)} points are less certain than ±{_UNCERTAIN:.0%}")
        return said
