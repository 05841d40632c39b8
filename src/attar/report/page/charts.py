"""Drawings of the page: matplotlib's SVG inside the HTML, in colours that are the page's and so follow its theme."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from markupsafe import Markup

from attar.evaluation.plots import Point, bytes_text, log_axis
from attar.report.page.markup import clean
from attar.report.page.runs import LossCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 22, 40
SERIES = {f"s{place}": f"#aa00{place:02x}" for place in range(6)}
QUIET = {f"q{place}": f"#bb00{place:02x}" for place in range(4)}
PAPER, LINE, FAINT = "#cc0000", "#cc0001", "#cc0002"
# matplotlib knows no variables of CSS: it draws in colours that stand for them, which are replaced in what it wrote.
VARIABLES = {colour: name for name, colour in {**SERIES, **QUIET}.items()}
VARIABLES |= {PAPER: "paper", LINE: "line", FAINT: "faint"}
# How matplotlib calls a marker, and the letters for it in the legend: full for a set, hollow for a baseline.
MARKERS = (("o", "●○"), ("s", "■□"), ("^", "▲△"), ("D", "◆◇"), ("v", "▼▽"), ("*", "★☆"))
SMOOTHED_SHARE, LOG_RATIO = 0.05, 30.0
SMALLEST_ON_LOG = 1e-200  # smaller losses leave no room for a margin below them, and are drawn on a linear axis
MOST_POINTS = 400


class Style(NamedTuple):
    """How a series is drawn: its colour by the page's name and by matplotlib's, its marker, and the marker's letter."""

    colour: str
    paint: str
    marker: str
    letter: str
    hollow: bool


class Chart(NamedTuple):
    """A drawing, its legend as classes of colours, letters and names, and a note below."""

    svg: Markup
    legend: list[tuple[str, str, str]]
    note: str = ""


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


def accuracy_chart(points: Sequence[Point], chance: float, identity: str) -> Chart:
    """Draw accuracy against bytes with bars of one standard deviation; sets are full, baselines hollow.

    Args:
        points: at least one.
        chance: percent, a dashed line where it does not flatten the rest.
        identity: of the drawing's title in the page.
    """
    low = min(point.mean - (point.std or 0.0) for point in points)
    high = max(point.mean + (point.std or 0.0) for point in points)
    with_chance = low - chance <= max(high - low, 5.0)
    pad = max(1.0, 0.06 * (high - low))
    axes, styles, titles = _axes("accuracy %"), _styles(points), []
    bottom, top = max(0.0, min(low, chance if with_chance else low) - pad), min(100.0, high + pad)
    axes.set_ylim(bottom, top)
    log_axis(axes, [point.num_bytes for point in points], "bytes", bytes_text)
    for point in points:
        style = styles[point.series]
        if point.std is not None:
            lengths = [[min(point.std, point.mean - bottom)], [min(point.std, top - point.mean)]]
            look: dict[str, Any] = {"fmt": "none", "color": style.paint, "elinewidth": 1.3, "capsize": 4}
            axes.errorbar([point.num_bytes], [point.mean], lengths, **look)
        titles.append(f"{point.series}: {point.mean:.1f} % at {point.num_bytes:,} bytes")
        _mark(axes, point.num_bytes, point.mean, style, 9 if style.hollow else 12, len(titles))
    if with_chance:
        axes.axhline(chance, color=FAINT, linewidth=1, linestyle=(0, (5, 4)))
    text = "Accuracy in percent against bytes: " + "; ".join(
        f"{point.series} {point.mean:.1f} at {bytes_text(point.num_bytes)}" for point in points[:20]
    )
    note = "" if with_chance else f"Chance is {chance:.3g} %."
    return Chart(_svg(axes, text, identity, titles), _legend(styles, with_chance), note)


def curve_chart(curves: Sequence[AccuracyCurve], chance: float, identity: str) -> Chart:
    """Draw mean accuracy against epochs, with bands of one standard deviation, and chance as a dashed line.

    Args:
        curves: at least one, each of one point or more.
        chance: percent.
        identity: of the drawing's title in the page.
    """
    axes, styles, titles = _axes("accuracy %", "epoch"), _styles(curves), []
    last = [curve.epochs[-1] for curve in curves]
    if max(last) > LOG_RATIO * min(last):
        log_axis(axes, [epoch for curve in curves for epoch in curve.epochs], "epoch", "{:,.6g}".format)
    else:
        axes.set_xlim(0, 1.02 * max(last))
    high = chance
    for curve in sorted(curves, key=lambda curve: not curve.baseline):
        style = styles[curve.series]
        stds = curve.stds or (0.0,) * len(curve.means)
        lows = [max(0.0, mean - std) for mean, std in zip(curve.means, stds, strict=True)]
        highs = [min(100.0, mean + std) for mean, std in zip(curve.means, stds, strict=True)]
        high = max(high, *highs)
        if curve.stds is not None:
            axes.fill_between(curve.epochs, lows, highs, color=style.paint, alpha=0.16, linewidth=0)
        axes.plot(curve.epochs, curve.means, color=style.paint, linewidth=1.3 if curve.baseline else 2)
        for epoch, mean in zip(curve.epochs, curve.means, strict=True):
            titles.append(f"{curve.series}: {mean:.1f} % after {epoch:,} epochs")
            _mark(axes, epoch, mean, style, 5 if curve.baseline else 6.5, len(titles))
    axes.axhline(chance, color=FAINT, linewidth=1, linestyle=(0, (5, 4)))
    axes.set_ylim(0.0, min(100.0, high + max(1.0, 0.06 * high)))
    text = "Accuracy in percent against epochs: " + "; ".join(
        f"{curve.series} {curve.means[0]:.1f} after {curve.epochs[0]:,}, {curve.means[-1]:.1f} after "
        f"{curve.epochs[-1]:,}"
        for curve in curves[:20]
    )
    return Chart(_svg(axes, text, identity, titles), _legend(styles, True))


def loss_chart(curves: Sequence[LossCurve], identity: str) -> Chart:
    """Draw the loss of every step faint, and a running mean over 5 % of the steps strong.

    Args:
        curves: at least one, with one loss or more.
        identity: of the drawing's title in the page.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    axes = _axes("loss", "step")
    losses = [loss for curve in curves for loss in curve.losses]
    low, high = min(losses), max(losses)
    if low > SMALLEST_ON_LOG and LOG_RATIO < high / low < math.inf:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
        axes.yaxis.set_major_formatter("{x:.4g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    first, last = min(min(curve.steps) for curve in curves), max(max(curve.steps) for curve in curves)
    axes.set_xlim(first, max(first + 1, last))
    names = list(SERIES)
    for place, curve in enumerate(curves):
        colour = SERIES[names[place % len(names)]]
        window = max(1, round(len(curve.losses) * SMOOTHED_SHARE))
        smooth = running_mean(curve.losses, window)
        start = window // 2  # each mean stands in the middle of its window
        if window > 1:
            axes.plot(*_fewer(curve.steps, curve.losses), color=colour, linewidth=0.9, alpha=0.45)
        axes.plot(*_fewer(curve.steps[start : start + len(smooth)], smooth), color=colour, linewidth=2)
    text = f"Loss of the run against steps: {losses[0]:.4g} at first, {losses[-1]:.4g} at last"
    legend = [(names[place % len(names)], "●", curve.name) for place, curve in enumerate(curves) if curve.name]
    return Chart(_svg(axes, text, identity, []), legend)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Return the mean of every `window` successive values."""
    low, high = min(values), max(values)  # between which rounding may not keep a mean
    sums: list[float] = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    means = [(sums[end] - sums[end - window]) / window for end in range(window, len(sums))]
    return [min(max(mean, low), high) for mean in means]


def bar(percent: float) -> Markup:
    """Draw a bar of so many percent."""
    return Markup(
        '<svg viewBox="0 0 120 12" class="bar" role="img" aria-label="{0:.1f} %">'
        '<rect width="120" height="12" class="trough"/><rect width="{1:.2f}" height="12" class="full s0"/></svg>'
    ).format(percent, 1.2 * percent)


def seed_strip(accuracies: Sequence[float], low: float, high: float, baseline: bool) -> Markup:
    """Draw a dot for each seed between two accuracies, and a line at their mean."""

    def place(value: float) -> float:
        return 6 + 138 * ((value - low) / (high - low) if high > low else 0.5)

    style, dot = "hollow q0" if baseline else "full s0", Markup('<circle cx="{:.2f}" cy="9" r="3.5" class="{}"/>')
    return Markup(
        '<svg viewBox="0 0 150 18" class="strip-chart" role="img" aria-label="each seed: {}">'
        '<path d="M6 9H144" class="grid"/><path d="M{:.2f} 2v14" class="axis"/>{}</svg>'
    ).format(
        ", ".join(f"{value:.1f}" for value in accuracies[:20]),
        place(math.fsum(accuracies) / len(accuracies)),
        Markup().join(dot.format(place(value), style) for value in accuracies[:100]),
    )


def stacked_bar(parts: Sequence[tuple[str, int]], identity: str) -> Chart:
    """Draw the parts of a file's bytes one after another, with a legend."""
    whole, start, drawn, legend = sum(count for _, count in parts), 0.0, [], []
    box = Markup('<rect x="{:.2f}" width="{:.2f}" height="26" class="full {}"/>')
    for colour, (name, count) in zip(SERIES, parts, strict=False):
        width = WIDTH * count / whole
        drawn.append(box.format(start, width, colour))
        start += width
        legend.append((colour, "■", f"{name}: {count:,} bytes ({100 * count / whole:.1f} %)"))
    text = "; ".join(f"{name} {bytes_text(count)}" for name, count in parts)
    return Chart(_drawing(Markup().join(drawn), f"Bytes of the file: {text}", identity, 26), legend)


def _axes(up: str, across: str = "") -> Axes:
    """Return the axes of a new figure, with a grid and the names of both directions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72))
    figure.patch.set_visible(False)
    place = (LEFT / WIDTH, BOTTOM / HEIGHT, 1 - (LEFT + RIGHT) / WIDTH, 1 - (TOP + BOTTOM) / HEIGHT)
    axes = figure.add_axes(place)
    axes.patch.set_visible(False)
    axes.grid(True, color=LINE, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", length=0, labelsize=11, labelcolor=FAINT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.set_title(up, loc="left", fontsize=11, color=FAINT)
    axes.set_xlabel(across)
    axes.xaxis.label.set(fontsize=11, color=FAINT)
    axes.xaxis.set_major_formatter("{x:,.6g}")
    axes.yaxis.set_major_formatter("{x:.4g}")
    return axes


def _mark(axes: Axes, x: float, y: float, style: Style, size: float, number: int) -> None:
    """Draw a marker, which gets the title of this number in `_svg`."""
    face = PAPER if style.hollow else style.paint
    look: dict[str, Any] = {"color": style.paint, "markersize": size, "markeredgewidth": 1.5, "markerfacecolor": face}
    axes.plot([x], [y], marker=style.marker, linestyle="none", gid=f"title{number}", clip_on=False, zorder=4, **look)


def _svg(axes: Axes, text: str, identity: str, titles: Sequence[str]) -> Markup:
    """Return what matplotlib drew without what the page may not have: styles, ids that occur twice, addresses."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": identity}):
        cast("Figure", axes.figure).savefig(buffer, format="svg", metadata={"Date": None})
    written = buffer.getvalue()
    written = written[written.index('<g id="figure_1">') : written.rindex("</svg>")]
    written = re.sub(r'style="([^"]*)"', lambda found: _attributes(found[1]), written).replace("xlink:href", "href")
    written = re.sub("#[0-9a-f]{6}", lambda found: f"var(--{VARIABLES[found[0]]})", written)
    written = re.sub(r"\s+", " ", re.sub(r' id="[\w.]+_\d+"', "", written))

    def titled(found: re.Match[str]) -> str:
        return Markup("<g><title>{}</title>").format(clean(titles[int(found[1]) - 1]))

    return _drawing(Markup(re.sub(r'<g id="title(\d+)">', titled, written)), text, identity, HEIGHT)


def _attributes(style: str) -> str:
    """Turn an element's CSS into attributes of SVG, which the page's policy allows. The font stays the page's."""
    pairs = (rule.partition(":")[::2] for rule in style.split(";") if rule.strip())
    return " ".join(f'{name.strip()}="{value.strip()}"' for name, value in pairs if not name.strip().startswith("font"))


def _drawing(inside: Markup, text: str, identity: str, height: int) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {} {}" class="chart" role="img" aria-labelledby="{}"><title id="{}">{}</title>{}</svg>'
    ).format(WIDTH, height, identity, identity, clean(text), inside)


def _styles(rows: Sequence[Point] | Sequence[AccuracyCurve]) -> dict[str, Style]:
    """Return a style for each series: sets in full colours, baselines hollow and in quiet ones."""
    styles = {}
    for baseline in (False, True):
        palette = list((QUIET if baseline else SERIES).items())
        for place, series in enumerate(dict.fromkeys(row.series for row in rows if row.baseline == baseline)):
            marker, letters = MARKERS[(place + baseline) % len(MARKERS)]
            styles[series] = Style(*palette[place % len(palette)], marker, letters[baseline], baseline)
    return styles


def _legend(styles: dict[str, Style], with_chance: bool) -> list[tuple[str, str, str]]:
    entries = [(style.colour, style.letter, series) for series, style in styles.items()]
    return [*entries, ("", "╌", "chance")] if with_chance else entries


def _fewer(steps: Sequence[int], losses: Sequence[float]) -> tuple[list[float], list[float]]:
    """Reduce a curve to at most `MOST_POINTS`, each the mean of successive steps."""
    count = min(len(steps), MOST_POINTS)
    spans = list(pairwise(place * len(steps) // count for place in range(count + 1)))
    return (
        [math.fsum(steps[start:end]) / (end - start) for start, end in spans],
        [math.fsum(losses[start:end]) / (end - start) for start, end in spans],
    )
