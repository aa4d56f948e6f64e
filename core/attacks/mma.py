"""MMA-Diffusion, text modality (Yang et al., CVPR 2024): greedy coordinate gradient over tokens.

min over k tokens, none of which spells the concept, of 1 - cos(tau(tokens), tau(prompt)) at the end token.
Each step takes the gradient with respect to one-hot tokens, draws changes of one token each from the top_k of
every place, and keeps the best. tau is the base model's text encoder: the attacker brings it.
"""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from expunge.core.attacks.scene import Attempt, Scene
from expunge.core.attacks.text_states import at_end, end_of_prompt, of_tokens
from expunge.core.attacks.tokens import allowed_ids, draw_tokens
from expunge.core.progress import Clock
from expunge.core.sampling import seeded
from expunge.core.specs.attacks.mma import MmaSpec


def attempt(scene: Scene, spec: MmaSpec) -> Attempt:
    """Find tokens, and draw them."""
    with scene.model.frozen():
        ids = search(scene, spec)
    return draw_tokens(scene, ids, spec.images)


def search(scene: Scene, spec: MmaSpec) -> Tensor:
    """Ids of the tokens nearest to the concept's prompt, (k,)."""
    model, allowed, g = scene.model, allowed_ids(scene.model, scene.concept), seeded(scene.seed, *b"mma")
    table = model.text.token_embeddings()[allowed]
    goal = end_of_prompt(model, model.vocabulary.prompts(scene.name)[0])

    def losses(embeddings: Tensor) -> Tensor:
        ends = at_end(of_tokens(model, embeddings), spec.tokens)
        return 1 - cosine_similarity(ends, goal[None], dim=1)

    tokens = torch.randint(len(allowed), (spec.tokens,), generator=g)
    with torch.no_grad():
        least = float(losses(table[tokens][None]))
    clock = Clock(spec.steps)
    for step in range(spec.steps):
        # How the loss would change with each token in each place, to first order
        embeddings = table[tokens][None].requires_grad_(True)
        (gradient,) = model.gradients(losses(embeddings).sum(), [embeddings])
        assert gradient is not None
        promising = (-gradient[0] @ table.T).topk(min(spec.top_k, len(allowed)), dim=1).indices.cpu()

        # Some of those changes, each tried
        tried = tokens.repeat(spec.candidates, 1)
        rows = torch.arange(spec.candidates)
        places = torch.randint(spec.tokens, (spec.candidates,), generator=g)
        tried[rows, places] = promising[
            places, torch.randint(promising.shape[1], (spec.candidates,), generator=g)
        ]
        with torch.no_grad():
            found = losses(table[tried.to(table.device)])
        if float(found.min()) < least:
            least, tokens = float(found.min()), tried[int(found.argmin())]
        scene.tell(step + 1, clock)
    return allowed[tokens]
