"""`make demo`: the main job, end to end, on this machine alone.

Starts PostgreSQL, Redis, the API and a worker; posts one erase job against the bundled model; shows it run;
prints the verdict; downloads the bundle; proves that plain diffusers loads the LoRA; leaves a before/after
picture.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from expunge import Event, Expunge
from expunge.client.views import verdict_table

ROOT = Path(__file__).parents[1]
OUT, DATA = ROOT / "demo-output", ROOT / "build" / "demo-data"
EXPUNGE = Path(sys.executable).parent / "expunge"
CONCEPT = os.environ.get("DEMO_CONCEPT", "church")
console = Console()

# Run in a process of its own that knows diffusers and nothing of Expunge.
PLAIN_DIFFUSERS = """
import sys
import numpy as np, torch
from diffusers import StableDiffusionPipeline
from PIL import Image
base, bundle, out, *subjects = sys.argv[1:]
pipe = StableDiffusionPipeline.from_pretrained(base)
pipe.set_progress_bar_config(disable=True)
def draw():
    rows = []
    for s in subjects:
        seed = torch.Generator().manual_seed(7)
        drawn = pipe(f"a photo of a {s}", generator=seed, num_inference_steps=25, output_type="np")
        rows.append(drawn.images[0])
    return np.concatenate(rows, 1)
before = draw()
pipe.load_lora_weights(bundle)
page = np.concatenate([before, draw()])
image = Image.fromarray((page * 255).round().astype(np.uint8))
image.resize((image.width * 2, image.height * 2), Image.Resampling.LANCZOS).save(out)
"""


def start() -> tuple[subprocess.Popen[str], dict[str, str]]:
    """`expunge up` on a free port; returns once it is ready."""
    up = subprocess.Popen(
        [EXPUNGE, "up", "--data-dir", DATA, "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert up.stdout is not None
    line = up.stdout.readline()
    if not line:
        sys.exit(f"the service did not start; its logs are in {DATA / 'logs'}")
    return up, json.loads(line)


def watch(client: Expunge, job_id: str) -> None:
    """One bar for each phase, until the job ends."""
    columns = (
        TextColumn("  {task.description:<14}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, int] = {}

        def show(event: Event) -> None:
            progress = event.data.get("progress", event.data)
            phase = progress.get("phase")
            if phase is None or not progress.get("total"):
                return
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=progress["total"], note="")
            note = (
                f"loss {progress['loss']:.4f}  target: {progress.get('target')}"
                if progress.get("loss") is not None
                else progress.get("message") or ""
            )
            bars.update(tasks[phase], completed=progress.get("step", 0), total=progress["total"], note=note)

        client.wait(job_id, show)


def main() -> None:
    if OUT.exists() and not (OUT / "manifest.json").is_file():
        sys.exit(f"{OUT} is no earlier demo's output: move it away, and run again")
    console.print("[bold]1. Starting[/] PostgreSQL, Redis, the API and a worker …")
    up, service = start()
    try:
        console.print(f"   ready at {service['url']}; data in {DATA}")
        body = {"model": "emoji", "concepts": [CONCEPT], "method": "age"}
        console.print(f"[bold]2. POST /jobs/erase[/] {json.dumps(body)}")
        with Expunge(service["url"], service["api_key"]) as client:
            job = client.submit("erase", body)
            console.print(f"   202 Accepted, job {job.id}")
            watch(client, job.id)
            job = client.job(job)
            if job.status != "succeeded":
                sys.exit(f"the job ended as {job.status}: {job.error}")
            console.print("[bold]3. Downloading[/] the bundle, every sha256 checked")
            shutil.rmtree(OUT, ignore_errors=True)
            client.download(job, OUT)
        report = json.loads((OUT / "report.json").read_text())
        console.print(f"   verdict: [bold]{report['verdict']['status']}[/]")
        console.print(verdict_table(report["verdict"]))
        for line in [*report["verdict"]["advice"], *report["notes"]]:
            console.print(f"   {escape(line)}")
        console.print("[bold]4. Verifying[/] digests and signature")
        subprocess.run([EXPUNGE, "verify", OUT], check=True)
        console.print("[bold]5. Plain diffusers[/] loads the LoRA and draws, before and after")
        subjects = [CONCEPT, *report["preserved"][:3], *report["preserved"][-2:]]
        picture = OUT.parent / "demo-output" / "before-after.png"
        subprocess.run(
            [sys.executable, "-c", PLAIN_DIFFUSERS, ROOT / "core/bundled/emoji", OUT, picture, *subjects],
            check=True,
        )
        console.print(f"   {picture}: above the base model, below the sanitized one: {', '.join(subjects)}")
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(60)
    console.print("\n[bold]Where to look next[/]")
    console.print(f"  {OUT / 'report.html'}    the report: pictures, plots, limits")
    console.print(f"  {OUT / 'README.md'}      the model card that ships with the delta")
    console.print(
        f"  .venv/bin/expunge up --data-dir {DATA} --port 8000    the service again, with this job in it;"
        " then http://127.0.0.1:8000/docs"
    )


if __name__ == "__main__":
    main()
