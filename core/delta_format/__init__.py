"""The format of a delta's file, for whoever writes, vets, loads or ships one. Imports no torch: the api vets
uploads too.

A delta is a safetensors file of one of two kinds:

- a LoRA in diffusers' format (`lora.py`) or kohya's names (`kohya.py`); the metadata of the former may hold
  the adapter's settings (`adapter_config.py`);
- a sparse mask, with a bit for each weight of the U-Net's layers (`mask.py`).

`metadata.py` names the metadata's keys, `container.py` reads the header, `check.py` decides whether a file is
a delta of a model, and `errors.py` has the codes that say why it is not.
"""

from expunge.core.delta_format.errors import BadDelta, Fault

__all__ = ["ADDED_FILE", "COMPONENTS", "KOHYA_FILE", "LORA_FILE", "MASK_FILE", "BadDelta", "Fault"]

LORA_FILE = "pytorch_lora_weights.safetensors"  # the name that diffusers' load_lora_weights looks for
KOHYA_FILE = "lora_kohya.safetensors"  # the same LoRA in kohya's names
MASK_FILE = "sparse_mask.safetensors"
ADDED_FILE = "delta_only.safetensors"  # of a stack: the newest erasure's own LoRA, beside the sum of all
COMPONENTS = ("unet", "text_encoder")  # the parts of a model that a LoRA may change, as its tensors name them
