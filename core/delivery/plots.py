"""The report's plots as inline SVG. Colours are the page's CSS variables, so that they follow light and
dark.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from expunge.core.attacks.result import Rate
from expunge.core.evaluation.report import PredictedImpact, Report
from expunge.core.evaluation.sheet import Distribution, Metric, Share

WIDTH, LEFT, RIGHT = 980, 190, 80  # of a plot, of the names beside it, of the numbers beside it
BAR = 26  # height of a row
LONGEST = 24  # characters of a name; what is longer is cut


def draw_text(x: float, y: float, content: str, anchor: str = "start", kind: str = "label") -> str:
    """A line of text; `kind` is its CSS class."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(content)}</text>'


def draw_dot(x: float, y: float) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'


def draw_whisker(start: float, end: float, y: float) -> str:
    """The line of an interval."""
    return f'<line x1="{start:.1f}" x2="{end:.1f}" y1="{y:.1f}" y2="{y:.1f}" class="whisker"/>'


def draw_group(kind: str, hint: str, *marks: str) -> str:
    """Marks of one model, by the CSS class `kind`; the hint appears under the pointer."""
    return f'<g class="{kind}"><title>{escape(hint)}</title>{"".join(marks)}</g>'


def shorten(name: str) -> str:
    """A name that fits beside a plot."""
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def draw_row_names(y: float, name: str, value: str, kind: str = "label") -> list[str]:
    """A row's name on the left and its number on the right."""
    return [
        draw_text(LEFT - 12, y + 4, shorten(name), "end", kind),
        draw_text(WIDTH - RIGHT + 14, y + 4, value, "start", kind),
    ]


def draw_axis(marks: Sequence[float], place: Callable[[float], float], height: float, unit: str) -> list[str]:
    """A vertical rule and its number at each mark; `place` maps a mark to its x."""
    out = []
    for mark in marks:
        x = place(mark)
        out += [
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - 22:.0f}" class="rule"/>',
            draw_text(x, height - 6, f"{mark:g}{unit}", "middle", "tick"),
        ]
    return out


def draw_share_axis(height: float) -> list[str]:
    """Rules at 0, 25, … 100 %."""
    return draw_axis((0, 25, 50, 75, 100), lambda percent: place_share(percent / 100), height, " %")


def place_share(share: float) -> float:
    """The x of a share in [0, 1]."""
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def wrap_svg(height: float, title: str, body: Sequence[str]) -> str:
    """The whole drawing, with a title for screen readers."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img"'
        f' aria-label="{escape(title)}"><title>{escape(title)}</title>{"".join(body)}</svg>'
    )


def draw_interval(metric: Metric, y: float, kind: str) -> str:
    """A dot at a share and a line over its 95 % interval."""
    low = metric.ci_low or 0.0
    high = 1.0 if metric.ci_high is None else metric.ci_high
    hint = (
        f"{metric.name} {metric.concept or 'all'}: {metric.value:.1%}, 95 % interval {low:.1%} to {high:.1%},"
        f" n = {metric.n}"
    )
    line = draw_whisker(place_share(low), place_share(high), y)
    return draw_group(kind, hint, line, draw_dot(place_share(metric.value), y))


def plot_rates(report: Report, kind: str) -> str:
    """ESR-1 (`kind` esr) or PSR-1 (psr) of each concept and of all, with its interval: the base model hollow,
    the sanitized one filled. Empty where nothing was judged.
    """
    metrics = {(m.name, m.concept): m for m in report.metrics}
    concepts = report.erased if kind == "esr" else report.preserved
    judged = [name for name in concepts if (f"{kind}1", name) in metrics]
    if not judged:
        return ""
    rows: list[str | None] = [*judged, None]
    height = len(rows) * BAR + 30
    body = draw_share_axis(height)
    for i, name in enumerate(rows):
        y = 16 + i * BAR
        sanitized = metrics[f"{kind}1", name]
        style = "label" if name else "label strong"
        body += draw_row_names(y, name or "all", f"{sanitized.value:.0%}", style)
        body.append(draw_interval(metrics[f"{kind}1_base", name], y - 4, "base"))
        body.append(draw_interval(sanitized, y + 4, "sanitized"))
    return wrap_svg(height, f"{kind.upper()}-1 of each concept, base and sanitized model", body)


def plot_attacks(rows: Sequence[tuple[str, Rate, Rate | None, Rate | None]]) -> str:
    """The success rate of each attack on the sanitized model (filled), the base model (hollow) and a random
    edit (grey), with its interval.
    """
    height = len(rows) * BAR + 30
    body = draw_share_axis(height)
    for i, (name, sanitized, base, control) in enumerate(rows):
        y = 16 + i * BAR
        body += draw_row_names(y, name, f"{sanitized.asr:.0%}")
        for up, kind, rate in ((-5, "control", control), (0, "base", base), (5, "sanitized", sanitized)):
            if rate is not None:
                metric = Metric(
                    name=f"{name} on {kind}",
                    concept="",
                    value=rate.asr,
                    n=rate.n,
                    ci_low=rate.ci_low,
                    ci_high=rate.ci_high,
                )
                body.append(draw_interval(metric, y + up, kind))
    return wrap_svg(height, "Success rate of each attack", body)


def plot_curves(rows: Sequence[tuple[str, Mapping[str, Mapping[int, float]]]]) -> str:
    """Success against the steps of an attack, a drawing for each attack: a line for each model. Empty without
    any.
    """
    return "".join(plot_curve(name, curves) for name, curves in rows)


def plot_curve(name: str, curves: Mapping[str, Mapping[int, float]]) -> str:
    """One attack's curves; a share of 1 is the top."""
    height, last = 150, max(max(curve) for curve in curves.values())

    def at(step: int, share: float) -> tuple[float, float]:
        return place_share(step / last), 10 + (1 - share) * (height - 40)

    body = [
        draw_text(LEFT - 12, 14, "100 %", "end", "tick"),
        draw_text(LEFT - 12, height - 26, "0 %", "end", "tick"),
    ]
    for step in sorted({step for curve in curves.values() for step in curve}):
        x, _ = at(step, 0)
        body.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="10" y2="{height - 30}" class="rule"/>')
        body.append(draw_text(x, height - 12, str(step), "middle", "tick"))
    for model, curve in curves.items():
        points = [at(step, share) for step, share in sorted(curve.items())]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dots = [draw_dot(x, y) for x, y in points]
        hint = f"{name}, {model}: " + ", ".join(
            f"{share:.0%} after {n}" for n, share in sorted(curve.items())
        )
        body.append(draw_group(model, hint, f'<polyline points="{line}" class="curve"/>', *dots))
    body.append(
        draw_text(LEFT - 12, height / 2, name if len(name) <= LONGEST else name[: LONGEST - 1] + "…", "end")
    )
    return wrap_svg(height, f"Success of {name} by step", body)


def plot_distribution(distribution: Distribution) -> str:
    """The share of each attribute, base hollow and sanitized filled; an upright mark at the share asked
    for.
    """
    height = len(distribution.shares) * BAR + 30
    body = draw_share_axis(height)
    for i, share in enumerate(distribution.shares):
        y = 16 + i * BAR
        x = place_share(share.asked)
        base, sanitized = share_metrics(share, distribution.n)
        body += draw_row_names(y, share.attribute or "none of them", f"{share.value:.0%}")
        body.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 10}" y2="{y + 10}" class="asked"/>')
        body.append(draw_interval(base, y - 4, "base"))
        body.append(draw_interval(sanitized, y + 4, "sanitized"))
    return wrap_svg(height, f"Shares of the attributes of {distribution.concept}", body)


def share_metrics(share: Share, n: int) -> tuple[Metric, Metric]:
    """An attribute's share in the base model's pictures, and in the sanitized model's."""
    name = share.attribute or "none of them"
    base = Metric(
        name="base, share of",
        concept=name,
        value=share.base,
        n=n,
        ci_low=share.base_ci_low,
        ci_high=share.base_ci_high,
    )
    sanitized = Metric(
        name="share of", concept=name, value=share.value, n=n, ci_low=share.ci_low, ci_high=share.ci_high
    )
    return base, sanitized


def plot_impact(rows: Sequence[PredictedImpact]) -> str:
    """The drop of each preserved concept: predicted hollow, with its 80 % interval; measured filled. Empty
    where nothing was predicted.
    """
    if not rows:
        return ""
    lowest = min(min(row.low, row.measured) for row in rows)
    highest = max(max(row.high, row.measured) for row in rows)
    marks = round_ticks_between(min(0.0, lowest), max(10.0, highest))

    def place(drop: float) -> float:
        return LEFT + (drop - marks[0]) / (marks[-1] - marks[0]) * (WIDTH - LEFT - RIGHT)

    height = len(rows) * BAR + 30
    body = draw_axis(marks, place, height, "")
    for i, row in enumerate(rows):
        y = 16 + i * BAR
        hint = (
            f"{row.concept}: predicted {row.predicted:.1f} ({row.low:.1f} to {row.high:.1f}), measured"
            f" {row.measured:.1f}"
        )
        predicted = draw_whisker(place(row.low), place(row.high), y), draw_dot(place(row.predicted), y)
        body += draw_row_names(y, row.concept, f"{row.measured:.1f}")
        body.append(draw_group("base", hint, *predicted))
        body.append(draw_group("sanitized", hint, draw_dot(place(row.measured), y)))
    return wrap_svg(height, "Drop in CLIP score of each preserved concept, predicted and measured", body)


def round_ticks(top: float) -> list[float]:
    """At most five round numbers from 0 to `top`."""
    if top <= 0:
        return [0.0]
    unit = 10 ** math.floor(math.log10(top / 4))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if top / (m * unit) <= 4.5)
    return [i * step for i in range(int(top / step + 1e-9) + 1)]


def round_ticks_between(low: float, high: float) -> list[float]:
    """At most seven round numbers at one distance, the first at or below `low`, the last at or above `high`;
    0 is one of them where it lies between.
    """
    step = round_ticks(high - low)[1]
    return [i * step for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def plot_loss(history: Sequence[dict[str, Any]]) -> str:
    """Loss against step: the thin line is each step, the thick one a running mean. Empty without two
    steps.
    """
    points = [(entry["step"], entry["loss"]) for entry in history if entry.get("loss") is not None]
    if len(points) < 2:
        return ""
    losses = [loss for _, loss in points]
    height, left = 220, 64
    last = points[-1][0]
    top = sorted(losses)[int(0.99 * (len(losses) - 1))] * 1.1 or 1.0  # a lone peak is cut off

    def place(step: float, loss: float) -> tuple[float, float]:
        x = left + step / last * (WIDTH - left - 20)
        y = 10 + (1 - min(1.0, loss / top)) * (height - 46)
        return round(x, 1), round(y, 1)

    # The axes: losses on the left, steps below
    body = []
    for tick in round_ticks(top):
        y = place(0, tick)[1]
        body.append(f'<line x1="{left}" x2="{WIDTH - 20}" y1="{y}" y2="{y}" class="rule"/>')
        body.append(draw_text(left - 8, y + 4, f"{tick:g}", "end", "tick"))
    for tick in round_ticks(last):
        body.append(draw_text(place(tick, 0)[0], height - 18, f"{tick:g}", "middle", "tick"))
    body.append(draw_text((left + WIDTH) / 2, height - 2, "step", "middle", "tick"))

    # The lines: every step, and the mean over a twentieth of the steps on either side
    smooth = list(zip([step for step, _ in points], running_mean(losses, len(points) // 20), strict=True))
    for line, kind in ((points, "thin"), (smooth, "thick")):
        corners = [place(step, loss) for step, loss in line]
        body.append(f'<polyline points="{" ".join(f"{x},{y}" for x, y in corners)}" class="{kind}"/>')
    return wrap_svg(height, "Training loss", body)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and its neighbours, `window` (at least one) on either side."""
    window = max(1, window)
    means = []
    for i in range(len(values)):
        part = values[max(0, i - window) : i + window + 1]
        means.append(sum(part) / len(part))
    return means


def plot_targets(history: Sequence[dict[str, Any]], most: int = 12) -> str:
    """Which target was chosen at which step: a row for each of the commonest targets, a mark for each
    choice. Empty where no target was chosen.
    """
    chosen = [(entry["step"], entry["target"]) for entry in history if entry.get("target")]
    if not chosen:
        return ""
    counts: dict[str, int] = {}
    for _, name in chosen:
        counts[name] = counts.get(name, 0) + 1
    names = sorted(counts, key=lambda name: -counts[name])[:most]
    last = float(max(step for step, _ in chosen))
    height = len(names) * 20 + 30

    def place(step: float) -> float:
        return LEFT + step / last * (WIDTH - LEFT - RIGHT)

    body = []
    for i, name in enumerate(names):
        y = 14 + i * 20
        marks = "".join(f"M{place(step):.1f} {y - 6}v12" for step, target in chosen if target == name)
        body += draw_row_names(y, name, f"{counts[name] / len(chosen):.0%}")
        body.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" class="rule"/>')
        body.append(f'<path d="{marks}" class="mark"/>')
    body += [draw_text(place(t), height - 6, f"{t:g}", "middle", "tick") for t in round_ticks(last)]
    return wrap_svg(height, "Targets chosen over the steps", body)
