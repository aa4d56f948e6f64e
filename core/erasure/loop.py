"""The loop that every fine-tuned method shares: adapters, optimiser, progress, checkpoints."""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from expunge.core.checkpoints import Checkpoints
from expunge.core.erasure.adversary import Defended
from expunge.core.erasure.delta import Delta
from expunge.core.erasure.layers import add_trained
from expunge.core.erasure.method import Method, Run, S
from expunge.core.errors import CoreError
from expunge.core.models import Denoiser
from expunge.core.optimisers import load_optimiser_state, optimiser_state
from expunge.core.progress import Callback, Clock
from expunge.core.sampling import tensors_under
from expunge.core.specs import EraseSpec, LatentsSpec, OutputSpec, TrainSpec

CHECKPOINT_SECONDS = 60.0
LARGE = 500_000_000  # numbers of a network, from which on activations are computed again in the backward pass


def identity(model: Denoiser, request: EraseSpec) -> str:
    """What a checkpoint must belong to: this base model, these concepts, this method, this seed."""
    asked = request.model_dump_json(include={"concepts", "preserve", "method", "seed", "recovery"})
    return hashlib.sha256(f"{model.digest}\n{model.foundation or ''}{asked}".encode()).hexdigest()


def fine_tune(
    model: Denoiser,
    request: EraseSpec,
    spec: S,
    method_type: Callable[[Run[S]], Method[Any]],
    callback: Callback,
    checkpoints: Checkpoints | None,
    trains: TrainSpec | None = None,
) -> Delta:
    """Train an adapter with a method's losses, one concept a step in turn, `spec.steps` steps each; resume
    where a checkpoint ends.

    `trains` says what is trained, how fast and how long, where that is not the spec of the losses: pruning's
    mask. A method's first stage comes before; against an adversary, the steps of its rounds follow. Raises:
    CoreError where a loss or the weights become NaN or infinite.
    """
    trains = trains or spec
    begun, evaluations = time.monotonic(), model.evaluations

    # 1. Put on what is trained; the seed decides how it starts.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        parameters = add_trained(model, trains)
    if recomputes(model, spec):
        model.recompute(True)
    optimiser = torch.optim.Adam(parameters, lr=trains.learning_rate)
    run = Run(model, request, spec, callback)
    start, history = 0, list[dict[str, Any]]()
    adversary = spec.adversary if isinstance(spec, OutputSpec) else None

    # 2. Go on from a checkpoint of this very run, where there is one.
    saved = checkpoints.load() if checkpoints else None
    if saved is not None and saved[1].get("identity") != identity(model, request):
        saved = None
    if saved:
        run.trajectories.restore(saved[0], saved[1])  # before the method, which draws what it misses
    method = method_type(run)
    own, first = trains.steps * len(request.concepts), method.first_stage
    untrained = {k: v.clone() for k, v in model.adapter_state().items()} if first else {}

    def start_over() -> None:
        model.set_adapter_state(untrained)
        optimiser.state.clear()

    run.start_over = start_over
    total = first + own + (adversary.rounds * adversary.steps * len(request.concepts) if adversary else 0)
    if adversary:
        method = Defended(run, method, adversary, own)
    if saved:
        restore(model, optimiser, method, saved[0])
        start, history = saved[1]["step"], saved[1]["history"]
        evaluations -= saved[1]["evaluations"]
        message = f"resumed from the checkpoint at step {start}"
        callback({"phase": "erase", "step": start, "total": total, "message": message})

    # 3. The steps.
    clock, last_save = Clock(total, start), time.monotonic()
    for step in range(start, total):
        run.trajectories.advance(step)
        for group in optimiser.param_groups:
            share = adversary.learning_rate_share if adversary and step >= own else decay(step - first, own)
            group["lr"] = trains.learning_rate * share
        loss, target = method.step(step % len(request.concepts), step)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise not_finite(f"the loss became {value}", step + 1, total)
        optimiser.zero_grad(set_to_none=True)
        trained = [p for p in parameters if p.requires_grad]
        for p, gradient in zip(trained, model.gradients(loss, trained), strict=True):
            p.grad = gradient
        optimiser.step()
        done = step + 1
        history.append({"step": done, "loss": value, "target": target})
        due = done % trains.checkpoint_every == 0 or time.monotonic() - last_save > CHECKPOINT_SECONDS
        if checkpoints and done < total and due:
            check_finite(parameters, done, total)
            meta = {
                "step": done,
                "identity": identity(model, request),
                "history": history,
                "evaluations": model.evaluations - evaluations,
                "round": run.trajectories.round,
            }
            checkpoints.save(done, collect(model, optimiser, method) | run.trajectories.state(), meta)
            last_save = time.monotonic()
        callback(
            {
                "phase": "erase",
                "step": done,
                "total": total,
                "loss": value,
                "target": target,
                "eta_s": clock.eta(done),
            }
        )

    # 4. The last word is the method's; then what the model wears is the delta.
    check_finite(parameters, total, total)
    finished = method.finish()
    model.recompute(False)
    return Delta.of(
        model,
        history=history,
        unet_evaluations=model.evaluations - evaluations,
        seconds=time.monotonic() - begun,
        resumed_at=start,
        residual=0.0,
        held=known(method.held()),
        **finished,
    )


def known(names: Sequence[str | None] | None) -> list[str] | None:
    """Each name once; the empty prompt has none. None where they are not known."""
    return None if names is None else list(dict.fromkeys(name for name in names if name))


def recomputes(model: Denoiser, spec: TrainSpec) -> bool:
    """Whether activations are computed again in the backward pass: as the spec says, else if large."""
    if not isinstance(spec, LatentsSpec):
        return False
    wanted = spec.gradient_checkpointing
    return model.parameter_count > LARGE if wanted is None else wanted


def check_finite(parameters: Sequence[Tensor], step: int, total: int) -> None:
    """A finite loss may still have had an infinite gradient. Raises: CoreError."""
    if not bool(torch.stack([p.isfinite().all() for p in parameters]).all()):
        raise not_finite("the weights became NaN or infinite", step, total)


def not_finite(what: str, step: int, total: int) -> CoreError:
    return CoreError(
        "loss_not_finite",
        f"{what} at step {step} of {total}; lower method.learning_rate",
        field="method.learning_rate",
    )


def decay(step: int, total: int) -> float:
    """Constant for the first half, then linear to a tenth."""
    return min(1.0, 0.1 + 1.8 * (1 - step / total))


def collect(model: Denoiser, optimiser: torch.optim.Optimizer, method: Method[Any]) -> dict[str, Tensor]:
    """Adapter, optimiser and the method's own state, named."""
    adapter = {f"adapter.{k}": v for k, v in model.adapter_state().items()}
    slots = {f"optimiser.{k}": v for k, v in optimiser_state(optimiser).items()}
    return adapter | slots | {f"method.{k}": v for k, v in method.state().items()}


def restore(
    model: Denoiser, optimiser: torch.optim.Optimizer, method: Method[Any], tensors: dict[str, Tensor]
) -> None:
    """The inverse of `collect`."""
    model.set_adapter_state(tensors_under(tensors, "adapter."))
    load_optimiser_state(optimiser, tensors_under(tensors, "optimiser."))
    method.load_state(tensors_under(tensors, "method."))
