"""The optimizers of a training: their names, their settings, and which parameters each treats in which way."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shardwright.base import nearest

from .spec import PositiveFloat, PositiveInt, Spec

OptimizerName = Literal[
    "adamw", "sgd", "lion", "adamw8bit", "adafactor", "muon", "soap", "galore", "frugal", "cosmos", "sinkgd"
]
OPTIMIZER_STATES: dict[OptimizerName, int] = {"adamw": 2, "sgd": 0}
"""States, each as large as the parameters, of the optimizers whose update may leave the device."""
Coefficient = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
MOST_RANK = 1 << 14
MOST_STEPS = 99

_DEFAULTS: Mapping[OptimizerName, Mapping[str, float]] = {
    "adamw": {},
    "sgd": {"momentum": 0.0},
    "lion": {"beta1": 0.9, "beta2": 0.99},
    "adamw8bit": {"layerwise": 0},
    "adafactor": {},
    "muon": {"momentum": 0.95, "steps": 5},
    "soap": {"beta1": 0.95, "beta2": 0.95, "period": 10, "max_size": 10000},
    "galore": {"rank": 128, "period": 200, "scale": 0.25, "bits": 32, "layerwise": 0},
    "frugal": {"rank": 128, "period": 200, "scale": 1.0, "bits": 32, "layerwise": 0},
    "cosmos": {"rank": 64, "beta1": 0.9, "beta2": 0.95, "scale": 0.25, "steps": 5},
    "sinkgd": {"steps": 5},
}
WHOLE_MATRIX: frozenset[str] = frozenset(("adafactor", "muon", "soap", "galore", "frugal", "cosmos", "sinkgd"))
"""The optimizers whose update of a weight depends on all of its matrix, so that ranks with parts of it must exchange them."""
QUALITY: Mapping[OptimizerName, str] = {
    "sgd": "no adaptive step sizes: transformers need AdamW's or another's (Zhang et al. 2024, arXiv 2402.16788)",
    "lion": "as good as AdamW or better on language models of up to 7.5B by its authors (Chen et al. 2023, arXiv 2302.06675)",
    "adamw8bit": "as good as AdamW in 32 bits on language models of up to 1.5B by its authors (Dettmers et al. 2022, arXiv 2110.02861)",
    "adafactor": "about as good as Adam on translation by its authors, less stable without its clipping (Shazeer and Stern 2018, arXiv 1804.04235)",
    "muon": "the loss of AdamW with about 52% of its FLOPs, up to 16B with experts (Liu et al. 2025, arXiv 2502.16982)",
    "soap": "at least 40% fewer steps than AdamW at 360M and 660M by its authors (Vyas et al. 2024, arXiv 2409.11321)",
    "galore": "near full-rank Adam at rank a quarter of the width, up to 7B on 19.7B tokens, by its authors (Zhao et al. 2024, arXiv 2403.03507)",
    "frugal": "better than GaLore at the same memory, below 1B, by its authors (Zmushko et al. 2024, arXiv 2411.07837)",
    "cosmos": "about SOAP's loss at less memory, up to 1B, by its authors (Liu et al. 2025, arXiv 2502.17410)",
    "sinkgd": "Adam's perplexity at up to 1.3B with a third of the steps by its authors, unconfirmed (Scetbon et al. 2025, arXiv 2502.06742)",
}
"""What is known of the loss beside AdamW's, with its source, for those who may let the planner choose."""


class OptimizerSettings(Spec):
    """What an optimizer is set to, as far as it differs from the optimizer's own default.

    `momentum`: of SGD (torch.optim.SGD) and Muon. `beta1`, `beta2`: of Lion, SOAP and COSMOS; AdamW's are the run's `betas`. `steps`:
    Newton-Schulz iterations of Muon and COSMOS, normalisations of SinkGD. `rank`, `period`, `scale`: of the projection of GaLore and FRUGAL, made
    anew every `period` steps; of SOAP `period` steps lie between two of its bases, of COSMOS `rank` is that of its
    leading subspace and `scale` weighs the rest. `max_size`: SOAP leaves longer sides of a matrix as they are.
    `bits`: 8 keeps the moments of projected gradients as 8-bit AdamW does. `layerwise`: 1 updates each layer in the backward pass, as soon as
    its gradient is there, which is then freed (Lv et al. 2023, LOMO, arXiv 2306.09782); no microbatches add up, and nothing is clipped.
    """

    momentum: Coefficient | None = None
    beta1: Coefficient | None = None
    beta2: Coefficient | None = None
    steps: Annotated[PositiveInt, Field(le=MOST_STEPS)] | None = None
    rank: Annotated[PositiveInt, Field(le=MOST_RANK)] | None = None
    period: PositiveInt | None = None
    scale: PositiveFloat | None = None
    max_size: PositiveInt | None = None
    bits: Literal[8, 32] | None = None
    layerwise: Literal[0, 1] | None = None


class Optimizer(Spec):
    """An optimizer by name, with settings. A text such as `str()` gives is read as well: `galore:rank=1024,period=200`."""

    name: OptimizerName = "adamw"
    settings: OptimizerSettings = OptimizerSettings()

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: object) -> object:
        return fields_of_text(given) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _has_its_settings(self) -> Self:
        check_settings(self.name, self.settings)
        return self

    def __getitem__(self, setting: str) -> float:
        """Return a setting of this optimizer, its default where none is given."""
        given = getattr(self.settings, setting)
        return _DEFAULTS[self.name][setting] if given is None else float(given)

    def count(self, setting: str) -> int:
        return int(self[setting])

    @property
    def whole_matrix(self) -> bool:
        """Whether the update of a weight depends on all of its matrix."""
        return self.name in WHOLE_MATRIX

    @property
    def takes_all(self) -> bool:
        """Whether a whole-matrix method updates every parameter, not the matrices of the layers alone with AdamW for the rest."""
        return self.name == "adafactor"

    @property
    def may_leave_device(self) -> bool:
        """Whether the offload engine can update it: AdamW, and SGD without momentum."""
        return self.name == "adamw" or (self.name == "sgd" and not self["momentum"])

    @property
    def layerwise(self) -> bool:
        """Whether each layer is updated in the backward pass, so that no gradient waits."""
        return "layerwise" in _DEFAULTS[self.name] and bool(self["layerwise"])

    @property
    def needs_package(self) -> str | None:
        """The package beside torch that runs it."""
        if self.name == "adamw8bit" or (self.name in ("galore", "frugal") and self["bits"] == 8):
            return "torchao"
        return "pytorch-optimizer" if self.name in ("lion", "soap") else None

    def __str__(self) -> str:
        given = self.settings.model_dump(exclude_none=True)
        changed = {key: value for key, value in given.items() if value != _DEFAULTS[self.name][key]}
        return f"{self.name}:{','.join(f'{key}={value}' for key, value in changed.items())}" if changed else self.name


def check_settings(name: OptimizerName, settings: OptimizerSettings) -> None:
    """Raises:
    ValueError: the optimizer has no such setting; says which it has.
    """
    allowed = _DEFAULTS[name]
    for key in settings.model_dump(exclude_none=True):
        if key not in allowed:
            has = f"its settings are {', '.join(allowed)}" if allowed else "it has none"
            raise ValueError(f"optimizer {name} has no setting '{key}'; {has}.{nearest(key, allowed)}")


def fields_of_text(text: str) -> dict[str, object]:
    """Read `muon` or `galore:rank=1024,period=200` into name and settings.

    Raises:
        ValueError: the text is none of these; says what was given, what is allowed and the nearest.
    """
    name, _, rest = text.strip().partition(":")
    if name not in _DEFAULTS:
        raise ValueError(f"optimizer '{name}' is not known; allowed: {', '.join(_DEFAULTS)}.{nearest(name, _DEFAULTS)}")
    settings: dict[str, object] = {}
    for part in filter(None, (piece.strip() for piece in rest.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        allowed = _DEFAULTS[name]  # type: ignore[index]  # a key of it
        if not equals or key not in allowed:
            has = f"its settings are {', '.join(allowed)}" if allowed else "it has none"
            raise ValueError(f"'{part}' of optimizer {name} is not known; {has}.{nearest(key, allowed)}")
        settings[key] = _number(key, value)
    return {"name": name, "settings": settings}


def _number(key: str, value: str) -> float:
    try:
        return int(value) if value.isdecimal() else float(value)
    except ValueError:
        raise ValueError(f"{key} '{value}' of the optimizer is no number") from None
