"""What a user asks of the choices, in words: options by name, `NAME=VALUE` and what is forbidden, as one `Fixed`."""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, NamedTuple

from shardwright.base import SpecError, listed, nearest
from shardwright.specs import APPROXIMATIONS, CHOICES, read_sync

from .fixed import Fixed
from .limits import LIMITED, SHARES, Limit, have_common_value, read_number

_OFFLOAD = "offload"
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_ON_OFF = ("sequence_parallel", "even_stages", "delayed_update")
_FIXABLE = (*LIMITED, *_ON_OFF)

# What a forbidden axis, or choice with a plain value, then is.
_PLAIN: dict[str, tuple[str, int | str]] = {
    **{axis: (axis, 1) for axis in ("pp", "dp_replicate", "dp_shard", "cp", "tp", "ep", "stages_per_rank")},
    "etp": ("etp", 0),
    "pipeline": ("pp", 1),
    "pipeline_parallel": ("pp", 1),
    "interleaving": ("stages_per_rank", 1),
    "tensor_parallel": ("tp", 1),
    "context_parallel": ("cp", 1),
    "expert_parallel": ("ep", 1),
    "replicas": ("dp_replicate", 1),
    "zero": ("zero_stage", 0),
    **{share: (share, 0) for share in SHARES},
    "recompute": ("recompute", "none"),
    "vocabulary_parallel": ("vocabulary_parallel", "none"),
}
_NAMED: dict[str, str] = {name: choice.name for choice in LIMITED.values() for name in choice.values if name != "none"}


class _Wish(NamedTuple):
    """One thing that the user wrote, and the values that it leaves. `value` where it fixes a single one."""

    words: str
    limit: Limit
    value: Any = None


def asked(options: Mapping[str, Any], *, fix: Iterable[str] = (), forbid: Iterable[str] = ()) -> Fixed:
    """Return the choices that a user asks for.

    `options`: values by name, as text or read: a value fixes the choice, `4..8`, `4..`, `..8` and `1,2,8` limit it. `fix`:
    the same as `NAME=VALUE`. `offload` among the options opens all shares of what may leave the device, `forbid` of "offload" keeps
    all of it there. `forbid`: axes that stay at 1 (`cp`), choices that stay plain (`recompute`,
    `offload_optimizer`), values that are not taken (`interleaved-1f1b`, `zero_stage=3`), each several with commas.

    Raises:
        SpecError: a name or a value is not known, or two wishes have no value in common.
    """
    flags: dict[str, bool] = {}
    wishes: list[_Wish] = []
    for words, name, value in [*_options(options), *map(_assigned, fix)]:
        if name in _ON_OFF:
            flags[name] = _agreed(words, name, _flag(words, value), flags)
        else:
            wishes.append(_wish(words, name, value))
    forbidden = [word.strip() for words in forbid for word in words.split(",") if word.strip()]
    parts = [(SHARES if word == _OFFLOAD else (word,)) for word in forbidden]
    for word in chain.from_iterable(parts):
        name = word.replace("-", "_")
        if name in ("sequence_parallel", "uneven_stages"):
            kept = name if name in _ON_OFF else "even_stages"
            flags[kept] = _agreed(f"--forbid {word}", kept, kept == "even_stages", flags)
        else:
            wishes.append(_forbidden(word))
    if options.get(_OFFLOAD):
        stated = {wish.limit.choice for wish in wishes}
        if _OFFLOAD in forbidden:
            raise SpecError("--offload and --forbid offload contradict each other; leave out one of them")
        wishes += [_wish("--offload", share, "0..1") for share in SHARES if share not in stated]
    _check_together(wishes)
    fixed = {wish.limit.choice: wish.value for wish in wishes if wish.value is not None}
    limits = tuple(dict.fromkeys(wish.limit for wish in wishes if wish.value is None))
    return Fixed.parse(flags | fixed | _agreement(options) | {"within": limits}, source="options")


def _agreement(options: Mapping[str, Any]) -> dict[str, Any]:
    """How replicas may agree: `sync` fixes it, `allow_approximate` names what may stand beside an exact reduction."""
    sync, allowed = options.get("sync"), str(options.get("allow_approximate") or "")
    named = [name.strip() for name in allowed.split(",") if name.strip() in APPROXIMATIONS]  # the others are optimizers
    if sync is not None and named:
        raise SpecError(
            f"--sync fixes how replicas agree, and --allow-approximate {','.join(named)} leaves it to the planner; leave out one of them"
        )
    found: dict[str, Any] = {"approximate": named} if named else {}
    return found | ({} if sync is None else {"sync": read_sync(sync) if isinstance(sync, str) else sync})


def _options(options: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    given = {choice.name: options.get(choice.name) for choice in CHOICES if choice.name != "sync"}
    return [(f"--{name.replace('_', '-')} {value}", name, value) for name, value in given.items() if value is not None]


def _assigned(text: str) -> tuple[str, str, Any]:
    """Read `NAME=VALUE`."""
    name, equals, value = text.partition("=")
    name = name.strip().removeprefix("--").replace("-", "_")
    if not equals or not value.strip():
        raise SpecError(f"--fix {text}: write it as NAME=VALUE, such as --fix tp=2 or --fix schedule=1f1b")
    if name not in _FIXABLE:
        raise SpecError(
            f"--fix {text}: '{name}' is no choice of a plan; allowed: {listed(_FIXABLE)}.{nearest(name, _FIXABLE)}"
        )
    return f"--fix {text}", name, value.strip()


def _wish(words: str, name: str, value: Any) -> _Wish:
    if isinstance(value, str) and not LIMITED[name].values and "," not in value and ".." not in value:
        try:
            value = read_number(name, value)
        except SpecError as error:
            raise SpecError(f"{words}: {error}") from None
    if isinstance(value, int | float):
        value = getattr(Fixed.parse({name: value}, source="options"), name)
    limit = Limit.read(name, value)
    return _Wish(words, limit, limit.only)


def _forbidden(word: str) -> _Wish:
    """Read what `--forbid` names."""
    words, plain = f"--forbid {word}", word.replace("-", "_")
    if "=" in word:
        name, _, value = word.partition("=")
        return _Wish(words, Limit.read(name.strip().replace("-", "_"), value.strip(), excluded=True))
    if plain in _PLAIN:
        return _Wish(words, Limit.read(*_PLAIN[plain]))
    if word in _NAMED:
        return _Wish(words, Limit.read(_NAMED[word], word, excluded=True))
    known = (*_PLAIN, _OFFLOAD, "sequence_parallel", "uneven_stages", *_NAMED)
    raise SpecError(
        f"{words}: that is no axis, choice or value of one; allowed: {listed(known)}, or NAME=VALUE.{nearest(word, known)}"
    )


def _flag(words: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() not in _FLAGS:
        raise SpecError(f"{words}: give true or false")
    return _FLAGS[str(value).lower()]


def _agreed(words: str, name: str, value: bool, flags: Mapping[str, bool]) -> bool:
    if flags.get(name, value) != value:
        raise SpecError(f"{words} contradicts {name} {str(flags[name]).lower()}, which is asked for too; leave out one")
    return value


def _check_together(wishes: list[_Wish]) -> None:
    """Refuse two wishes for a choice that have no value in common.

    Raises:
        SpecError: names both.
    """
    for place, one in enumerate(wishes):
        for other in wishes[:place]:
            if one.limit.choice == other.limit.choice and not have_common_value((one.limit, other.limit)):
                raise SpecError(f"{other.words} and {one.words} contradict each other; leave out one of them")
