"""The concept graph of the bundled model, measured: `python -m benchmarks.concept_graph`.

Erases each of 24 concepts with UCE (its defaults, nothing preserved), draws 44 concepts with each sanitized
model and with the base model, and takes the drop in CLIP score and in the classifier's hits. Each row is
written as it is finished: run again, the command goes on where it was stopped.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.methods import CONCEPTS, JUDGING as METHOD_JUDGING, RESULTS as METHODS_RESULTS, UNHELD
from expunge.core.concepts import distances
from expunge.core.concepts.graph import fit, statistics
from expunge.core.erasure import erase
from expunge.core.evaluation.judges import Judges, judges_for
from expunge.core.evaluation.judges.by_class import find_class
from expunge.core.evaluation.metrics import clip_score
from expunge.core.evaluation.pictures import draw, plan, preserved_concepts
from expunge.core.impact import FILE, FORMAT, Graph
from expunge.core.models import Denoiser, load_model
from expunge.core.models.folders import BUNDLED
from expunge.core.specs import METHODS, Concept, EraseSpec, EvaluationSpec, UceSpec

HERE = Path(__file__).parent
RESULTS, CACHE = HERE / "results" / "concept_graph.json", HERE.parent / "build" / "pictures"
SOURCE = "bundled:emoji"
ERASED = (
    "church",
    "castle",
    "hospital",
    "delivery truck",
    "bus",
    "airplane",
    "sailboat",
    "bicycle",
    "trumpet",
    "violin",
    "saw",
    "fish",
    "shark",
    "dog",
    "cat",
    "horse",
    "eagle",
    "apple",
    "strawberry",
    "pizza",
    "rose",
    "soccer ball",
    "radio",
    "teapot",
)
OTHERS = (
    "mosque",
    "synagogue",
    "lorry",
    "car",
    "canoe",
    "saxophone",
    "guitar",
    "hammer",
    "dolphin",
    "wolf",
    "duck",
    "pear",
)
NEIGHBOURS, SHOWN = 16, 15  # neighbours kept of each concept; drop from which an arrow is drawn
KINDS = (("clip", "clip"), ("psr", "hits"))
WEAKEST = 8  # and as many of the concepts that the base model draws worst: the seeds' abnormal ones
METHOD = UceSpec()
JUDGING = EvaluationSpec(preserved_images=2, sampling_steps=12)


def scores(
    model: Denoiser, judges: Judges, names: list[str], digest: str | None
) -> dict[str, dict[str, float]]:
    """Of each name: the mean CLIP score of its pictures, and the share the classifier names rightly."""
    pictures = plan(model.vocabulary, [], names, JUDGING)
    images = draw(
        model,
        pictures,
        JUDGING,
        cache=CACHE,
        delta_digest=digest,
        callback=lambda p: print(f"\r  {p['step']}/{p['total']}  ", end=""),
    )
    assert judges.clip is not None
    clip = clip_score.clip_scores(judges.clip, images, [p.prompt for p in pictures])
    found = {}
    for name in names:
        rows = [i for i, p in enumerate(pictures) if p.concept == name]
        judge = find_class([name], judges, model.vocabulary)
        assert judge is not None
        found[name] = {
            "clip": round(float(clip[rows].mean()), 2),
            "hits": float(judge.look(images[rows]).closed[1].mean()),
        }
    return found


def measured(model: Denoiser, judges: Judges) -> tuple[dict[str, Any], list[str]]:
    """Every row, read from the results file or measured now; and the nodes, the erased concepts first."""
    known: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    asked = JUDGING.model_dump_json(exclude_defaults=True) + METHOD.model_dump_json(exclude_defaults=True)
    identity = hashlib.sha256(f"{model.digest}{asked}".encode()).hexdigest()
    if known.get("identity") != identity:
        known = {
            "identity": identity,
            "base": scores(model, judges, model.vocabulary.concepts, None),
            "erased": {},
        }
        keep(known)
    weakest = sorted(
        (n for n in known["base"] if n not in (*ERASED, *OTHERS)), key=lambda n: known["base"][n]["clip"]
    )[:WEAKEST]
    nodes = [*ERASED, *OTHERS, *weakest]
    for concept in ERASED:
        if concept in known["erased"]:
            continue
        delta = erase(model, EraseSpec(concepts=[concept], method=METHOD))
        row = scores(model, judges, nodes, hashlib.sha256(delta.serialise()).hexdigest())
        known["erased"][concept] = row
        keep(known)
        drops = [known["base"][n]["clip"] - row[n]["clip"] for n in nodes if n != concept]
        print(
            f"\r{concept}: CLIP drop {np.mean(drops):.1f} on the others,"
            f" {known['base'][concept]['clip'] - row[concept]['clip']:.1f} on itself"
        )
        model.unload_delta()
    return known, nodes


def keep(known: dict[str, Any]) -> None:
    """The results file, a line for each row."""
    rows = ",\n".join(f" {json.dumps(name)}: {json.dumps(row)}" for name, row in known["erased"].items())
    head = f'{{"identity": "{known["identity"]}",\n"base": {json.dumps(known["base"])},\n"erased": {{\n'
    RESULTS.write_text(f"{head}{rows}\n}}}}\n")


def methods(model: Denoiser, graph: Graph) -> dict[str, Any]:
    """What each method costs and how much it hurts beside the graph's, from the benchmark of methods: the
    ratio of mean drops on the same concepts.
    """
    results = json.loads(METHODS_RESULTS.read_text())
    found = {}
    for method in METHODS:
        keys = {c: f"{method}{UNHELD}/{c}" for c in CONCEPTS if c in graph.names}
        rows = {c: results[key] for c, key in keys.items() if key in results}
        if not rows:
            continue
        predicted = []
        for concept in rows:
            held = preserved_concepts(model, [Concept(name=concept)], [], METHOD_JUDGING, reach=None)
            away = distances(model, concept, held).tolist()
            predicted += [
                graph.predict(d, graph.concepts[n]["g0"])[0].value for n, d in zip(held, away, strict=True)
            ]
        found[method] = {
            "scale": round(
                max(
                    0.0,
                    float(np.mean([r["clip_delta"]["value"] for r in rows.values()]))
                    / float(np.mean(predicted)),
                ),
                3,
            ),
            "seconds": round(float(np.mean([r["seconds"] for r in rows.values()])), 2),
            "unet_evaluations": round(float(np.mean([r["unet_evaluations"] for r in rows.values()]))),
            "erasures": len(rows),
        }
    return found


def assemble(model: Denoiser, known: dict[str, Any], nodes: list[str]) -> dict[str, Any]:
    """concept_graph.json: the graph, its statistics, its fit, every concept's neighbours, every method's
    cost.
    """
    base, words, erased = known["base"], model.vocabulary.concepts, list(ERASED)
    away = np.stack([distances(model, w, words).numpy() for w in words])
    at = [words.index(n) for n in nodes]
    distance = away[np.ix_(at[: len(erased)], at)]
    drops = {
        kind: np.array([[base[n][key] - known["erased"][e][n][key] for n in nodes] for e in erased])
        for kind, key in KINDS
    }
    g0 = np.array([base[n]["clip"] for n in nodes])
    concepts = {}
    for i, name in enumerate(words):
        near = [int(j) for j in away[i].argsort(kind="stable") if j != i][:NEIGHBOURS]
        facts = {
            "g0": base[name]["clip"],
            "hits": base[name]["hits"],
            "class": model.vocabulary.subcategory.get(name),
        }
        concepts[name] = facts | {"near": [[j, round(float(away[i, j]), 2)] for j in near]}
    content: dict[str, Any] = {
        "format": FORMAT,
        "model": model.digest,
        "measured_with": {
            "method": METHOD.model_dump(exclude_defaults=True) | {"name": METHOD.name},
            "pictures": JUDGING.preserved_images,
            "sampling_steps": JUDGING.sampling_steps,
            "unit": "points of CLIP score; hits are shares of pictures named rightly",
        },
        "erased": erased,
        "nodes": nodes,
        "distance": distance.round(2).tolist(),
        "drop": drops["clip"].round(2).tolist(),
        "hits_drop": drops["psr"].round(2).tolist(),
        "statistics": rounded(statistics(drops["clip"], distance.astype(float), g0)),
        "fit": {kind: rounded(fit(drop, distance.astype(float), g0)) for kind, drop in drops.items()},
        "concepts": concepts,
        "methods": {},
    }
    content["methods"] = methods(model, Graph(content))
    return content


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return round(value, 4) if isinstance(value, float) else value


def lines(content: dict[str, Any]) -> str:
    """JSON with a line for each entry of the top level, and for each concept."""

    def entry(key: str, value: Any) -> str:
        if key == "concepts":
            rows = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
            return f' "{key}": {{\n{rows}\n }}'
        return f" {json.dumps(key)}: {json.dumps(value)}"

    return "{\n" + ",\n".join(entry(k, v) for k, v in content.items()) + "\n}\n"


def thumbnails(model: Denoiser, names: list[str]) -> dict[str, Image.Image]:
    """The base model's first picture of each concept."""
    pictures = plan(model.vocabulary, [], names, JUDGING)
    images = draw(model, pictures, JUDGING, cache=CACHE, delta_digest=None)
    first = {p.concept: i for i, p in reversed(list(enumerate(pictures)))}
    return {n: Image.fromarray(images[first[n]]).resize((92, 92), Image.Resampling.LANCZOS) for n in names}


def picture(model: Denoiser, content: dict[str, Any]) -> Image.Image:
    """Nodes near one another where they hurt one another; an arrow from the erased concept to each that it
    hurts by 15 points or more.
    """
    nodes, erased = content["nodes"], content["erased"]
    net = nx.Graph()
    net.add_nodes_from(nodes)
    for i, e in enumerate(erased):
        for j, n in enumerate(nodes):
            if n != e:
                drop, away = content["drop"][i][j], content["distance"][i][j]
                pull = (drop / 15 if drop >= SHOWN else 0.0) + 4 * np.exp(-(away - 8) / 2)
                net.add_edge(e, n, weight=pull + net.get_edge_data(e, n, {"weight": 0.0})["weight"])
    place = spread(nx.spring_layout(net, k=1.3 / np.sqrt(len(nodes)), iterations=400, seed=7))
    width, height, margin = 2000, 1360, 110
    page = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(page, "RGBA")
    at = {
        n: (margin + x * (width - 2 * margin), margin + y * (height - 2 * margin))
        for n, (x, y) in place.items()
    }
    for i, e in enumerate(erased):
        for j, n in enumerate(nodes):
            if n != e and content["drop"][i][j] >= SHOWN:
                arrow(pen, at[e], at[n], content["drop"][i][j])
    font, small = ImageFont.load_default(size=20), ImageFont.load_default(size=22)
    for n, image in thumbnails(model, nodes).items():
        x, y = at[n]
        ring = (31, 111, 235) if n in erased else (190, 194, 200)
        pen.ellipse((x - 54, y - 54, x + 54, y + 54), fill=(255, 255, 255, 255), outline=ring, width=4)
        mask = Image.new("L", image.size, 0)
        ImageDraw.Draw(mask).ellipse((0, 0, 91, 91), fill=255)
        page.paste(image, (int(x) - 46, int(y) - 46), mask)
    for n, (x, y) in at.items():
        pen.text(
            (x, y + 66), n, fill=(29, 31, 35), font=font, anchor="mm", stroke_width=3, stroke_fill="white"
        )
    pen.text(
        (24, 20),
        "Erasing the concept at an arrow's tail lowers the CLIP score of the one at its head; the darker,"
        f" the more (from {SHOWN} points). Blue ring: was erased.",
        fill=(98, 102, 109),
        font=small,
    )
    return page.resize((width // 2, height // 2), Image.Resampling.LANCZOS).quantize(64)


def spread(place: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Positions moved apart until no two nodes overlap, within the unit square."""
    names = list(place)
    xy = np.array([place[n] for n in names])
    xy = (
        3 * np.argsort(np.argsort(xy, axis=0), axis=0) / (len(names) - 1)
        + (xy - xy.min(0)) / np.ptp(xy, axis=0)
    ) / 4
    for _ in range(600):
        apart = xy[:, None] - xy[None]
        gap = np.hypot(apart[..., 0] / 0.072, apart[..., 1] / 0.125)
        push = (
            np.where((gap < 1) & (gap > 0), 1 - gap, 0)[..., None]
            * apart
            / np.maximum(np.hypot(*np.moveaxis(apart, -1, 0)), 1e-6)[..., None]
        )
        xy = np.clip(xy + 0.02 * push.sum(1), 0, 1)
    return {n: (float(x), float(y)) for n, (x, y) in zip(names, xy, strict=True)}


def arrow(
    pen: ImageDraw.ImageDraw, tail: tuple[float, float], head: tuple[float, float], drop: float
) -> None:
    """A curved arrow, bent to its left so that its opposite stays visible."""
    a, b = np.array(tail), np.array(head)
    along = (b - a) / np.hypot(*(b - a))
    left = np.array([along[1], -along[0]])
    middle = (a + b) / 2 + left * 0.14 * np.hypot(*(b - a))
    t = np.linspace(0, 1, 60)[:, None]
    line = (1 - t) ** 2 * a + 2 * t * (1 - t) * middle + t**2 * b
    line = line[(np.hypot(*(line - a).T) > 58) & (np.hypot(*(line - b).T) > 66)]
    if len(line) < 2:
        return
    strength = min(1.0, drop / 60)
    colour = (200, 40, 30, int(70 + 185 * strength))
    pen.line([tuple(p) for p in line], fill=colour, width=int(2 + 7 * strength))
    tip = line[-1] - line[-2]
    tip = tip / np.hypot(*tip)
    side, size = np.array([-tip[1], tip[0]]), 9 + 9 * strength
    pen.polygon(
        [
            tuple(line[-1] + tip * size),
            tuple(line[-1] + side * size * 0.6),
            tuple(line[-1] - side * size * 0.6),
        ],
        fill=colour,
    )


def main() -> None:
    model, judges = load_model(SOURCE), judges_for(SOURCE)
    known, nodes = measured(model, judges)
    content = assemble(model, known, nodes)
    (BUNDLED / "emoji" / FILE).write_text(lines(content))
    sums = BUNDLED / "SHA256SUMS"
    kept = [line for line in sums.read_text().splitlines() if not line.endswith(f"emoji/{FILE}")]
    kept.append(f"{hashlib.sha256((BUNDLED / 'emoji' / FILE).read_bytes()).hexdigest()}  emoji/{FILE}")
    sums.write_text("\n".join(sorted(kept, key=lambda line: Path(line.split("  ")[1]))) + "\n")
    picture(model, content).save(HERE.parent / "docs" / "concept_graph.png", optimize=True)
    print(
        json.dumps(
            {
                "statistics": content["statistics"],
                "fit": {k: v["held_out"] for k, v in content["fit"].items()},
                "methods": content["methods"],
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
