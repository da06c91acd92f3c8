"""Every option of every command, taken from the parser: none is forgotten, and a new one is drawn as soon as it is there.

The words of an option are values that it takes, or nearly, so that cases come beyond the first check. Others are tried with any word.
"""

import random
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import typer

from shardwright.cli import app

_JOB = ("weights/config.json", "--cluster", "h100-sxm:2", "--seq-len", "64", "--global-batch", "4")
_FEW = (
    "--tp",
    "1",
    "--pp",
    "1",
    "--cp",
    "1",
    "--zero-stage",
    "1",
    "--recompute",
    "none",
)  # questions search many times
_TOKENS = ("--tokens", "1M")
_RUN = ("run", "train.json", "--out", "out", "--data", "text.txt")
BASES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "plan": ((*_JOB,), ("weights/config.json", *_JOB[1:3], "--phases", "phases.toml", *_FEW), ("config.json", *_JOB[1:])),
    "explain": (("plan.json",), ("phases.json",), ("phases.json:2",)),
    "compare": (_JOB, ("llama-3.2-1b", "--cluster", "h100-sxm:8", "--seq-len", "2048", "--global-batch", "16", "--plan", "plan.json")),
    "simulate": (("plan.json",), ("phases.json:1",)),
    "run": (_RUN[1:], ("small.json", *_RUN[2:], "--init-from", "weights"), ("phases.json", *_RUN[2:]), ("small.json", "--dry")),
    "launch": (("plan.json", "--slurm", "--to", "script"), ("phases.json", "--torchrun"), ("plan.json", "--kubernetes", "--image", "a:b")),
    "export": (("plan.json", "--to", "megatron", "--closest"), ("phases.json", "--to", "slurm")),
    "import": (("run.sh", "--cluster", "h100-sxm:8"), ("deepspeed.json", "--like", "plan.json")),
    "diagnose": (("run.sh", "--cluster", "h100-sxm:8"),),
    "export-weights": (("run", "--to", "out"),),
    "export-adapters": (("run", "--to", "out"),),
    "validate": (("table.csv",),),
    "doctor": ((),),
    "ask longest-sequence": ((*_JOB[:3], "--global-batch", "4", "--step", "1M", *_FEW),),
    "ask largest-batch": (_JOB,),
    "ask largest-model": ((*_JOB, *_FEW, "--offload-optimizer", "0"),),
    "ask fewest-gpus": ((*_JOB, *_TOKENS, "--deadline", "10d"),),
    "ask cost": ((*_JOB, *_TOKENS),),
    "ask shape": (_JOB,),
    "ask packing": ((*_JOB, "--lengths", "uniform:8..64"),),
    "profile": ((),),
    "profile show": (("profile.json",),),
    "profile diff": (("profile.json", "profile.json"),),
}  # fmt: skip
"""Good calls of each command."""
_SHARES = ("0", "1", "0.5", "0..1", "0,0.5", "1.5", "-0.1")
_DEGREES = ("1", "2", "1..2", "2..", "..2", "1,2", "0", "-1", "3", "1000000")
_FILES = ("out.json", "plan.json", "phases.json", "weights", "none/out", "/dev/full", "run", "text.txt")
_PLANS = ("plan.json", "phases.json", "phases.json:2", "phases.json:9", "train.json", "run.sh", "table.csv", "run")
_HOURS = ("1000", "0", "-1", "1e308", "nan")
WORDS: Mapping[str, tuple[str, ...]] = {
    "--expert-imbalance": ("1", "1.5", "0.5", "nan"),
    "--hot-experts": ("0", "2", "-1", "1000000"),
    "--tokens-per-centroid": ("1", "5", "0"),
    "--allow-approximate": ("adamw8bit", "lsh-moe", "lsh-moe,co2", "skippipe", "skippipe,diloco", "diloco", "islands", "1-bit-adam,lion", "galore:rank=4,period=2", "all", "co2,", "diloco:inner_steps=2"),
    "--allow-precision": ("fp8", "all", "fp8,mxfp8", "nvfp4", "fp8-rowwise", "fp4"),
    "--attention": ("flash", "unfused", "auto", "ring"),
    "--avoid": ("h100-sxm", "h100-sxm:1", "between", "nic", "a100-sxm-80gb", "h100-sxm:9", "nic:1"),
    "--betas": ("0.9 0.95", "0.9 1.5", "nan 0", "0.9"),
    "--base-model": ("weights", "Qwen/Qwen3-8B"),
    "--by": ("both", "depth", "width", "height"),
    "--checkpoint": ("sync", "async", "both"),
    "--cluster": ("h100-sxm:2", "h100-sxm:1,a100-sxm-80gb:1", "rtx-4090:2", "a100-sxm-40gb:4@ethernet-10g", "cluster.toml", "h100-sxm:0", "h100-sxm", "local:99", "cpu:2"),
    "--compile": ("on", "off", "auto", "maybe"),
    "--context-parallel": ("ring", "all-gather", "ulysses", "ulysses-ring", "ring,ulysses"),
    "--cuda-graphs": ("none", "router", "attention", "attention+router", "whole"),
    "--data": ("text.txt", "chat.jsonl", "text.txt:0.5", "weights", "none.txt", ":1"),
    "--data-format": ("text", "chat", "tokens", "hf"),
    "--deadline": ("10d", "1h", "2w", "2099-01-31", "2001-01-31", "0d", "-1d"),
    "--dry-ranks": ("0", "0,1", "9", "-1", "0,,1"),
    "--dtype": ("fp32", "bf16", "fp16", "int8"),
    "--eval-data": ("text.txt", "chat.jsonl", "none"),
    "--expert-dispatch": ("all-to-all", "deduplicated", "both"),
    "--fix": ("tp=2", "pp=1", "sync=diloco", "schedule=breadth-first", "zero_stage=3", "tp", "=", "micro_batch=1..2", "order=tp-cp-pp-dp"),
    "--forbid": ("tp", "cp", "recompute", "zero_stage=3", "interleaved-1f1b", "offload_optimizer", "x=y", "pp,tp"),
    "--from": ("megatron", "torchtitan", "deepspeed", "accelerate", "nemo", "shardwright"),
    "--global-batch": ("4", "8", "1", "4k", "0", "3"),
    "--global-batch-tokens": ("4k", "1", "0", "1M"),
    "--image": ("a/b:c", "a b"),
    "--init-from": ("weights", "run", "adapters"),
    "--adapters-from": ("adapters", "weights"),
    "--lengths": ("uniform:8..64", "uniform:1..1", "uniform:64..8", "lengths.txt", "text.txt", "normal:1..2"),
    "--like": _PLANS,
    "--linear-precision": ("fp8", "fp8-rowwise", "mxfp8", "nvfp4", "bf16"),
    "--loss-chunks": ("1", "4", "auto", "0", "-1", "1000000"),
    "--max-shard-size": ("5GB", "1KB", "0GB", "-1MB", "5"),
    "--measurement": ("measurement.json", "plan.json"),
    "--model": ("weights/config.json", "llama-3.2-1b", "weights", "config.json"),
    "--of": ("micro", "global", "nano"),
    "--only": ("matmul", "copies,disk", "everything"),
    "--optimizer": ("adamw", "sgd", "sgd:momentum=0.9", "lion", "muon", "galore:rank=4,period=2", "adamw8bit", "soap", "adafactor:", "muon:x=1", "galore:rank=0"),
    "--order": ("tp-cp-dp-pp", "tp-cp-pp-dp", "tp", "pp-pp-pp-pp"),
    "--packing": ("packed", "padded", "boxed"),
    "--phases": ("phases.toml", "cluster.toml", "phases.json", "none.toml"),
    "--pipeline-layout": ("Et*16|L", "Et*8|t*8L", "E|L", "Et*3|(tt|)*2tL", "t" * 500, "(((("),
    "--plan": _PLANS,
    "--precision": ("bf16", "fp16", "fp32", "tf32", "auto", "fp8"),
    "--price": ("2.5", "0", "-1", "1e308"),
    "--profile": ("profile.json", "plan.json", "none.json"),
    "--recompute": ("none", "selective", "full", "none,full", "half"),
    "--recompute-modules": ("auto", "core_attn", "layernorm+mlp", "moe_act", "core_attn+", "x"),
    "--resume": ("auto", "never", "always"),
    "--resume-from": ("run/checkpoints/step-000001", "run", "weights"),
    "--schedule": ("1f1b", "gpipe", "interleaved-1f1b", "breadth-first", "zb-h1", "zb-v", "dualpipe-v", "v-min", "cosine", "linear", "constant", "wsd", "1f1b,gpipe"),
    "--seq-len": ("64", "1k", "1M", "0", "63", "1.5k", "1k3"),
    "--ssh": ("text.txt", "hosts.txt", "none"),
    "--stack": ("shardwright", "megatron-core", "torchtitan", "megatron-core-0.15", "nemo"),
    "--step": ("1", "0", "64", "1k", "99"),
    "--strategy": ("fsdp", "best", "zero3", "zero3-offload", "megatron-3d", "best-without-tp", "best-without-x", "ep+dp"),
    "--sweep": ("gpus=1,2", "gpus-weak=1,2", "global-batch=4,8", "seq-len=64,1k", "device=h100-sxm,a100-sxm-80gb", "gpus=", "gpus=0", "tp=1,2", "seq-len=1,0"),
    "--sync": ("exact", "8-bit-gradients", "1-bit-adam", "co2", "diloco", "diloco:inner_steps=100,bits=8", "streaming-diloco", "islands", "diloco:x=1", "diloco:inner_steps=0"),
    "--time": ("24:00:00", "2-00:00:00", "yesterday"),
    "--time-limit": ("1", "0.001", "0", "-1", "nan", "inf"),
    "--timeout": ("1", "0", "-1", "1e308", "inf"),
    "--to": ("out", "megatron", "torchtitan", "deepspeed", "accelerate", "nemo", "slurm", "k8s", "shardwright"),
    "--token-dtype": ("uint16", "uint32", "int64"),
    "--tokenizer": ("tokenizer", "weights"),
    "--tokens": ("1T", "300B", "1.5e12", "0", "-1", "1e400"),
    "--until-tokens": ("2k", "300M", "0", "1e400"),
    "--trainable": ("all", "lora", "lora:r=2,targets=attention", "lora:r=2,targets=experts", "lora:r=2,targets=q_proj+v_proj", "lora:r=2,targets=all-linear,base=nf4",
                    "qlora", "qlora:r=2,targets=mlp", "layers:1", "layers:1+head", "layers:99", "lora:r=0", "head", "lora:r=2,base=int3"),
    "--up-to": ("8", "4k", "0"),
    "--vocabulary-parallel": ("none", "vocab-1", "vocab-2"),
    "--wandb": ("offline", "online", "off"),
    "--zero-stage": ("0", "1", "2", "3", "0..3", "4"),
    **dict.fromkeys(("--pp", "--tp", "--cp", "--ep", "--etp", "--dp-shard", "--dp-replicate", "--ulysses-degree", "--micro-batch", "--stages-per-rank"), _DEGREES),
    **dict.fromkeys(("--offload-optimizer", "--offload-gradients", "--offload-parameters", "--offload-nvme", "--offload-activations"), _SHARES),
    **dict.fromkeys(("--memory-reserve", "--host-memory-reserve", "--step-noise", "--min-learning-rate-fraction"), ("0.1", "0", "0.99", "1", "-0.1", "nan")),
    **dict.fromkeys(("--mtbf-device-hours", "--mtbf-node-hours", "--checkpoint-seconds", "--restart-seconds", "--checkpoint-every"), _HOURS),
    **dict.fromkeys(("--out", "--report", "--trace", "--model-out", "--disk", "--offload-folder"), _FILES),
}  # fmt: skip
"""What an option takes, or nearly."""
_TOGETHER: Mapping[str, tuple[str, ...]] = {
    "--mtbf-device-hours": ("--checkpoint-seconds", "60", "--restart-seconds", "300"),
    "--packing": ("--lengths", "uniform:8..64"),
    "--dry-ranks": ("--dry",),
    "--data-format": ("--data", "chat.jsonl", "--tokenizer", "tokenizer"),
}
"""What an option needs beside it, often."""


class Option(NamedTuple):
    """An option of the parser, and how many words follow it."""

    name: str
    words: int


@cache
def options_of_commands() -> Mapping[str, tuple[Option, ...]]:
    """Every command of the program by its words, with its options; help and completion left out."""
    return dict(_walk(typer.main.get_command(app), ()))


def _walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, tuple[Option, ...]]]:
    if path and (not hasattr(command, "commands") or command.invoke_without_command):
        options = [each for each in command.params if each.opts[0].startswith("-")]
        named = [
            Option(name, 0 if each.is_flag else each.nargs)
            for each in options
            for name in (*each.opts, *each.secondary_opts)
        ]
        yield " ".join(path), tuple(named)
    for name, inner in getattr(command, "commands", {}).items():
        yield from _walk(inner, (*path, name))


@cache
def pairs() -> tuple[tuple[str, Option], ...]:
    """Each option of each command; a command without options stands once."""
    return tuple((command, option) for command, options in options_of_commands().items() for option in options)


def drawn(number: int, chance: random.Random, *, words: tuple[str, ...]) -> tuple[str, ...]:
    """A command with one option of its own, in turn, and up to two more by chance; some words are any of `words`, and some names misspelt."""
    command, option = pairs()[number % len(pairs())]
    given = [*command.split(), *chance.choice(BASES[command])]
    own = options_of_commands()[command]
    for each in (option, *chance.choices(own, k=chance.choice((0, 0, 1, 1, 2)))):
        given += _given(each, chance, words)
        if chance.random() < 0.5:
            given += _TOGETHER.get(each.name, ())
    if chance.random() < 0.05:
        given.append(chance.choice((*words, "--what")))
    return tuple(word.replace("\0", "") for word in given)


def _given(option: Option, chance: random.Random, words: tuple[str, ...]) -> list[str]:
    name = option.name if chance.random() > 0.03 else f"{option.name[:-1]}{chance.choice('xyz')}"
    if not option.words:
        return [name]
    likely = WORDS.get(option.name, ())
    word = chance.choice(likely) if likely and chance.random() < 0.75 else chance.choice(words)
    if chance.random() < 0.1:
        return [f"{name}={word}"]
    following = word.split(" ") if option.words > 1 else [word]
    return [name, *following] if chance.random() > 0.02 else [name]
