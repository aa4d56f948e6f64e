"""The report's plots as inline SVG; colours are the page's CSS variables, so that they follow light and
dark.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from expunge.core.evaluation.attributes import Distribution
from expunge.core.evaluation.report import Foreseen, Metric, Report

WIDTH, LEFT, RIGHT, BAR = 980, 190, 80, 26


def text(x: float, y: float, content: str, anchor: str = "start", kind: str = "label") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(content)}</text>'


def frame(height: float, title: str, body: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img"'
        f' aria-label="{escape(title)}"><title>{escape(title)}</title>{"".join(body)}</svg>'
    )


def share_axis(height: float) -> list[str]:
    """Vertical lines at 0, 25, … 100 %."""
    out = []
    for quarter in range(5):
        x = LEFT + quarter / 4 * (WIDTH - LEFT - RIGHT)
        out += [
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - 22:.0f}" class="rule"/>',
            text(x, height - 6, f"{25 * quarter} %", "middle", "tick"),
        ]
    return out


def interval(metric: Metric, y: float, kind: str) -> list[str]:
    """A dot at the share and a line over its 95 % interval."""

    def x(share: float) -> float:
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    low, high = metric.ci_low or 0.0, metric.ci_high if metric.ci_high is not None else 1.0
    hint = (
        f"{metric.name} {metric.concept or 'all'}: {metric.value:.1%}, 95 % interval {low:.1%} to {high:.1%},"
        f" n = {metric.n}"
    )
    return [
        (
            f'<g class="{kind}"><title>{escape(hint)}</title><line x1="{x(low):.1f}" x2="{x(high):.1f}"'
            f' y1="{y:.1f}" y2="{y:.1f}" class="whisker"/>'
        ),
        f'<circle cx="{x(metric.value):.1f}" cy="{y:.1f}" r="4.5"/></g>',
    ]


def shares(report: Report, kind: str) -> str:
    """ESR-1 or PSR-1 of each concept with its interval: the base model hollow, the sanitized one filled.

    Empty when nothing was judged.
    """
    names = [
        n
        for n in (report.erased if kind == "esr" else report.preserved)
        if report.value(f"{kind}1", n) is not None
    ]
    rows: list[str | None] = [*names, None] if names else []
    found = {(m.name, m.concept): m for m in report.metrics}
    height, body = len(rows) * BAR + 30, list[str]()
    if not rows:
        return ""
    body += share_axis(height)
    for i, name in enumerate(rows):
        y = 16 + i * BAR
        ours = found[(f"{kind}1", name)]
        label = name if name is not None else "all"
        body.append(
            text(
                LEFT - 12,
                y + 4,
                label if len(label) < 25 else label[:23] + "…",
                "end",
                "label" if name else "label strong",
            )
        )
        body += interval(found[(f"{kind}1_base", name)], y - 4, "base") + interval(ours, y + 4, "sanitized")
        body.append(
            text(WIDTH - RIGHT + 14, y + 4, f"{ours.value:.0%}", "start", "label" if name else "label strong")
        )
    return frame(height, f"{kind.upper()}-1 of each concept, base and sanitized model", body)


def distribution(found: Distribution) -> str:
    """The share of each attribute, base hollow and sanitized filled, with the share asked for as an upright
    mark.
    """
    height, body = len(found.shares) * BAR + 30, list[str]()
    body += share_axis(height)
    for i, share in enumerate(found.shares):
        y, name, x = (
            16 + i * BAR,
            share.attribute or "none of them",
            LEFT + share.asked * (WIDTH - LEFT - RIGHT),
        )
        ours = Metric(
            name="share of",
            concept=name,
            value=share.value,
            n=found.n,
            ci_low=share.ci_low,
            ci_high=share.ci_high,
        )
        base = Metric(
            name="base, share of",
            concept=name,
            value=share.base,
            n=found.n,
            ci_low=share.base_ci_low,
            ci_high=share.base_ci_high,
        )
        body.append(text(LEFT - 12, y + 4, name if len(name) < 25 else name[:23] + "…", "end"))
        body.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 10}" y2="{y + 10}" class="asked"/>')
        body += interval(base, y - 4, "base") + interval(ours, y + 4, "sanitized")
        body.append(text(WIDTH - RIGHT + 14, y + 4, f"{share.value:.0%}"))
    return frame(height, f"Shares of the attributes of {found.concept}", body)


def impacts(rows: Sequence[Foreseen]) -> str:
    """The drop of each preserved concept: predicted hollow, with its 80 % interval; measured filled.

    Empty when nothing was predicted.
    """
    if not rows:
        return ""
    marks = spanning(
        min(0.0, *(min(r.low, r.measured) for r in rows)), max(10.0, *(max(r.high, r.measured) for r in rows))
    )
    low, high = marks[0], marks[-1]
    height, body = len(rows) * BAR + 30, list[str]()

    def x(drop: float) -> float:
        return LEFT + (drop - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    for tick in marks:
        body += [
            f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{height - 22:.0f}" class="rule"/>',
            text(x(tick), height - 6, f"{tick:g}", "middle", "tick"),
        ]
    for i, row in enumerate(rows):
        y = 16 + i * BAR
        hint = (
            f"{row.concept}: predicted {row.predicted:.1f} ({row.low:.1f} to {row.high:.1f}), measured"
            f" {row.measured:.1f}"
        )
        body += [
            text(LEFT - 12, y + 4, row.concept if len(row.concept) < 25 else row.concept[:23] + "…", "end"),
            (
                f'<g class="base"><title>{escape(hint)}</title><line x1="{x(row.low):.1f}"'
                f' x2="{x(row.high):.1f}" y1="{y}" y2="{y}" class="whisker"/><circle'
                f' cx="{x(row.predicted):.1f}" cy="{y}" r="4.5"/></g>'
            ),
            (
                f'<g class="sanitized"><title>{escape(hint)}</title><circle cx="{x(row.measured):.1f}"'
                f' cy="{y}" r="4.5"/></g>'
            ),
            text(WIDTH - RIGHT + 14, y + 4, f"{row.measured:.1f}"),
        ]
    return frame(height, "Drop in CLIP score of each preserved concept, predicted and measured", body)


def ticks(top: float) -> list[float]:
    """At most five round numbers from 0 to `top`."""
    if top <= 0:
        return [0.0]
    unit = 10 ** math.floor(math.log10(top / 4))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if top / (m * unit) <= 4.5)
    return [i * step for i in range(int(top / step + 1e-9) + 1)]


def spanning(low: float, high: float) -> list[float]:
    """At most seven round numbers at one distance, the first at or below `low`, the last at or above `high`;
    0 among them where it lies between.
    """
    step = ticks(high - low)[1]
    return [i * step for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def loss_curve(history: Sequence[dict[str, Any]]) -> str:
    """Loss against step; the thin line is each step, the thick one a running mean."""
    points = [(h["step"], h["loss"]) for h in history if h.get("loss") is not None]
    if len(points) < 2:
        return ""
    height, left = 220, 64
    last, top = points[-1][0], sorted(v for _, v in points)[int(0.99 * (len(points) - 1))] * 1.1 or 1.0
    mean, window = list[tuple[float, float]](), max(1, len(points) // 20)
    for i in range(len(points)):
        part = points[max(0, i - window) : i + window + 1]
        mean.append((points[i][0], sum(v for _, v in part) / len(part)))

    def place(p: tuple[float, float]) -> str:
        x = left + p[0] / last * (WIDTH - left - 20)
        y = 10 + (1 - min(1.0, p[1] / top)) * (height - 46)
        return f"{x:.1f},{y:.1f}"

    body = []
    for tick in ticks(top):
        y = float(place((0, tick)).split(",")[1])
        body += [
            f'<line x1="{left}" x2="{WIDTH - 20}" y1="{y}" y2="{y}" class="rule"/>',
            text(left - 8, y + 4, f"{tick:g}", "end", "tick"),
        ]
    body += [
        text(float(place((t, 0)).split(",")[0]), height - 18, f"{t:g}", "middle", "tick") for t in ticks(last)
    ]
    body.append(text((left + WIDTH) / 2, height - 2, "step", "middle", "tick"))
    body += [
        f'<polyline points="{" ".join(map(place, line))}" class="{kind}"/>'
        for line, kind in ((points, "thin"), (mean, "thick"))
    ]
    return frame(height, "Training loss", body)


def target_strip(history: Sequence[dict[str, Any]], most: int = 12) -> str:
    """Which target was chosen at which step: a row for each of the commonest targets, a mark for each
    choice.
    """
    chosen = [(h["step"], h["target"]) for h in history if h.get("target")]
    counts: dict[str, int] = {}
    for _, name in chosen:
        counts[name] = counts.get(name, 0) + 1
    if not counts:
        return ""
    names = sorted(counts, key=lambda n: -counts[n])[:most]
    last, height = float(max(step for step, _ in chosen)), len(names) * 20 + 30

    def x(step: float) -> float:
        return LEFT + step / last * (WIDTH - LEFT - RIGHT)

    body = []
    for i, name in enumerate(names):
        y = 14 + i * 20
        body += [
            text(LEFT - 12, y + 4, name, "end"),
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" class="rule"/>',
        ]
        marks = "".join(f"M{x(step):.1f} {y - 6}v12" for step, target in chosen if target == name)
        body += [
            f'<path d="{marks}" class="mark"/>',
            text(WIDTH - RIGHT + 14, y + 4, f"{counts[name] / len(chosen):.0%}"),
        ]
    body += [text(x(t), height - 6, f"{t:g}", "middle", "tick") for t in ticks(last)]
    return frame(height, "Targets chosen over the steps", body)
