"""Lists of nodes as Slurm writes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwright.base.errors import SpecError
from shardwright.profiler.ranks.slurm_nodes import first_node, node_names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("login1", ["login1"]),
        ("gpu[003-005,9],login1", ["gpu003", "gpu004", "gpu005", "gpu9", "login1"]),
        ("a1,b2", ["a1", "b2"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("n[8-11]", ["n8", "n9", "n10", "n11"]),
        ("rack[1-2]-node[1-2]", ["rack1-node1", "rack1-node2", "rack2-node1", "rack2-node2"]),
        ("gpu[1].cluster.org", ["gpu1.cluster.org"]),
    ],
)
def test_lists(text: str, names: list[str]) -> None:
    assert node_names(text) == names
    assert first_node(text) == names[0]


@pytest.mark.parametrize(
    "text", ["", ",", "a,", ",a", "gpu[", "gpu[1", "gpu]1", "gpu[]", "gpu[1-]", "gpu[a-b]", "gpu[5-3]", "a b"]
)
def test_what_is_no_list_is_one_line(text: str) -> None:
    with pytest.raises(SpecError) as raised:
        node_names(text)
    assert "\n" not in str(raised.value)


@given(st.lists(st.integers(0, 999), min_size=1, max_size=5), st.sampled_from(["gpu", "node-", "n.x"]))
def test_numbers_in_brackets_are_names(numbers: list[int], prefix: str) -> None:
    text = f"{prefix}[{','.join(f'{number:03d}' for number in numbers)}]"
    assert node_names(text) == [f"{prefix}{number:03d}" for number in numbers]
