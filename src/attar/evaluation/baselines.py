"""What else could be had for the same bytes: real images, and the set's own starting point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attar.base.errors import unknown
from attar.base.progress import Progress, Silent, Within
from attar.base.randomness import generator
from attar.base.shapes import Int64
from attar.data.image_set import ImageSet
from attar.evaluation.candidates import AbsentError, Candidate, MakeItems, absent_candidate, image_items, network_inputs
from attar.evaluation.difficulty import el2n_scores, extremes, scoring_networks
from attar.evaluation.jpeg import decoded, encoder_version, fitting_draws
from attar.evaluation.relabelled import known_observer, labelled_alike, regions_of
from attar.evaluation.rows import NAMES
from attar.methods.initialization import Sources
from attar.methods.initialization.selection import SELECTIONS
from attar.methods.parameterizations.codes import Codes
from attar.methods.parameterizations.parameterization import Parameterization
from attar.methods.parameterizations.registry import can_be_remade
from attar.models.codecs.codec import Codec
from attar.models.observers.observer import Observer
from attar.models.training.items import FixedItems, TrainingItems
from attar.models.training.settings import TrainingConfig
from attar.sets.manifest import SOFT_LABELS, RegionSpec, ShardSpec
from attar.sets.sizes import online_observers

if TYPE_CHECKING:
    from attar.sets.distilled import DistilledSet

BASELINES = tuple(NAMES)
USUAL = ("random", "same-labels", "herding", "initial", "random-uint8")
GROUPS = {
    "usual": USUAL,
    "coresets": ("herding", "k-centre", "el2n", "el2n-easy"),
    "bytes": ("random-uint8", "jpeg"),
    "dd-ranking": ("random", "same-labels", "hard-labels", "plain", "random-plain", "full"),
    "all": BASELINES,
}
"""Words that stand for several baselines."""
MOST_VALUES = 2**30
"""Pixels of the whole training part up to which its network inputs are kept in memory: 4 GiB of float32."""


@dataclass(frozen=True)
class Occasion:
    """The seeds, device and training of an evaluation's networks, for the making of its rows."""

    seeds: tuple[int, ...] = (0,)
    device: torch.device | str = "cpu"
    progress: Progress = field(default_factory=Silent)
    training: TrainingConfig = field(default_factory=TrainingConfig)


def images_at_paper_bytes(distilled: DistilledSet) -> int:
    """How many real images of each class hold as many values as the set's items and soft labels, rounded, at least 1.

        n = round((sum over items of (c h w, or of a prior 2 d, + K with soft labels) + decoder of priors) / (K C H W))

    The papers count so (LatentDD section 3.2); the decoder of a codec in the file is not counted in the images' favour,
    that of priors is, because it was distilled with them (D3 section B.1).
    Deviation: papers with soft labels leave these out; they are stored too, and real images need none. Region labels
        are left out here as there: "random-uint8" has the bytes of the whole file.
    """
    return _images_per_class(distilled, prod(distilled.image_shape))


def images_at_file_bytes(distilled: DistilledSet) -> int:
    """How many plain uint8 images of each class fit into the set's file, its manifest included; may be 0."""
    return distilled.storage.file_bytes // (distilled.num_classes * prod(distilled.image_shape))


def baseline_kinds(baselines: bool | Sequence[str]) -> tuple[str, ...]:
    """The kinds that a user's choice means, in the order of `BASELINES`.

    Args:
        baselines: True for the usual ones, False for none, or names of `BASELINES` and `GROUPS`.

    Raises:
        InputError: an unknown name; the nearest is named.
    """
    if isinstance(baselines, bool):
        return USUAL if baselines else ()
    chosen: set[str] = set()
    for name in (baselines,) if isinstance(baselines, str) else baselines:
        if name not in BASELINES and name not in GROUPS:
            raise unknown("baseline", str(name), (*BASELINES, *GROUPS))
        chosen.update(GROUPS.get(name, (name,)))
    return tuple(name for name in BASELINES if name in chosen)


def baseline(kind: str, distilled: DistilledSet, train: ImageSet, occasion: Occasion | None = None) -> Candidate | None:
    """The baseline of that kind for a set, from the training images; None where it would repeat another one.

    Args:
        kind: one of `BASELINES`, but for those that vary how the set itself is trained on (see `variants`).
        distilled: gives the number of bytes, the preprocessing and, for "initial", the starting point.
        train: real training images of the same classes and shape.
        occasion: None is one seed on the CPU.
    """
    rows = _RealRows(distilled, train, occasion or Occasion())
    makers: dict[str, Callable[[], Candidate | None]] = {
        "same-labels": rows.labelled_alike,
        "el2n": partial(rows.el2n, "el2n"),
        "el2n-easy": partial(rows.el2n, "el2n-easy"),
        "initial": partial(_initial_codes, distilled, train),
        "random-uint8": rows.in_file_bytes,
        "jpeg": rows.jpeg,
        "full": rows.everything,
    }
    try:
        return makers[kind]() if kind in makers else rows.selected(kind, kind, images_at_paper_bytes(distilled))
    except AbsentError as reason:
        return absent_candidate(NAMES[kind], str(reason))


def choose(
    selection: str, count: int, train: ImageSet, preprocess: Codec, draw: torch.Generator
) -> Int64[Tensor, " chosen"]:
    """Indices of up to `count` training images of each class, class-major; a smaller class gives all it has.

    Herding and k-centre compare network inputs, pixel by pixel: no network has to be trained or chosen for them.
    """
    chosen = []
    for members in train.class_indices:
        if not len(members):
            continue
        inputs = torch.empty(len(members), 0)
        if selection != "random":
            inputs = network_inputs(train.images[members], preprocess, torch.device("cpu")).flatten(1)
        chosen.append(members[SELECTIONS[selection](inputs, min(count, len(members)), draw)])
    return torch.cat(chosen)


def _every_item(train: ImageSet, preprocess: Codec, device: torch.device) -> TrainingItems:
    """All images as network inputs: made once, or batch by batch of what would fill the memory."""
    if train.images.numel() <= MOST_VALUES:
        return image_items(train.images, train.labels, preprocess, device)
    from attar.models.real_items import RealItems

    codec = preprocess.to(device)
    return RealItems(train.labels, train.num_classes, images=train, codec=codec, device=device)


@dataclass(frozen=True)
class _RealRows:
    """Rows of real training images beside a set, preprocessed as the set's are."""

    distilled: DistilledSet
    train: ImageSet
    occasion: Occasion

    @property
    def key(self) -> tuple[str, str]:
        """The part of a key that all these rows share."""
        return self.train.fingerprint, self.distilled.preprocess.identity()

    def counts(self, count: int) -> list[int]:
        """How many images each class gives of `count`."""
        return [min(count, len(members)) for members in self.train.class_indices]

    def chosen(self, selection: str, count: int, seed: int) -> Int64[Tensor, " chosen"]:
        """The images of a selection, the same ones in every row of a seed."""
        draw = generator(seed, "baseline", selection)
        return choose(selection, count, self.train, self.distilled.preprocess, draw)

    def row(
        self,
        kind: str,
        count: int,
        maker: Callable[[int], MakeItems],
        note: str,
        *key: object,
        drawn: bool = True,
        label_bytes: tuple[int, int] = (0, 0),
    ) -> Candidate:
        """Up to `count` images of each class; other labels than hard ones count by the papers and as stored."""
        num_items = sum(self.counts(count))
        values = num_items * prod(self.train.image_shape)
        paper_bytes, num_bytes = 4 * values + label_bytes[0], values + label_bytes[1]
        return Candidate(NAMES[kind], num_items, paper_bytes, num_bytes, (*key, count, *self.key), maker, drawn, note)

    def hard_labelled(self, indices: Tensor) -> MakeItems:
        """These images with their classes as labels."""
        return partial(image_items, self.train.images[indices], self.train.labels[indices], self.distilled.preprocess)

    def selected(self, kind: str, selection: str, count: int, note: str = "") -> Candidate:
        """Images that are drawn at random, or chosen by their pixels."""
        least, drawn = min(self.counts(count)), selection == "random"
        note += _of_each_class(count)
        if least < count:
            note += f", but only {least} where a class has no more"
        note += " (new ones for each seed)" if drawn else " (the same for every seed)"

        def maker(seed: int) -> MakeItems:
            return self.hard_labelled(self.chosen(selection, count, seed))

        return self.row(kind, count, maker, note, "real", selection, drawn=drawn)

    def in_file_bytes(self) -> Candidate | None:
        """Random images in the bytes of the file; None where these hold no more than the papers' convention gives."""
        count = images_at_file_bytes(self.distilled)
        if count <= images_at_paper_bytes(self.distilled):
            return None
        note = f"as many plain uint8 images as the file's {self.distilled.storage.file_bytes:,} bytes hold: "
        return self.selected("random-uint8", "random", count, note)

    def everything(self) -> Candidate:
        """The whole training part, of whose accuracy the others reach a share."""
        size, maker = len(self.train), partial(_every_item, self.train, self.distilled.preprocess)
        values = size * prod(self.train.image_shape)
        note = f"all {size:,} training images, under the same protocol as the rows that are compared with them"
        return Candidate(NAMES["full"], size, 4 * values, values, ("all", *self.key), lambda seed: maker, note=note)

    def el2n(self, kind: str) -> Candidate:
        """Images that short-trained networks err on most, or least, in the bytes of the set's items."""
        count, hardest, networks = images_at_paper_bytes(self.distilled), kind == "el2n", scoring_networks()

        def maker(seed: int) -> MakeItems:
            scores = el2n_scores(self.train, self.occasion.device, Within(self.occasion.progress))
            return self.hard_labelled(extremes(scores, self.train, count, hardest))

        note = (
            f"the {'hardest' if hardest else 'easiest'} {_of_each_class(count)} for {len(networks)} networks "
            "trained on the training images alone (the same for every seed)"
        )
        return self.row(kind, count, maker, note, kind, networks, drawn=False)

    def jpeg(self) -> Candidate:
        """Random images compressed as JPEG, as many as the file's bytes hold; networks see them decoded."""
        size, preprocess = self.distilled.storage.file_bytes, self.distilled.preprocess
        fitting = fitting_draws(self.train, size, self.occasion.seeds)
        if fitting is None:
            raise AbsentError(f"the file's {size:,} bytes hold no JPEG image of each class, even at quality 25")
        draws, of_seed = fitting

        def maker(seed: int) -> MakeItems:
            indices, streams = of_seed[seed]
            images = torch.stack([decoded(draws.tables, stream) for stream in streams])
            return partial(image_items, images, self.train.labels[indices], preprocess)

        largest = max(draws.num_bytes_of(streams) for _, streams in of_seed.values())
        note = (
            f"as many JPEG images of quality {draws.quality} as the file's {size:,} bytes hold: {draws.count} of each "
            f"class (new ones for each seed), {largest:,} bytes in the largest draw, their shared tables included; "
            f"{encoder_version()}"
        )
        key = ("jpeg", draws.quality, draws.count, size, encoder_version(), *self.key)
        return Candidate(NAMES["jpeg"], sum(self.counts(draws.count)), None, largest, key, maker, True, note)

    def labelled_alike(self) -> Candidate | None:
        """Random images under labels of the set's kind; None where these are hard."""
        regions, soft = regions_of(self.distilled), self.distilled.soft_labels
        if soft is not None:
            return self._softly_labelled(soft)
        return None if regions is None else self._region_labelled(regions)

    def _softly_labelled(self, soft: Tensor) -> Candidate:
        """Random images under the set's own soft labels, a class's in turn, in the bytes of its items and labels."""
        distilled, num_classes = self.distilled, self.distilled.num_classes
        count = _images_per_class(distilled, prod(self.train.image_shape) + num_classes)
        groups = [(distilled.labels == label).nonzero()[:, 0] for label in range(num_classes)]
        if not all(map(len, groups)):
            raise AbsentError("a class has no item, and so no soft label that an image of it could have")
        sizes = zip(groups, self.counts(count), strict=True)
        labels = torch.cat([soft[group[torch.arange(size) % len(group)]] for group, size in sizes])

        def maker(seed: int) -> MakeItems:
            images = self.train.images[self.chosen("random", count, seed)]
            return partial(image_items, images, labels, distilled.preprocess)

        width = distilled.storage.soft_label_bytes // _soft_label_values(distilled)
        note = (
            f"{_of_each_class(count)} (new ones for each seed), with the soft labels of the set's items of that class "
            "in turn"
        )
        label_bytes = 4 * labels.numel(), width * labels.numel()
        key = "under soft labels", distilled.fingerprint
        return self.row("same-labels", count, maker, note, *key, label_bytes=label_bytes)

    def _region_labelled(self, regions: RegionSpec) -> Candidate:
        """Random images under region labels of the set's observer."""
        distilled, count = self.distilled, images_at_paper_bytes(self.distilled)
        observer = known_observer(distilled)

        def maker(seed: int) -> MakeItems:
            chosen = self.chosen("random", count, seed)
            codes = network_inputs(self.train.images[chosen], distilled.preprocess, torch.device("cpu"))
            images = Codes(distilled.preprocess, codes, self.train.labels[chosen])
            return partial(labelled_alike, images, regions, distilled.preprocess, observer, distilled.classes)

        stored = distilled.storage.label_bytes
        label_bytes = sum(4 * prod(spec.shape) for spec in regions.tensors.values()) or stored, stored
        note = f"{_of_each_class(count)} (new ones for each seed), labelled by the same observer"
        key = ("labelled alike", *_labels_key(regions, observer, distilled))
        return self.row("same-labels", count, maker, note, *key, label_bytes=label_bytes)


def _initial_codes(distilled: DistilledSet, train: ImageSet) -> Candidate:
    """The set's starting point, under region labels where the set has these, else under hard labels."""
    regions, preprocess = regions_of(distilled), distilled.preprocess
    _check_start(distilled, train)
    observer = None if regions is None else known_observer(distilled)
    start = _starting_point(distilled, train)
    soft = distilled.manifest.labels_kind == "soft"
    items = torch.arange(len(start))
    distance = (start.latents(items).cpu() - distilled.parameterizations()[0].latents(items)).abs().max()
    if not soft and float(distance) < 1e-6:
        raise AbsentError("the set is its own starting point: nothing was distilled")
    key: tuple[object, ...] = (list(distilled.manifest.initialization.indices), start.codec.identity(), start.spec())
    maker: MakeItems = partial(_rendered_items, start, preprocess)
    if regions is not None and observer is not None:
        key = (*key, *_labels_key(regions, observer, distilled))
        maker = partial(labelled_alike, start, regions, preprocess, observer, distilled.classes)
    size = "with hard labels and without the bytes of soft ones" if soft else "in the same bytes"
    storage = distilled.storage
    return Candidate(
        NAMES["initial"],
        distilled.num_training_items,
        storage.paper_bytes - 4 * _soft_label_values(distilled),
        storage.file_bytes - storage.soft_label_bytes,
        ("initial codes", *key, train.fingerprint, preprocess.identity()),
        lambda seed: maker,
        note=f"where distillation started: {distilled.manifest.initialization.kind} real images as codes, {size}",
    )


def _check_start(distilled: DistilledSet, train: ImageSet) -> None:
    """Raise AbsentError where the starting point cannot be remade."""
    manifest = distilled.manifest
    if len(manifest.shards) != 1 or not can_be_remade(manifest.shards[0].parameterization):
        raise AbsentError("only a set of one shard of codes says how to remake its starting point")
    if len(manifest.initialization.indices) != len(distilled):
        raise AbsentError("the file does not say which real images it started from")
    initialization = manifest.recipe.get("initialization")
    if isinstance(initialization, dict) and initialization.get("crops"):
        raise AbsentError("the file does not say which crops of real images it started from")
    if train.fingerprint != manifest.data.fingerprint or max(manifest.initialization.indices) >= len(train):
        raise AbsentError(
            "these training images are not those the set was distilled from, so its starting point cannot be remade"
        )


@torch.no_grad()
def _starting_point(distilled: DistilledSet, train: ImageSet) -> Parameterization:
    """The initial codes as the file would store them, with hard labels: what quantisation costs, it costs them too."""
    (shard,) = distilled.parameterizations()
    indices = torch.tensor(distilled.manifest.initialization.indices)
    return shard.remade(Sources(train, indices), distilled.preprocess)


def _rendered_items(items: Parameterization, preprocess: Codec, device: torch.device) -> FixedItems:
    placed = items.to(device)
    return image_items(placed.images(torch.arange(len(placed), device=device)), placed.labels, preprocess, device)


def _labels_key(regions: RegionSpec, observer: Observer, distilled: DistilledSet) -> tuple[object, ...]:
    """The key of region labels: settings, the observer, and the set's order of the classes where it is another."""
    order = [distilled.classes] if distilled.classes != observer.classes else []
    return (regions.labels, regions.seed, observer.identity, *order)


def stored_label_bytes(distilled: DistilledSet) -> tuple[int, int]:
    """Bytes of soft or region labels, observers included, by the papers' convention, and in the file."""
    stored = [spec for shard in distilled.manifest.shards if shard.regions for spec in shard.regions.tensors.values()]
    online = sum(facts.num_bytes for facts in online_observers(distilled.manifest))
    paper_bytes = 4 * _soft_label_values(distilled) + 4 * sum(prod(spec.shape) for spec in stored) + online
    return paper_bytes, distilled.storage.soft_label_bytes + sum(spec.num_bytes for spec in stored)


def _images_per_class(distilled: DistilledSet, values_per_image: int) -> int:
    """How many images of so many values each class has in the values of the set's items and soft labels."""
    values = _soft_label_values(distilled) + sum(_item_values(shard) for shard in distilled.manifest.shards)
    return max(1, int(values / (distilled.num_classes * values_per_image) + 0.5))


def _item_values(shard: ShardSpec) -> int:
    """Values that were distilled, labels and scales apart."""
    return sum(prod(spec.shape) for name, spec in shard.tensors.items() if name not in ("labels", SOFT_LABELS, "scale"))


def _soft_label_values(distilled: DistilledSet) -> int:
    soft = sum(shard.num_items for shard in distilled.manifest.shards if shard.has_soft_labels)
    return soft * distilled.num_classes


def _of_each_class(count: int) -> str:
    return f"{count} real image{'s' * (count > 1)} of each class"
