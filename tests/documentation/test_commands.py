"""Every command that the documentation shows is accepted by what it is given to. tests/test_examples.py runs those with output."""

import pytest

from .accepted import problem
from .shown import PAGES, ROOT, Shown, commands, escapes


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_is_accepted(page: object) -> None:
    path = ROOT / str(page)
    text = path.read_text(encoding="utf-8")
    assert escapes(text) == []
    found = [(str(shown), problem(shown)) for shown in commands(path.name, text)]
    assert [one for one in found if one[1]] == []


def test_many_are_found() -> None:
    """Control: neither blocks nor spans are overlooked as a whole."""
    every = [shown for page in PAGES for shown in commands(page.name, page.read_text(encoding="utf-8"))]
    assert sum(shown.whole for shown in every) > 60
    assert sum(not shown.whole for shown in every) > 50


FAULTS = {
    "shardwright plann llama-3.1-8b": "no command plann",
    "shardwright plan llama-3.1-8b --cluster h100-sxm:8 --seq-len 8k": "global",
    "shardwright plan llama-3.1-8b --cluster h100-sxm:8 --seq-len 8k --global-batch 64 --recomput full": "--recomput",
    "shardwright plan llama-3.1-8b --cluster h100-sxm:8 --seq-len many --global-batch 64": "many",
    "shardwright plan llama-9-8b --cluster h100-sxm:8 --seq-len 8k --global-batch 64": "llama-9-8b",
    "shardwright plan llama-3.1-8b --cluster h999:8 --seq-len 8k --global-batch 64": "h999",
    "srun --nodes 2 shardwright profile --ou cluster.json": "--ou",
    "python -m shardwright.calibration.fitt": "fitt",
    "python -m shardwright.benchmarks.own_runs --messure 1": "--messure",
    "python -m pytest tests/parityy": "tests/parityy",
    "bash scripts/demos": "scripts/demos",
    "pip install '.[runn]'": "runn",
    "make test": "make",
}


@pytest.mark.parametrize("text", FAULTS)
def test_a_fault_is_named(text: str) -> None:
    """Control: each kind of wrong command."""
    assert FAULTS[text] in str(problem(Shown("page", 1, text, True)))


def test_a_fault_in_a_sentence_is_named() -> None:
    assert "--recomput" in str(problem(Shown("page", 1, "shardwright plan ... --recomput full", False)))
    assert problem(Shown("page", 1, "shardwright plan ... --recompute full", False)) is None


@pytest.mark.parametrize(
    "text",
    ["```\nshardwright plan\n```", "```sh\nls\n```", "```console\noutput\n```", "```text\n$ shardwright plan\n```"],
)
def test_nothing_escapes(text: str) -> None:
    assert escapes(text + "\n")
