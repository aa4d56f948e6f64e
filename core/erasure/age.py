"""AGE, Fantastic Targets for Concept Erasure in Diffusion Models (Bui et al., ICLR 2025), Eq. 14.

min over theta', max over c_t:  |eps'(c_e) - eps(c_t)|^2  +  lambda |eps'(c_t) - eps(c_t)|^2

`paper` follows Eq. 14: both terms drive the search. `authors_code` follows their script: errors in x0, and the target
detached wherever the frozen net reads it, so that only the second term gives pi a gradient. `eta` pushes away from c_e.
"""

import torch
from torch import Tensor

from core.concepts import candidates
from core.erasure.batch import Latents, cat, error, guided_away
from core.erasure.loop import Run
from core.erasure.search import Search
from core.models import StableDiffusion
from core.specs import AgeSpec


def resolved(spec: AgeSpec) -> AgeSpec:
    """The spec with what its variant fixes: the authors' code measures errors in x0."""
    return spec.model_copy(update={"space": "x0"}) if spec.variant == "authors_code" else spec


def loss(model: StableDiffusion, x_e: Latents, x_t: Latents, concept: Tensor, target: Tensor, spec: AgeSpec) -> Tensor:
    """What theta' descends. x_e, x_t: latents of the concept and of the target; concept, target: (B, L, D); scalar out."""
    eta, (z, t) = spec.eta, cat(x_e, x_t)
    with model.frozen(), torch.no_grad():
        if eta:
            eps_t, eps_p, eps_c = model.predict(torch.cat([z, x_e.z]), torch.cat([t, x_e.t]), torch.cat([target, target, concept])).chunk(3)
        else:
            eps_t, eps_p = model.predict(z, t, torch.cat([target, target])).chunk(2)
            eps_c = eps_t
    new_c, new_t = model.predict(z, t, torch.cat([concept, target])).chunk(2)
    erase = error(new_c, guided_away(eps_t, eps_c, eta), model.alphas[x_e.t], spec.space)
    return erase + spec.preserve_weight * error(new_t, eps_p, model.alphas[x_t.t], spec.space)


def search_objective(model: StableDiffusion, x_e: Latents, x_t: Latents, concept: Tensor, target: Tensor, spec: AgeSpec) -> Tensor:
    """What pi climbs through `target` (B, L, D): the same two terms. theta' is read, never trained, here."""
    eta, (z, t) = spec.eta, cat(x_e, x_t)
    through = spec.variant == "paper"
    with model.frozen():
        with torch.set_grad_enabled(through):
            eps_t, eps_p = model.predict(z, t, torch.cat([target, target])).chunk(2)
        with torch.no_grad():
            eps_c = model.predict(x_e.z, x_e.t, concept) if eta else eps_t.detach()
    with torch.no_grad():
        new_c = model.predict(x_e.z, x_e.t, concept)
    new_t = model.predict(x_t.z, x_t.t, target)
    erase = error(new_c, guided_away(eps_t, eps_c, eta), model.alphas[x_e.t], spec.space)
    return erase + spec.preserve_weight * error(new_t, eps_p, model.alphas[x_t.t], spec.space)


class Age:
    """One step: pi climbs on one draw of the target, theta' descends on another."""

    def __init__(self, run: Run[AgeSpec]) -> None:
        run.spec = resolved(run.spec)
        self.run, self.spec = run, run.spec
        self.contexts = [run.contexts(words) for words in run.words]
        self.searches: list[Search] = []
        for concept in run.concepts:
            names = (
                [concept.target]
                if concept.target
                else candidates(run.model, concept, run.concepts, self.spec.candidates, self.spec.concept_space)
            )
            states = torch.stack([run.contexts([n]) for n in names])
            self.searches.append(Search(names, states, self.spec.search_learning_rate, self.spec.temperature, self.spec.hard))
        self.kept = {f"keep/{name}": run.contexts([name]) for name in run.preserve}
        targets = {f"target/{n}": s for search in self.searches for n, s in zip(search.names, search.states, strict=True)}
        if self.spec.latents == "buffer":
            run.trajectories.prefill({f"erase/{i}": c for i, c in enumerate(self.contexts)}, self.spec.trajectories, run.callback)
            run.trajectories.prefill(self.kept | targets, self.per_target, run.callback)

    @property
    def per_target(self) -> int:
        """Trajectories a candidate keeps: a few each, for there are many."""
        return max(1, self.spec.trajectories // 8)

    def batch(self, i: int, weights: Tensor, g: torch.Generator, size: int) -> tuple[Latents, Latents, Tensor, Tensor]:
        """Latents and contexts, `size` rows each, for concept i under a draw of the target."""
        run, spec, search = self.run, self.spec, self.searches[i]
        j = int(weights.argmax())
        x_e = run.trajectories.draw(f"erase/{i}", self.contexts[i], g, size, spec.trajectories)
        x_t = run.trajectories.draw(f"target/{search.names[j]}", search.states[j], g, size, self.per_target)
        row = torch.randint(len(self.contexts[i]), (size,), generator=g)
        return x_e, x_t, self.contexts[i][row], search.context(weights, row % search.states.shape[1])

    def step(self, i: int, step: int) -> tuple[Tensor, str | None]:
        run, spec, search = self.run, self.spec, self.searches[i]
        if len(search.names) > 1 and step % spec.search_every == 0:
            g = run.generator(step, 1)
            half = max(1, spec.batch_size // 2)
            search.ascend(search_objective(run.model, *self.batch(i, search.sample(g), g, half), spec))
        g = run.generator(step)
        weights = search.sample(g).detach()
        total = loss(run.model, *self.batch(i, weights, g, spec.batch_size), spec)
        if self.kept:
            key = list(self.kept)[int(torch.randint(len(self.kept), (1,), generator=g))]
            total = total + spec.preserve_weight * self.hold(key, g)
        return total, search.names[int(weights.argmax())]

    def hold(self, key: str, g: torch.Generator) -> Tensor:
        """|eps'(c_p) - eps(c_p)|^2 on a concept the user preserves (the second term of Eq. 7)."""
        run, spec, contexts = self.run, self.spec, self.kept[key]
        x = run.trajectories.draw(key, contexts, g, spec.batch_size, self.per_target)
        context = contexts[torch.randint(len(contexts), (spec.batch_size,), generator=g)]
        with run.model.frozen(), torch.no_grad():
            old = run.model.predict(x.z, x.t, context)
        return error(run.model.predict(x.z, x.t, context), old, run.model.alphas[x.t], spec.space)

    def state(self) -> dict[str, Tensor]:
        return {f"{i}.{k}": v for i, search in enumerate(self.searches) for k, v in search.state().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        for i, search in enumerate(self.searches):
            search.load_state({k.removeprefix(f"{i}."): v for k, v in state.items() if k.startswith(f"{i}.")})
