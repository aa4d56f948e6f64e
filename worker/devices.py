"""What a worker computes on: EXPUNGE_DEVICE, told to torch before it is loaded, so that nothing can take another device."""

import os
import re
from collections.abc import MutableMapping
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
FORM = re.compile(r"cpu|cuda(?::(\d+))?")
SIDE = 64


class Unusable(Exception):
    """The device cannot be computed on; the message says why, for the operator."""


def choose(wanted: str | None, environment: MutableMapping[str, str]) -> None:
    """Leave torch the one device that is wanted: `cuda:1` is the second of those that the environment shows. ValueError for anything else than cpu and cuda:N."""
    if wanted is None:
        return
    form = FORM.fullmatch(wanted)
    if form is None:
        raise ValueError(f"EXPUNGE_DEVICE is '{wanted}': give cpu, cuda or cuda:N")
    if wanted == "cpu":
        environment[VISIBLE] = ""
    elif form[1] is not None:
        shown = [name.strip() for name in environment[VISIBLE].split(",") if name.strip()] if VISIBLE in environment else None
        number = int(form[1])
        if shown is None:
            environment[VISIBLE] = str(number)
        elif number < len(shown):
            environment[VISIBLE] = shown[number]
        else:
            raise ValueError(f"EXPUNGE_DEVICE is '{wanted}', but {VISIBLE} shows {len(shown)} devices")


def compute(wanted: str | None) -> str:
    """Multiply two small matrices on the device that runs will take, and name it. Unusable."""
    import torch

    there = torch.cuda.is_available()
    if not there and (wanted or "").startswith("cuda"):
        raise Unusable(
            f"EXPUNGE_DEVICE is '{wanted}', and torch {torch.__version__} finds no such device: see to the driver, or name another"
        )
    if not there and wanted is None and Path("/dev/nvidiactl").exists():
        raise Unusable("this host has an NVIDIA driver, and torch cannot use it: see to it, or set EXPUNGE_DEVICE=cpu")
    ones = torch.ones(SIDE, SIDE, device="cuda" if there else "cpu")
    if not bool(((ones @ ones) == SIDE).all()):
        raise Unusable("the device multiplies wrongly: take it out of service")
    return f"{wanted or 'cuda'}, {torch.cuda.get_device_name()}" if there else "cpu"


def settle(wanted: str | None) -> None:
    """`choose` for this process and its children."""
    choose(wanted, os.environ)
