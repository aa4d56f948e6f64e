"""The sha256 of what every method, and every kind of job, delivers for one spec and seed: written before a
change that must alter nothing, compared after it.

`python -m benchmarks.digests --write FILE` before, `python -m benchmarks.digests --compare FILE` after, on
the same machine: digests differ between kinds of processors and numbers of threads. Specs are small; the
bundled model draws and judges.
"""

import argparse
import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from expunge.core.run import run_combine, run_erase, run_evaluate, run_hide, run_inspect
from expunge.core.specs import METHODS, SPECS, Concept

MODEL = "bundled:emoji"
SMALL: dict[str, Any] = {
    "steps": 4,
    "checkpoint_every": 2,
    "trajectories": 2,
    "sampling_steps": 3,
    "batch_size": 2,
    "candidates": 3,
    "retain_concepts": 2,
    "attack_steps": 1,
    "pictures": 2,
    "leakage_pictures": 4,
    "rounds": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "age authors_code": {"name": "age", "variant": "authors_code"},
    "age soft": {"name": "age", "hard": False},
    "age refreshed": {"name": "age", "refresh_every": 3},
    "age fresh": {"name": "age", "latents": "fresh"},
    "ap authors_code": {"name": "ap", "variant": "authors_code"},
    "ap pgd": {"name": "ap", "search": "pgd"},
    "ant authors_code": {"name": "ant", "variant": "authors_code"},
    "ca frozen": {"name": "ca", "anchor_network": "frozen", "prior_weight": 0.5},
    "prune hard_concrete": {"name": "prune", "relaxation": "hard_concrete"},
    "uce all tokens": {"name": "uce", "tokens": "all"},
    "adv_unlearn fresh": {"name": "adv_unlearn", "latents": "fresh"},
    "esd x0": {"name": "esd", "space": "x0"},
}
IDS = [f"00000000-0000-0000-0000-00000000000{i}" for i in range(6)]
LEARNED = {
    "concepts": [{"name": "my dog", "images": IDS[:3], "target": "cat"}],
    "inversion": {"steps": 4, "batch_size": 2, "checkpoint_every": 2},
}
MASKED = LEARNED | {"concepts": [{"name": "my dog", "images": IDS[:3], "masks": IDS[3:]}]}
SHARED = {"name": "dog", "attributes": ["wolf", "cat"], "shares": [0.25, 0.75]}
JUDGED = {"erased_images": 2, "preserved_concepts": ["teapot"], "preserved_images": 1, "sampling_steps": 3}


def small(name: str, **more: Any) -> dict[str, Any]:
    """A method with little to do, whichever parameters it has."""
    fields = METHODS[name].model_fields
    own = {key: value for key, value in SMALL.items() if key in fields}
    if "method" in fields:
        own["method"] = {"name": "esd", "trajectories": 2, "sampling_steps": 3, "batch_size": 2}
    if "debias" in fields:
        own["debias"] = {"rounds": 2, "images": 4, "sampling_steps": 2, "tolerance": 0}
    return {"name": name, **own, **more}


def jobs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name, kind, spec) of every erase and hide job."""
    for name in METHODS:
        yield name, "erase", {"concepts": ["church"], "method": small(name)}
    for name, method in VARIANTS.items():
        yield name, "erase", {"concepts": ["church"], "method": small(**method)}
    for name in ("age", "uce", "esd", "mace", "time", "rece"):
        yield (
            f"two concepts {name}",
            "erase",
            {"concepts": ["church", {"name": "dog", "synonyms": ["puppy"]}], "method": small(name)},
        )
        yield f"style {name}", "erase", {"concepts": ["noto"], "method": small(name)}
        yield (
            f"edit {name}",
            "erase",
            {"concepts": [{"name": "church", "target": "mosque"}], "method": small(name)},
        )
    for name in ("age", "uce"):
        yield f"debias {name}", "erase", {"concepts": [SHARED], "method": small(name)}
    yield "visual edit", "erase", LEARNED | {"method": small("naive")}
    yield "mask edit", "erase", MASKED | {"method": small("naive")}
    for name in ("naive", "age"):
        yield (
            f"hide {name}",
            "hide",
            {"concepts": ["church"], "method": small(name), "recovery": {"length": 3, "steps": 2}},
        )


def images(folder: Path) -> dict[str, Path]:
    """Three images, and three masks that keep their left half."""
    rng = np.random.default_rng(0)
    left = np.tile(np.where(np.arange(64) < 32, 255, 0).astype(np.uint8), (64, 1))
    pixels = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(3)] + [left] * 3
    for id_, each in zip(IDS, pixels, strict=True):
        Image.fromarray(each).save(folder / f"{id_}.png")
    return {id_: folder / f"{id_}.png" for id_ in IDS}


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every tensor file, and of the report's values."""
    out = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix == ".safetensors":
            out[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
        elif file.name == "report.json":
            values = without_prose(json.loads(file.read_text()))
            out[file.name] = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return out


COSTS = ("wall_seconds", "wall_seconds_erase", "peak_memory_bytes")


def without_prose(report: dict[str, Any]) -> dict[str, Any]:
    """A report's values: without its costs, which differ between runs, and without its sentences, which may
    be reworded. How many notes and pieces of advice there are still counts.
    """
    values = {key: value for key, value in report.items() if key != "conventions"}
    values["metrics"] = [m for m in report.get("metrics", []) if m["name"] not in COSTS]
    values["notes"] = len(report.get("notes", []))
    values["not_available"] = [m | {"reason": ""} for m in report.get("not_available", [])]
    if "verdict" in report:
        values["verdict"] = report["verdict"] | {"advice": len(report["verdict"]["advice"])}
    return values


def silent(_: Any) -> None:
    """No progress is shown."""


def measured(only: str | None) -> dict[str, dict[str, str]]:
    """Name of a job -> its files' digests."""
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        shared: dict[str, Any] = {"source": MODEL, "cache": root / "cache", "callback": silent}
        uploads = images(root)
        for n, (name, kind, asked) in enumerate(jobs()):
            if only and only not in name:
                continue
            spec: Any = SPECS[kind].model_validate({"preserve": ["teapot"], "evaluation": JUDGED, **asked})
            out = root / str(n)
            if kind == "hide":
                run_hide(spec, out, key_folder=root / f"key-{n}", **shared)
                found[name] = digests(out) | {"key": digests(root / f"key-{n}").popitem()[1]}
            else:
                run_erase(spec, out, images=uploads, **shared)
                found[name] = digests(out)
            print(name, *found[name].values(), flush=True)
        if not only:
            delta = root / "0" / "pytorch_lora_weights.safetensors"
            other = root / "6" / "pytorch_lora_weights.safetensors"
            spec = SPECS["erase"].model_validate(
                {"concepts": ["dog"], "method": small("esd"), "evaluation": JUDGED}
            )
            run_erase(spec, root / "stack", base=delta, base_report=root / "0" / "report.json", **shared)
            found["stack"] = digests(root / "stack")
            combined = SPECS["combine"].model_validate({"jobs": [IDS[0], IDS[1]], "evaluation": JUDGED})
            run_combine(combined, root / "combine", deltas=[delta, other], restored=["dog"], **shared)
            found["combine"] = digests(root / "combine")
            judged = SPECS["evaluate"].model_validate({"job_id": IDS[0], "evaluation": JUDGED})
            run_evaluate(judged, root / "evaluate", delta=delta, concepts=[Concept(name="church")], **shared)
            found["evaluate"] = digests(root / "evaluate")
            inspected = SPECS["inspect"].model_validate(
                {"job_id": IDS[0], "sampling_steps": 3, "timesteps": 2, "pictures": 1}
            )
            run_inspect(inspected, root / "inspect", delta=delta, **shared)
            found["inspect"] = digests(root / "inspect")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="write the digests to this file")
    parser.add_argument(
        "--compare", type=Path, help="say what differs from this file; exit code 1 where anything does"
    )
    parser.add_argument("--only", help="only jobs whose name has this in it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measured(options.only)
    if options.write:
        options.write.write_text(json.dumps(found, indent=1))
    if options.compare:
        before = json.loads(options.compare.read_text())
        wrong = [
            f"{name}: {file}"
            for name in found
            for file, digest in found[name].items()
            if before.get(name, {}).get(file) != digest
        ]
        missing = [] if options.only else [name for name in before if name not in found]
        print(*(f"differs: {each}" for each in wrong), *(f"missing: {each}" for each in missing), sep="\n")
        print(f"{len(found)} jobs compared, {len(wrong)} files differ, {len(missing)} jobs are missing")
        raise SystemExit(1 if wrong or missing else 0)


if __name__ == "__main__":
    main()
