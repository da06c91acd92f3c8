"""Command lines in scripts, read without a shell."""

import pytest

from shardwright.base import SpecError
from shardwright.exports.text import read_flags


def flags(text: str) -> dict[str, object]:
    return read_flags(text, "run.sh")[0]


def test_values_lists_and_switches() -> None:
    assert flags("x.py --a 1 --b=2 --c --d x y --lr -1e-4") == {
        "a": "1",
        "b": "2",
        "c": True,
        "d": ["x", "y"],
        "lr": "-1e-4",
    }


def test_the_launcher_has_flags_of_its_own() -> None:
    own, launcher = read_flags("torchrun --nnodes 2 train.py --nnodes 3", "run.sh")
    assert (own, launcher) == ({"nnodes": "3"}, {"nnodes": "2"})


def test_variables_arrays_defaults_and_sums() -> None:
    text = """
    TP=2
    PP=${PP:-4}   # stages
    ARGS=( --tp $TP
           --pp ${PP} )
    ARGS+=( --ranks $(($TP*PP)) )
    MORE="--bf16 --data $UNSET"
    train.py "${ARGS[@]}" $MORE "$@"
    """
    assert flags(text) == {"tp": "2", "pp": "4", "ranks": "8", "bf16": True, "data": "$UNSET"}


def test_a_variable_is_what_was_assigned_before() -> None:
    assert flags("N=1\nM=$N\nN=2\nN=${N:-3}\nt.py --n $N --m $M") == {"n": "2", "m": "1"}


def test_the_last_command_with_flags_counts() -> None:
    assert flags("mkdir -p out\nsrun --nodes 2 python a.py --x 1 \\\n  --y 2 | tee log\n") == {"x": "1", "y": "2"}


def test_a_hash_in_quotes_is_no_comment() -> None:
    assert flags("t.py --name 'a # b' # c --gone") == {"name": "a # b"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo nothing", "holds no command with flags"),
        ("if [ $X ]; then\n t.py --a\nfi", "line 1 has 'if', and no shell runs here"),
        ("t.py --a 'b", "does not end"),
        ("t.py --a 1 $MODEL_ARGS", "$MODEL_ARGS is used, and the file does not set it"),
        ("t.py --a 1 $WHAT", "$WHAT is used, and the file does not set it"),
        ("N=$((2**64))\nt.py --n $N", "is no sum of whole numbers"),
    ],
)
def test_what_cannot_be_read_is_one_line(text: str, words: str) -> None:
    with pytest.raises(SpecError) as refused:
        flags(text)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_sum_of_what_is_not_set_stays_as_it_is_written() -> None:
    own, _ = read_flags("t.py --n $((GPUS * 2)) --m 3", "file")
    assert own == {"n": "$((GPUS*2))", "m": "3"}
