"""What is measured next."""

from collections.abc import Sequence

from shardwright.profiler.session.agenda import Agenda, ExpectedError, Item
from shardwright.profiler.timing.probe import Sizes
from shardwright.specs.profile import Point, Series
from tests.profiler.virtual import MadeUpProbe, VirtualClock

WEIGHTS = {"matmul/forward": 4.0, "matmul/input_gradient": 4.0, "attention": 0.5}


def no_error(series: Series) -> list[float]:
    return []


def probe(operation: str, count: int = 3, variant: str = "") -> MadeUpProbe:
    sizes = [(float(2**power),) for power in range(count)]
    return MadeUpProbe(VirtualClock(), operation=operation, variant=variant, sizes=sizes)


def point(at: Sizes, seconds: float = 1.0, uncertainty: float = 0.0) -> Point:
    return Point(at=at, seconds=seconds, low_seconds=seconds * (1 - uncertainty), high_seconds=seconds, repeats=6)


def agenda_of(*probes: MadeUpProbe, expected_error: ExpectedError = no_error) -> Agenda:
    return Agenda(probes, weights=WEIGHTS, expected_error=expected_error, tolerance=0.03)


def with_points(agenda: Agenda, index: int, sizes: Sequence[Sizes]) -> Agenda:
    for at in sizes:
        agenda.record(Item(index, at), point(at))
    return agenda


class TestFirst:
    def test_all_first_before_any_second_and_heavy_ones_oftener(self) -> None:
        agenda = agenda_of(probe("rotary", 2), probe("matmul", 6, "forward"))
        assert agenda.telling == [
            Item(0, (1.0,)),
            Item(1, (1.0,)),
            Item(1, (2.0,)),
            Item(1, (4.0,)),
            Item(1, (8.0,)),
            Item(0, (2.0,)),
            Item(1, (16.0,)),
            Item(1, (32.0,)),
        ]

    def test_more_of_a_heavy_probe_is_telling(self) -> None:
        agenda = agenda_of(
            probe("rotary", 20), probe("matmul", 20, "input_gradient"), probe("attention", 20, "forward-math")
        )
        assert [sum(item.probe == index for item in agenda.telling) for index in range(3)] == [6, 12, 5]
        assert len(agenda.others) == 60 - 23

    def test_what_is_settled_does_not_come_again(self) -> None:
        agenda = agenda_of(probe("rotary"))
        agenda.record(Item(0, (1.0,)), point((1.0,)))
        agenda.leave_out(Item(0, (4.0,)))
        assert agenda.telling == [Item(0, (2.0,))]
        assert [agenda.settled(Item(0, (size,))) for size in (1.0, 2.0, 4.0)] == [True, False, True]
        assert agenda.done == 1

    def test_a_size_that_is_named_twice_is_measured_once(self) -> None:
        twice = probe("rotary")
        twice.sizes = [(1.0,), (2.0,), (1.0,)]
        assert len(agenda_of(twice).telling) == 2


class TestBetween:
    def test_between_the_worst_point_and_its_farthest_neighbour(self) -> None:
        sizes = [(1.0,), (16.0,), (64.0,), (4096.0,)]
        agenda = agenda_of(probe("rotary"), expected_error=lambda series: [0.0, 0.1, 0.5, 0.2])
        assert with_points(agenda, 0, sizes).between() == [Item(0, (512.0,))]

    def test_one_of_each_probe_the_heaviest_error_first(self) -> None:
        errors = {"rotary": 0.5, "matmul": 0.2}
        agenda = agenda_of(
            probe("rotary"),
            probe("matmul", variant="forward"),
            expected_error=lambda series: [errors[series.operation]] * len(series.points),
        )
        for index in (0, 1):
            with_points(agenda, index, [(1.0,), (16.0,)])
        assert agenda.between() == [Item(1, (4.0,)), Item(0, (4.0,))]

    def test_errors_within_tolerance_or_noise_need_no_point(self) -> None:
        agenda = agenda_of(probe("rotary"), expected_error=lambda series: [0.02, 0.09, 0.02])
        agenda.record(Item(0, (1.0,)), point((1.0,)))
        agenda.record(Item(0, (16.0,)), point((16.0,), uncertainty=0.095))
        agenda.record(Item(0, (256.0,)), point((256.0,)))
        assert agenda.between() == []

    def test_where_nothing_lies_between_the_next_worst_is_taken(self) -> None:
        sizes = [(1.0,), (1.1,), (64.0,), (70.0,), (4096.0,)]
        agenda = agenda_of(probe("rotary"), expected_error=lambda series: [0.9, 0.05, 0.05, 0.04, 0.3])
        assert with_points(agenda, 0, sizes).between() == [Item(0, (535.0,))]

    def test_a_size_that_cannot_be_measured_is_not_asked_for_again(self) -> None:
        agenda = agenda_of(probe("rotary"), expected_error=lambda series: [0.5, 0.4])
        with_points(agenda, 0, [(1.0,), (16.0,)])
        agenda.leave_out(Item(0, (4.0,)))
        assert agenda.between() == []

    def test_neighbours_have_no_point_between_them(self) -> None:
        """Along both axes: from (1, 1) to (64, 64) there is (8, 8), so the farthest neighbour is (1, 32)."""
        table = MadeUpProbe(VirtualClock(), operation="copy", axes=("rows", "width"), sizes=[(1.0, 1.0)])
        sizes = [(1.0, 1.0), (1.0, 32.0), (8.0, 8.0), (64.0, 64.0)]
        agenda = agenda_of(table, expected_error=lambda series: [0.5, 0.0, 0.0, 0.0])
        assert with_points(agenda, 0, sizes).between() == [Item(0, (1.0, 6.0))]

    def test_errors_are_worked_out_again_only_for_new_points(self) -> None:
        asked: list[int] = []

        def noting(series: Series) -> list[float]:
            asked.append(len(series.points))
            return []

        agenda = with_points(agenda_of(probe("rotary"), expected_error=noting), 0, [(1.0,), (4.0,)])
        agenda.between()
        agenda.between()
        agenda.record(Item(0, (2.0,)), point((2.0,)))
        agenda.between()
        assert asked == [2, 3]


class TestUncertain:
    def test_wide_points_are_measured_once_more_and_the_surer_one_counts(self) -> None:
        agenda = agenda_of(probe("rotary"))
        agenda.record(Item(0, (1.0,)), point((1.0,), uncertainty=0.2))
        agenda.record(Item(0, (2.0,)), point((2.0,), uncertainty=0.3))
        agenda.record(Item(0, (4.0,)), point((4.0,), uncertainty=0.05))
        assert agenda.uncertain == [Item(0, (2.0,)), Item(0, (1.0,))]
        agenda.record(Item(0, (2.0,)), point((2.0,), seconds=3.0, uncertainty=0.1))
        agenda.record(Item(0, (1.0,)), point((1.0,), seconds=5.0, uncertainty=0.4))
        assert agenda.uncertain == []
        assert [(each.at, each.seconds) for each in agenda.series(0).points] == [
            ((1.0,), 1.0),
            ((2.0,), 3.0),
            ((4.0,), 1.0),
        ]
