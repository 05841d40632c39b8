"""Drawings as SVG inside the page; colours are the page's, so that they follow its theme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from attar.evaluation.plots import Point, bytes_text
from attar.report.page.markup import Html, element, joined, number
from attar.report.page.runs import LossCurve

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 22, 40
NUM_COLOURS, NUM_QUIET, NUM_MARKERS = 6, 4, 6
SMOOTHED_SHARE, LOG_RATIO = 0.05, 30.0
SMALLEST_ON_LOG = 1e-200
"""Of a loss: smaller ones leave no room for a margin below them, and are drawn on a linear axis."""

MOST_POINTS = 400
STRIP_WIDTH, STRIP_HEIGHT = 150, 18
BAR_WIDTH = 120


class Style(NamedTuple):
    """How a series is drawn: the class of its colour, the number of its marker, and whether that is hollow."""

    colour: str
    shape: int
    hollow: bool = False


class AccuracyCurve(NamedTuple):
    """Accuracy of one row's networks while they trained.

    Args:
        series: the row's name.
        epochs: ascending, from 1.
        means: percent after each of them, over the seeds.
        stds: of the same; None for a single seed.
        baseline: whether it is one.
    """

    series: str
    epochs: tuple[int, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...] | None
    baseline: bool


class Axis:
    """One direction of a drawing: values to places.

    Args:
        low, high: the values at its ends.
        start, end: their places.
        log: logarithmic; both values are above 0.
    """

    def __init__(self, low: float, high: float, start: float, end: float, log: bool = False) -> None:
        self.low, self.high, self.start, self.end, self.log = low, high, start, end, log

    def place(self, value: float) -> float:
        """Where `value` is drawn."""
        low, high, value = (math.log(each) if self.log else each for each in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values inside: a handful."""
        if self.log:
            return _log_ticks(self.low, self.high)
        step = _round_step((self.high - self.low) / 5)
        first = math.ceil(self.low / step - 1e-9)
        return [place * step for place in range(first, math.floor(self.high / step + 1e-9) + 1)]


def accuracy_chart(points: Sequence[Point], chance: float, identity: str) -> Html:
    """Accuracy against bytes with bars of one standard deviation; sets are full, baselines hollow.

    Args:
        points: at least one.
        chance: percent, a dashed line where it does not flatten the rest.
        identity: of the drawing's title in the page.
    """
    low, high = _accuracy_range(points)
    shown = low - chance <= max(high - low, 5.0)
    sizes = [point.num_bytes for point in points]
    margin = max(1.3, (max(sizes) / min(sizes)) ** 0.08)
    horizontal = Axis(min(sizes) / margin, max(sizes) * margin, LEFT, WIDTH - RIGHT, log=True)
    pad = max(1.0, 0.06 * (high - low))
    vertical = Axis(max(0.0, min(low, chance if shown else low) - pad), min(100.0, high + pad), HEIGHT - BOTTOM, TOP)
    styles = _styles(points)
    drawn = [
        _frame(horizontal, vertical, [bytes_text(tick) for tick in horizontal.ticks()], "bytes", "accuracy %"),
        *([_chance(vertical, chance)] if shown else []),
        *(_point(point, horizontal, vertical, styles[point.series]) for point in points),
    ]
    told = "Accuracy in percent against bytes: " + "; ".join(
        f"{point.series} {point.mean:.1f} at {bytes_text(point.num_bytes)}" for point in points[:20]
    )
    aside = "" if shown else f"Chance is {chance:.3g} %."
    return joined([_svg(drawn, told, identity), _legend(styles, shown), element("p", aside, class_="note")])


def loss_chart(curves: Sequence[LossCurve], identity: str) -> Html:
    """The loss of every step faint, a running mean over 5 % of the steps strong.

    Args:
        curves: at least one, with one loss or more.
        identity: of the drawing's title in the page.
    """
    losses = [loss for curve in curves for loss in curve.losses]
    low, high = min(losses), max(losses)
    log = low > SMALLEST_ON_LOG and LOG_RATIO < high / low < math.inf
    pad = 0 if log else 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    first, last = min(min(curve.steps) for curve in curves), max(max(curve.steps) for curve in curves)
    horizontal = Axis(first, max(first + 1, last), LEFT + 6, WIDTH - RIGHT)
    factor = (high / low) ** 0.05 if log else 1.0
    vertical = Axis(low / factor - pad, high * factor + pad, HEIGHT - BOTTOM, TOP, log=log)
    drawn = [_frame(horizontal, vertical, [f"{tick:,.6g}" for tick in horizontal.ticks()], "step", "loss")]
    for place, curve in enumerate(curves):
        drawn += _curve(curve, horizontal, vertical, place % NUM_COLOURS)
    told = f"Loss of the run against steps: {losses[0]:.4g} at first, {losses[-1]:.4g} at last"
    named = [curve for curve in curves if curve.name]
    parts = [joined([_swatch(Style(f"s{place % NUM_COLOURS}", 0)), each.name]) for place, each in enumerate(named)]
    return joined([_svg(drawn, told, identity), _listed(parts)])


def curve_chart(curves: Sequence[AccuracyCurve], chance: float, identity: str) -> Html:
    """Mean accuracy against epochs, each row with a band of one standard deviation, chance as a dashed line.

    Args:
        curves: at least one, each of one point or more.
        chance: percent.
        identity: of the drawing's title in the page.
    """
    first, last = min(curve.epochs[0] for curve in curves), max(curve.epochs[-1] for curve in curves)
    log = max(curve.epochs[-1] for curve in curves) > LOG_RATIO * min(curve.epochs[-1] for curve in curves)
    horizontal = Axis(first if log else 0, max(first + 1, last), LEFT + 6, WIDTH - RIGHT, log=log)
    edges = [edge for curve in curves for pair in _band(curve) for edge in pair]
    high = max(*edges, chance)
    vertical = Axis(0.0, min(100.0, high + max(1.0, 0.06 * high)), HEIGHT - BOTTOM, TOP)
    styles = _styles(curves)
    labels = [f"{tick:,.6g}" for tick in horizontal.ticks()]
    drawn = [_frame(horizontal, vertical, labels, "epoch", "accuracy %"), _chance(vertical, chance)]
    for curve in sorted(curves, key=lambda each: not each.baseline):
        drawn += _accuracy_curve(curve, horizontal, vertical, styles[curve.series])
    told = "Accuracy in percent against epochs: " + "; ".join(
        f"{each.series} {each.means[0]:.1f} after {each.epochs[0]:,}, {each.means[-1]:.1f} after {each.epochs[-1]:,}"
        for each in curves[:20]
    )
    return joined([_svg(drawn, told, identity), _legend(styles, True)])


def seed_strip(accuracies: Sequence[float], low: float, high: float, own: bool) -> Html:
    """A dot for each seed between two accuracies, and a line at their mean."""
    axis = Axis(low, high, 6, STRIP_WIDTH - 6)
    middle = STRIP_HEIGHT / 2
    mean = axis.place(math.fsum(accuracies) / len(accuracies))
    told = ", ".join(f"{value:.1f}" for value in accuracies[:20])
    return element(
        "svg",
        element("line", x1=6, x2=STRIP_WIDTH - 6, y1=middle, y2=middle, class_="grid"),
        element("line", x1=mean, x2=mean, y1=2, y2=STRIP_HEIGHT - 2, class_="axis"),
        *(
            element("circle", cx=axis.place(value), cy=middle, r=3.5, class_="full s0" if own else "hollow q0")
            for value in accuracies[:100]
        ),
        viewBox=f"0 0 {STRIP_WIDTH} {STRIP_HEIGHT}",
        class_="strip-chart",
        role="img",
        aria_label=f"each seed: {told}",
    )


def bar(percent: float) -> Html:
    """A bar of so many percent."""
    return element(
        "svg",
        element("rect", x=0, y=0, width=BAR_WIDTH, height=12, class_="trough"),
        element("rect", x=0, y=0, width=BAR_WIDTH * percent / 100, height=12, class_="full s0"),
        viewBox=f"0 0 {BAR_WIDTH} 12",
        class_="bar",
        role="img",
        aria_label=f"{percent:.1f} %",
    )


def stacked_bar(parts: Sequence[tuple[str, int]], identity: str) -> Html:
    """What the bytes of a file are, one after another, with a legend."""
    whole, start, drawn = sum(count for _, count in parts), 0.0, []
    for place, (_, count) in enumerate(parts):
        width = WIDTH * count / whole
        drawn.append(element("rect", x=start, y=0, width=width, height=26, class_=f"full s{place % NUM_COLOURS}"))
        start += width
    told = "; ".join(f"{name} {bytes_text(count)}" for name, count in parts)
    legend = [
        joined([_swatch(Style(f"s{place % NUM_COLOURS}", 1)), f"{name}: {count:,} bytes ({100 * count / whole:.1f} %)"])
        for place, (name, count) in enumerate(parts)
    ]
    return joined([_svg(drawn, f"Bytes of the file: {told}", identity, 26), _listed(legend)])


def _svg(drawn: Sequence[Html], told: str, identity: str, height: int = HEIGHT) -> Html:
    title = element("title", told, id=identity)
    box = f"0 0 {WIDTH} {height}"
    return element("svg", title, *drawn, viewBox=box, class_="chart", role="img", aria_labelledby=identity)


def _frame(horizontal: Axis, vertical: Axis, labels: Sequence[str], across: str, up: str) -> Html:
    """Grid, numbers and names of both axes."""
    bottom = HEIGHT - BOTTOM
    lines = []
    for tick in vertical.ticks():
        y = vertical.place(tick)
        lines.append(element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
        lines.append(element("text", f"{tick:.4g}", x=LEFT - 6, y=y + 4, text_anchor="end"))
    for tick, label in zip(horizontal.ticks(), labels, strict=True):
        x = horizontal.place(tick)
        lines.append(element("line", x1=x, x2=x, y1=TOP, y2=bottom, class_="grid"))
        lines.append(element("text", label, x=x, y=bottom + 15, text_anchor="middle"))
    axis = element("path", d=f"M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}", class_="axis line")
    below = element("text", across, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 6, text_anchor="middle")
    return joined([*lines, axis, element("text", up, x=4, y=12), below])


def _chance(vertical: Axis, chance: float) -> Html:
    y = vertical.place(chance)
    return element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="axis dashed")


def _point(point: Point, horizontal: Axis, vertical: Axis, style: Style) -> Html:
    x, y = horizontal.place(point.num_bytes), vertical.place(point.mean)
    pieces = [element("title", f"{point.series}: {point.mean:.1f} % at {point.num_bytes:,} bytes")]
    if point.std is not None:
        low = vertical.place(max(vertical.low, point.mean - point.std))
        high = vertical.place(min(vertical.high, point.mean + point.std))
        left, ends = number(x - 4), (number(low), number(high))
        path = f"M{number(x)} {ends[0]}V{ends[1]}M{left} {ends[0]}h8M{left} {ends[1]}h8"
        pieces.append(element("path", d=path, class_=f"line {style.colour}"))
    pieces.append(_marker(style, x, y, 4.5 if style.hollow else 6))
    return element("g", *pieces)


def _marker(style: Style, x: float, y: float, r: float) -> Html:
    """A circle, square, triangle, diamond, triangle upside down, or bar."""
    drawn = f"{style.colour} {'hollow' if style.hollow else 'full'}"
    if style.shape == 0:
        return element("circle", cx=x, cy=y, r=r, class_=drawn)
    shapes: dict[int, list[tuple[float, float]]] = {
        1: [(-1, -1), (1, -1), (1, 1), (-1, 1)],
        2: [(0, -1.2), (1.1, 0.9), (-1.1, 0.9)],
        3: [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
        4: [(0, 1.2), (1.1, -0.9), (-1.1, -0.9)],
        5: [(-0.4, -1.2), (0.4, -1.2), (0.4, 1.2), (-0.4, 1.2)],
    }
    path = "L".join(f"{number(x + r * across)} {number(y + r * down)}" for across, down in shapes[style.shape])
    return element("path", d=f"M{path}Z", class_=drawn)


def _curve(curve: LossCurve, horizontal: Axis, vertical: Axis, colour: int) -> list[Html]:
    window = max(1, round(len(curve.losses) * SMOOTHED_SHARE))
    low, high = min(curve.losses), max(curve.losses)  # between which rounding may not keep a mean
    smooth = [min(max(mean, low), high) for mean in running_mean(curve.losses, window)]
    first = window // 2
    paths: list[tuple[Sequence[int], Sequence[float], str]]
    paths = [(curve.steps[first : first + len(smooth)], smooth, "strong")]
    if window > 1:
        paths.insert(0, (curve.steps, curve.losses, "faint"))
    return [
        element("path", d=_path(*_fewer(steps, losses), horizontal, vertical), class_=f"line {kind} s{colour}")
        for steps, losses, kind in paths
    ]


def _band(curve: AccuracyCurve) -> list[tuple[float, float]]:
    """Lowest and highest percent that are drawn at each epoch."""
    stds = curve.stds or (0.0,) * len(curve.means)
    return [(max(0.0, mean - std), min(100.0, mean + std)) for mean, std in zip(curve.means, stds, strict=True)]


def _accuracy_curve(curve: AccuracyCurve, horizontal: Axis, vertical: Axis, style: Style) -> list[Html]:
    pieces = []
    if curve.stds is not None:
        lows, highs = zip(*_band(curve), strict=True)
        there = _path(curve.epochs, highs, horizontal, vertical)
        back = _path(curve.epochs[::-1], lows[::-1], horizontal, vertical)
        pieces.append(element("path", d=f"{there}L{back[1:]}Z", class_=f"band {style.colour}"))
    line = _path(curve.epochs, curve.means, horizontal, vertical)
    pieces.append(element("path", d=line, class_=f"line {style.colour}{'' if curve.baseline else ' strong'}"))
    for epoch, mean in zip(curve.epochs, curve.means, strict=True):
        title = element("title", f"{curve.series}: {mean:.1f} % after {epoch:,} epochs")
        marker = _marker(style, horizontal.place(epoch), vertical.place(mean), 2.6 if curve.baseline else 3.2)
        pieces.append(element("g", title, marker))
    return pieces


def _fewer(steps: Sequence[int], losses: Sequence[float]) -> tuple[list[float], list[float]]:
    """At most `MOST_POINTS`: means of as many runs of successive steps."""
    count = min(len(steps), MOST_POINTS)
    spans = list(pairwise(place * len(steps) // count for place in range(count + 1)))
    return (
        [math.fsum(steps[start:end]) / (end - start) for start, end in spans],
        [math.fsum(losses[start:end]) / (end - start) for start, end in spans],
    )


def _path(steps: Sequence[float], losses: Sequence[float], horizontal: Axis, vertical: Axis) -> str:
    places = [
        f"{number(horizontal.place(step))} {number(vertical.place(loss))}"
        for step, loss in zip(steps, losses, strict=True)
    ]
    return "M" + "L".join(places if len(places) > 1 else places * 2)


def _styles(points: Sequence[Point] | Sequence[AccuracyCurve]) -> dict[str, Style]:
    styles = {}
    for baseline in (False, True):
        for place, series in enumerate(dict.fromkeys(point.series for point in points if point.baseline == baseline)):
            colour = f"q{place % NUM_QUIET}" if baseline else f"s{place % NUM_COLOURS}"
            styles[series] = Style(colour, (place + baseline) % NUM_MARKERS, baseline)
    return styles


def _legend(styles: dict[str, Style], chance: bool) -> Html | None:
    entries = [joined([_swatch(style), series]) for series, style in styles.items()]
    line = element("svg", element("line", x1=0, x2=18, y1=8, y2=8, class_="axis dashed"), viewBox="0 0 18 16")
    return _listed([*entries, *([joined([line, "chance"])] if chance else [])])


def _swatch(style: Style) -> Html:
    return element("svg", _marker(style, 9, 8, 5 if style.hollow else 6), viewBox="0 0 18 16", aria_hidden="true")


def _listed(entries: Sequence[Html]) -> Html | None:
    return element("ul", *(element("li", entry) for entry in entries), class_="legend") if entries else None


def _accuracy_range(points: Sequence[Point]) -> tuple[float, float]:
    return (
        min(point.mean - (point.std or 0.0) for point in points),
        max(point.mean + (point.std or 0.0) for point in points),
    )


def _round_step(step: float) -> float:
    size = 10.0 ** math.floor(math.log10(step))
    return next(size * factor for factor in (1, 2, 5, 10) if size * factor >= step * 0.999)


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        found = [factor * 10.0**decade for decade in decades for factor in factors]
        found = [value for value in found if low <= value <= high]
        if len(found) >= 3:
            break
    return found[:: math.ceil(len(found) / 6)] if found else [low]


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """The means of all `window` successive values."""
    sums: list[float] = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    return [(sums[end] - sums[end - window]) / window for end in range(window, len(sums))]
