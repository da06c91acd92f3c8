"""Low-rank adapters beside frozen linears: which linears have them, their initial values, PEFT's format, merged weights.

An adapter adds s B (A x) to the output W x of a frozen linear (Hu et al. 2021, arXiv 2106.09685, section 4.1): A (rank, inputs) and
B (outputs, rank) are trained, s = alpha / rank. Experts have one of each in a stack. The linears may lie in NF4. Both are parameters of the linear itself, `lora_A` and `lora_B`, so that a plan divides,
shards and saves them as it does others. Shapes that differ from PEFT's are those of fused linears that the engine keeps in parts.
"""

from .check import check_adapters
from .experts import stacked_pair
from .frozen import freeze, trains_path
from .initial import DrawnAdapters, InitialAdapters, ReadAdapters
from .layer import adapted_linears, attach_adapters
from .merged import merged_weight
from .peft_folder import adapted_weight, read_peft_folder, write_peft_folder
from .peft_names import engine_adapters, is_adapter, peft_adapters
from .quantised import check_quantised, check_quantised_device, packed, packed_sizes, quantise
from .settings import AdapterSettings

__all__ = [
    "AdapterSettings",
    "DrawnAdapters",
    "InitialAdapters",
    "ReadAdapters",
    "adapted_linears",
    "adapted_weight",
    "attach_adapters",
    "check_adapters",
    "check_quantised",
    "check_quantised_device",
    "engine_adapters",
    "freeze",
    "is_adapter",
    "merged_weight",
    "packed",
    "packed_sizes",
    "peft_adapters",
    "quantise",
    "read_peft_folder",
    "stacked_pair",
    "trains_path",
    "write_peft_folder",
]
