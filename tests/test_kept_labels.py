"""Labelling that was stopped goes on where it was, and ends in the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attar.methods.labels import region_logits
from attar.methods.labels.checkpoints import KeptEpochs, forget_kept
from attar.sets.distilled import DistilledSet
from attar.sets.relabelling import with_regions
from small_regions import SMALL, SmallObserver, mosaic, settings, trained

EPOCHS = 6


class Stopping(SmallObserver):
    """Ctrl-C comes while it is asked for the n-th time."""

    def __init__(self, stop_at: int = 0) -> None:
        super().__init__(trained())
        self.stop_at = stop_at

    def logits(self, images: Tensor) -> Tensor:
        if self.num_calls + 1 == self.stop_at:
            raise KeyboardInterrupt
        return super().logits(images)


def label(folder: Path | None, stop_at: int = 0, **changes: Any) -> tuple[DistilledSet, int]:
    asked = Stopping(stop_at)
    config = settings(**{"epochs": EPOCHS, "mix": "cutmix", **changes})
    return with_regions(mosaic(), asked, config, seed=4, folder=folder), asked.num_calls


@pytest.mark.parametrize("storage", ["float16", "int8", "top-k", "codebook"])
def test_a_stopped_labelling_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str) -> None:
    """But for the labels of two epochs that a codebook is fitted to, which are asked for again."""
    monkeypatch.setattr(region_logits, "MOST_FITTED", 40)
    again = 2 if storage == "codebook" else 0
    changes: dict[str, Any] = {"storage": storage, **SMALL.get(storage, {})}
    whole, calls = label(None, **changes)
    assert calls == EPOCHS
    with pytest.raises(KeyboardInterrupt):
        label(tmp_path / "labels", stop_at=4, **changes)
    with pytest.raises(KeyboardInterrupt):
        label(tmp_path / "labels", stop_at=again + 2, **changes)
    resumed, calls = label(tmp_path / "labels", **changes)
    assert calls == EPOCHS - 3 - 1 + again
    assert resumed.to_bytes() == whole.to_bytes()
    assert label(tmp_path / "labels", **changes)[1] == again


def test_a_kill_costs_one_epoch(tmp_path: Path) -> None:
    """Files appear while labels are made, not at the end alone."""
    seen: list[int] = []

    class Looking(Stopping):
        def logits(self, images: Tensor) -> Tensor:
            seen.append(len(list(tmp_path.glob("labels/0/labels-*.safetensors"))))
            return super().logits(images)

    with_regions(mosaic(), Looking(), settings(epochs=EPOCHS), seed=4, folder=tmp_path / "labels")
    assert seen == list(range(EPOCHS))


@pytest.mark.parametrize(
    "changes", [{"scale": (0.5, 1.0)}, {"storage": "int8"}, {"mix": "none"}, {"flip": 0.5}], ids=str
)
def test_labels_of_other_settings_are_made_anew(tmp_path: Path, changes: dict[str, Any]) -> None:
    label(tmp_path / "labels")
    assert label(tmp_path / "labels", **changes)[1] == EPOCHS


def test_more_epochs_add_to_those_that_are_there(tmp_path: Path) -> None:
    label(tmp_path / "labels")
    longer, calls = label(tmp_path / "labels", epochs=EPOCHS + 2)
    assert calls == 2
    assert longer.to_bytes() == label(None, epochs=EPOCHS + 2)[0].to_bytes()
    shorter, calls = label(tmp_path / "labels", epochs=2)
    assert calls == 0 and shorter.to_bytes() == label(None, epochs=2)[0].to_bytes()


@pytest.mark.parametrize("damage", [b"", b"nothing of ours", None])
def test_a_damaged_file_counts_as_absent(tmp_path: Path, damage: bytes | None) -> None:
    expected, _ = label(tmp_path / "labels")
    path = sorted(tmp_path.glob("labels/0/*"))[2]
    path.write_bytes(path.read_bytes()[:-5] if damage is None else damage)
    found, calls = label(tmp_path / "labels")
    assert calls == EPOCHS - 2 and found.to_bytes() == expected.to_bytes()


def test_labels_of_another_shape_are_not_taken(tmp_path: Path) -> None:
    KeptEpochs(tmp_path / "0", "key").write(0, {"logits": torch.ones(3, 10)})
    epochs = {"logits": torch.zeros(2, 3, 10)}
    assert KeptEpochs(tmp_path / "0", "key").read_into(epochs) == 1
    assert epochs["logits"].sum((1, 2)).tolist() == [30, 0]
    for key, labels in (
        ("another", epochs),
        ("key", {"logits": torch.zeros(2, 4, 10)}),
        ("key", {"logits": torch.zeros(2, 3, 10).half()}),
        ("key", epochs | {"scale": torch.zeros(2, 3)}),
    ):
        assert KeptEpochs(tmp_path / "0", key).read_into(labels) == 0


def test_nothing_stays_once_the_set_is_written(tmp_path: Path) -> None:
    label(tmp_path / "set.run" / "labels")
    forget_kept(tmp_path / "set.run" / "labels")
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_left(tmp_path: Path) -> None:
    label(tmp_path / "set.run" / "labels")
    (tmp_path / "set.run" / "run.json").write_text("{}")
    (tmp_path / "set.run" / "labels" / "mine").write_text("")
    forget_kept(tmp_path / "set.run" / "labels")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["labels", "mine", "run.json", "set.run"]
