"""What else could be had for the same bytes: real images, and the set's own starting point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from attar.base.errors import InputError, unknown
from attar.base.files import content_key
from attar.base.progress import Progress, Silent, Within
from attar.base.randomness import generator
from attar.base.shapes import Float, Int64
from attar.data.image_set import ImageSet
from attar.evaluation.difficulty import el2n_scores, extremes, scoring_networks
from attar.evaluation.jpeg import decoded, encoder_version, fitting_draws
from attar.evaluation.relabelled import known_observer, labelled_alike, regions_of
from attar.evaluation.rows import NAMES
from attar.methods.initialization import Sources
from attar.methods.initialization.selection import SELECTIONS
from attar.methods.initialization.sources import encoded
from attar.methods.parameterizations.codes import Codes
from attar.methods.parameterizations.mosaic import Mosaic
from attar.models.codecs.codec import Codec
from attar.models.observers import Observer
from attar.models.training.loop import FixedItems, TrainingItems
from attar.sets.manifest import SOFT_LABELS, ShardSpec
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
BLOCK_VALUES = 2**24
MOST_VALUES = 2**30
"""Pixels of the whole training part up to which its network inputs are kept in memory: 4 GiB of float32."""

MakeItems: TypeAlias = Callable[[torch.device], TrainingItems]
"""device -> items as network inputs there; can be pickled where an evaluation's engine is to send it elsewhere."""


@dataclass(frozen=True)
class Candidate:
    """Items that networks are trained on, made only when asked for.

    Args:
        name: of the row.
        num_items: of all classes together.
        paper_bytes: 4 bytes for every stored value.
        num_bytes: as really stored: the file, or plain uint8 images.
        content: seed -> the content's name, equal for equal items.
        maker: seed -> what makes the items.
        drawn: whether every seed has other items.
        note: what should be known about them.
        absent: why there are none, or None.
        learning_rate: replaces the protocol's for these items; None leaves it.
        augmented: whether training has the protocol's augmentation and CutMix.
    """

    name: str
    num_items: int
    paper_bytes: int | None
    num_bytes: int | None
    content: Callable[[int], str]
    maker: Callable[[int], MakeItems]
    drawn: bool = False
    note: str = ""
    absent: str | None = None
    learning_rate: float | None = None
    augmented: bool = True

    def items(self, seed: int, device: torch.device) -> TrainingItems:
        """The items as network inputs on `device`."""
        return self.maker(seed)(device)


def images_at_paper_bytes(distilled: DistilledSet) -> int:
    """How many real images of each class hold as many values as the set's items and soft labels, rounded, at least 1.

        n = round((sum over items of (c h w, or of a prior 2 d, + K with soft labels) + decoder of priors) / (K C H W))

    The papers count so (LatentDD section 3.2); the decoder of a codec in the file is not counted in the images' favour,
    that of priors is, because it was distilled with them (D3 section B.1).
    Deviation: papers with soft labels leave these out; they are stored too, and real images need none. Region labels
        are left out here as there: "random-uint8" has the bytes of the whole file.
    """
    values = _soft_label_values(distilled)
    values += sum(_item_values(shard) for shard in distilled.manifest.shards)
    return max(1, int(values / (distilled.num_classes * _product(distilled.image_shape)) + 0.5))


def images_at_file_bytes(distilled: DistilledSet) -> int:
    """How many plain uint8 images of each class fit into the set's file, its manifest included; may be 0."""
    return distilled.storage.file_bytes // (distilled.num_classes * _product(distilled.image_shape))


def baseline_kinds(wanted: bool | Sequence[str]) -> tuple[str, ...]:
    """The kinds asked for, in the order of `BASELINES`.

    Args:
        wanted: True for the usual ones, False for none, or names of `BASELINES` and `GROUPS`.

    Raises:
        InputError: an unknown name; the nearest is named.
    """
    if isinstance(wanted, bool):
        return USUAL if wanted else ()
    chosen: set[str] = set()
    for name in (wanted,) if isinstance(wanted, str) else wanted:
        if name not in BASELINES and name not in GROUPS:
            raise unknown("baseline", str(name), (*BASELINES, *GROUPS))
        chosen.update(GROUPS.get(name, (name,)))
    return tuple(name for name in BASELINES if name in chosen)


@dataclass(frozen=True)
class Occasion:
    """What an evaluation offers to the making of its baselines.

    Args:
        seeds: of its networks.
        device: where they are trained.
        progress: told of what is trained to choose images.
    """

    seeds: tuple[int, ...] = (0,)
    device: torch.device | str = "cpu"
    progress: Progress = field(default_factory=Silent)


def baseline(kind: str, distilled: DistilledSet, train: ImageSet, occasion: Occasion | None = None) -> Candidate | None:
    """The baseline of that kind for a set, from the training images; None where it would repeat another one.

    Args:
        kind: one of `BASELINES`, but for those that vary how the set itself is trained on (see `variants`).
        distilled: gives the number of bytes, the preprocessing and, for "initial", the starting point.
        train: real training images of the same classes and shape.
        occasion: None is one seed on the CPU.
    """
    occasion = occasion or Occasion()
    if kind == "initial":
        return _initial_codes(distilled, train)
    if kind == "same-labels":
        return _labelled_alike(distilled, train)
    if kind == "full":
        return _all_images(distilled, train)
    if kind == "jpeg":
        return _jpeg_images(distilled, train, occasion.seeds)
    count = images_at_paper_bytes(distilled)
    if kind in ("el2n", "el2n-easy"):
        return _el2n_images(kind, count, distilled, train, occasion)
    if kind != "random-uint8":
        return _real_images(kind, kind, count, distilled, train, "")
    fitting = images_at_file_bytes(distilled)
    if fitting <= count:
        return None
    note = f"as many plain uint8 images as the file's {distilled.storage.file_bytes:,} bytes hold: "
    return _real_images(kind, "random", fitting, distilled, train, note)


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


@torch.no_grad()
def network_inputs(images: Tensor, preprocess: Codec, device: torch.device) -> Float[Tensor, "items c h w"]:
    """uint8 or float images as network inputs on `device`, block by block."""
    codec = preprocess.to(device)
    block = max(1, BLOCK_VALUES // images[0].numel()) if len(images) else 1
    parts = []
    for part in images.split(block):
        moved = part.to(device)
        parts.append(codec.encode(moved.float() / 255 if moved.dtype == torch.uint8 else moved.float()))
    return torch.cat(parts) if parts else torch.empty(0, *preprocess.code_shape, device=device)


def image_items(images: Tensor, labels: Tensor, preprocess: Codec, device: torch.device) -> FixedItems:
    """uint8 images as network inputs on `device`, the same in every epoch."""
    return FixedItems(network_inputs(images, preprocess, device), labels.to(device))


def _every_item(train: ImageSet, preprocess: Codec, device: torch.device) -> TrainingItems:
    """All images as network inputs: made once, or batch by batch of what would fill the memory."""
    if train.images.numel() <= MOST_VALUES:
        return image_items(train.images, train.labels, preprocess, device)
    from attar.models.real_items import RealItems, RealTrainingItems

    codec = preprocess.to(device)
    return RealTrainingItems(RealItems(train.labels, train.num_classes, images=train, codec=codec, device=device))


def _rendered_items(items: Codes, preprocess: Codec, device: torch.device) -> FixedItems:
    placed = items.to(device)
    images = placed.images(torch.arange(len(placed), device=device))
    return FixedItems(network_inputs(images, preprocess, device), placed.labels.to(device))


def _all_images(distilled: DistilledSet, train: ImageSet) -> Candidate:
    """The whole training part, whose accuracy the others recover a share of; its bytes are those of plain uint8."""
    preprocess, values = distilled.preprocess, len(train) * _product(train.image_shape)

    def maker(seed: int) -> MakeItems:
        return partial(_every_item, train, preprocess)

    def content(seed: int) -> str:
        return content_key("all images", train.fingerprint, preprocess.identity())

    note = f"all {len(train):,} training images, under the same protocol as the rows that are compared with them"
    return Candidate(NAMES["full"], len(train), 4 * values, values, content, maker, note=note)


def _real_images(
    kind: str, selection: str, count: int, distilled: DistilledSet, train: ImageSet, note: str
) -> Candidate:
    preprocess = distilled.preprocess
    counts = [min(count, len(members)) for members in train.class_indices]
    values = sum(counts) * _product(train.image_shape)
    drawn = selection == "random"

    def indices(seed: int) -> Tensor:
        return choose(selection, count, train, preprocess, generator(seed, "baseline", selection))

    def maker(seed: int) -> MakeItems:
        wanted = indices(seed)
        return partial(image_items, train.images[wanted], train.labels[wanted], preprocess)

    def content(seed: int) -> str:
        part = seed if drawn else 0
        return content_key("real images", selection, count, part, train.fingerprint, preprocess.identity())

    told = f"{note}{count} real image{'s' * (count > 1)} of each class"
    if min(counts) < count:
        told += f", but only {min(counts)} where a class has no more"
    told += " (new ones for each seed)" if drawn else " (the same for every seed)"
    return Candidate(NAMES[kind], sum(counts), 4 * values, values, content, maker, drawn, told)


def _el2n_images(kind: str, count: int, distilled: DistilledSet, train: ImageSet, occasion: Occasion) -> Candidate:
    """Real images that short-trained networks err on most, or least, in the bytes of the set's items."""
    preprocess, hardest = distilled.preprocess, kind == "el2n"
    counts = [min(count, len(members)) for members in train.class_indices]
    values = sum(counts) * _product(train.image_shape)

    def maker(seed: int) -> MakeItems:
        scores = el2n_scores(train, occasion.device, Within(occasion.progress))
        wanted = extremes(scores, train, count, hardest)
        return partial(image_items, train.images[wanted], train.labels[wanted], preprocess)

    def content(seed: int) -> str:
        return content_key("el2n", hardest, count, scoring_networks(), train.fingerprint, preprocess.identity())

    which = "hardest" if hardest else "easiest"
    told = (
        f"the {which} {count} real image{'s' * (count > 1)} of each class for {len(scoring_networks())} networks "
        "trained on the training images alone (the same for every seed)"
    )
    return Candidate(NAMES[kind], sum(counts), 4 * values, values, content, maker, note=told)


def _jpeg_images(distilled: DistilledSet, train: ImageSet, seeds: Sequence[int]) -> Candidate:
    """Random images compressed as JPEG, as many as the file's bytes hold; networks see them decoded."""
    name, preprocess, size = NAMES["jpeg"], distilled.preprocess, distilled.storage.file_bytes
    found = fitting_draws(train, size, seeds)
    if found is None:
        return absent_candidate(name, f"the file's {size:,} bytes hold no JPEG image of each class, even at quality 25")
    draws, fitting = found

    def maker(seed: int) -> MakeItems:
        chosen, streams = fitting[seed]
        images = torch.stack([decoded(draws.tables, stream) for stream in streams])
        return partial(image_items, images, train.labels[chosen], preprocess)

    def content(seed: int) -> str:
        about = draws.quality, draws.count, size, seed, encoder_version()
        return content_key("jpeg images", *about, train.fingerprint, preprocess.identity())

    taken = max(draws.taken(streams) for _, streams in fitting.values())
    count = len(next(iter(fitting.values()))[0])
    told = (
        f"as many JPEG images of quality {draws.quality} as the file's {size:,} bytes hold: {draws.count} of each "
        f"class (new ones for each seed), {taken:,} bytes in the largest draw, their shared tables included; "
        f"{encoder_version()}"
    )
    return Candidate(name, count, None, taken, content, maker, True, told)


def _softly_labelled(distilled: DistilledSet, train: ImageSet, soft: Tensor) -> Candidate:
    """Random images under the set's own soft labels, those of a class in turn, in the bytes of its items and labels."""
    name, preprocess = NAMES["same-labels"], distilled.preprocess
    values = _soft_label_values(distilled) + sum(_item_values(shard) for shard in distilled.manifest.shards)
    each = _product(train.image_shape) + distilled.num_classes
    count = max(1, int(values / (distilled.num_classes * each) + 0.5))
    counts = [min(count, len(members)) for members in train.class_indices]
    groups = [(distilled.labels == label).nonzero()[:, 0] for label in range(distilled.num_classes)]
    if not all(map(len, groups)):
        return absent_candidate(name, "a class has no item, and so no soft label that an image of it could have")
    labels = torch.cat([soft[group[torch.arange(n) % len(group)]] for group, n in zip(groups, counts, strict=True)])

    def maker(seed: int) -> MakeItems:
        wanted = choose("random", count, train, preprocess, generator(seed, "baseline", "random"))
        return partial(image_items, train.images[wanted], labels, preprocess)

    def content(seed: int) -> str:
        about = distilled.fingerprint, count, seed, train.fingerprint, preprocess.identity()
        return content_key("under soft labels", *about)

    width = distilled.storage.soft_label_bytes // _soft_label_values(distilled)
    taken = sum(counts) * (_product(train.image_shape) + width * distilled.num_classes)
    told = (
        f"{count} real image{'s' * (count > 1)} of each class (new ones for each seed), with the soft labels of the "
        "set's items of that class in turn"
    )
    return Candidate(name, sum(counts), 4 * sum(counts) * each, taken, content, maker, True, told)


def _labelled_alike(distilled: DistilledSet, train: ImageSet) -> Candidate | None:
    """Random images under region labels of the same observer, as many as the set has; or under its soft labels."""
    regions, soft = regions_of(distilled), distilled.soft_labels
    if soft is not None:
        return _softly_labelled(distilled, train, soft)
    if regions is None:
        return None
    name, preprocess, count = NAMES["same-labels"], distilled.preprocess, images_at_paper_bytes(distilled)
    observer = known_observer(distilled)
    if isinstance(observer, str):
        return absent_candidate(name, observer)
    counts = [min(count, len(members)) for members in train.class_indices]
    values = sum(counts) * _product(train.image_shape)
    about = content_key("labelled alike", regions.labels, regions.seed, *_asked_as(observer, distilled))

    def maker(seed: int) -> MakeItems:
        wanted = choose("random", count, train, preprocess, generator(seed, "baseline", "random"))
        codes = network_inputs(train.images[wanted], preprocess, torch.device("cpu"))
        items = Codes(preprocess, codes, train.labels[wanted])
        return partial(labelled_alike, items, regions, preprocess, observer, distilled.classes)

    def content(seed: int) -> str:
        return content_key("real images", "random", count, seed, train.fingerprint, preprocess.identity(), about)

    labels = distilled.storage.label_bytes
    as_paper = sum(4 * _product(spec.shape) for spec in regions.tensors.values()) or labels
    told = (
        f"{count} real image{'s' * (count > 1)} of each class (new ones for each seed), labelled by the same observer"
    )
    return Candidate(name, sum(counts), 4 * values + as_paper, values + labels, content, maker, True, told)


def _asked_as(observer: Observer, distilled: DistilledSet) -> tuple[object, ...]:
    """What labels asked of an observer depend on: itself, and the set's order of the classes where it is another."""
    return (observer.identity, *([distilled.classes] if distilled.classes != observer.classes else []))


def _initial_codes(distilled: DistilledSet, train: ImageSet) -> Candidate:
    name, regions = NAMES["initial"], regions_of(distilled)
    reason = _no_initial_codes(distilled, train)
    observer = None if regions is None or reason else known_observer(distilled)
    reason = observer if isinstance(observer, str) else reason
    if reason or isinstance(observer, str):
        return absent_candidate(name, reason or "")
    start = _starting_point(distilled, train)
    soft = distilled.manifest.labels_kind == "soft"
    if not soft and bool((start.codes.detach().cpu() - distilled.codes).abs().max() < 1e-6):
        return absent_candidate(name, "the set is its own starting point: nothing was distilled")
    preprocess = distilled.preprocess
    identity = start.codec.identity()

    def maker(seed: int) -> MakeItems:
        if regions is not None and observer is not None:
            return partial(labelled_alike, start, regions, preprocess, observer, distilled.classes)
        return partial(_rendered_items, start, preprocess)

    about: tuple[object, ...] = ()
    if regions is not None and observer is not None:
        about = regions.labels, regions.seed, *_asked_as(observer, distilled)

    def content(seed: int) -> str:
        chosen = list(distilled.manifest.initialization.indices)
        spec = start.spec()
        return content_key("initial codes", chosen, train.fingerprint, identity, spec, preprocess.identity(), *about)

    size = "with hard labels and without the bytes of soft ones" if soft else "in the same bytes"
    note = f"where distillation started: {distilled.manifest.initialization.kind} real images as codes, {size}"
    storage = distilled.storage
    paper_bytes = storage.paper_bytes - 4 * _soft_label_values(distilled)
    num_bytes = storage.file_bytes - storage.soft_label_bytes
    return Candidate(name, distilled.num_training_items, paper_bytes, num_bytes, content, maker, False, note)


def _no_initial_codes(distilled: DistilledSet, train: ImageSet) -> str | None:
    manifest = distilled.manifest
    if len(manifest.shards) != 1 or manifest.shards[0].parameterization.get("kind") not in ("codes", "mosaic"):
        return "only a set of one shard of codes says how to remake its starting point"
    if len(manifest.initialization.indices) != len(distilled):
        return "the file does not say which real images it started from"
    initialization = manifest.recipe.get("initialization")
    if isinstance(initialization, dict) and initialization.get("crops"):
        return "the file does not say which crops of real images it started from"
    if train.fingerprint != manifest.data.fingerprint or max(manifest.initialization.indices) >= len(train):
        return "these training images are not those the set was distilled from, so its starting point cannot be remade"
    return None


@torch.no_grad()
def _starting_point(distilled: DistilledSet, train: ImageSet) -> Codes:
    """The initial codes as the file would store them, with hard labels: what quantisation costs, it costs them too."""
    shard = distilled.parameterizations()[0]
    indices = torch.tensor(distilled.manifest.initialization.indices)
    spec, labels = shard.spec(), train.labels[indices]
    if isinstance(shard, Mosaic):
        codes = encoded(shard.codec, Sources.of_indices(train, indices), shard.grid)
        canvases = Mosaic(
            shard.codec, codes, labels, spec["storage"], preprocess=distilled.preprocess, grid=shard.grid.side
        )
        return Mosaic.restore(shard.codec, canvases.payload(), spec, distilled.preprocess)
    codes = network_inputs(train.images[indices], shard.codec.to("cpu"), torch.device("cpu"))
    return Codes.restore(shard.codec, Codes(shard.codec, codes, labels, spec["storage"]).payload(), spec)


def _item_values(shard: ShardSpec) -> int:
    """Values that were distilled, labels and scales apart."""
    apart = ("labels", SOFT_LABELS, "scale")
    return sum(_product(spec.shape) for name, spec in shard.tensors.items() if name not in apart)


def _soft_label_values(distilled: DistilledSet) -> int:
    soft = sum(shard.num_items for shard in distilled.manifest.shards if shard.has_soft_labels)
    return soft * distilled.num_classes


def stored_label_bytes(distilled: DistilledSet) -> tuple[int, int]:
    """What soft or region labels, observers included, count by the papers' convention, and in the file."""
    regions = [shard.regions for shard in distilled.manifest.shards if shard.regions]
    stored = [spec for each in regions for spec in each.tensors.values()]
    asked = sum(facts.num_bytes for facts in online_observers(distilled.manifest))
    paper_bytes = 4 * _soft_label_values(distilled) + 4 * sum(_product(spec.shape) for spec in stored) + asked
    return paper_bytes, distilled.storage.soft_label_bytes + sum(spec.num_bytes for spec in stored)


def absent_candidate(name: str, reason: str) -> Candidate:
    """A row of which only the reason why it is absent can be told."""

    def never(seed: int) -> MakeItems:
        raise InputError(reason)

    return Candidate(name, 0, None, None, lambda seed: "", never, absent=reason)


def _product(shape: Sequence[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count
