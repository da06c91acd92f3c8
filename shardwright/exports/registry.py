"""Every target by name, and which of them a file is for."""

import json
import re
from pathlib import Path

from shardwright.base import SpecError, nearest
from shardwright.exports.choices import Target
from shardwright.exports.frameworks import ACCELERATE, DEEPSPEED, MEGATRON, NEMO, TORCHTITAN

TARGETS: dict[str, Target] = {each.name: each for each in (MEGATRON, TORCHTITAN, DEEPSPEED, ACCELERATE, NEMO)}


def named_target(name: str, others: tuple[str, ...] = ()) -> Target:
    """Return the target called `name`; `others` are further names that the caller knows.

    Raises:
        SpecError: there is none; names the nearest.
    """
    if name not in TARGETS:
        allowed = (*TARGETS, *others)
        raise SpecError(f"target '{name}' is not known; allowed: {', '.join(allowed)}.{nearest(name, allowed)}")
    return TARGETS[name]


_PHASES = re.compile(r"^\s*\[\[\s*phases\s*\]\]", re.MULTILINE)


def target_of(text: str, path: Path) -> Target:
    """Return the target that a file is for, by its form and its first keys.

    Raises:
        SpecError: it holds phases to plan.
    """
    if path.suffix == ".toml":
        if _PHASES.search(text):
            make = f"'shardwright plan MODEL --cluster CLUSTER --phases {path.name} --out phases.json'"
            raise SpecError(
                f"{path}: holds phases without plans; write their plans with {make}, and name one as phases.json:1"
            )
        return TORCHTITAN
    if path.suffix == ".json" or text.lstrip().startswith("{"):
        return ACCELERATE if "distributed_type" in _keys_of(text) else DEEPSPEED
    if path.suffix in (".yaml", ".yml"):
        return ACCELERATE if "distributed_type" in text or "fsdp_config" in text else NEMO
    return MEGATRON


def is_setup(text: str, path: Path) -> bool:
    """Whether a file is a target's, and not a plan file: by its suffix, or the keys of its JSON."""
    if path.suffix in (".sh", ".toml", ".yaml", ".yml"):
        return True
    keys = _keys_of(text)
    return bool(keys) and not keys & {"kind", "plan"}


def _keys_of(text: str) -> set[str]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return set()  # the reader of DeepSpeed's files says what is wrong
    return set(document) if isinstance(document, dict) else set()
