"""`expunge fetch-judges`: the judges of models that bring none, fetched ahead into this host's caches.

What lies there is not fetched again.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from expunge.core.errors import CoreError


def concept() -> str:
    from expunge.core.evaluation.judges import RESNET50, load_classifier

    return f"ResNet-50 ({load_classifier(RESNET50).name}), which says what a picture shows"


def clip() -> str:
    from expunge.core.evaluation.judges import VIT_B_32, load_clip

    return f"CLIP ({load_clip(VIT_B_32).name}), which compares a picture with its prompt"


def lpips() -> str:
    from torchvision.models import AlexNet_Weights

    from expunge.core.evaluation.metrics.lpips import unavailable

    if unavailable() is not None and not os.environ.get("HF_HUB_OFFLINE"):
        try:
            AlexNet_Weights.IMAGENET1K_V1.get_state_dict()
        except OSError as error:
            raise CoreError("judge_unavailable", f"AlexNet's weights cannot be had: {error}") from error
    why = unavailable()
    if why is not None:
        raise CoreError("judge_unavailable", f"LPIPS, which says how far a picture has moved: {why}")
    return "LPIPS (AlexNet), which says how far a picture has moved"


def inception() -> str:
    import torch

    from expunge.core.evaluation.judges.inception import SHA256, URL, load_inception, weights_file

    if not weights_file().exists() and not os.environ.get("HF_HUB_OFFLINE"):
        weights_file().parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL, str(weights_file()), SHA256, progress=False)
        except (OSError, RuntimeError) as error:  # RuntimeError: not the published bytes
            raise CoreError("judge_unavailable", f"Inception's weights cannot be had: {error}") from error
    return (
        f"Inception ({load_inception().name}), which says how far all pictures together have moved (KID, FID)"
    )


JUDGES: tuple[Callable[[], str], ...] = (concept, clip, lpips, inception)


def main(
    check: Annotated[
        bool, typer.Option("--check", help="Fetch nothing: say what is there and what is missing.")
    ] = False,
) -> None:
    """Fetch the judges that models without judges of their own are judged with: ResNet-50, CLIP, LPIPS,
    Inception.
    Exit code 1 when one is missing.
    """
    if check:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's client is first imported
    missing = 0
    for judge in JUDGES:
        try:
            typer.secho(f"✓ {judge()}", fg="green")
        except CoreError as error:
            typer.secho(f"✗ {error.message}", fg="red", err=True)
            missing += 1
    hub = os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface"
    torch_hub = os.environ.get("TORCH_HOME") or Path.home() / ".cache/torch"
    typer.echo(
        f"The judges' files lie in {hub} and {torch_hub}: a host without the hub may be given copies of both"
        " folders."
    )
    sys.exit(1 if missing else 0)


if __name__ == "__main__":
    typer.run(main)
