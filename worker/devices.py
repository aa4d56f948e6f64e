"""What a worker computes on: EXPUNGE_DEVICE, told to torch before it is loaded, so that nothing can take
another device.
"""

from collections.abc import MutableMapping
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
SIDE = 64


class Unusable(Exception):
    """The device cannot be computed on; the message says why, for the operator."""


def choose(wanted: str | None, environment: MutableMapping[str, str]) -> None:
    """Leave torch the one device that is wanted: `cuda:1` is the second of those that the environment shows.
    SystemExit where it shows fewer.

    Whoever inherits the environment is asked for the first device of those left.
    """
    number = (wanted or "").partition(":")[2]
    if wanted == "cpu":
        environment[VISIBLE] = ""
    elif number:
        shown = (
            [name.strip() for name in environment[VISIBLE].split(",") if name.strip()]
            if VISIBLE in environment
            else None
        )
        if shown is not None and int(number) >= len(shown):
            raise SystemExit(
                f"EXPUNGE_DEVICE is '{wanted}', but {VISIBLE} shows {len(shown)}: name one of those, counted"
                " from cuda:0"
            )
        environment[VISIBLE] = number if shown is None else shown[int(number)]
        environment["EXPUNGE_DEVICE"] = "cuda"


def compute(wanted: str | None) -> str:
    """Multiply two small matrices on the device that runs will take, and name it. Unusable."""
    import torch

    there = torch.cuda.is_available()
    if not there and (wanted or "").startswith("cuda"):
        raise Unusable(
            f"EXPUNGE_DEVICE is '{wanted}', and torch {torch.__version__} finds no such device: see to the"
            " driver, or name another"
        )
    if not there and wanted is None and Path("/dev/nvidiactl").exists():
        raise Unusable(
            "this host has an NVIDIA driver, and torch cannot use it: see to it, or set EXPUNGE_DEVICE=cpu"
        )
    ones = torch.ones(SIDE, SIDE, device="cuda" if there else "cpu")
    if not bool(((ones @ ones) == SIDE).all()):
        raise Unusable("the device multiplies wrongly: take it out of service")
    return torch.cuda.get_device_name() if there else "cpu"
