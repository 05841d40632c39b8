"""Plots: accuracy against bytes, against classes seen, and of candidates on few and all images."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.base.errors import InputError
from attar.base.files import atomic_path, refuse_existing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette without its yellow: told apart by readers of every colour vision; markers differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
QUIET_STYLE: dict[str, Any] = {"markersize": 5.5, "markerfacecolor": "white", "linewidth": 0.8, "zorder": 3}
QUIET = ("#7f7f7f", "#a8927c", "#7c93a8", "#93a87c", "#a07c9c")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LOG_MINUTES = 5.0


@dataclass(frozen=True)
class Point:
    """One measured accuracy.

    Args:
        series: points of one series share a colour, a marker and an entry of the legend.
        num_bytes: above 0.
        mean, std: percent; std None for a single seed.
        minutes: of training; None leaves the point out of that panel.
        baseline: drawn small, hollow and pale.
    """

    series: str
    num_bytes: int
    mean: float
    std: float | None
    minutes: float | None = None
    baseline: bool = False


@dataclass(frozen=True)
class Series:
    """Accuracies that share an entry of the legend, in percent.

    Args:
        name: in the legend.
        x: one for each point: a number of classes, or an accuracy measured in another way.
        y, y_std: mean and standard deviation over seeds; std None for a single seed.
        x_std: where x has one.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    y_std: Sequence[float | None]
    x_std: Sequence[float | None] | None = None

    def draw(self, axes: Axes, number: int, **style: Any) -> None:
        """Points with bars of one standard deviation, in the colours of a place of the legend."""
        axes.errorbar(
            self.x, self.y, xerr=_bars(self.x_std), yerr=_bars(self.y_std), label=self.name,
            color=COLOURS[number % len(COLOURS)], marker=MARKERS[number % len(MARKERS)], **style,
        )  # fmt: skip


def plot_accuracy(
    points: Sequence[Point],
    out: Path | str,
    *,
    title: str,
    size_label: str,
    minutes_label: str = "minutes of training",
    chance: float | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a PNG of accuracy against bytes, and against minutes, with bars of one standard deviation over seeds.

    Args:
        points: at least one; without any minutes there is one panel.
        chance: percent, drawn as a dashed line where that does not flatten the rest, else only told.

    Raises:
        InputError: nothing to draw, or an existing `out`.

    Source: D3 section 2.1 and Figure 1.
    """
    path = _png(out, overwrite, points)
    timed = [point for point in points if point.minutes]
    figure, panels = _figure(2 if timed else 1)
    _draw_points(panels[0], points, [point.num_bytes for point in points])
    log_axis(panels[0], [point.num_bytes for point in points], size_label, bytes_text)
    _accuracy_axis(panels[0], points, chance)
    if timed:
        _draw_points(panels[1], points, [point.minutes or math.nan for point in points])
        _minutes_axis(panels[1], [point.minutes or 0.0 for point in timed], minutes_label)
        panels[1].sharey(panels[0])
        _accuracy_axis(panels[1], points, chance)
        panels[1].set_ylabel("")
    figure.suptitle("\n".join(textwrap.wrap(title, 75 * len(panels))), x=0.01, ha="left", fontsize=10)
    _, labels = panels[0].get_legend_handles_labels()
    # About 15 letters of a small type fit an inch, and a marker takes 6.
    fitting = int(15 * figure.get_figwidth() / (6 + max(map(len, labels))))
    _legend(figure, max(1, min(2 + len(panels), fitting)), *panels[0].get_legend_handles_labels())
    return _save(figure, path)


def plot_classes(curves: Sequence[Series], out: Path | str, *, title: str, overwrite: bool = False) -> Path:
    """Write a PNG of accuracy against classes seen, and chance.

    Raises:
        InputError: nothing to draw, or an existing `out`.
    """
    path = _png(out, overwrite, curves)
    figure, [axes] = _figure()
    for number, curve in enumerate(curves):
        curve.draw(axes, number, markersize=6, capsize=3, linewidth=1.4, linestyle=":" if number else "-")
    counts = sorted({count for curve in curves for count in curve.x})
    axes.plot(counts, [100 / count for count in counts], color="#888888", linestyle="--", linewidth=1, label="chance")
    axes.set(xticks=counts, xlabel="classes seen, all of them tested", ylabel="accuracy (%), mean ± std over seeds")
    axes.set_title(title, loc="left", fontsize=10, wrap=True)
    _legend(figure, 4)
    return _save(figure, path)


def plot_agreement(clouds: Sequence[Series], out: Path | str, *, title: str, overwrite: bool = False) -> Path:
    """Write a PNG of candidates' accuracies on few items against those on all real images.

    Where the points of a cloud rise without a fall, it ranks as all real images do.

    Raises:
        InputError: nothing to draw, or an existing `out`.
    """
    path = _png(out, overwrite, clouds)
    figure, [axes] = _figure()
    for number, cloud in enumerate(clouds):
        face = {"markerfacecolor": "white", "markersize": 5.5} if number else {"markersize": 8}
        cloud.draw(axes, number, elinewidth=0.8, linestyle="none", **face)
    axes.set_xlabel("accuracy of candidates trained on all real images (%), mean ± std over seeds")
    axes.set_ylabel("trained on the items (%), mean ± std")
    axes.set_title("\n".join(textwrap.wrap(title, 95)), loc="left", fontsize=9)
    _legend(figure, 1)
    return _save(figure, path)


def _png(out: Path | str, overwrite: bool, drawn: Sequence[object]) -> Path:
    """`out` as a path. Raises InputError where it exists or is no PNG, or where nothing is drawn."""
    path = Path(out)
    refuse_existing(path, overwrite)
    if path.suffix.lower() != ".png":
        raise InputError(f"plots are PNG files and {path.name!r} is not; name it e.g. {path.stem}.png")
    if not drawn:
        raise InputError("there is no score to plot; every row is absent")
    return path


def _figure(num_panels: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of its own: neither pyplot nor any global state is touched, and no display is needed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6 if num_panels == 1 else 11.6, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = [figure.add_subplot(1, num_panels, place + 1) for place in range(num_panels)]
    for axes in panels:
        axes.grid(True, color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _save(figure: Figure, path: Path) -> Path:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return path


def _draw_points(axes: Axes, points: Sequence[Point], x: Sequence[float]) -> None:
    """Draw each series in its own way: sets in full colours, baselines hollow and in greys."""
    for baseline in (False, True):
        pairs = [(where, point) for where, point in zip(x, points, strict=True) if point.baseline == baseline]
        for number, name in enumerate(dict.fromkeys(point.series for _, point in pairs)):
            lap, place = divmod(number, len(COLOURS))
            colour = QUIET[number % len(QUIET)] if baseline else COLOURS[place]
            style = QUIET_STYLE if baseline else {"markersize": 8, "linewidth": 1.2, "zorder": 4}
            series = [(where, point) for where, point in pairs if point.series == name]
            axes.errorbar(
                [where for where, _ in series], [point.mean for _, point in series],
                yerr=_bars([point.std for _, point in series]), capsize=3, linestyle="none", label=name,
                color=colour, marker=MARKERS[(place + lap) % len(MARKERS)], **style,
            )  # fmt: skip


def _legend(figure: Figure, columns: int, *entries: Any) -> None:
    figure.legend(*entries, frameon=False, fontsize=8, loc="outside lower center", ncols=columns)


def _bars(stds: Sequence[float | None] | None) -> list[float] | None:
    return None if stds is None else [math.nan if std is None else std for std in stds]


def _accuracy_axis(axes: Axes, points: Sequence[Point], chance: float | None) -> None:
    low = min(point.mean - (point.std or 0.0) for point in points)
    high = max(point.mean + (point.std or 0.0) for point in points)
    note = ""
    if chance is not None and low - chance <= max(high - low, 5.0):
        axes.axhline(chance, color="#888888", linestyle="--", linewidth=1, label="chance", zorder=1)
    elif chance is not None:
        note = f"\nchance {chance:.3g} %"
    axes.set_ylabel(f"accuracy (%), mean ± std over seeds{note}", fontsize=9)


def log_axis(axes: Axes, values: Sequence[float], label: str, text: Callable[[float], str]) -> None:
    """Make the horizontal axis logarithmic, with a margin around the values, and write its numbers as `text` does."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = min(values), max(values)
    margin = max(1.25, (high / low) ** 0.08)
    axes.set(xscale="log", xlabel=label, xlim=(low / margin, high * margin))
    narrow = high * margin * margin / low < 300
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _minutes_axis(axes: Axes, minutes: Sequence[float], label: str) -> None:
    """An axis from zero, or a logarithmic one where the longest is many times the shortest."""
    if max(minutes) < LOG_MINUTES * min(minutes):
        axes.set(xlabel=label, xlim=(0, 1.08 * max(minutes)))
    else:
        log_axis(axes, minutes, label, "{:g}".format)


def bytes_text(count: float) -> str:
    """Bytes for people, in powers of 1000.

    Example:
        >>> bytes_text(512), bytes_text(12_300), bytes_text(5_000_000)
        ('512 B', '12.3 kB', '5 MB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.3g} B"
