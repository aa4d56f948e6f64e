"""Every method on a GPU, five steps each: `python -m benchmarks.gpu`. Where there is none it says so, exits
with 1 and writes nothing.

Two networks: the bundled one, and one of Stable Diffusion 1.5's size at 512 px with random weights. Each job
runs on the device in the dtype that `load_model` takes there, and again on the CPU in float32: how far its
change of the noise predictions, and its losses, are from the CPU's is the agreement. Seconds and peak memory
are the device's, after one job that warms it up.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTokenizer

from benchmarks.memory import sd15_sized
from expunge.core.erasure import erase
from expunge.core.erasure.delta import forget_peak, peak_memory
from expunge.core.hiding import hide
from expunge.core.models import Denoiser, load_model
from expunge.core.models.folders import BUNDLED
from expunge.core.models.loading import fitting
from expunge.core.specs import METHODS, EraseSpec, HideSpec, MethodSpec

RESULTS = Path(__file__).parent / "results" / "gpu.json"
TRUE_SIZED = "sd15-sized"
STEPS = 5
LITTLE = {
    "steps": STEPS,
    "batch_size": 1,
    "trajectories": 1,
    "sampling_steps": 2,
    "candidates": 2,
    "retain_concepts": 2,
    "attack_steps": 1,
    "pictures": 1,
    "leakage_pictures": 0,
    "guidance_scale": 1.0,
    "hold_vocabulary": False,
    "retain_batch": 1,
}
"""What makes a job small, for the fields that a method has."""
PROMPTS = ["church", "a church", "a photo of a dog", ""]


def little(method: type[MethodSpec]) -> dict[str, Any]:
    own: dict[str, Any] = {name: value for name, value in LITTLE.items() if name in method.model_fields}
    if "method" in method.model_fields:  # a method around another
        own["method"] = {"name": "esd"} | {
            k: v for k, v in LITTLE.items() if k in METHODS["esd"].model_fields and k != "steps"
        }
    return {"name": method.model_fields["name"].default, **own}


def model_on(network: str, device: str, dtype: torch.dtype) -> Denoiser:
    if network == TRUE_SIZED:
        return sd15_sized(
            CLIPTokenizer.from_pretrained(BUNDLED / "emoji" / "tokenizer"), device=device, dtype=dtype
        )
    return load_model(network, device, dtype)


def job(name: str, model: Denoiser) -> dict[str, Any]:
    """Run one; the delta stays on the model."""
    if name == "hide":
        method = {k: v for k, v in little(METHODS["age"]).items() if k != "hold_vocabulary"}
        return hide(
            model,
            HideSpec.model_validate(
                {"concepts": ["church"], "method": method, "recovery": {"length": 3, "steps": 1}}
            ),
        )[0].info
    return erase(
        model,
        EraseSpec.model_validate(
            {"concepts": ["church"], "preserve": ["dog"], "method": little(METHODS[name])}
        ),
    ).info


@torch.no_grad()
def change(model: Denoiser) -> torch.Tensor:
    """eps' - eps of fixed prompts and latents, (4, 4, h, w), on the CPU."""
    z = torch.randn(4, *model.latent_shape, generator=torch.Generator().manual_seed(0)).to(model.device)
    t = torch.tensor([200, 400, 600, 800], device=model.device)
    new = model.predict(z, t, model.encode(PROMPTS))
    with model.frozen():
        return (new - model.predict(z, t, model.encode(PROMPTS))).cpu()


def measured(name: str, make: Callable[[], Denoiser]) -> tuple[dict[str, Any], torch.Tensor, list[float]]:
    model = make()
    forget_peak()
    begun = time.monotonic()
    info = job(name, model)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    seconds = time.monotonic() - begun
    cost = {
        "seconds": round(seconds, 3),
        "peak_memory_bytes": peak_memory(),
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    return cost, change(model), [h["loss"] for h in info.get("history", [])]


def compared(name: str, network: str, device: str) -> dict[str, Any]:
    """One job's cost on the device and its distance from the CPU's; or what went wrong, in one line."""
    try:
        cost, ours, losses = measured(name, lambda: model_on(network, device, fitting(device)))
        _, theirs, wanted = measured(name, lambda: model_on(network, "cpu", torch.float32))
    except Exception as e:  # the next job is still worth its run
        return {"failed": f"{type(e).__name__}: {e}".splitlines()[0]}
    finite = bool(ours.isfinite().all())
    off = float((ours - theirs).norm() / theirs.norm().clamp_min(1e-12))
    loss = max((abs(a - b) / max(abs(b), 1e-6) for a, b in zip(losses, wanted, strict=True)), default=0.0)
    return cost | {"finite": finite, "change_off": round(off, 5), "loss_off": round(loss, 5)}


def row(name: str, network: str, found: dict[str, Any]) -> str:
    if "failed" in found:
        return f"| {name} | {Path(network).name} | failed: {found['failed']} |||||"
    memory = found["peak_memory_bytes"] / 2**30
    return (
        f"| {name} | {Path(network).name} | {found['dtype']} | {found['seconds']:.2f} | {memory:.2f} | "
        f"{100 * found['change_off']:.2f} % | {100 * found['loss_off']:.2f} % |"
    )


def main(asked: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda:0", help="'cpu' tries the benchmark itself")
    parser.add_argument(
        "--networks", nargs="+", default=["bundled:emoji", TRUE_SIZED], help=f"models, or '{TRUE_SIZED}'"
    )
    parser.add_argument("--methods", nargs="+", default=[*METHODS, "hide"], choices=[*METHODS, "hide"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(asked)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("there is no GPU on this machine: nothing was measured, and nothing written")
    device = (
        torch.cuda.get_device_name(args.device)
        if args.device.startswith("cuda")
        else platform.processor() or "cpu"
    )
    results: dict[str, Any] = {"device": device, "torch": torch.__version__, "steps": STEPS, "jobs": {}}
    print(
        "| method | network | dtype | seconds | peak GiB | change off the CPU's | losses off"
        " |\n|---|---|---|---|---|---|---|"
    )
    for network in args.networks:
        job(args.methods[0], model_on(network, args.device, fitting(args.device)))
        for name in args.methods:
            found = compared(name, network, args.device)
            results["jobs"].setdefault(Path(network).name, {})[name] = found
            args.out.write_text(json.dumps(results, indent=1) + "\n")
            print(row(name, network, found), flush=True)
    failed = [
        f"{n}/{m}"
        for n, jobs in results["jobs"].items()
        for m, found in jobs.items()
        if "failed" in found or not found["finite"]
    ]
    if failed:
        sys.exit(f"failed, or not finite: {', '.join(failed)}")


if __name__ == "__main__":
    main()
