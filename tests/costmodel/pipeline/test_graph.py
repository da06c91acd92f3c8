"""The graph of a schedule: numbers, shapes and messages of small ones."""

from shardwright.costmodel.pipeline.action import Action, ActionKind, parse_work
from shardwright.costmodel.pipeline.graph import schedule_graph
from shardwright.costmodel.pipeline.schedule import Schedule, make_schedule


def test_work_is_numbered_rank_after_rank() -> None:
    graph = schedule_graph(make_schedule("1f1b", 2, 1, 2))
    assert [name for _, name, *_ in graph.nodes] == ["0F0", "0F1", "0B0", "0B1", "1F0", "1B0", "1F1", "1B1"]
    assert graph.numbers == (range(4), range(4, 8))
    assert graph.number_of[Action(1, ActionKind.BACKWARD, 0)] == 5


def test_a_message_crosses_the_boundary_above_the_lower_stage_either_way() -> None:
    graph = schedule_graph(make_schedule("1f1b", 2, 1, 1))
    sent = {name: messages for _, name, _, _, _, messages in graph.nodes}
    assert sent == {"0F0": (("send 0F0", 0, 0, 0, 2),), "0B0": (), "1F0": (), "1B0": (("send 1B0", 1, 0, 0, 1),)}
    assert graph.message_counts == [0, 1, 1, 0]


def test_an_input_gradient_sends_and_a_weight_gradient_does_not() -> None:
    graph = schedule_graph(make_schedule("zb-h1", 2, 1, 1))
    sent = {name: [message[0] for message in messages] for _, name, _, _, _, messages in graph.nodes}
    assert sent == {"0F0": ["send 0F0"], "0I0": [], "0W0": [], "1F0": [], "1I0": ["send 1I0"], "1W0": []}


def test_a_pair_is_one_node_of_its_forwards_microbatch_that_waits_for_two_messages() -> None:
    schedule = Schedule.parse("0F0,0F1,0B0,0B1\n1F0,(1F1;1B0)OVERLAP_F_B,1B1\n2F0,2B0,2F1,2B1\n")
    graph = schedule_graph(schedule)
    pair = graph.number_of[Action(1, ActionKind.FORWARD, 1)]
    assert pair == graph.number_of[Action(1, ActionKind.BACKWARD, 0)]
    rank, name, stage, microbatch, _, messages = graph.nodes[pair]
    assert (rank, name, stage, microbatch) == (1, "(1F1;1B0)OVERLAP_F_B", 1, 1)
    assert graph.message_counts[pair] == 2
    assert [message[0] for message in messages] == ["send 1B0", "send 1F1"]


def test_all_microbatches_of_a_pass_have_one_shape() -> None:
    graph = schedule_graph(make_schedule("dualpipe-v", 2, 2, 40))
    for _, name, _, _, shape, _ in graph.nodes:
        assert graph.shapes[shape] == parse_work(name).of_microbatch_zero()
    assert len(graph.shapes) == len(set(graph.shapes)) < len(graph.nodes) / 4
