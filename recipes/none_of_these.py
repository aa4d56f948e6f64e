"""Stage 7: the concept judge learns to say "none of these": a head on the classifier's own features, which
stay as they are. Reads the assembled core/bundled; writes the head and its calibration.

Good pictures: the emoji, jittered, and what the bundled model draws. Others, which it must reject: emoji
outside the vocabulary, and the pictures of strange_pictures.py. A fifth of the other emoji, by name, and
fresh pictures of every kind calibrate it. `python -m recipes.measure_none_of_these` measures what came of it.
Killed, it goes on with the pictures and features that it had made.
"""

import json
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from expunge.core.evaluation.judges import Classifier, load_classifier
from expunge.core.evaluation.judges.none_of_these import FILE, NoneOfThese, look
from expunge.core.models import load_model
from recipes import data
from recipes.common import BUNDLED, STYLES, digests, log, seed_everything
from recipes.judges import jitter
from recipes.strange_pictures import (
    OUT,
    Pictures,
    blends,
    blurs,
    broken,
    decoded,
    drawn,
    flat,
    half_denoised,
    kept,
    noises,
    save_arrays,
    shuffled,
)
from recipes.vae import to_tensor

THINGS = ("Objects", "Travel & Places", "Animals & Nature", "Food & Drink", "Activities")
HIDDEN, STEPS, FALSE_REJECTIONS = 64, 3000, 0.015
WEIGHTS = {"other emoji": 3.0, "blends": 2.0}  # of a kind of pictures to reject; 1 for the others


@torch.no_grad()
def read(judge: Classifier, pictures: Pictures | Tensor) -> Tensor:
    """What the head reads of pictures, given as uint8 or in [-1, 1]."""
    x = pictures if isinstance(pictures, Tensor) else to_tensor(pictures)
    return torch.cat([look(judge.model, part)[1] for part in x.split(128)])


def features(name: str, make: Callable[[], Tensor]) -> Tensor:
    """Features that take long: read once."""
    file = OUT / "features" / f"{name}.safetensors"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({"features": make().contiguous()}, file.with_suffix(".tmp"))
        file.with_suffix(".tmp").replace(file)
        log("none of these", read=name)
    return load_file(file)["features"]


@torch.no_grad()
def round_trip(model, x: Tensor) -> Pictures:
    """The same pictures through the VAE, as everything that is drawn has gone."""
    return decoded(model, torch.cat([model.moments(part)[0] for part in x.split(64)]))


def made(real: Tensor, labels: Tensor, strange: Tensor, seed: int) -> Iterator[tuple[str, Tensor]]:
    """The kinds of pictures to reject that are made of others, in [-1, 1]."""
    g = torch.Generator().manual_seed(seed)
    some = real[torch.randint(len(real), (600,), generator=g)]
    yield "other emoji", jitter(strange, g)
    yield "blends", jitter(blends(real, labels, 900, g), g)
    yield "blurs", blurs(some[:300])
    yield "noise", noises(some[:400], g)
    yield "shuffled", shuffled(some[:400], g)
    yield "flat", flat(400, g)


def others() -> tuple[Tensor, Tensor]:
    """Emoji outside the vocabulary, and which of them, a fifth of the names, are held for calibration."""
    file = OUT / "others.npz"
    if not file.exists():
        pictures, short_names = data.others(THINGS)
        save_arrays(file, pictures=pictures, names=np.array(short_names))
    found = np.load(file)
    order = {n: i for i, n in enumerate(sorted(set(found["names"])))}
    return to_tensor(found["pictures"]), torch.tensor([order[n] % 5 == 4 for n in found["names"]])


def guesses(rows: Tensor, classes: int) -> Tensor:
    """The classifier's first guess of each picture: `look` puts the log-probabilities before six others."""
    return rows[:, -6 - classes : -6].argmax(1)


def train(good: Tensor, bad: dict[str, Tensor], seed: int) -> NoneOfThese:
    """Binary cross-entropy; good pictures weigh half, the kinds to reject share the other half."""
    seed_everything(seed)
    x = torch.cat([good, *bad.values()])
    y = torch.cat([torch.zeros(len(good)), torch.ones(len(x) - len(good))])
    total = sum(WEIGHTS.get(kind, 1.0) for kind in bad)
    weights = [torch.full((len(good),), 1 / len(good))]
    weights += [torch.full((len(b),), WEIGHTS.get(kind, 1.0) / total / len(b)) for kind, b in bad.items()]
    weight = torch.cat(weights)

    head = NoneOfThese(x.shape[1], HIDDEN)
    head.centre, head.scale = x.mean(0), x.std(0).clamp(min=1e-3)
    optimiser = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=0.05)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * (1 - step / STEPS)
        i = torch.multinomial(weight, 256, replacement=True)
        noise = 0.1 * torch.randn(len(i), x.shape[1]) * head.scale
        loss = F.binary_cross_entropy_with_logits(head.score(x[i] + noise), y[i])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 500 == 0:
            log("none of these", step=step, total=STEPS, loss=loss.item())
    return head.eval()


@torch.no_grad()
def calibrate(head: NoneOfThese, good: Tensor, bad: Tensor) -> None:
    """Temperature by the likelihood of held-out pictures; threshold by the share of good ones rejected."""
    scores = torch.cat([head.score(good), head.score(bad)])
    y = torch.cat([torch.zeros(len(good)), torch.ones(len(bad))])
    weight = torch.cat([torch.full((len(good),), 1 / len(good)), torch.full((len(bad),), 1 / len(bad))])
    options = torch.logspace(-1, 1.5, 200)
    losses = [F.binary_cross_entropy_with_logits(scores / t, y, weight, reduction="sum") for t in options]
    head.temperature = round(float(options[int(torch.stack(losses).argmin())]), 3)
    head.threshold = round(float(head(good).quantile(1 - FALSE_REJECTIONS)), 4)
    head.false_rejections = FALSE_REJECTIONS


def save(head: NoneOfThese) -> None:
    """The head beside its classifier, its calibration in the classifier's configuration."""
    folder = BUNDLED / "judges" / "concept"
    save_file({k: v.half().contiguous() for k, v in head.state_dict().items()}, folder / FILE)
    config = json.loads((folder / "config.json").read_text())
    config["none_of_these"] = {
        "temperature": head.temperature,
        "threshold": head.threshold,
        "false_rejections": head.false_rejections,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    digests(BUNDLED)


def main() -> None:
    model = load_model("bundled:emoji")
    judge = load_classifier(BUNDLED / "judges" / "concept")
    classes = torch.arange(len(judge.classes))

    # 1. Pictures: emoji of the vocabulary and others, as they are and through the VAE; what is drawn
    real = to_tensor(data.load()[0])
    labels = torch.arange(len(real)) // len(STYLES)
    strange, held = others()
    trips = to_tensor(kept("real", lambda: round_trip(model, real)))
    strange_trips = to_tensor(kept("strange", lambda: round_trip(model, strange)))
    half_way = [kept(f"half-denoised-{k}", lambda k=k: half_denoised(model, real, 360, k)) for k in range(2)]
    wrecks = [kept(f"broken-{k}", lambda k=k: broken(model, k, 2.0, 30)) for k in range(3)]
    own = [to_tensor(kept(f"base-{k}", lambda k=k: drawn(model, k))) for k in range(2)]

    # 2. Their features
    def jittered(x: Tensor, times: int, seed: int) -> Tensor:
        g = torch.Generator().manual_seed(seed)
        return torch.cat([read(judge, x), *(read(judge, jitter(x, g)) for _ in range(times))])

    good = [features("real", lambda: jittered(real, 2, 1)), features("trips", lambda: jittered(trips, 2, 2))]
    good.append(features("own", lambda: jittered(own[0], 4, 3)))
    bad: dict[str, list[Tensor]] = {}
    for k, (concepts, rest) in enumerate(((trips, strange_trips), (real, strange))):
        for kind, x in made(concepts, labels, rest[~held], k):
            bad.setdefault(kind, []).append(features(f"{kind}-{k}", lambda x=x: read(judge, x)))
    bad["half-denoised"] = [features("half-denoised", lambda: read(judge, half_way[0]))]
    bad["broken network"] = [features("broken", lambda: read(judge, np.concatenate(wrecks[:2])))]

    # 3. Train, and calibrate on pictures of the base model that its classifier names rightly
    head = train(torch.cat(good), {kind: torch.cat(parts) for kind, parts in bad.items()}, 6)
    fresh = made(trips, labels, strange_trips[held], 99)
    rows = [features(f"{kind}-held", lambda x=x: read(judge, x)) for kind, x in fresh]
    rows += [features("half-denoised-held", lambda: read(judge, half_way[1]))]
    rows += [features("broken-held", lambda: read(judge, wrecks[2]))]
    drawn_last = features("own-held", lambda: read(judge, own[1]))
    calibrate(head, drawn_last[guesses(drawn_last, len(classes)) == classes], torch.cat(rows))
    save(head)
    log("none of these", temperature=head.temperature, threshold=head.threshold)


if __name__ == "__main__":
    main()
