"""What the labels of a set give away: how many numbers they are, whose, and how sure."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field
from torch import Tensor

from attar.base.config import Config
from attar.base.errors import InputError
from attar.evaluation.relabelled import regions_of
from attar.evaluation.variants import online_observer
from attar.methods.labels.regions import ObserverFacts
from attar.sets.distilled import DistilledSet
from attar.sets.sizes import online_observers
from attar.sets.streaming import RegionItems

GIVES_AWAY = {
    "hard": "labels: one class for each item; that of the real images where items began as such, and nothing more",
    "soft": "labels: probabilities learned with the items, or given by an expert that was trained on the training data",
    "regions": "labels: logits of an observer that was trained on the training images and their labels, for regions of "
    "distilled images, not of real ones; enough of them let a network be fitted to imitate the observer, and with it "
    "whatever it memorised",
}


class LabelFacts(Config):
    """What is stored as labels.

    Args:
        kind: as in the manifest.
        num_values: stored numbers beside each item's class.
        num_bytes: their bytes, and those of an observer that is asked while training.
        mean_entropy: of soft labels, or of region labels in the first epoch, in nats; None where there are none.
        largest_entropy: log K.
        agreement: the share of items, or of regions' canvases, whose largest probability is at their own class.
        observer: whose logits region labels are; None without one, or where the file does not say.
        online: whether the observer is asked while training, and so must be given along.
    """

    kind: Literal["hard", "soft", "regions"]
    num_values: int = Field(ge=0)
    num_bytes: int = Field(ge=0)
    mean_entropy: float | None = None
    largest_entropy: float
    agreement: float | None = None
    observer: ObserverFacts | None = None
    online: bool = False

    def remarks(self) -> list[str]:
        """What may be read from the labels, in sentences."""
        lines = [GIVES_AWAY[self.kind]]
        if self.kind == "hard":
            return lines
        entropy = ""
        if self.mean_entropy is not None and self.agreement is not None:
            entropy = (
                f"; mean entropy {self.mean_entropy:.3g} of at most {self.largest_entropy:.3g} nats, "
                f"{100 * self.agreement:.0f} % have their own class first"
            )
        lines.append(f"labels hold {self.num_values:,} numbers in {self.num_bytes:,} bytes{entropy}")
        if self.observer is not None:
            given = "its weights go along with the set" if self.online else "its weights are not in the file"
            lines.append(
                f"the observer {self.observer.network} has {self.observer.num_bytes // 4:,} parameters; {given}"
            )
        return lines


def label_facts(distilled: DistilledSet) -> LabelFacts:
    """What the labels of a set are, as they are stored."""
    manifest, regions = distilled.manifest, regions_of(distilled)
    stored = [payload["soft_labels"] for payload in distilled.payloads() if "soft_labels" in payload]
    stored += [tensor for tensors in distilled.region_tensors() for tensor in tensors.values()]
    probabilities = _region_probabilities(distilled) if regions else distilled.soft_labels
    entropy, agreement = None, None
    if probabilities is not None:
        entropy = float(-(probabilities * probabilities.clamp_min(1e-30).log()).sum(1).mean())
        tiles = len(distilled) // distilled.num_training_items  # those of one canvas are of one class
        agreement = float((probabilities.argmax(1) == distilled.labels[::tiles]).double().mean())
    return LabelFacts(
        kind=manifest.labels_kind,
        num_values=sum(tensor.numel() for tensor in stored),
        num_bytes=distilled.storage.label_bytes,
        mean_entropy=entropy,
        largest_entropy=math.log(len(manifest.classes)),
        agreement=agreement,
        observer=regions.observer if regions else None,
        online=bool(online_observers(manifest)),
    )


def _region_probabilities(distilled: DistilledSet) -> Tensor | None:
    """Those of every canvas's region in the first epoch; None where the observer to ask is not at hand."""
    try:
        items = distilled.training_items("cpu", online_observer(distilled))
    except InputError:
        return None
    assert isinstance(items, RegionItems)
    return items.logits(0).softmax(1)
