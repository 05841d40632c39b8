"""What was measured: in words, as a table, class by class, and which classes are taken for which."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from attar.evaluation.measuring import MOST_POINTS
from attar.evaluation.rows import NAMES, Row
from attar.evaluation.scorecard import COLUMNS, DISTILLED, Difference, Scorecard
from attar.evaluation.statistics import mean_and_std
from attar.models.networks.network import NetworkConfig
from attar.report.page.cards import accuracy_points, alike, networks_of, rows_of
from attar.report.page.charts import AccuracyCurve, accuracy_chart, bar, curve_chart, seed_strip
from attar.report.page.markup import Html, element, joined, name, scrolling, table

NUMBERS = frozenset(
    {"items", "accuracy %", "paper bytes", "stored bytes", "images seen", "minutes", "%", "of 100", "images"}
)
MOST_CELLS = 20  # classes of a confusion matrix that is written out
LEVELS = 10
MOST_ROWS = 1000
MOST_BASELINES = 4
TOLD_CONFUSIONS = 8
DARK, LIGHT = (8, 29, 88), (247, 251, 255)


def verdict(card: Scorecard, network: NetworkConfig) -> Html:
    """What the card says of one network, in words: the file, then each baseline."""
    own = next((row for row in rows_of(card, network) if row.name == DISTILLED), None)
    if own is None or own.mean is None:
        told = f"Under protocol {card.protocol.label} nothing was measured of {network.name} on the file itself."
        return element("p", told)
    seeds = f"mean and standard deviation over {len(own.seeds)} seeds" if len(own.seeds) > 1 else "one seed, no spread"
    figure = f"{own.mean:.1f}" if own.std is None else f"{own.mean:.1f} ± {own.std:.1f}"
    chance = 100 / len(card.classes)
    told = (
        f"Networks {network.name} trained on the file alone put {figure} % of {card.num_test:,} real test images of "
        f"{card.data} into the right class ({seeds}; protocol {card.protocol.label}, on {card.device}). Chance is "
        f"{chance:.3g} %."
    )
    if not card.protocol.comparable:
        told += f" Protocol {card.protocol.name} compares the rows of one table; no published figure is like it."
    against = [
        element("li", _against(difference, row))
        for row in rows_of(card, network)
        if row.name != DISTILLED and (difference := card.difference(row)) is not None
    ]
    return joined([element("p", told), element("ul", *against) if against else None])


def accuracy_figures(cards: Sequence[Scorecard], prefix: str) -> list[Html]:
    """Accuracy against bytes, once for every protocol and network, of all cards that may be read side by side."""
    figures: list[Html] = []
    for group in alike(cards):
        for network in dict.fromkeys(network for card in group for network in networks_of(card)):
            points = accuracy_points(group, network)
            if not points:
                continue
            chart = accuracy_chart(points, 100 / len(group[0].classes), f"{prefix}-bytes-{len(figures) + 1}")
            first, devices = group[0], ", ".join(dict.fromkeys(card.device for card in group))
            told = (
                f"{network.name} on {first.data}, protocol {first.protocol.label}, {len(first.seeds)} "
                f"{'seeds' if len(first.seeds) > 1 else 'seed'}, {devices}: accuracy (%), with bars of one "
                "standard deviation, against stored bytes. A set counts with its whole file, images as plain uint8 or "
                "JPEG."
            )
            figures.append(element("figure", chart, element("figcaption", told)))
    return figures


def score_table(card: Scorecard) -> Html:
    """The card's table with every seed, and what should be known before a number is believed."""
    measured = [each for row in card.rows for each in row.accuracies]
    low, high = (min(measured) - 1, max(measured) + 1) if measured else (0.0, 100.0)
    heads = (*COLUMNS[:6], "each seed", *COLUMNS[6:])
    strips = [_strip(row, low, high) for row in card.rows]
    lines = card.lines()  # means over unseen networks come after the rows
    strips += [""] * (len(lines) - len(strips))
    rows = [[*cells[:6], strip, *cells[6:]] for cells, strip in zip(lines, strips, strict=True)]
    strong = frozenset(place for place, row in enumerate(card.rows) if row.name == DISTILLED)
    found = table(heads, rows, caption=card.title, numbers=NUMBERS, strong=strong)
    remarks = element("ul", *(element("li", remark) for remark in card.remarks()), class_="note")
    return joined(
        [found, element("p", f"Dots of “each seed” lie between {low:.1f} and {high:.1f} %.", class_="note"), remarks]
    )


def accuracy_curves(card: Scorecard, network: NetworkConfig, identity: str) -> Html | None:
    """Accuracy against epochs of every row of one network; None where the card has no curves."""
    rows = [row for row in rows_of(card, network) if row.curves]
    if not rows:
        return None
    chart = curve_chart([_curve_of(row) for row in rows], 100 / len(card.classes), identity)
    seeds = len(card.seeds)
    spread = f"mean of {seeds} seeds, with a band of one standard deviation" if seeds > 1 else "one seed, no spread"
    told = (
        f"{network.name}: accuracy (%) on the test images against epochs of training, {spread}, at most "
        f"{MOST_POINTS} epochs. What counts is the last point of each row, whatever lies before it: a better epoch "
        "would have been chosen with the test images."
    )
    return element("figure", chart, element("figcaption", told))


def class_accuracies(card: Scorecard, network: NetworkConfig, against: str | None = None) -> Html | None:
    """The share of each class that is recognised, beside that of the baselines; None where the card has it not.

    Args:
        card: of the set.
        network: whose rows.
        against: name of the row that the set's percents are compared with, class by class; None, or one that the card
            has not, takes random images, labelled as the set is where there are such.
    """
    rows = [row for row in rows_of(card, network) if len(row.per_class) == len(card.classes)]
    if not rows or rows[0].name != DISTILLED:
        return None
    other = _compared(rows[1:], against)
    others = ([] if other is None else [other]) + [row for row in rows[1:] if row is not other]
    others = others[:MOST_BASELINES]
    gains = _gains(rows[0], other)
    minus = () if other is None else (f"minus {other.name}",)
    heads = ("class", "of 100", "distilled", *minus, *(row.name for row in others))
    lines: list[list[str]] = []
    for place, label in enumerate(card.classes[:MOST_ROWS]):
        own = rows[0].per_class[place]
        drawn = "no test image" if own is None else bar(own)
        gain = [] if other is None else ["" if gains[place] is None else f"{gains[place]:+.1f}"]
        lines.append([name(label), _percent(own), drawn, *gain, *(_percent(row.per_class[place]) for row in others)])
    told = _extremes(rows[0].per_class, card.classes, "Recognised best is ", "worst", "{:.1f} %")
    if other is not None:
        seeds = f"{len(other.seeds)} seeds together, without an interval" if len(other.seeds) > 1 else "one seed"
        begun = f" Against “{other.name}” ({seeds}) the most is gained on "
        told += _extremes(gains, card.classes, begun, "the least on", "{:+.1f} points")
    if len(card.classes) > MOST_ROWS:
        told.append(f" Listed are the first {MOST_ROWS} of {len(card.classes)} classes.")
    numbers = NUMBERS | {row.name for row in others} | set(minus)
    return joined(
        [
            element("p", *told),
            table(
                heads, lines, caption=f"percent of each class, {network.name}", numbers=numbers, class_="scroll tall"
            ),
        ]
    )


def confusions(card: Scorecard, network: NetworkConfig) -> Html | None:
    """True classes against predicted ones, all seeds together; None where the card has no such counts."""
    own = next((row for row in rows_of(card, network) if row.name == DISTILLED), None)
    size = len(card.classes)
    if own is None or len(own.confusion) != size or any(len(line) != size for line in own.confusion):
        return None
    counts = np.array(own.confusion, dtype=np.float64)
    whole = counts.sum(1, keepdims=True)
    shares = np.divide(counts, whole, out=np.zeros_like(counts), where=whole > 0)
    matrix = _matrix(card, shares, network) if size <= MOST_CELLS else _picture(shares, network)
    return joined([matrix, _worst(card, counts, shares)])


def _matrix(card: Scorecard, shares: np.ndarray, network: NetworkConfig) -> Html:
    heads = element(
        "tr",
        element("th", "true \\ predicted", scope="col"),
        *(element("th", element("span", name(label)), scope="col", title=label) for label in card.classes),
    )
    lines = [
        element(
            "tr",
            element("th", name(label), scope="row"),
            *(element("td", f"{100 * share:.0f}", class_=f"h{min(LEVELS - 1, int(share * LEVELS))}") for share in line),
        )
        for label, line in zip(card.classes, shares.tolist(), strict=True)
    ]
    told = f"percent of each true class that is taken for each class, {network.name}, all seeds together"
    return scrolling(element("table", element("thead", heads), element("tbody", *lines)), told, "scroll matrix")


def _picture(shares: np.ndarray, network: NetworkConfig) -> Html:
    """One pixel for each pair of classes: dark is much."""
    size = min(len(shares), MOST_ROWS)
    share = np.sqrt(shares[:size, :size])[:, :, None]
    pixels = (np.array(LIGHT) * (1 - share) + np.array(DARK) * share).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    told = (
        f"True classes from top to bottom, predicted ones from left to right, in the order of the labels; the "
        f"darker, the more of the true class ({network.name}, all seeds together; {size} classes)"
    )
    return element("figure", element("img", src=source, alt=told, class_="heat pixels"), element("figcaption", told))


def _worst(card: Scorecard, counts: np.ndarray, shares: np.ndarray) -> Html | None:
    """The pairs that are confused most."""
    wrong = shares.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:TOLD_CONFUSIONS]
    pairs = [divmod(int(place), len(wrong)) for place in order]
    rows = [
        [
            name(card.classes[true]),
            name(card.classes[taken]),
            f"{100 * wrong[true, taken]:.1f}",
            f"{counts[true, taken]:,.0f}",
        ]
        for true, taken in pairs
        if wrong[true, taken] > 0
    ]
    heads = ("true class", "taken for", "%", "images")
    return table(heads, rows, caption="the most frequent mistakes", numbers=NUMBERS) if rows else None


def _against(difference: Difference, row: Row) -> str:
    """A baseline in a sentence."""
    assert row.mean is not None
    counts = (("stored", row.num_bytes), ("by the papers' count", row.paper_bytes))
    sizes = ", ".join(f"{count:,} bytes {what}" for what, count in counts if count is not None)
    figure = f"{row.mean:.1f}" if row.std is None else f"{row.mean:.1f} ± {row.std:.1f}"
    begun = f"Against “{row.name}” ({row.num_items:,} items{', ' * bool(sizes)}{sizes}) with {figure} %: "
    points = f"{abs(difference.mean):.1f} points"
    if difference.low is None or difference.high is None:
        return f"{begun}{difference.mean:+.1f} points, of which one seed can say nothing."
    interval = f"95 % interval {difference.low:+.1f} to {difference.high:+.1f}"
    if difference.verdict in ("better", "worse"):
        return f"{begun}{difference.verdict} by {points} ({interval})."
    return f"{begun}{difference.mean:+.1f} points, {difference.verdict} ({interval})."


def _curve_of(row: Row) -> AccuracyCurve:
    found = [mean_and_std(column) for column in zip(*row.curves, strict=True)]
    stds = tuple(std for _, std in found if std is not None)
    means = tuple(mean for mean, _ in found)
    return AccuracyCurve(row.name, row.curve_epochs, means, stds or None, row.name != DISTILLED)


def _compared(rows: Sequence[Row], against: str | None) -> Row | None:
    """The row called `against`, else the first of what the set should beat; None without any."""
    wanted = (against, NAMES["same-labels"], NAMES["random"])
    found = (row for called in wanted for row in rows if row.name == called)
    return next(found, next(iter(rows), None))


def _gains(own: Row, other: Row | None) -> list[float | None]:
    """Points for each class by which the first row is better; None where a class has no test image."""
    if other is None:
        return []
    pairs = zip(own.per_class, other.per_class, strict=True)
    return [None if first is None or second is None else first - second for first, second in pairs]


def _extremes(values: Sequence[float | None], classes: Sequence[str], begun: str, least: str, figure: str) -> list[str]:
    """The classes with the highest and the lowest value, in a sentence; nothing where no value is known."""
    known = [(value, place) for place, value in enumerate(values) if value is not None]
    if not known:
        return []
    (low, worst), (high, best) = min(known), max(known)
    first = [begun, name(classes[best]), f" ({figure.format(high)}), {least} "]
    return [*first, name(classes[worst]), f" ({figure.format(low)})."]


def _strip(row: Row, low: float, high: float) -> Html | str:
    return seed_strip(row.accuracies, low, high, row.name == DISTILLED) if row.accuracies else ""


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
