"""The tensors of a checkpoint as the module of transformers has them, and back, by transformers' own conversions.

Checkpoints keep older names than the modules of transformers 5, and the experts of a layer one by one where the module stacks them
(transformers, conversion_mapping.py). Nothing is known of single families here.
"""

import contextlib
import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    WeightTransform,
    dot_natural_key,
    rename_source_key,
    revert_weight_conversion,
)
from transformers.utils.loading_report import LoadStateDictInfo

from shardwright.base import SpecError

from .stored import elements

_MOST_NAMED = 3
_COMPARED_ELEMENTS = 2**22
"""Of two tied weights, in memory at once."""


def module_tensors(
    model: PreTrainedModel, tensors: Mapping[str, Tensor], *, tied: Mapping[str, str], source: str
) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint under the names of `model` (on the meta device), and in its shapes.

    `tied` maps the name of a tied weight to that of its original, the name under which it comes out. What transformers ignores in the
    checkpoints of the class is left out.

    Raises:
        SpecError: tensors are missing, of another shape, or have no place in the model; names them.
    """
    wanted = model.state_dict()
    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    of_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    collected: dict[str, WeightTransform] = {}
    unexpected: set[str] = set()
    for name in sorted(tensors, key=dot_natural_key):
        renamed, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, wanted)
        if renamed not in wanted:
            renamed, pattern = rename_source_key(name, [], [], model.base_model_prefix, wanted)
        if renamed not in wanted:
            unexpected.add(name)
            continue
        if renamed not in collected:
            made = WeightRenaming(name, renamed) if pattern is None else copy.deepcopy(of_pattern[pattern])
            collected[renamed] = made
        collected[renamed].add_tensor(renamed, name, pattern or name, tensors[name])  # type: ignore[arg-type]  # a tensor, as when saving
    found = _converted(model, collected)
    _untie(found, tied, source)
    _check(model, found, unexpected, set(wanted) - set(tied), tensors, source)
    return found


def _converted(model: PreTrainedModel, collected: Mapping[str, WeightTransform]) -> dict[str, Tensor]:
    """Return what the conversions make. Where parts do not fit each other, as some are missing, there is nothing under the name."""
    found: dict[str, Tensor] = {}
    for first, transform in collected.items():
        convert: Any = transform.convert  # type: ignore[attr-defined]  # both kinds of transforms have it
        with contextlib.suppress(ValueError, RuntimeError):
            made = convert(first, model=model, config=model.config)
            found |= {name: value[0] if isinstance(value, list) else value for name, value in made.items()}
    return found


def _untie(found: dict[str, Tensor], tied: Mapping[str, str], source: str) -> None:
    """Leave one of tied weights, under the name of its original.

    Raises:
        SpecError: the checkpoint holds two that differ.
    """
    for copied, original in tied.items():
        other = found.pop(copied, None)
        if other is None:
            continue
        mine = found.setdefault(original, other)
        if mine is not other and not same(mine, other):
            raise SpecError(
                f"{source}: '{copied}' and '{original}' differ, and its config ties them; set tie_word_embeddings to false in the config of "
                "folder and plan"
            )


def same(first: Tensor, second: Tensor) -> bool:
    """Whether two stored tensors are equal. They are read by rows, so that neither is in memory as a whole."""
    if first.shape != second.shape:
        return False
    rows = max(1, _COMPARED_ELEMENTS // max(1, first[0].numel()))
    parts = zip(torch.split(first, rows), torch.split(second, rows), strict=True)
    return all(torch.equal(elements(mine), elements(other)) for mine, other in parts)


def _check(
    model: PreTrainedModel,
    found: Mapping[str, Tensor],
    unexpected: set[str],
    wanted: Iterable[str],
    tensors: Mapping[str, Tensor],
    source: str,
) -> None:
    """Check that the model has all its tensors `found`, and that the checkpoint's `tensors` have a place.

    Raises:
        SpecError: see `module_tensors`.
    """
    own, kind = model.state_dict(), type(model).__name__
    missing = set(wanted) - found.keys()
    misshaped = {name for name, value in found.items() if name in own and value.shape != own[name].shape}
    if missing or misshaped:
        expected = checkpoint_tensors(model, {name: own[name] for name in missing | misshaped})
        absent = sorted(expected.keys() - tensors.keys(), key=dot_natural_key)
        if absent or not misshaped:
            named = _listed(absent or sorted(missing))
            raise SpecError(f"{source}: lacks {named}, which {kind} has; give whole weights of this model")
        given = {name: tensors[name] for name in expected}
        if all(given[name].shape == expected[name].shape for name in expected):  # each part fits, and there are more
            given, expected = ({name: of[name] for name in misshaped} for of in (found, own))
        differ = (name for name in sorted(given, key=dot_natural_key) if given[name].shape != expected[name].shape)
        name = next(differ)
        raise SpecError(
            f"{source}: '{name}' has shape {tuple(given[name].shape)} there, and {tuple(expected[name].shape)} in this plan's model; plan with "
            "the folder's config.json"
        )
    if extra := _without_place(model, unexpected):
        fix = "plan with the folder's config.json"
        raise SpecError(f"{source}: holds {_listed(extra)}, for which {kind} has no place; {fix}")


def _without_place(model: PreTrainedModel, unexpected: set[str]) -> list[str]:
    """Return the unexpected names, without those that transformers ignores in checkpoints of the class."""
    info = LoadStateDictInfo(
        missing_keys=set(),
        unexpected_keys=unexpected,
        mismatched_keys=set(),
        error_msgs=[],
        conversion_errors={},
        skipped_pp_keys=set(),
    )
    model._adjust_missing_and_unexpected_keys(info)
    return sorted(info.unexpected_keys)


def checkpoint_tensors(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of a module under the names and in the shapes of its checkpoints, as `save_pretrained` writes them.

    Tensors that belong together must be given together, such as those of one layer.
    """
    reverted: dict[str, Tensor] = revert_weight_conversion(model, dict(tensors))
    return reverted


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_MOST_NAMED])
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return shown + more
