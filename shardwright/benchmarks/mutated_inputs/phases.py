"""Good inputs of runs in phases: what changes from phase to phase, and the plans of a model that is small enough to be trained here."""

import contextlib
from pathlib import Path

from .kinds import Input
from .outcomes import run

_JOB = (
    "weights/config.json",
    "--cluster",
    "h100-sxm:2",
    "--tp",
    "1",
    "--pp",
    "1",
    "--recompute",
    "none",
)  # a search for each phase
_PHASES = """[switching]
build_seconds = 20
write_bytes_per_s = 1e9
read_bytes_per_s = 2e9

[[phases]]
steps = 20
seq_len = 32
global_batch = 4

[[phases]]
steps = 10
seq_len = "64"
global_batch = 2
lengths = "uniform:8..64"
packing = "packed"
"""
_LENGTHS = "8,3\n16,2\n64,1\n"
_HOSTS = "# one machine\nhost0\n"
INPUTS = (
    Input("phases.toml", (("plan", *_JOB, "--phases", "{}"), ("plan", *_JOB, "--phases", "{}", "--json"))),
    Input("phases.json", (("explain", "{}"), ("explain", "{}", "--json"), ("run", "{}", "--out", "out", "--data", "text.txt"), ("launch", "{}", "--torchrun"))),
    Input("lengths.txt", (("plan", *_JOB, "--seq-len", "64", "--global-batch", "4", "--lengths", "{}", "--json"),
                          ("ask", "packing", *_JOB, "--seq-len", "64", "--global-batch", "4", "--lengths", "{}"))),
    Input("hosts.txt", (("launch", "phases.json", "--ssh", "{}", "--to", "script"),)),
)  # fmt: skip


def write_inputs(folder: Path) -> None:
    """Write the good files into `folder`, with the plans of the phases, and one plan of the same model."""
    for name, text in (("phases.toml", _PHASES), ("lengths.txt", _LENGTHS), ("hosts.txt", _HOSTS)):
        (folder / name).write_text(text)
    with contextlib.chdir(folder):
        for words in (
            ("--phases", "phases.toml", "--out", "phases.json"),
            ("--seq-len", "32", "--global-batch", "4", "--dp-shard", "2", "--out", "small.json"),
        ):
            outcome = run(("plan", *_JOB, *words))
            if outcome.code:
                raise SystemExit(f"{words[-1]}: {outcome.stderr}{outcome.error or ''}")
