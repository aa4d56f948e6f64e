"""Stage 7: the concept judge learns to say "none of these": a head on the classifier's own features, which
stay as they are. Reads the assembled core/bundled; writes the head, its calibration, what was measured.

Good pictures: the emoji, jittered, and what the bundled model draws. Others, which it must reject: emoji
outside the vocabulary, blends of two pictures, blurs, noise, shuffled patches, constant and striped pictures,
latents that are not denoised to the end, and pictures of a network with broken weights. Kinds that nobody
trained on are drawn only to measure: `unseen`.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from expunge.core.erasure import erase
from expunge.core.evaluation.judges import load_classifier
from expunge.core.evaluation.judges.none_of_these import FILE, NoneOfThese, look
from expunge.core.models import load_model
from expunge.core.models.vocabulary import article
from expunge.core.specs import Concept, EraseSpec, EsdSpec, UceSpec
from recipes import data
from recipes.common import BUNDLED, STYLES, WORK, digests, log, seed_everything
from recipes.judges import jitter
from recipes.vae import to_tensor

OUT = WORK / "none_of_these"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "none_of_these.json"
THINGS = ("Objects", "Travel & Places", "Animals & Nature", "Food & Drink", "Activities")
HIDDEN, FALSE_REJECTIONS = 64, 0.02
Pictures = np.ndarray


# --- what the bundled model draws -----------------------------------------------------------------------


def kept(name: str, make: Callable[[], Pictures]) -> Pictures:
    """Pictures that take long: made once."""
    file = OUT / f"{name}.npz"
    if not file.exists():
        OUT.mkdir(parents=True, exist_ok=True)
        made = make()
        np.savez_compressed(file, pictures=made)
        log("none of these", drawn=name, pictures=len(made))
    return np.load(file)["pictures"]


def drawn(model, turn: int) -> Pictures:
    """One picture of every concept, in turn in no style and in each; the seeds are no evaluation's."""
    styles, templates = [None, *STYLES], model.vocabulary.templates
    prompts = []
    for i, name in enumerate(model.vocabulary.concepts):
        style = styles[(i + turn) % len(styles)]
        prompt = article(templates[(i + turn) % len(templates)].format(name))
        prompts.append(prompt + (f" in {style} style" if style else ""))
    return model.draw(prompts, [700_000 + 1000 * turn + i for i in range(len(prompts))], batch=20)


@torch.no_grad()
def decoded(model, z: Tensor) -> Pictures:
    """Pictures of latents in the network's scale."""
    vae = model.pipe.vae
    parts = [vae.decode(part / vae.config.scaling_factor).sample for part in z.split(32)]
    return to_uint8(torch.cat(parts))


def to_uint8(x: Tensor) -> Pictures:
    """(N, 3, H, W) in [-1, 1] -> (N, H, W, 3) uint8."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).to(torch.uint8).numpy()


@torch.no_grad()
def half_denoised(model, real: Tensor, count: int, seed: int) -> Pictures:
    """Latents on their way: noised ones, pure noise of any size, and the network's first guesses of x_0."""
    g = torch.Generator().manual_seed(seed)
    z = torch.cat(
        [model.moments(b)[0] for b in real[torch.randint(len(real), (count,), generator=g)].split(64)]
    )
    noise = torch.randn(z.shape, generator=g)
    t = torch.randint(350, 1000, (count,), generator=g)
    a = model.schedule.alphas[t].view(-1, 1, 1, 1)
    noised = a.sqrt() * z + (1 - a).sqrt() * noise
    pure = noise[: count // 3] * (0.4 + 2 * torch.rand(count // 3, 1, 1, 1, generator=g))
    late, names = torch.randint(700, 1000, (count // 3,), generator=g), model.vocabulary.concepts
    text = model.encode(
        [f"a photo of a {names[int(i)]}" for i in torch.randint(len(names), (count // 3,), generator=g)]
    )
    a = model.schedule.alphas[late].view(-1, 1, 1, 1)
    start = a.sqrt() * z[: count // 3] + (1 - a).sqrt() * noise[: count // 3]
    said = torch.cat(
        [
            model.predict(start[i : i + 32], late[i : i + 32], text[i : i + 32])
            for i in range(0, count // 3, 32)
        ]
    )
    guesses = (start - (1 - a).sqrt() * said) / a.sqrt()
    return decoded(model, torch.cat([noised, pure, guesses]))


def broken(model, turn: int, strength: float, count: int) -> Pictures:
    """What the network draws with noise on the weights of its cross-attention or of all its layers."""
    g = torch.Generator().manual_seed(turn)
    layers = model.layers("xattn" if turn % 2 else "full")
    weights = {}
    for name in layers:
        weight = model.weight(name).float()
        size = weight.std() * strength
        weights[name] = weight + size * torch.randn(weight.shape, generator=g)
    names = model.vocabulary.concepts
    prompts = [f"a photo of a {names[int(i)]}" for i in torch.randint(len(names), (count,), generator=g)]
    with model.holding(weights):
        return model.draw(prompts, [800_000 + 1000 * turn + i for i in range(count)], steps=15)


# --- what is made from pictures -------------------------------------------------------------------------


def blends(x: Tensor, labels: Tensor, count: int, g: torch.Generator) -> Tensor:
    """Two pictures of different concepts, mixed or side by side."""
    i = torch.randint(len(x), (count,), generator=g)
    j = torch.randint(len(x), (count,), generator=g)
    j = torch.where(labels[i] == labels[j], (j + len(x) // 2) % len(x), j)
    share = 0.35 + 0.3 * torch.rand(count, 1, 1, 1, generator=g)
    mixed = share * x[i] + (1 - share) * x[j]
    half = x.shape[-1] // 2
    joined = torch.cat([x[i][..., :half], x[j][..., half:]], -1)
    return torch.where(torch.rand(count, 1, 1, 1, generator=g) < 0.7, mixed, joined)


def blurs(x: Tensor) -> Tensor:
    """Pictures of 5 to 10 pixels a side, enlarged."""
    return torch.cat(
        [
            F.interpolate(F.adaptive_avg_pool2d(part, 5 + i % 6), size=x.shape[-1], mode="bicubic")
            for i, part in enumerate(x.split(8))
        ]
    )


def shuffled(x: Tensor, g: torch.Generator) -> Tensor:
    """Patches of 8 or 16 pixels in a random order."""
    out = []
    for i, picture in enumerate(x):
        side = 8 if i % 2 else 16
        patches = F.unfold(picture[None], side, stride=side)
        patches = patches[..., torch.randperm(patches.shape[-1], generator=g)]
        out.append(F.fold(patches, x.shape[-2:], side, stride=side)[0])
    return torch.stack(out)


def noises(x: Tensor, g: torch.Generator) -> Tensor:
    """Noise over a picture, coarse and fine, from heavy to alone."""
    n = len(x)
    coarse = 2 ** torch.randint(0, 4, (n,), generator=g)
    noise = torch.stack(
        [
            F.interpolate(
                torch.randn(1, 3 if i % 3 else 1, 64 // int(c), 64 // int(c), generator=g), size=64
            ).expand(1, 3, 64, 64)[0]
            for i, c in enumerate(coarse)
        ]
    )
    return (
        x * torch.rand(n, 1, 1, 1, generator=g) * 0.6 + noise * (0.5 + torch.rand(n, 1, 1, 1, generator=g))
    ).clamp(-1, 1)


def flat(count: int, g: torch.Generator) -> Tensor:
    """Constant pictures, gradients, and stripes in one direction."""
    a, b = (torch.rand(count, 3, 1, 1, generator=g) * 2 - 1 for _ in range(2))
    a[::5], a[1::5] = 1.0, -1.0  # white and black
    line = torch.linspace(0, 1, 64).view(1, 1, 1, 64)
    waves = torch.sin(6.28 * line * (1 + 20 * torch.rand(count, 1, 1, 1, generator=g)))
    hard = torch.where(torch.rand(count, 1, 1, 1, generator=g) < 0.5, waves.sign(), waves) / 2 + 0.5
    kind = torch.randint(3, (count, 1, 1, 1), generator=g)
    share = torch.where(kind == 0, torch.zeros_like(hard), torch.where(kind == 1, line.expand_as(hard), hard))
    x = a * (1 - share) + b * share
    x = x.expand(count, 3, 64, 64)
    turned = torch.rand(count, 1, 1, 1, generator=g) < 0.5
    return (
        torch.where(turned, x.transpose(2, 3), x) + 0.03 * torch.randn(count, 3, 64, 64, generator=g)
    ).clamp(-1, 1)


# --- what nobody trained on -----------------------------------------------------------------------------


def lattices(count: int, seed: int) -> Pictures:
    """Crossing lines of one colour on another, at any angle."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    out = []
    for i in range(count):
        angle, gap, width = (torch.rand(3, generator=g) * torch.tensor([1.57, 8.0, 0.35])).tolist()
        u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        lines = ((u % (4 + gap)) < (0.15 + width) * (4 + gap)) | (
            (v % (4 + gap)) < (0.15 + width) * (4 + gap)
        )
        a, b = (torch.rand(2, 3, 1, 1, generator=g) * 2 - 1).unbind()
        b = torch.ones_like(b) if i % 2 else b
        out.append(torch.where(lines, a, b))
    return to_uint8(torch.stack(out))


def strokes(count: int, seed: int) -> Pictures:
    """A dozen black strokes on white."""
    from PIL import Image, ImageDraw

    rng, out = np.random.default_rng(seed), []
    for _ in range(count):
        image = Image.new("RGB", (256, 256), "white")
        pen = ImageDraw.Draw(image)
        for _ in range(rng.integers(5, 16)):
            points = np.cumsum(rng.normal(0, 35, (rng.integers(2, 7), 2)), 0) + rng.uniform(40, 216, 2)
            pen.line([tuple(p) for p in points], fill="black", width=int(rng.integers(6, 22)), joint="curve")
        out.append(np.asarray(image.resize((64, 64), Image.Resampling.LANCZOS)))
    return np.stack(out)


ABSURD = {
    "UCE": UceSpec(erase_scale=1e4, ridge=1e-3, tokens="all"),
    "ESD": EsdSpec(steps=25, learning_rate=0.03, eta=20, batch_size=2),
}


def sanitized(method: str) -> Pictures:
    """What is left of a model from which the church was erased at an absurd strength."""
    model = load_model("bundled:emoji")
    request = EraseSpec(model="emoji", concepts=[Concept(name="church")], method=ABSURD[method])
    erase(model, request, callback=lambda _: None)
    names = [*["church"] * 4, *model.vocabulary.concepts[3::5]]
    return model.draw([article(f"a photo of a {n}") for n in names], [900_000 + i for i in range(len(names))])


# --- the head -------------------------------------------------------------------------------------------


@torch.no_grad()
def read(judge, pictures: Pictures | Tensor) -> Tensor:
    """What the head reads of pictures, given as uint8 or in [-1, 1]."""
    x = pictures if isinstance(pictures, Tensor) else to_tensor(pictures)
    return torch.cat([look(judge.model, part)[1] for part in x.split(128)])


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


def train(good: Tensor, bad: dict[str, Tensor], seed: int) -> NoneOfThese:
    """Binary cross-entropy, the good half and every kind of bad pictures weighing alike."""
    seed_everything(seed)
    x = torch.cat([good, *bad.values()])
    y = torch.cat([torch.zeros(len(good)), torch.ones(len(x) - len(good))])
    share = {"other emoji": 3.0, "blends": 2.0}
    parts = [share.get(kind, 1.0) for kind in bad]
    weight = torch.cat(
        [
            torch.full((len(good),), 1 / len(good)),
            *(
                torch.full((len(b),), w / sum(parts) / len(b))
                for b, w in zip(bad.values(), parts, strict=True)
            ),
        ]
    )
    head = NoneOfThese(x.shape[1], HIDDEN)
    head.centre, head.scale = x.mean(0), x.std(0).clamp(min=1e-3)
    optimiser = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=0.05)
    steps = 3000
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * (1 - step / steps)
        i = torch.multinomial(weight, 256, replacement=True)
        noise = 0.1 * torch.randn(len(i), x.shape[1]) * head.scale
        loss = F.binary_cross_entropy_with_logits(head.score(F.dropout(x[i] + noise, 0.0)), y[i])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 500 == 0:
            log("none of these", step=step, loss=loss.item())
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


def main() -> None:
    model = load_model("bundled:emoji")
    judge = load_classifier(BUNDLED / "judges" / "concept")
    classes = torch.arange(len(judge.classes))

    # 1. Emoji of the vocabulary, and others, a fifth of them to validate on; through the VAE too
    real = to_tensor(data.load()[0])
    labels = torch.arange(len(real)) // len(STYLES)
    strange, names = data.others(THINGS)
    order = {n: i for i, n in enumerate(sorted(set(names)))}
    held = torch.tensor([order[n] % 5 == 4 for n in names])
    strange_x = to_tensor(strange)
    trips = to_tensor(kept("real", lambda: round_trip(model, real)))
    strange_trips = to_tensor(kept("strange", lambda: round_trip(model, strange_x)))

    # 2. Pictures that take long: of the bundled model, and of what is left of it
    half_way = [kept(f"half-denoised-{k}", lambda k=k: half_denoised(model, real, 360, k)) for k in range(2)]
    wrecks = [kept(f"broken-{k}", lambda k=k: broken(model, k, 2.0, 30)) for k in range(3)]
    unseen = {f"sanitized by {m}": kept(m, lambda m=m: sanitized(m)) for m in ABSURD}
    own = [to_tensor(kept(f"base-{k}", lambda k=k: drawn(model, k))) for k in range(2)]
    to_train_on, to_test_on, to_calibrate_on = own[0][::2], own[0][1::2], own[1]

    # 3. Train
    g = torch.Generator().manual_seed(5)
    good = [read(judge, jitter(x, g)) for x in (real, trips) for _ in range(3)]
    good += [read(judge, real), read(judge, trips), read(judge, to_train_on)]
    good += [read(judge, jitter(to_train_on, g)) for _ in range(6)]
    bad: dict[str, list[Tensor]] = {}
    for k in range(3):
        source = (real, strange_x) if k == 1 else (trips, strange_trips)
        for kind, x in made(source[0], labels, source[1][~held], k):
            bad.setdefault(kind, []).append(read(judge, x))
    bad["half-denoised"] = [read(judge, half_way[0])]
    bad["broken network"] = [read(judge, np.concatenate(wrecks[:2]))]
    head = train(torch.cat(good), {kind: torch.cat(parts) for kind, parts in bad.items()}, 6)

    # 4. Calibrate on pictures of the base model that its classifier names rightly
    def named_rightly(x: Tensor, labels: Tensor) -> Tensor:
        rows = read(judge, x)
        return rows[rows[:, -6 - len(classes) : -6].argmax(1) == labels]

    validation = {kind: read(judge, x) for kind, x in made(trips, labels, strange_trips[held], 99)}
    validation["half-denoised"] = read(judge, half_way[1])
    validation["broken network"] = read(judge, wrecks[2])
    calibrate(head, named_rightly(to_calibrate_on, classes), torch.cat(list(validation.values())))

    # 5. Measure: on more pictures of the base model, on kinds trained on, and on kinds that nobody trained on
    unseen |= {"lattices": lattices(300, 1), "strokes": strokes(300, 1)}
    for name, category in (("smileys", "Smileys & Emotion"), ("flags", "Flags"), ("signs", "Symbols")):
        unseen[name] = data.others((category,))[0]

    def rejected(rows: Tensor) -> dict[str, float | int]:
        with torch.no_grad():
            share = float((head(rows) >= head.threshold).float().mean())
        return {"share": round(share, 4), "n": len(rows)}

    measured = {
        "threshold": head.threshold,
        "temperature": head.temperature,
        "good": {
            "base model": rejected(named_rightly(to_test_on, classes[1::2])),
            "emoji": rejected(read(judge, real)),
        },
        "trained on": {kind: rejected(rows) for kind, rows in validation.items()},
        "unseen": {kind: rejected(read(judge, x)) for kind, x in unseen.items()},
    }
    print(json.dumps(measured, indent=1))
    save(head, measured)


def save(head: NoneOfThese, measured: dict) -> None:
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
    RESULTS.write_text(json.dumps(measured, indent=1) + "\n")
    digests(BUNDLED)


if __name__ == "__main__":
    main()
