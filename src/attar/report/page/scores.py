"""What was measured: in words, as a table, class by class, and which classes are taken for which."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from PIL import Image

from attar.evaluation.measuring import MOST_POINTS
from attar.evaluation.rows import NAMES, Row
from attar.evaluation.scorecard import COLUMNS, DISTILLED, Difference, Scorecard
from attar.evaluation.statistics import mean_and_std
from attar.models.networks.network import NetworkConfig
from attar.report.page.cards import accuracy_points, alike, networks_of, rows_of
from attar.report.page.charts import AccuracyCurve, Chart, accuracy_chart, bar, curve_chart, seed_strip
from attar.report.page.markup import Table, joined, name

NUMBERS = frozenset(
    {"items", "accuracy %", "paper bytes", "stored bytes", "images seen", "minutes", "%", "of 100", "images"}
)
MOST_CELLS = 20  # classes of a confusion matrix that is written out
LEVELS = 10
MOST_ROWS = 1000
MOST_BASELINES = 4
NUM_MISTAKES = 8
DARK, LIGHT = (8, 29, 88), (247, 251, 255)


@dataclass(frozen=True)
class Figure:
    """A chart and its caption."""

    chart: Chart
    caption: str


@dataclass(frozen=True)
class Confusions:
    """True classes against predicted ones: percents with their levels of colour, or a picture where they are many.

    Args:
        caption: what it is.
        classes: names, heads of rows and columns.
        cells: a row for each true class, of percents and levels; none where there is a picture.
        picture: a data URI.
        mistakes: the pairs that are confused most; None without any.
    """

    caption: str
    classes: tuple[str, ...]
    cells: list[list[tuple[str, int]]]
    picture: str
    mistakes: Table | None


def verdict(card: Scorecard, network: NetworkConfig) -> tuple[str, list[str]]:
    """Say in words what the card says of one network: the file, then each baseline."""
    distilled = _distilled_row(card, network)
    if distilled is None:
        return f"Under protocol {card.protocol.label} nothing was measured of {network.name} on the file itself.", []
    count = len(distilled.seeds)
    seeds = f"mean and standard deviation over {count} seeds" if count > 1 else "one seed, no spread"
    text = (
        f"Networks {network.name} trained on the file alone put {_figure(distilled)} % of {card.num_test:,} real test "
        f"images of {card.data} into the right class ({seeds}; protocol {card.protocol.label}, on {card.device}). "
        f"Chance is {100 / len(card.classes):.3g} %."
    )
    if not card.protocol.comparable:
        text += f" Protocol {card.protocol.name} compares the rows of one table; no published figure is like it."
    differences = ((card.difference(row), row) for row in rows_of(card, network) if row.name != DISTILLED)
    return text, [against(difference, row) for difference, row in differences if difference is not None]


def against(difference: Difference, row: Row) -> str:
    """Say in a sentence how the set differs from a baseline."""
    counts = (("stored", row.num_bytes), ("by the papers' count", row.paper_bytes))
    sizes = "".join(f", {count:,} bytes {what}" for what, count in counts if count is not None)
    start = f"Against “{row.name}” ({row.num_items:,} items{sizes}) with {_figure(row)} %: "
    if difference.low is None or difference.high is None:
        return f"{start}{difference.mean:+.1f} points, of which one seed can say nothing."
    interval = f"95 % interval {difference.low:+.1f} to {difference.high:+.1f}"
    if difference.verdict in ("better", "worse"):
        return f"{start}{difference.verdict} by {abs(difference.mean):.1f} points ({interval})."
    return f"{start}{difference.mean:+.1f} points, {difference.verdict} ({interval})."


def accuracy_figures(cards: Sequence[Scorecard], prefix: str) -> list[Figure]:
    """Draw accuracy against bytes once for every network and every group of cards that may be read side by side."""
    figures: list[Figure] = []
    for group in alike(cards):
        first, devices = group[0], ", ".join(dict.fromkeys(card.device for card in group))
        for network in dict.fromkeys(network for card in group for network in networks_of(card)):
            points = accuracy_points(group, network)
            if not points:
                continue
            chart = accuracy_chart(points, 100 / len(first.classes), f"{prefix}-bytes-{len(figures) + 1}")
            caption = (
                f"{network.name} on {first.data}, protocol {first.protocol.label}, {len(first.seeds)} "
                f"{'seeds' if len(first.seeds) > 1 else 'seed'}, {devices}: accuracy (%), with bars of one "
                "standard deviation, against stored bytes. A set counts with its whole file, images as plain uint8 or "
                "JPEG."
            )
            figures.append(Figure(chart, caption))
    return figures


def score_table(card: Scorecard) -> tuple[Table, str]:
    """Return the card's table with a dot for every seed, and a note between which accuracies the dots lie."""
    accuracies = [accuracy for row in card.rows for accuracy in row.accuracies]
    low, high = (min(accuracies) - 1, max(accuracies) + 1) if accuracies else (0.0, 100.0)
    strips = [
        seed_strip(row.accuracies, low, high, row.name != DISTILLED) if row.accuracies else "" for row in card.rows
    ]
    lines = card.lines()  # means over unseen networks come after the rows, and have no seeds of their own
    strips += [""] * (len(lines) - len(strips))
    rows = [[*cells[:6], strip, *cells[6:]] for cells, strip in zip(lines, strips, strict=True)]
    strong = frozenset(place for place, row in enumerate(card.rows) if row.name == DISTILLED)
    heads = (*COLUMNS[:6], "each seed", *COLUMNS[6:])
    note = f"Dots of “each seed” lie between {low:.1f} and {high:.1f} %."
    return Table(card.title, rows, heads, numbers=NUMBERS, strong=strong), note


def accuracy_curves(card: Scorecard, network: NetworkConfig, identity: str) -> Figure | None:
    """Draw accuracy against epochs of every row of one network; None where the card has no curves."""
    rows = [row for row in rows_of(card, network) if row.curves]
    if not rows:
        return None
    seeds = len(card.seeds)
    spread = f"mean of {seeds} seeds, with a band of one standard deviation" if seeds > 1 else "one seed, no spread"
    caption = (
        f"{network.name}: accuracy (%) on the test images against epochs of training, {spread}, at most "
        f"{MOST_POINTS} epochs. What counts is the last point of each row, whatever lies before it: a better epoch "
        "would have been chosen with the test images."
    )
    return Figure(curve_chart([_curve_of(row) for row in rows], 100 / len(card.classes), identity), caption)


def class_accuracies(
    card: Scorecard, network: NetworkConfig, baseline: str | None = None
) -> tuple[Markup, Table] | None:
    """Return the share of each class that is recognised, beside the baselines'; None where the card has none.

    Args:
        card: of the set.
        network: whose rows.
        baseline: name of the row that the set's percents are compared with, class by class; None, or one that the card
            has not, takes random images, labelled as the set is where there are such.

    Returns:
        The best and the worst class in words, and the table.
    """
    rows = [row for row in rows_of(card, network) if len(row.per_class) == len(card.classes)]
    if not rows or rows[0].name != DISTILLED:
        return None
    other = _compared(rows[1:], baseline)
    others = [row for row in rows[1:] if row is not other]
    others = [*([] if other is None else [other]), *others][:MOST_BASELINES]
    sentences: list[str] = [
        _extremes(rows[0].per_class, card.classes, "Recognised best is {} ({:.1f} %), worst {} ({:.1f} %).")
    ]
    columns = [[_percent(value) for value in rows[0].per_class]]
    columns.append(["no test image" if value is None else bar(value) for value in rows[0].per_class])
    heads = ["class", "of 100", "distilled"]
    if other is not None:
        gains = _gains(rows[0], other)
        columns.append(["" if gain is None else f"{gain:+.1f}" for gain in gains])
        heads.append(f"minus {other.name}")
        seeds = f"{len(other.seeds)} seeds together, without an interval" if len(other.seeds) > 1 else "one seed"
        sentence = " the most is gained on {} ({:+.1f} points), the least on {} ({:+.1f} points)."
        gained = _extremes(gains, card.classes, sentence)
        sentences += [f" Against “{other.name}” ({seeds})", gained] if gained else []
    columns += [[_percent(value) for value in row.per_class] for row in others]
    heads += [row.name for row in others]
    lines = [[name(label), *cells] for label, *cells in zip(card.classes, *columns, strict=True)]
    if len(lines) > MOST_ROWS:
        sentences.append(f" Listed are the first {MOST_ROWS} of {len(lines)} classes.")
    caption = f"percent of each class, {network.name}"
    numbers = NUMBERS | set(heads[3:])
    return joined(sentences), Table(caption, lines[:MOST_ROWS], heads, numbers=numbers, style="scroll tall")


def confusions(card: Scorecard, network: NetworkConfig) -> Confusions | None:
    """Count true classes against predicted ones, all seeds together; None where the card has no such counts."""
    row, size = _distilled_row(card, network), len(card.classes)
    if row is None or len(row.confusion) != size or any(len(line) != size for line in row.confusion):
        return None
    counts = np.array(row.confusion, dtype=np.float64)
    whole = counts.sum(1, keepdims=True)
    shares = np.divide(counts, whole, out=np.zeros_like(counts), where=whole > 0)
    mistakes = _mistakes(card, counts, shares)
    if size > MOST_CELLS:
        return Confusions(_picture_caption(network, size), card.classes, [], _picture(shares), mistakes)
    caption = f"percent of each true class that is taken for each class, {network.name}, all seeds together"
    cells = [
        [(f"{100 * share:.0f}", min(LEVELS - 1, int(share * LEVELS))) for share in line] for line in shares.tolist()
    ]
    return Confusions(caption, card.classes, cells, "", mistakes)


def _picture(shares: np.ndarray) -> str:
    """Draw one pixel for each pair of classes: the more, the darker."""
    share = np.sqrt(shares[:MOST_ROWS, :MOST_ROWS])[:, :, None]
    pixels = (np.array(LIGHT) * (1 - share) + np.array(DARK) * share).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _picture_caption(network: NetworkConfig, size: int) -> str:
    return (
        f"True classes from top to bottom, predicted ones from left to right, in the order of the labels; the "
        f"darker, the more of the true class ({network.name}, all seeds together; {min(size, MOST_ROWS)} classes)"
    )


def _mistakes(card: Scorecard, counts: np.ndarray, shares: np.ndarray) -> Table | None:
    """List the pairs that are confused most."""
    wrong = shares.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:NUM_MISTAKES]
    pairs = [divmod(int(place), len(wrong)) for place in order]
    rows = [
        [
            name(card.classes[true]),
            name(card.classes[other]),
            f"{100 * wrong[true, other]:.1f}",
            f"{counts[true, other]:,.0f}",
        ]
        for true, other in pairs
        if wrong[true, other] > 0
    ]
    heads = ("true class", "taken for", "%", "images")
    return Table("the most frequent mistakes", rows, heads, numbers=NUMBERS) if rows else None


def _distilled_row(card: Scorecard, network: NetworkConfig) -> Row | None:
    return next((row for row in rows_of(card, network) if row.name == DISTILLED), None)


def _figure(row: Row) -> str:
    return f"{row.mean:.1f}" if row.std is None else f"{row.mean:.1f} ± {row.std:.1f}"


def _curve_of(row: Row) -> AccuracyCurve:
    statistics = [mean_and_std(column) for column in zip(*row.curves, strict=True)]
    stds = tuple(std for _, std in statistics if std is not None)
    means = tuple(mean for mean, _ in statistics)
    return AccuracyCurve(row.name, row.curve_epochs, means, stds or None, row.name != DISTILLED)


def _compared(rows: Sequence[Row], baseline: str | None) -> Row | None:
    """Return the row called `baseline`, else the first that the set should beat; None without any."""
    names = (baseline, NAMES["same-labels"], NAMES["random"])
    return next((row for name in names for row in rows if row.name == name), next(iter(rows), None))


def _gains(first: Row, second: Row) -> list[float | None]:
    """Return by how many points the first row is better in each class; None where a class has no test image."""
    pairs = zip(first.per_class, second.per_class, strict=True)
    return [None if one is None or other is None else one - other for one, other in pairs]


def _extremes(values: Sequence[float | None], classes: Sequence[str], sentence: str) -> Markup:
    """Fill the classes with the highest and the lowest value into the sentence; "" where there is no value."""
    pairs = [(value, place) for place, value in enumerate(values) if value is not None]
    if not pairs:
        return Markup()
    (low, worst), (high, best) = min(pairs), max(pairs)
    return Markup(sentence).format(name(classes[best]), high, name(classes[worst]), low)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
