"""One command judges five sets of different kinds, and a second time prints the same table, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attar.cli import main
from attar.data.sources import load_images
from attar.evaluation import measuring
from attar.evaluation.compare import Comparison
from attar.methods.parameterizations.codes import Codes
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.sets.distilled import DistilledSet
from attar.sets.manifest import DataProvenance, InitialProvenance
from small_protocols import tiny
from small_sets import first_items

TINY = tiny(1, width=4)
SMALL = {
    "latent-dm": ["steps=2", "objective.network.width=4"],
    "dm": ["steps=2", "objective.network.width=4"],
    "d3": [
        "steps=2", "parameterization.decoder.width=8", "parameterization.decoder.latent_dim=4",
        *(f"objective.parts.{part}.{setting}" for part in (0, 1)
          for setting in ("network.width=4", "experts.count=1", "experts.epochs=2")),
        "objective.parts.0.max_start_epoch=1",
    ],
    "lic": [
        "steps=2", "observer.network.width=4", "observer.training.epochs=1", "observer.training.min_steps=20",
        "observer.least_accuracy=0", "labels.epochs=4", "initialization.pool=20",
    ],
}  # fmt: skip


def foreign() -> DistilledSet:
    """What a folder of images is as a set: pixels, and nothing known of where they came from."""
    train = load_images("digits").train
    pixels = fit_codec(PixelsConfig(), train)
    indices = first_items(train, 2)
    codes = pixels.encode(train.images[indices].float() / 255)
    return DistilledSet.build(
        Codes(pixels, codes, train.labels[indices]),
        pixels,
        classes=train.classes,
        recipe={},
        data=DataProvenance(name="somewhere", fingerprint="", num_items=0),
        initial=InitialProvenance(kind="unknown", real_pixels_inside=True),
    )


def test_five_kinds_of_sets_in_one_table_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.json").write_text(TINY.model_dump_json())
    files = [f"{name}.attar.safetensors" for name in (*SMALL, "foreign")]
    for name, settings in SMALL.items():
        changes = [word for setting in settings for word in ("--set", setting)]
        assert main(["distill", "digits", "--recipe", name, "--out", f"{name}.attar.safetensors", "-q", *changes]) == 0
    foreign().save(files[-1])
    capsys.readouterr()
    line = ["compare", *files, "--data", "digits", "--protocol", "tiny.json", "--baselines", "usual,jpeg,hard-labels"]
    assert main([*line, "-q"]) == 0
    first = capsys.readouterr().out
    with monkeypatch.context() as patched:
        patched.setattr(measuring, "train_networks", _never)
        assert main([*line, "-q", "--out", "all.json"]) == 0
    assert capsys.readouterr().out.removesuffix("all.json\n") == first, "the minutes too: those of the first time"
    compared = Comparison.from_json(Path("all.json").read_text(encoding="utf-8"))
    cards = {card.name: card for card in compared.cards}
    assert set(cards) == {*SMALL, "foreign"} and all(name in first for name in cards)
    assert {name: card.labels for name, card in cards.items()} == {
        "latent-dm": "hard", "dm": "hard", "foreign": "hard", "d3": "soft", "lic": "regions",
    }  # fmt: skip
    assert all(card.row().absent is None and card.row().seeds == (0, 1) for card in cards.values())
    assert cards["d3"].row("distilled, with hard labels").absent is None
    assert any("distilled from other images" in note for note in cards["foreign"].notes)
    sizes = [card.storage.file_bytes for card in compared.cards]
    assert sizes == sorted(sizes) and json.loads(compared.to_json())


def _never(*_: Any, **__: Any) -> None:
    raise AssertionError("a network was trained although its score is known")
