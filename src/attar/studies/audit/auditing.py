"""The audit of one set: its neighbours among real images, copies, membership, labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from attar.base.device import resolve_device
from attar.base.engines import Engine, Local
from attar.base.errors import InputError
from attar.base.files import set_name
from attar.base.progress import Progress, Silent
from attar.base.randomness import generator
from attar.base.version import __version__
from attar.data.image_set import Splits
from attar.data.mirroring import mirroring_harms
from attar.evaluation.evaluate import check_fit, device_name, load_splits, with_depth
from attar.evaluation.protocol import Protocol, resolve_flip
from attar.evaluation.protocol import protocol as protocol_named
from attar.evaluation.relabelled import known_observer
from attar.models.networks.network import Network, NetworkConfig
from attar.models.networks.registry import build_network, networks_named
from attar.models.training.loop import train_networks
from attar.sets.distilled import DistilledSet
from attar.sets.manifest import UNKNOWN
from attar.sets.sizes import online_observers
from attar.studies.audit.copies import copy_limit, find_copies
from attar.studies.audit.labels import label_facts
from attar.studies.audit.membership import Membership, check_shadows, shadow_membership
from attar.studies.audit.neighbours import (
    Nearest,
    Space,
    code_space,
    equal_parts,
    feature_space,
    nearest,
    nearest_of_images,
    pixel_space,
)
from attar.studies.audit.picture import draw_neighbours, refuse_picture
from attar.studies.audit.record import PARTS, AuditCard, Copy, Limit, Neighbours, Part
from attar.studies.audit.statistics import binomial_interval, tail_probability

POOL = 10_000
NULL = 1_000

Features = Literal["random", "set"]


def audit(
    distilled: DistilledSet | Path | str,
    data: Any,
    *,
    features: Features = "random",
    network: str | NetworkConfig = "convnet",
    protocol: str | Path | Protocol = "quick",
    shadows: int = 0,
    picture: Path | str | None = None,
    seed: int = 0,
    device: str = "auto",
    cache: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
    name: str | None = None,
    engine: Engine | None = None,
) -> AuditCard:
    """Look for what a set gives away of the training images: copies, nearness, membership, labels.

    Nearness is judged against held-out images, which the set cannot have seen: with equally many of both parts, a
    distilled image that has nothing to do with the training images is as often nearer to one as to the other. In
    pixels, and in codes where the set has them, all training and test images are compared with too. The network behind
    the features has seen neither part: one trained on training images would draw them towards whatever is made of them.

    Args:
        distilled: the set, or its file.
        data: Splits, or anything `load_images` takes; its training part is what the set was distilled from.
        features: of a network with random weights, or of one trained on the set itself.
        network: behind the features, and trained on the sets of an attack.
        protocol: how that network is trained; see `evaluate`.
        shadows: sets to make of random halves for membership inference; 0 leaves it out.
        picture: a PNG of distilled images beside their nearest real ones.
        seed: of what is drawn.
        device: "auto", "cpu", "cuda", "cuda:1".
        cache: False keeps nothing of an attack.
        overwrite: replace an existing picture.
        progress: what to report to.
        name: what the card calls the set; None takes the file's name, or recipe and data.
        engine: where shadows are made.

    Raises:
        InputError: a set and data that do not fit, an existing picture, too few shadows.

    Source: nearest neighbours and membership by Carlini et al. 2022 (arXiv 2209.14987) and Zhao & Zhang 2025 (arXiv
        2502.12976), who found no evidence that distilling protects; the equal parts and the limit for copies are ours.
    """
    progress, where = progress or Silent(), resolve_device(device)
    [config] = networks_named(network)
    chosen, runs = protocol_named(protocol), engine or Local()
    small = DistilledSet.load(distilled) if isinstance(distilled, str | Path) else distilled
    if picture is not None:
        refuse_picture(Path(picture), overwrite)
    if shadows:
        check_shadows(small, shadows)
        runs.check_device(where)
    splits = load_splits(data, progress)
    check_fit(small, splits)
    used = resolve_flip(chosen, None, splits.name)
    config = with_depth(config, min(small.image_shape[1:]))
    work = _Work(small, splits, where, seed, progress)
    found = work.compare(work.spaces(features, config, used))
    if picture is not None:
        draw_neighbours(small, work.images, splits, found.in_pixels, Path(picture), overwrite)
    membership = None
    if shadows:
        membership = shadow_membership(
            small, splits, shadows, protocol=used, network=config, device=where, engine=runs, cache=cache, seed=seed,
            progress=progress,
        )  # fmt: skip
    called = name or (set_name(distilled) if isinstance(distilled, str | Path) else small.name)
    return _card(called, work, found, membership)


@dataclass(frozen=True)
class _Found:
    """What was compared.

    Args:
        neighbours, limits, copies: as of the card.
        in_pixels: "train" and "test" to the nearest of all images of the part.
    """

    neighbours: list[Neighbours]
    limits: list[Limit]
    copies: list[Copy]
    in_pixels: dict[Part, Nearest]


@dataclass
class _Work:
    """One audit.

    Args:
        distilled: the set.
        splits: the real images.
        device: where distances are computed.
        seed: of what is drawn.
        progress: what to report to.
    """

    distilled: DistilledSet
    splits: Splits
    device: torch.device
    seed: int
    progress: Progress

    def __post_init__(self) -> None:
        self.images = self.distilled.images(clamp=True)
        self.mirror = not mirroring_harms(self.splits.name)

    def spaces(self, features: Features, network: NetworkConfig, protocol: Protocol) -> list[Space]:
        """Pixels, features, and codes where there are any."""
        images = self.images.to(self.device)
        if features == "random":
            shape = self.distilled.preprocess.code_shape
            draw = generator(self.seed, "audit features")
            built = build_network(network, shape, self.distilled.num_classes, draw).to(self.device).eval()
            name = f"features of a {network.name} with random weights"
        else:
            built = self._trained_on_the_set(network, protocol)
            name = f"features of a {network.name} trained on the set ({protocol.label})"
        preprocess = self.distilled.preprocess.to(self.device)
        known = [
            pixel_space(images, self.mirror),
            feature_space(images, self.mirror, built, preprocess, name),
            code_space(self.distilled, self.device),
        ]
        return [space for space in known if space is not None]

    def compare(self, spaces: list[Space]) -> _Found:
        """Neighbours in every space; limits and copies in all but features."""
        train, test = self.splits.train, self.splits.test
        equal = equal_parts(self.splits, POOL, self.seed)
        every = torch.arange(len(train)), torch.arange(len(test))
        strangers = self._some_heldout()
        total = sum(len(part) for part in equal) * len(spaces) + (2 * len(train) + len(test)) * (len(spaces) - 1)
        self.progress.start("looking for neighbours", total)
        neighbours, limits = [], []
        found: dict[Part, list[tuple[Space, Nearest, Limit]]] = {"train": [], "test": []}
        for space in spaces:
            neighbours.append(self._neighbours(space, equal)[0])
            if not space.searched:
                continue
            among_all, near = self._neighbours(space, every)
            neighbours.append(among_all)
            away = nearest_of_images(space, test, strangers, train, self.device, self.progress)
            limits.append(copy_limit(space, away))
            for part, each in zip(PARTS, near, strict=True):
                found[part].append((space, each, limits[-1]))
        self.progress.finish()
        copies = [
            copy
            for part, real in zip(PARTS, (train, test), strict=True)
            for copy in find_copies(self.distilled, self.images, part, real, found[part])
        ]
        return _Found(neighbours, limits, copies, {part: found[part][0][1] for part in PARTS})

    def _some_heldout(self) -> Tensor:
        """Places of the held-out images whose distances say how near strangers are."""
        order = torch.randperm(len(self.splits.test), generator=generator(self.seed, "audit strangers"))
        return order[:NULL].sort().values

    def _neighbours(self, space: Space, places: tuple[Tensor, Tensor]) -> tuple[Neighbours, tuple[Nearest, Nearest]]:
        train = nearest(space, self.splits.train, places[0], self.device, self.progress)
        heldout = nearest(space, self.splits.test, places[1], self.device, self.progress)
        return compared(space, train, heldout, len(places[0]), len(places[1])), (train, heldout)

    def _trained_on_the_set(self, network: NetworkConfig, protocol: Protocol) -> Network:
        asked = known_observer(self.distilled) if online_observers(self.distilled.manifest) else None
        if isinstance(asked, str):
            raise InputError(f"{asked}; or take --features random")
        items = self.distilled.training_items(self.device, asked and asked.to(self.device))
        [trained] = train_networks(
            network, items, self.distilled.num_classes, protocol.training, [self.seed], device=self.device,
            progress=self.progress,
        )  # fmt: skip
        return trained


def compared(space: Space, train: Nearest, heldout: Nearest, num_train: int, num_heldout: int) -> Neighbours:
    """How often training images are nearer, and how likely that is where the parts are exchangeable.

    Args:
        space: of the distances.
        train, heldout: the nearest of each part.
        num_train, num_heldout: images of each part that were compared with.

    Source: where real images are exchangeable, the nearest of all is a training image with probability
        num_train / (num_train + num_heldout); distilled images with the same neighbour fall together.
    """
    expected = num_train / (num_train + num_heldout)
    nearer, farther = train.distances < heldout.distances, train.distances > heldout.distances
    count, hits = int((nearer | farther).sum()), int(nearer.sum())
    shared = [
        *torch.unique(train.indices[nearer], return_counts=True)[1].tolist(),
        *torch.unique(heldout.indices[farther], return_counts=True)[1].tolist(),
    ]
    low, high = binomial_interval(hits, count) if count else (None, None)
    return Neighbours(
        space=space.name,
        unit=space.unit,
        num_train=num_train,
        num_heldout=num_heldout,
        expected=expected,
        nearer=hits,
        ties=len(nearer) - count,
        low=low,
        high=high,
        p_value=tail_probability(shared, expected, hits),
        train_indices=tuple(train.indices.tolist()),
        heldout_indices=tuple(heldout.indices.tolist()),
        train_distances=tuple(train.distances.tolist()),
        heldout_distances=tuple(heldout.distances.tolist()),
    )


def _card(name: str, work: _Work, found: _Found, membership: Membership | None) -> AuditCard:
    manifest = work.distilled.manifest
    return AuditCard(
        name=name,
        fingerprint=work.distilled.fingerprint,
        num_items=len(work.distilled),
        initial=manifest.initialization.kind,
        real_pixels_inside=manifest.initialization.real_pixels_inside,
        provenance=manifest.data,
        privacy=manifest.privacy,
        data=work.splits.name,
        train_fingerprint=work.splits.train.fingerprint,
        test_fingerprint=work.splits.test.fingerprint,
        seed=work.seed,
        device=device_name(work.device),
        versions={"attar": __version__, "torch": torch.__version__},
        neighbours=tuple(found.neighbours),
        limits=tuple(found.limits),
        copies=tuple(found.copies),
        membership=membership,
        labels=label_facts(work.distilled),
        notes=tuple(_notes(work, len(found.neighbours))),
    )


def _notes(work: _Work, num_lines: int) -> list[str]:
    distilled = work.distilled
    notes = [
        "held-out images are the data's test part; shares are of distilled images that are not as near to both, their "
        "interval takes distilled images as independent, p does not",
        f"each p is of its line by itself: the smallest of {num_lines} counts {num_lines} times (Bonferroni)",
    ]
    if distilled.manifest.data.fingerprint == UNKNOWN:
        notes.append(
            "the file does not say which images the set was distilled from: were some of those called held-out here "
            "among them, nothing above means what it says"
        )
    elif work.splits.train.fingerprint != distilled.manifest.data.fingerprint:
        notes.append(
            "the set was distilled from other images than this data's training part: what is called held-out here may "
            "be what it was made from, and nothing above then means what it says"
        )
    if distilled.stochastic:
        notes.append("items are distributions: one sample of each, that of epoch 0, was compared")
    kinds = {shard.parameterization.get("kind") for shard in distilled.manifest.shards}
    if "mosaic" in kinds:
        notes.append(
            "items are tiles of a mosaic, enlarged: a real image squeezed or cropped into one is found only where it "
            "is still near in pixels"
        )
    if not work.mirror:
        notes.append("mirrored images are not looked for: the data's name says digits or characters")
    return notes
