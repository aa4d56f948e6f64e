"""The loop that every fine-tuned method shares: adapters, optimiser, progress, checkpoints."""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Generator, Tensor

from expunge.core.concepts import anchor, forbidden
from expunge.core.erasure.delta import Delta
from expunge.core.erasure.layers import add_trained
from expunge.core.erasure.trajectory_buffer import Trajectories, part, seeded
from expunge.core.errors import CoreError
from expunge.core.models import Denoiser
from expunge.core.progress import Callback, Checkpoints, Clock
from expunge.core.specs import Concept, EraseSpec, LatentsSpec, TrainSpec

CHECKPOINT_SECONDS = 60.0
LARGE = 500_000_000
S = TypeVar("S", bound=TrainSpec)


class Run(Generic[S]):
    """What a method may use while it runs."""

    def __init__(self, model: Denoiser, request: EraseSpec, spec: S, callback: Callback) -> None:
        self.model, self.spec, self.callback = model, spec, callback
        self.concepts, self.preserve, self.seed = request.concepts, request.preserve, request.seed
        self.words = [forbidden(c) for c in request.concepts]
        # A method that asks the U-Net nothing leaves its buffer empty.
        self.trajectories = Trajectories(
            model, spec if isinstance(spec, LatentsSpec) else LatentsSpec(), request.seed
        )

    def prompts(self, words: Sequence[str]) -> list[str]:
        """Words in every prompt template; the empty word is the empty prompt."""
        return [
            prompt for word in words for prompt in (self.model.vocabulary.prompts(word) if word else [""])
        ]

    def contexts(self, words: Sequence[str]) -> Tensor:
        """Text states of words in every prompt template, (T, L, D)."""
        return self.model.encode(self.prompts(words))

    def goal(self, concept: Concept, target: str) -> Tensor:
        """Text states of a concept's prompts with a target in its place, (T, L, D): the object stays where a
        style is replaced, or taken off by "".
        """
        return self.model.encode(self.model.vocabulary.replaced(concept.name, target))

    def aims(self) -> tuple[list[str], list[Tensor]]:
        """What each concept becomes, "" being nothing; and the text states of that, one row for each of its
        prompts, or the empty prompt's one.
        """
        names = [anchor(self.model, c, self.concepts) for c in self.concepts]
        return names, [
            self.goal(c, name) if name else self.contexts([""])
            for c, name in zip(self.concepts, names, strict=True)
        ]

    def generator(self, step: int, purpose: int = 0) -> Generator:
        """Randomness that depends on the seed, the step and its purpose alone: a resumed run draws the
        same.
        """
        return seeded(self.seed, step, purpose)


class Method(Protocol):
    """A method's part of the loop."""

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        """Loss of concept i (scalar, with a graph to the adapter) and the target chosen."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Tensors a resumed run needs beyond adapter and optimiser."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None: ...

    def finish(self) -> dict[str, Any]:
        """What the method has to say of its run, for `Delta.info`."""
        ...


def identity(model: Denoiser, request: EraseSpec) -> str:
    """What a checkpoint must belong to: this base model, these concepts, this method, this seed."""
    asked = request.model_dump_json(include={"concepts", "preserve", "method", "seed", "recovery"})
    return hashlib.sha256(f"{model.digest}\n{model.foundation or ''}{asked}".encode()).hexdigest()


def fine_tune(
    model: Denoiser,
    request: EraseSpec,
    spec: S,
    method_type: Callable[[Run[S]], Method],
    callback: Callback,
    checkpoints: Checkpoints | None,
    trains: TrainSpec | None = None,
) -> Delta:
    """Train an adapter with a method's losses, one concept a step in turn, `spec.steps` steps each; resume
    where a checkpoint ends.

    `trains` says what is trained, how fast and how long, where that is not the spec of the losses: pruning's
    mask.
    """
    trains = trains or spec
    begun, evaluations = time.monotonic(), model.evaluations
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        parameters = add_trained(model, trains)
    recompute = spec.gradient_checkpointing if isinstance(spec, LatentsSpec) else False
    if recompute if recompute is not None else sum(p.numel() for p in model.unet.parameters()) > LARGE:
        model.recompute(True)
    optimiser = torch.optim.Adam(parameters, lr=trains.learning_rate)
    run = Run(model, request, spec, callback)
    total, start, history = trains.steps * len(request.concepts), 0, list[dict[str, Any]]()

    saved = checkpoints.load() if checkpoints else None
    if saved is not None and saved[1].get("identity") != identity(model, request):
        saved = None
    if saved:
        run.trajectories.restore(saved[0], saved[1])  # before the method, which draws what it misses
    method = method_type(run)
    if saved:
        restore(model, optimiser, method, saved[0])
        start, history = saved[1]["step"], saved[1]["history"]
        evaluations -= saved[1]["evaluations"]
        callback(
            {
                "phase": "erase",
                "step": start,
                "total": total,
                "message": f"resumed from the checkpoint at step {start}",
            }
        )

    clock, last_save = Clock(total, start), time.monotonic()
    for step in range(start, total):
        run.trajectories.advance(step)
        for group in optimiser.param_groups:
            group["lr"] = trains.learning_rate * decay(step, total)
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
        if (
            checkpoints
            and done < total
            and (done % trains.checkpoint_every == 0 or time.monotonic() - last_save > CHECKPOINT_SECONDS)
        ):
            check_finite(parameters, done, total)
            meta = {
                "step": done,
                "identity": identity(model, request),
                "history": history,
                "evaluations": model.evaluations - evaluations,
            }
            checkpoints.save(
                done,
                collect(model, optimiser, method) | run.trajectories.state(),
                meta | {"round": run.trajectories.round},
            )
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
        **finished,
    )


def check_finite(parameters: Sequence[Tensor], step: int, total: int) -> None:
    """A finite loss may still have had an infinite gradient."""
    if not bool(torch.stack([p.isfinite().all() for p in parameters]).all()):
        raise not_finite("the weights are no numbers any more", step, total)


def not_finite(what: str, step: int, total: int) -> CoreError:
    return CoreError(
        "loss_not_finite",
        f"{what} at step {step} of {total}: lower method.learning_rate",
        field="method.learning_rate",
    )


def decay(step: int, total: int) -> float:
    """Constant for the first half, then linear to a tenth."""
    return min(1.0, 0.1 + 1.8 * (1 - step / total))


def collect(model: Denoiser, optimiser: torch.optim.Optimizer, method: Method) -> dict[str, Tensor]:
    """Adapter, optimiser and the method's own state, named."""
    out = {f"adapter.{k}": v for k, v in model.adapter_state().items()}
    for i, slots in optimiser.state_dict()["state"].items():
        out |= {f"optimiser.{i}.{k}": torch.as_tensor(v) for k, v in slots.items()}
    return out | {f"method.{k}": v for k, v in method.state().items()}


def restore(
    model: Denoiser, optimiser: torch.optim.Optimizer, method: Method, tensors: dict[str, Tensor]
) -> None:
    """The inverse of `collect`."""
    model.set_adapter_state(part(tensors, "adapter."))
    state = optimiser.state_dict()
    for key, value in part(tensors, "optimiser.").items():
        i, slot = key.split(".", 1)
        state["state"].setdefault(int(i), {})[slot] = value
    optimiser.load_state_dict(state)
    method.load_state(part(tensors, "method."))
