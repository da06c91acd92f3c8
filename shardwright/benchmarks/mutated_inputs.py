"""Whether damaged inputs are answered in one clear line: python -m shardwright.benchmarks.mutated_inputs [--cases 5000] [--first 0].

Each case takes a file that a command reads (a plan, a configuration of a model, a cluster, a profile, a measurement, a table) or its
options, changes one to three places at random, and runs the command in this process. A case fails where the command raises an error
of its own, takes longer than a minute, prints a line of more than 400 characters or a control character to stderr, writes JSON that is none, or shows an
MFU above 100%. `--case N` repeats one case and prints what the command was given and what it said.
"""

import argparse
import contextlib
import io
import json
import math
import random
import signal
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple
from unittest import mock

from rich.console import Console

from shardwright.cli import main as command_line

_MOST_SECONDS = 60
_LONGEST_LINE = 400
_EXIT_CODES = (0, 1, 2, 3)
_JOB = ("--cluster", "h100-sxm:8", "--seq-len", "2048", "--global-batch", "16")
_CONFIG = {
    "model_type": "qwen3_moe",
    "hidden_size": 256,
    "intermediate_size": 512,
    "moe_intermediate_size": 128,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 4096,
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0},
}
_CLUSTER = """name = "ours"
oversubscription = 2.0
device = { like = "h100-sxm", memory_bytes = 84e9 }
nodes = 2
nic = { like = "roce-200g", bytes_per_s = 25e9 }
nics_per_node = 4
intra_node = { like = "nvlink-4", latency_seconds = 5e-6 }
host = { memory_bytes = 1e12 }
"""
_TABLE = """id,source,framework,model,layers,hidden,heads,kv_heads,ffn_hidden,vocab,seq_len,gpu,gpus,precision,tp,pp,dp,micro_batch,global_batch,recompute,\
zero_or_fsdp,metric_name,metric_value,metric_unit,peak_mem_gb,year,provenance,params_b,notes
a,ours,Megatron-LM,Llama-2-7B,32,4096,32,32,11008,32000,4096,A100-SXM-80GB,8,bf16,2,1,4,1,64,none,zero1,step_time_s,12.5,s,60,2024,read,6.7,
b,ours,torchtitan,Llama-3.1-8B,32,4096,32,8,14336,128256,8192,H100-SXM-80GB,16,bf16,2,2,4,1,128,full,fsdp-full,tokens_per_s_per_gpu,5000,tokens/s/GPU,55,2025,read,8,x
"""
_OPTIONS = (
    "--seq-len", "--global-batch", "--micro-batch", "--tp", "--pp", "--cp", "--ep", "--fix", "--forbid", "--stack", "--cluster",
    "--precision", "--schedule", "--recompute", "--memory-reserve", "--loss-chunks", "--order", "--trainable", "--lengths", "--linear-precision",
    "--offload-optimizer", "--attention", "--zero-stage", "--time-limit", "--optimizer", "--avoid",
)  # fmt: skip
_WORDS = (
    "", " ", "x", "-1", "0", "1", "2", "3", "7", "1.5", "1e308", "1e-308", "nan", "inf", "10000000000000000000", "9" * 5000, "A" * 5000, "[/]", "[red]x",
    "\x1b[31mred", "a\nb", "$\\frac{$", "\udcff", "\ud800", "../x", "~", "8k", "8M", "1..4", "4..1", "h100-sxm:8", "auto", "tp=8", "uniform:1..0", "%s", "é",
)  # fmt: skip
_NUMBERS = (-1, 0, 1, 2, 3, 7, 1.5, -0.5, 1e-300, 1e300, 1e308, 10**19, 10**29, 10**400, 1e11, True, None)


class Input(NamedTuple):
    """A kind of input, and the commands that read it; `{}` stands for its path."""

    name: str
    commands: tuple[tuple[str, ...], ...]


INPUTS = (
    Input("plan.json", (("explain", "{}"), ("explain", "{}", "--json"), ("simulate", "{}"), ("simulate", "{}", "--trace", "trace.json", "--force"),
                        ("compare", "llama-3.2-1b", *_JOB, "--plan", "{}"), ("explain", "{}", "--report", "page.html", "--force"))),
    Input("offload.json", (("explain", "{}"), ("explain", "{}", "--json"), ("simulate", "{}", "--trace", "trace.json", "--force"))),
    Input("config.json", (("plan", "{}", *_JOB), ("plan", "{}", *_JOB, "--json"), ("compare", "{}", *_JOB))),
    Input("cluster.toml", (("plan", "llama-3.2-1b", "--cluster", "{}", *_JOB[2:]), ("plan", "llama-3.2-1b", "--cluster", "{}", *_JOB[2:], "--json"))),
    Input("profile.json", (("profile", "show", "{}"), ("profile", "show", "{}", "--json"), ("profile", "show", "{}", "--report", "page.html", "--force"),
                           ("profile", "diff", "{}", "profile.json"), ("plan", "llama-3.2-1b", *_JOB, "--profile", "{}"))),
    Input("measurement.json", (("explain", "plan.json", "--measurement", "{}"), ("explain", "plan.json", "--measurement", "{}", "--json"),
                               ("explain", "plan.json", "--measurement", "{}", "--report", "page.html", "--force"))),
    Input("table.csv", (("validate", "{}"), ("validate", "{}", "--json"), ("validate", "{}", "--plots", "plots", "--force"))),
    Input("options", (("plan", "llama-3.2-1b", *_JOB), ("plan", "llama-3.2-1b", *_JOB, "--json"), ("compare", "llama-3.2-1b", *_JOB),
                      ("ask", "cost", "llama-3.2-1b", *_JOB, "--tokens", "1T"))),
)  # fmt: skip


class Case(NamedTuple):
    """What a command is given: its arguments, and the content of a file beside the good ones."""

    arguments: tuple[str, ...]
    name: str
    content: bytes | None


class _TooLongError(BaseException):
    """No exception that a command would catch."""


class Outcome(NamedTuple):
    """What a command did: its exit code, and what it wrote. `error`: an exception that reached the caller."""

    code: int | None
    stdout: str
    stderr: str
    error: str | None


def write_inputs(folder: Path) -> None:
    """Write one good input of each kind into `folder`."""
    with contextlib.chdir(folder):
        for name, options in (
            ("plan.json", ("--pp", "2")),
            ("offload.json", ("--offload-optimizer", "0.5", "--tp", "2")),
        ):
            outcome = run(("plan", "llama-3.2-1b", *_JOB, *options, "--out", name))
            if outcome.code:
                raise SystemExit(f"{name}: {outcome.stderr}{outcome.error or ''}")
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    (folder / "cluster.toml").write_text(_CLUSTER)
    (folder / "table.csv").write_text(_TABLE)
    (folder / "profile.json").write_text(json.dumps(_profile()))
    (folder / "measurement.json").write_text(json.dumps(_measurement()))


def _profile() -> dict[str, Any]:
    point = {"seconds": 1e-3, "low_seconds": 0.9e-3, "high_seconds": 1.2e-3, "repeats": 9}
    shapes = [(m, k, n) for m in (128, 512) for k in (128, 512) for n in (128, 512)]
    curve = {
        "form": "line",
        "parameters": {"start_seconds": 1e-6, "bytes_per_s": 1e10},
        "residual_median": 0.1,
        "residual_p90": 0.2,
    }
    return {
        "kind": "shardwright-profile",
        "schema_version": 1,
        "fingerprint": {
            "device": "h100-sxm", "kind": "gpu", "device_memory_bytes": 8e10, "torch": "2.13.0", "python": "3.11", "host": "here", "cores": 8,
            "threads": 8, "ranks": 1, "date": "2026-01-01T00:00:00+00:00",
        },
        "series": [
            {"operation": "matmul", "variant": "forward", "format": "bf16", "axes": ["m", "k", "n"], "points": [{"at": at, **point} for at in shapes]},
            {"operation": "copy", "axes": ["bytes"], "points": [{"at": [size], **point} for size in (1e3, 1e6, 1e9)], "curve": curve},
        ],
        "figures": {"launch_seconds": {"value": 5e-6, "unit": "s", "meaning": "one launch"}},
        "remarks": ["made up"],
    }  # fmt: skip


def _measurement() -> dict[str, Any]:
    step = {"loss": 2.0, "gradient_norm": 1.0, "learning_rate": 1e-4, "seconds": 1.0}
    return {
        "kind": "shardwright-measurement", "schema_version": 1, "ranks": 8, "warmup_steps": 1, "step_seconds": 1.0, "step_seconds_low": 0.9,
        "step_seconds_high": 1.1, "part_seconds": {"forward_backward": 0.8, "optimizer": 0.2}, "tokens_per_s": 3e4, "mfu": 0.4,
        "peak_memory_bytes": [1e10] * 8, "memory_kind": "allocated", "steps": [{"step": number, **step} for number in range(1, 4)],
        "fingerprint": {"device": "h100", "host": "here", "python": "3.11", "torch": "2.13.0", "date": "2026-01-01"},
    }  # fmt: skip


def case(number: int, folder: Path) -> Case:
    """Return case `number`, made from the good inputs in `folder`."""
    chance = random.Random(number)
    chosen = INPUTS[number % len(INPUTS)]
    arguments = chance.choice(chosen.commands)
    if chosen.name == "options":
        return Case(_with_options(arguments, chance), chosen.name, None)
    content = (folder / chosen.name).read_bytes()
    change = _in_json if chosen.name.endswith(".json") else _in_text
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        content = (_in_bytes if chance.random() < 0.06 else change)(content, chance)
    name = f"damaged-{chosen.name}"
    return Case(tuple(name if argument == "{}" else argument for argument in arguments), name, content)


def _with_options(arguments: tuple[str, ...], chance: random.Random) -> tuple[str, ...]:
    changed = list(arguments)
    for _ in range(chance.randint(1, 3)):
        kind = chance.random()
        if kind < 0.3:
            changed[chance.randrange(1, len(changed))] = chance.choice(_WORDS)
        elif kind < 0.9:
            changed += [chance.choice(_OPTIONS), chance.choice(_WORDS)]
        else:
            changed.append(chance.choice((*_OPTIONS, "--what", *_WORDS)))
    return tuple(word.replace("\0", "") for word in changed)


def _in_bytes(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(max(1, len(content)))
    changes: tuple[Callable[[], bytes], ...] = (
        lambda: content[:at],
        lambda: content[:at] + bytes([chance.randrange(256)]) + content[at + 1 :],
        lambda: b"\xef\xbb\xbf" + content,
        lambda: content[:at] + b"\0" + content[at:],
        lambda: content * 2,
        lambda: content.decode("utf-8", "replace").encode("utf-16"),
        lambda: b"",
        lambda: b"[" * 100_000,
    )
    return chance.choice(changes)()


def _in_json(content: bytes, chance: random.Random) -> bytes:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return _in_bytes(content, chance)
    places = list(_places(document))
    if not places:
        return content
    holder, key = chance.choice(places)
    kind = chance.random()
    if kind < 0.12:
        del holder[key]
    elif kind < 0.2 and isinstance(holder, dict):
        holder[chance.choice((*_WORDS, key.upper()))] = holder.pop(key)
    elif kind < 0.28:
        other, place = chance.choice(places)
        with contextlib.suppress(KeyError, IndexError):
            holder[key] = json.loads(json.dumps(other[place]))
    elif kind < 0.34 and isinstance(holder[key], list):
        holder[key] = holder[key] * chance.choice((0, 2, 50))
    else:
        holder[key] = chance.choice((*_NUMBERS, *_WORDS, [], {}, [[]], {"a": 1}, [1, 2, 3]))
    return json.dumps(document).encode()


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every value of a document, as what holds it and under which key."""
    keys = document.keys() if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in list(keys):
        yield document, key
        yield from _places(document[key])


def _in_text(content: bytes, chance: random.Random) -> bytes:
    """Change one cell of a table or one value of a TOML file, or a whole line."""
    lines = content.decode("utf-8", "replace").splitlines()
    if not lines:
        return content
    at = chance.randrange(len(lines))
    new = str(chance.choice((*_WORDS, *_NUMBERS)))
    if chance.random() < 0.2:
        lines[at] = chance.choice(("", new, lines[at] * 2, lines[chance.randrange(len(lines))]))
    elif "," in lines[at] and "=" not in lines[at]:
        cells = lines[at].split(",")
        cells[chance.randrange(len(cells))] = new
        lines[at] = ",".join(cells)
    elif "=" in lines[at]:
        parts = lines[at].split("=")
        place = chance.randrange(1, len(parts))
        value = parts[place].split(" }")[0].split(",")[0].strip()
        parts[place] = parts[place].replace(value, chance.choice((new, json.dumps(new))), 1)
        lines[at] = "=".join(parts)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def run(arguments: tuple[str, ...]) -> Outcome:
    """Run a command in this process, as its entry point does."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    code: int | None = None
    error = None
    with (
        mock.patch.object(sys, "argv", ["shardwright", *arguments]),
        mock.patch.object(sys, "stdout", out),
        mock.patch.object(sys, "stderr", err),
    ):
        try:
            with _at_most(_MOST_SECONDS):
                command_line()
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 1
        except BaseException as raised:  # what a user would see as a traceback
            if isinstance(raised, KeyboardInterrupt):
                raise
            error = f"{type(raised).__name__}: {raised}"[:300]
    return Outcome(code, _text(out), _text(err), error)


def _text(stream: io.TextIOWrapper) -> str:
    if stream.closed:
        return ""
    stream.flush()
    raw = stream.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue().decode("utf-8", "replace")


@contextlib.contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _TooLongError(f"no answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fault(given: Case, outcome: Outcome) -> str | None:
    """Return what is wrong with an outcome; None where nothing is."""
    if outcome.error is not None or outcome.code not in _EXIT_CODES:
        return f"not caught: {outcome.error or f'exit code {outcome.code}'}"
    if outcome.code and not outcome.stderr.strip():
        return "exit code without a word"
    for line in outcome.stderr.splitlines():
        if len(line) > _LONGEST_LINE:
            return f"a line of {len(line)} characters: {line[:80]}"
    for character in outcome.stderr + outcome.stdout:
        if unicodedata.category(character) == "Cc" and character not in "\n\t\r":
            return f"control character {character!r}"
    if "Traceback" in outcome.stderr:
        return "a traceback"
    if "--json" in given.arguments and outcome.code == 0:
        return _fault_in_json(outcome.stdout)
    return None


def _fault_in_json(text: str) -> str | None:
    try:
        document = json.loads(text, parse_constant=lambda constant: 1 / 0)
    except (ValueError, ZeroDivisionError):
        return "JSON that is none"
    for holder, key in _places(document):
        value = holder[key]
        if key in ("mfu", "hfu") and isinstance(value, (int, float)) and not (math.isfinite(value) and 0 <= value <= 1):
            return f"{key} of {value}"
    return None


def check(number: int, folder: Path) -> tuple[Case, Outcome, str | None]:
    """Run case `number` among the good inputs in `folder`."""
    given = case(number, folder)
    if given.content is not None:
        (folder / given.name).write_bytes(given.content)
    with contextlib.chdir(folder):
        outcome = run(given.arguments)
    return given, outcome, fault(given, outcome)


def main() -> None:
    """Print the faults, and how many cases there were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--case", type=int, help="repeat one case and show it")
    options = parser.parse_args()
    console, faults, answers = Console(width=170, markup=False, highlight=False), 0, dict.fromkeys(_EXIT_CODES, 0)
    numbers = range(options.first, options.first + options.cases) if options.case is None else [options.case]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder)
        for number in numbers:
            given, outcome, wrong = check(number, folder)
            if outcome.code in answers:
                answers[outcome.code] += 1
            if wrong or options.case is not None:
                faults += wrong is not None
                console.print(f"case {number}: {wrong}\n  {' '.join(given.arguments)!r:.300}")
            if options.case is not None:
                shown = given.content.decode("utf-8", "replace")[:6000] if given.content else ""
                console.print(
                    f"{shown}\nexit code {outcome.code}\n{outcome.stdout[:2000]}\n{outcome.stderr[:2000]}\n{outcome.error}"
                )
    console.print(
        f"{len(numbers)} cases, {faults} faults; exit codes: {', '.join(f'{code}: {count}' for code, count in answers.items())}"
    )


if __name__ == "__main__":
    main()
