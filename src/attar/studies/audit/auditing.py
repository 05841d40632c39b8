"""The audit of one set: its neighbours among real images, copies, membership, labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from attar.base.engines import Engine, Local
from attar.base.errors import InputError
from attar.base.files import set_name
from attar.base.progress import Progress
from attar.base.randomness import generator
from attar.data.image_set import ImageSet, Splits
from attar.data.mirroring import mirroring_harms
from attar.evaluation.evaluate import Conditions, check_fit, device_name, load_splits, versions
from attar.evaluation.protocol import Protocol
from attar.models.networks.network import NetworkConfig
from attar.models.networks.registry import build_network
from attar.sets.distilled import DistilledSet
from attar.sets.manifest import UNKNOWN
from attar.studies.audit.card import AuditCard, Neighbours, Part
from attar.studies.audit.labels import label_facts
from attar.studies.audit.membership import Membership, Shadows, Training, check_shadows
from attar.studies.audit.neighbours import (
    Comparison,
    Nearest,
    Space,
    code_space,
    compared,
    copy_limit,
    equal_parts,
    feature_space,
    find_copies,
    nearest,
    pixel_space,
    strangers_distances,
)
from attar.studies.audit.picture import draw_neighbours, refuse_picture

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
    distilled image that has nothing to do with the training images is as often nearer to one as to the other. The
    network behind the features has seen neither part: training images would draw it towards what is made of them.

    Args:
        distilled, data: as of `evaluate`; the data's training part is what the set was distilled from.
        features: of a network with random weights, or of one trained on the set itself.
        network, protocol: behind the features and trained on the sets of an attack, and how; see `evaluate`.
        shadows: sets to make of random halves for membership inference; 0 leaves it out.
        picture, overwrite: a PNG of distilled images beside their nearest real ones, and whether it may replace one.
        seed: of what is drawn.
        cache: False keeps nothing of an attack.
        device, progress, name: as of `evaluate`.
        engine: where shadows are made.

    Raises:
        InputError: a set and data that do not fit, an existing picture, too few shadows.

    Source: nearest neighbours and membership by Carlini et al. 2022 (arXiv 2209.14987) and Zhao & Zhang 2025 (arXiv
        2502.12976), who found no evidence that distilling protects; the equal parts and the limit for copies are ours.
    """
    conditions = Conditions.of(protocol, network, 1, None, device, cache, progress, engine)
    small = DistilledSet.load(distilled) if isinstance(distilled, str | Path) else distilled
    if picture is not None:
        refuse_picture(Path(picture), overwrite)
    if shadows:
        check_shadows(small, shadows)
    splits = load_splits(data, conditions.progress)
    check_fit(small, splits)
    job = conditions.measurement(small.image_shape, small.preprocess.code_shape, splits.name)
    training = Training.of(job)
    subject = _Subject(small, splits, training, seed, job.progress)
    neighbours, comparisons = subject.compare(subject.spaces(features))
    if picture is not None:
        draw_neighbours(small, subject.images, splits, comparisons[0].nearest, Path(picture), overwrite)
    membership = None
    if shadows:
        like = Shadows.like(small, splits, training, cache, seed)
        membership = like.membership(shadows, job.engine or Local(), job.progress)
    file_name = set_name(distilled) if isinstance(distilled, str | Path) else small.name
    return subject.card(name or file_name, neighbours, comparisons, membership)


@dataclass(frozen=True)
class _Subject:
    """A set beside real images; distances are computed on the device of `training`."""

    distilled: DistilledSet
    splits: Splits
    training: Training
    seed: int
    progress: Progress

    @cached_property
    def images(self) -> Tensor:
        return self.distilled.images(clamp=True)

    @property
    def parts(self) -> dict[Part, ImageSet]:
        return {"train": self.splits.train, "test": self.splits.test}

    def spaces(self, features: Features) -> list[Space]:
        """Pixels, features, and codes where there are any."""
        device, network, preprocess = self.training.device, self.training.network, self.distilled.preprocess
        if features == "random":
            draw = generator(self.seed, "audit features")
            built = build_network(network, preprocess.code_shape, self.distilled.num_classes, draw).to(device).eval()
            name = f"features of a {network.name} with random weights"
        else:
            try:
                built = self.training.on(self.distilled, self.seed, self.progress)
            except InputError as error:
                raise InputError(f"{error}; or take --features random") from None
            name = f"features of a {network.name} trained on the set ({self.training.protocol.label})"
        images = self.images.to(device)
        mirror = not mirroring_harms(self.splits.name)
        pixels = pixel_space(images, mirror)
        spaces = [pixels, feature_space(images, mirror, built, preprocess.to(device), name)]
        codes = code_space(self.distilled, device)
        return spaces if codes is None else [*spaces, codes]

    def compare(self, spaces: Sequence[Space]) -> tuple[list[Neighbours], list[Comparison]]:
        """Neighbours among equal parts in every space; among all real images where copies are looked for."""
        train, test = self.splits.train, self.splits.test
        equal = equal_parts(self.splits, POOL, self.seed)
        all_images = torch.arange(len(train)), torch.arange(len(test))
        order = torch.randperm(len(test), generator=generator(self.seed, "audit strangers"))
        strangers = order[:NULL].sort().values
        total = sum(map(len, equal)) * len(spaces) + (2 * len(train) + len(test)) * (len(spaces) - 1)
        self.progress.start("looking for neighbours", total)
        neighbours, comparisons = [], []
        for space in spaces:
            neighbours.append(compared(space, *self._nearest(space, equal).values()))
            if space.searched:
                among_all = self._nearest(space, all_images)
                neighbours.append(compared(space, *among_all.values()))
                limit = copy_limit(space, strangers_distances(space, self.splits, strangers, self.progress))
                comparisons.append(Comparison(space, among_all, limit))
        self.progress.finish()
        return neighbours, comparisons

    def _nearest(self, space: Space, places: Sequence[Tensor]) -> dict[Part, Nearest]:
        parts = zip(self.parts.items(), places, strict=True)
        return {part: nearest(space, real, chosen, self.progress) for (part, real), chosen in parts}

    def card(
        self,
        name: str,
        neighbours: Sequence[Neighbours],
        comparisons: Sequence[Comparison],
        membership: Membership | None,
    ) -> AuditCard:
        """Everything together, and what the file says of itself."""
        distilled, manifest = self.distilled, self.distilled.manifest
        copies = (
            copy
            for part, real in self.parts.items()
            for copy in find_copies(distilled, self.images, part, real, comparisons)
        )
        return AuditCard(
            name=name,
            fingerprint=distilled.fingerprint,
            num_items=len(distilled),
            initial=manifest.initialization.kind,
            real_pixels_inside=manifest.initialization.real_pixels_inside,
            provenance=manifest.data,
            privacy=manifest.privacy,
            data=self.splits.name,
            train_fingerprint=self.splits.train.fingerprint,
            test_fingerprint=self.splits.test.fingerprint,
            seed=self.seed,
            device=device_name(self.training.device),
            versions=versions(),
            neighbours=tuple(neighbours),
            limits=tuple(comparison.limit for comparison in comparisons),
            copies=tuple(copies),
            membership=membership,
            labels=label_facts(distilled),
            notes=tuple(_notes(distilled, self.splits, len(neighbours))),
        )


def _notes(distilled: DistilledSet, splits: Splits, num_lines: int) -> list[str]:
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
    elif splits.train.fingerprint != distilled.manifest.data.fingerprint:
        notes.append(
            "the set was distilled from other images than this data's training part: what is called held-out here may "
            "be what it was made from, and nothing above then means what it says"
        )
    if distilled.stochastic:
        notes.append("items are distributions: one sample of each, that of epoch 0, was compared")
    if any(shard.parameterization.get("kind") == "mosaic" for shard in distilled.manifest.shards):
        notes.append(
            "items are tiles of a mosaic, enlarged: a real image squeezed or cropped into one is found only where it "
            "is still near in pixels"
        )
    if mirroring_harms(splits.name):
        notes.append("mirrored images are not looked for: the data's name says digits or characters")
    return notes
