"""Small distilled files with runs and scorecards, for the tests of the page; and one whose every name is an attack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attar.data.image_set import ImageSet, Splits
from attar.data.sources import load_images
from attar.evaluation.evaluate import evaluate
from attar.report.page.writing import write_page
from attar.runs.distill import distill
from attar.sets.distilled import DistilledSet
from small_protocols import tiny
from small_sets import build

TINY = tiny(12, width=4)
FEW: dict[str, Any] = {"count": 1, "epochs": 2}
RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "codes": ("latent-dm", "1ipc", {"steps": 40, "objective.network.width": 4}),
    "d3": (
        "d3",
        "3lpc",
        {
            "steps": 4,
            "parameterization.decoder.width": 8,
            "parameterization.decoder.latent_dim": 4,
            "objective.parts.0.network.width": 4,
            "objective.parts.1.network.width": 4,
            "objective.parts.0.experts": FEW,
            "objective.parts.1.experts": FEW,
            "objective.parts.0.max_start_epoch": 1,
            "objective.parts.0.student_steps": 3,
            "objective.parts.0.samples": 3,
            "objective.parts.1.real_batch_size": 4,
            "objective.parts.1.samples": 2,
        },
    ),
    "lic": (
        "lic",
        "1ipc",
        {
            "steps": 6,
            "observer.network.width": 16,
            "observer.network.depth": 1,
            "observer.training.epochs": 3,
            "observer.training.min_steps": None,
            "observer.training.learning_rate": 0.1,
            "labels.epochs": 4,
        },
    ),
}
ATTACKS = (
    "<script>window.hit = 1</script>",
    '"><img src=x onerror="window.hit = 2">',
    "</title></style></script><svg onload='window.hit = 3'>",
    "javascript:window.hit=4",
    "&lt;b&gt; &#60;i&#62; &amp",
    "a" * 300,
    "\u202eright to left",
    "-->]]><!--",
    "${window.hit = 5} {{7*7}}",
    "ships & <b>sheep</b>",
)


def file(folder: Path, name: str) -> Path:
    return folder / f"{name}.attar.safetensors"


def card_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def make(folder: Path, name: str) -> Path:
    """The file of one of `RUNS`, with its run and its scorecard beside it."""
    recipe, budget, settings = RUNS[name]
    made = distill("digits", recipe, budget, settings=settings, out=file(folder, name))
    score(made, load_images("digits"), card_file(folder, name), name, ["random"])
    return file(folder, name)


def score(made: DistilledSet, splits: Splits, path: Path, called: str, baselines: list[str]) -> None:
    card = evaluate(made, splits, TINY, baselines=baselines, name=called, curves=True)
    path.write_text(card.to_json(), encoding="utf-8")


def make_hostile(folder: Path) -> Path:
    """A set whose names of classes, recipe, settings, data and card are attacks on a page that believes them."""
    digits = load_images("digits")
    train, test = (ImageSet(part.images, part.labels, ATTACKS) for part in (digits.train, digits.test))
    recipe = {
        "name": ATTACKS[0],
        "title": ATTACKS[1],
        ATTACKS[2]: {ATTACKS[0]: [ATTACKS[1]]},
        "citations": ["dm", "<x>"],
    }
    made = build(train, classes=ATTACKS, recipe=recipe, data=(ATTACKS[2], train), soft="float16")
    made.save(file(folder, "hostile"))
    score(made, Splits(train, test, ATTACKS[1]), card_file(folder, "hostile"), ATTACKS[0], [])
    return file(folder, "hostile")


def write(folder: Path, *names: str, **options: Any) -> Path:
    """The page of these files with their scorecards."""
    cards = [card_file(folder, name) for name in names]
    out = folder / f"{'-'.join(names)}.html"
    return write_page([file(folder, name) for name in names], out, scores=cards, overwrite=True, **options)
