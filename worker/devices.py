"""The device a worker computes on, EXPUNGE_DEVICE: set before torch is imported, so that nothing can use
another one.
"""

from collections.abc import MutableMapping
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
SIDE = 64


class DeviceUnusable(Exception):
    """The device cannot compute; the message tells the operator why."""


def choose(wanted: str | None, environment: MutableMapping[str, str]) -> None:
    """Let torch see only the device that is wanted: `cuda:1` is the second that the environment shows.

    Processes that inherit the environment are asked for the first device of those left. Raises: SystemExit
    where the environment shows fewer devices.
    """
    number = (wanted or "").partition(":")[2]
    if wanted == "cpu":
        environment[VISIBLE] = ""
    elif number:
        shown = None
        if VISIBLE in environment:
            shown = [name.strip() for name in environment[VISIBLE].split(",") if name.strip()]
        if shown is not None and int(number) >= len(shown):
            raise SystemExit(
                f"EXPUNGE_DEVICE is '{wanted}', but {VISIBLE} shows {len(shown)}: name one of those, counted"
                " from cuda:0"
            )
        environment[VISIBLE] = number if shown is None else shown[int(number)]
        environment["EXPUNGE_DEVICE"] = "cuda"


def check_device(wanted: str | None) -> str:
    """Multiply two small matrices on the device that runs will use; returns its name.

    Raises: DeviceUnusable.
    """
    import torch

    there = torch.cuda.is_available()
    if not there and (wanted or "").startswith("cuda"):
        raise DeviceUnusable(
            f"EXPUNGE_DEVICE is '{wanted}', and torch {torch.__version__} finds no such device: check the"
            " driver, or name another device"
        )
    if not there and wanted is None and Path("/dev/nvidiactl").exists():
        raise DeviceUnusable(
            "this host has an NVIDIA driver, and torch cannot use it: check it, or set EXPUNGE_DEVICE=cpu"
        )
    ones = torch.ones(SIDE, SIDE, device="cuda" if there else "cpu")
    if not bool(((ones @ ones) == SIDE).all()):
        raise DeviceUnusable("the device computes wrong results: take it out of service")
    return torch.cuda.get_device_name() if there else "cpu"
