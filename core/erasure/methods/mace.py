"""MACE, Mass Concept Erasure (Lu et al., CVPR 2024), in three stages.

1. Closed-form refinement: the tokens *around* a concept's words no longer carry it; they become those of the
   same prompt about the mapping concept.
2. One LoRA of low rank for each concept, on to_k and to_v, trained to draw attention away from the concept's
   tokens inside a mask of the object; no noise is predicted. The authors cut masks with Grounded-SAM; no
   segmenter is installed here, and the mask is where the base model's own cross-attention looks for those
   tokens: its maps averaged over layers and the cleaner half of the timesteps, above their mean. The norm is
   of the mean over heads; the authors take it over all heads.
3. Closed-form fusion of the LoRAs: the new matrices give each concept's prompts the values that its LoRA
   gives, and everything else the old ones; it pulls towards the base matrices, where the authors' code
   appears to start from the refined ones. What is delivered is the exact difference, a LoRA of at most full
   rank.
"""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from expunge.core.checkpoints import Checkpoints
from expunge.core.concepts import candidates, excluding, names_of
from expunge.core.erasure.attention import at_size, named_tokens, token_maps
from expunge.core.erasure.closed_form import condensed, edited_layers, wear
from expunge.core.erasure.delta import Delta
from expunge.core.erasure.loop import fine_tune
from expunge.core.erasure.method import Method, Run
from expunge.core.erasure.methods.time import pairs
from expunge.core.models import Denoiser, Text
from expunge.core.progress import Callback
from expunge.core.sampling import Latents
from expunge.core.specs import EraseSpec, LoraSpec, MaceSpec


def solve(wanted: Tensor, e: Tensor, p: Tensor, ridge: float, preserve_scale: float) -> tuple[Tensor, Tensor]:
    """Factors (out, D) and (D, D) of argmin |dW e - wanted|^2 + s |dW p|^2 + ridge |dW|^2; wanted: (n,
    out), e: (n, D), p: (m, D).
    """
    identity = torch.eye(e.shape[1], dtype=e.dtype, device=e.device)
    m = e.T @ e + preserve_scale * p.T @ p + ridge * identity
    return torch.linalg.solve(m, e.T @ wanted).T, identity


def attention_loss(model: Denoiser, x: Latents, text: Text, tokens: Tensor, mask: Tensor) -> Tensor:
    """Sum over layers of |attention to the concept's tokens, inside the mask|_F, mean over rows; tokens:
    (B, L), mask: (B, h, w).
    """
    with model.recorded_attention() as probabilities:
        model.predict(x.z, x.t, text)
    total = torch.zeros(len(mask), device=mask.device)
    for probability, attended in zip(probabilities, token_maps(probabilities, tokens), strict=True):
        side = int(probability.shape[1] ** 0.5)
        inside = torch.nn.functional.interpolate(mask[:, None], size=(side, side), mode="nearest").flatten(1)
        total = total + (attended * inside).square().sum(1).clamp_min(1e-12).sqrt()
    return total.mean()


def importance(t: Tensor) -> Tensor:
    """The authors' density of timesteps t (n,), not normalised: sigmoid(.05 (t - 200)) - sigmoid(.05 (t -
    400)).
    """
    return torch.sigmoid(0.05 * (t - 200)) - torch.sigmoid(0.05 * (t - 400))


class Mapped:
    """The prompts of one job.

    prompts: each concept's; tokens: where they name it, (T, L); refined: the columns around the names (n, D),
    and what they become; held: the columns that must stay, condensed.
    """

    def __init__(self, model: Denoiser, request: EraseSpec, spec: MaceSpec) -> None:
        self.prompts, self.tokens = list[list[str]](), list[Tensor]()
        self.refined, names = list[tuple[Tensor, Tensor]](), held_names(model, request, spec)
        self.held_names = list(names)
        for concept in request.concepts:
            target = concept.target or candidates(model, concept, request.concepts, 1)[0]
            self.held_names.append(target)
            prompts, tokens = list[str](), list[Tensor]()
            for name in names_of(concept):
                prompts += model.vocabulary.prompts(name)
                tokens.append(named_tokens(model, name))
                self.refine(model, name, target, tokens[-1])
            self.prompts.append(prompts)
            self.tokens.append(torch.cat(tokens))
        held = [prompt for name in names for prompt in model.vocabulary.prompts(name)]
        self.held = condensed(model, held or [""], "all")

    def refine(self, model: Denoiser, name: str, target: str, tokens: Tensor) -> None:
        """Add what the tokens around a name, which `tokens` (T, L) marks, become."""
        old, new = model.vocabulary.prompts(name), model.vocabulary.replaced(name, target)
        for before, after, named in zip(old, new, tokens, strict=True):
            e, g = pairs(model, before, after)
            self.refined.append((e[named == 0].double(), g[named == 0].double()))


def held_names(model: Denoiser, request: EraseSpec, spec: MaceSpec) -> list[str]:
    """What the job preserves, and the vocabulary where the spec says so."""
    rest: list[str] = []
    if spec.hold_vocabulary:
        rest = excluding(model, model.vocabulary.concepts, [*request.concepts, *model.erased])
    return list(dict.fromkeys([*request.preserve, *rest]))


class Mace(Method[MaceSpec]):
    """Stage 2 on the shared loop: all concepts' LoRAs are one adapter, of which concept i uses and trains its
    own ranks alone.
    """

    def __init__(self, run: Run[MaceSpec], mapped: Mapped, base: Mapping[str, Tensor]) -> None:
        super().__init__(run)
        self.tokens = mapped.tokens
        self.concepts = [run.model.encode(prompts) for prompts in mapped.prompts]
        with run.model.holding(base):
            erased = {f"erase/{i}": texts for i, texts in enumerate(self.concepts)}
            run.trajectories.prefill(erased, run.spec.trajectories, run.callback)
            self.masks = [self.mask(i) for i in range(len(self.concepts))]
        times = run.trajectories.levels.float()
        self.density = importance(times) if run.spec.importance_sampling else torch.ones_like(times)
        self.active = 0
        run.model.hook_ranks(self.only_its_own)

    def only_its_own(self, _: Any, __: Any, out: Tensor) -> Tensor:
        rank = self.run.spec.lora.rank // len(self.concepts)
        keep = torch.zeros(out.shape[-1], device=out.device, dtype=out.dtype)
        keep[self.active * rank : (self.active + 1) * rank] = 1
        return out * keep

    @torch.no_grad()
    def mask(self, i: int) -> Tensor:
        """Where the model looks for concept i's tokens in each kept trajectory, (count, h, w) of 0 and 1."""
        model, trajectories = self.run.model, self.run.trajectories
        states = trajectories.fill(f"erase/{i}", self.concepts[i], self.run.spec.trajectories)
        row, count = torch.arange(len(states)) % len(self.concepts[i]), states.shape[1]
        maps = torch.zeros(len(states), *model.latent_shape[1:], device=model.device)
        for k in range(count // 2, count):
            t = trajectories.timesteps[k].expand(len(states))
            with model.frozen(), model.recorded_attention() as probabilities:
                model.predict(states[:, k], t, self.concepts[i][row])
            maps += at_size(token_maps(probabilities, self.tokens[i][row]), model.latent_shape[1])
        return (maps > maps.mean((1, 2), keepdim=True)).float()

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        run, spec, g = self.run, self.run.spec, self.run.generator(step)
        self.active = i
        texts, tokens = self.concepts[i], self.tokens[i]
        states = run.trajectories.fill(f"erase/{i}", texts, spec.trajectories)
        which = torch.randint(len(states), (spec.batch_size,), generator=g)
        k = torch.multinomial(self.density, spec.batch_size, replacement=True, generator=g)
        row = torch.randint(len(texts), (spec.batch_size,), generator=g)
        x = Latents(states[which, k], run.trajectories.timesteps[k])
        return attention_loss(run.model, x, texts[row], tokens[row], self.masks[i][which]), None


def edit(
    model: Denoiser,
    request: EraseSpec,
    spec: MaceSpec,
    callback: Callback,
    checkpoints: Checkpoints | None,
) -> Delta:
    """All three stages; the model wears the fused difference afterwards."""
    begun, mapped, rank = time.monotonic(), Mapped(model, request, spec), spec.lora.rank
    _ = model.digest  # before the matrices change: without a folder it is the tensors'
    old = {n: model.weight(n).clone() for n in edited_layers(model)}

    # 1. Refine: what stands around a concept's name no longer carries it.
    e, g = torch.cat([before for before, _ in mapped.refined]), torch.cat([new for _, new in mapped.refined])
    refined = {}
    for n, w in old.items():
        up, _ = solve((g - e) @ w.double().T, e, mapped.held, spec.ridge, spec.refine_preserve_scale)
        refined[n] = w.double() + up

    # 2. One LoRA a concept, on the refined matrices.
    lora = LoraSpec(rank=len(request.concepts) * rank, target_modules="xattn_strict")
    ranks = spec.model_copy(update={"lora": lora})
    with model.holding(refined):
        stage = partial(Mace, mapped=mapped, base=old)
        trained = fine_tune(model, request, ranks, stage, callback, checkpoints)
        adapter = model.adapter_state()
        model.unload_delta()

    # 3. Fuse: matrices that give each concept's prompts its LoRA's values, and everything else the old ones.
    columns = [model.encode(prompts).states.flatten(0, 1).double() for prompts in mapped.prompts]
    layers = {}
    for n, w in old.items():
        a, b = (adapter[f"{n}.lora_{x}.weight"].to(w.device).double() for x in "AB")
        wanted = []
        for i, column in enumerate(columns):
            rows = slice(i * rank, (i + 1) * rank)
            wanted.append(column @ (refined[n] + b[:, rows] @ a[rows] - w.double()).T)
        values, inputs = torch.cat(wanted), torch.cat(columns)
        layers[n] = solve(values, inputs, mapped.held, spec.ridge, spec.fuse_preserve_scale)
    info = trained.info | {"rank": wear(model, layers, callback), "seconds": time.monotonic() - begun}
    info["held"] = list(dict.fromkeys(name for name in mapped.held_names if name))
    return Delta.of(model, **{k: v for k, v in info.items() if k != "peak_memory_bytes"})
