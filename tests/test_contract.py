"""One suite over every parameterization and objective: what each must do to be one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from attar.base.config import Config
from attar.base.randomness import generator
from attar.data.augmentation import DsaConfig
from attar.data.image_set import ImageSet
from attar.data.resizing import Grid, squeeze
from attar.data.sources import load_images
from attar.methods.initialization import Sources
from attar.methods.labels import class_logits, class_major_labels
from attar.methods.objectives.alignment import AlignmentConfig
from attar.methods.objectives.discrepancy import DiscrepancyConfig
from attar.methods.objectives.features import FeaturesConfig
from attar.methods.objectives.gradients import GradientsConfig
from attar.methods.objectives.inversion import InversionConfig
from attar.methods.objectives.objective import Context, MatchingConfig
from attar.methods.objectives.sums import SumConfig
from attar.methods.objectives.trajectories import TrajectoriesConfig
from attar.methods.parameterizations.codes import Codes
from attar.methods.parameterizations.decoders import DecoderConfig
from attar.methods.parameterizations.mosaic import Mosaic
from attar.methods.parameterizations.parameterization import Parameterization
from attar.methods.parameterizations.priors import Priors, PriorsConfig
from attar.methods.parameterizations.registry import restore_parameterization
from attar.models.codecs.augmenting import siamese_augmentation
from attar.models.codecs.codec import Codec
from attar.models.codecs.dct import DctConfig
from attar.models.codecs.pca import PcaConfig
from attar.models.codecs.pixels import Pixels, PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.experts.config import Experts, ExpertsConfig
from attar.models.networks.network import NetworkConfig
from attar.models.networks.registry import build_network
from attar.models.real_items import RealItems
from small_diffusion import diffusion_items
from small_generator import generator_items
from small_observer import SmallObserver
from small_sets import digit_images

SMALL = NetworkConfig(depth=1, width=8)

CODECS: dict[str, Config] = {
    "pixels": PixelsConfig(),
    "zca": PixelsConfig(whitening="zca"),
    "pca": PcaConfig(factor=2, channels=2),
    "dct": DctConfig(factor=2, channels=2),
}

PARAMETERIZATIONS: dict[str, Callable[[Codec, ImageSet], Parameterization]] = {
    f"codes-{storage}": lambda codec, train, storage=storage: Codes(  # type: ignore[misc]
        codec,
        codec.encode(torch.cat([train.images[members[:2]] for members in train.class_indices]).float() / 255),
        class_major_labels(train.num_classes, 2),
        storage,
    )
    for storage in ("float32", "float16", "int8")
}
PARAMETERIZATIONS["mosaic-int8"] = lambda codec, train: Mosaic(
    codec,
    codec.encode(squeeze(Sources(train, _first(train, 4)).images(torch.arange(40)), Grid(2))),
    class_major_labels(train.num_classes, 4),
    "int8",
    preprocess=_preprocess(codec, train),
    grid=2,
)


def _priors(storage: Any, distribution: Any) -> Callable[[Codec, ImageSet], Parameterization]:
    small = DecoderConfig(latent_dim=6, width=8, narrowest=4)
    config = PriorsConfig(decoder=small, storage=storage, distribution=distribution)
    return lambda codec, train: Priors.initial(config, codec, train.num_classes, 2, generator(0, "priors"))


PRIORS = {"priors-float32": _priors("float32", "gaussian"), "priors-float16": _priors("float16", "fixed")}
"""What trajectories, discrepancy and their sum match; no other objective hands on a generator in one call."""

RENDERED: dict[str, Callable[[Codec, ImageSet], Parameterization]] = {
    f"diffusion-{storage}": lambda codec, train, storage=storage: diffusion_items(  # type: ignore[misc]
        codec, train, _preprocess(codec, train), storage=storage, chunk_items=7
    )
    for storage in ("float32", "float16", "int8")
}
for depth, storage in ((0, "float32"), (2, "float32"), (2, "float16")):
    RENDERED[f"generator{depth}-{storage}"] = lambda codec, train, depth=depth, storage=storage: generator_items(  # type: ignore[misc]
        train, _preprocess(codec, train), depth=depth, storage=storage, chunk_items=7
    )
"""What is matched as network inputs, through frozen models whose weights have no gradient."""

EVERY = PARAMETERIZATIONS | PRIORS | RENDERED


def _pairs(kinds: Iterable[str], objectives: Iterable[str]) -> list[tuple[str, str, str]]:
    """(codec, kind, objective): every pair of kind and objective, the codecs in turn.

    With no more kinds than codecs every kind and every objective meets several codecs too.
    """
    codecs = sorted(CODECS)
    return [
        (codecs[(one + two) % len(codecs)], kind, objective)
        for one, kind in enumerate(sorted(kinds))
        for two, objective in enumerate(sorted(objectives))
    ]


@functools.cache
def _fitted(name: str) -> Codec:
    return fit_codec(CODECS[name], load_images("digits").train)  # type: ignore[arg-type]


def _first(train: ImageSet, count: int) -> Tensor:
    return torch.cat([members[:count] for members in train.class_indices])


def _preprocess(codec: Codec, train: ImageSet) -> Codec:
    return codec if isinstance(codec, Pixels) else _fitted("pixels")


def _matching_codec(kind: str, codec: Codec, train: ImageSet) -> Codec:
    """Codes are matched as codes, tiles as network inputs."""
    return _preprocess(codec, train) if kind.startswith("mosaic") else codec


TRAJECTORIES: dict[str, Any] = {
    "network": NetworkConfig(depth=1, width=4),
    "experts": ExpertsConfig(count=2, epochs=3),
    "student_steps": 2,
    "max_start_epoch": 1,
    "student_rate_learning_rate": 1e-4,
}

DISCREPANCY: dict[str, Any] = {
    "network": TRAJECTORIES["network"],
    "experts": TRAJECTORIES["experts"],
    "estimator": "biased",
    "real_batch_size": 4,
}

OBJECTIVES: dict[str, MatchingConfig] = {
    "features": FeaturesConfig(network=SMALL, real_batch_size=4),
    "features-dsa": FeaturesConfig(network=SMALL, real_batch_size=4, augmentation=DsaConfig()),
    "gradients-cosine": GradientsConfig(network=SMALL, real_batch_size=4, outer_steps=2, inner_steps=1),
    "gradients-mse": GradientsConfig(
        network=SMALL,
        distance="mse",
        matched="convolutions",
        real_batch_size=4,
        outer_steps=2,
        inner_steps=1,
        train_on="real",
        train_batch_size=16,
        augmentation=DsaConfig(),
    ),
    "trajectories": TrajectoriesConfig(**TRAJECTORIES),
    "trajectories-dsa": TrajectoriesConfig(**TRAJECTORIES, student_batch_size=13, augmentation=DsaConfig()),
    "alignment": AlignmentConfig(chunk_items=17),
    "alignment-logits": AlignmentConfig(layer="logits", distance="absolute", augmentation=None),
    "inversion": InversionConfig(group_size=11, chunk_items=7),
    "discrepancy": DiscrepancyConfig(**DISCREPANCY, chunk_items=17),
    "discrepancy-dsa": DiscrepancyConfig(
        **DISCREPANCY, scale="none", layer=0, feature_epoch="random", augmentation=DsaConfig()
    ),
    "sum": SumConfig(
        parts=(
            TrajectoriesConfig(**TRAJECTORIES),
            DiscrepancyConfig(**DISCREPANCY, augmentation=DsaConfig()),
        ),
        weights=(1.0, 0.1),
    ),
}


class DriftingExperts:
    """Two experts in memory that move at random from epoch to epoch."""

    num_experts, num_epochs = 2, 3

    def __init__(self, item_shape: tuple[int, int, int], num_classes: int) -> None:
        self._network = (TRAJECTORIES["network"], item_shape, num_classes)

    def parameters(self, expert: int, epoch: int) -> Tensor:
        network = build_network(*self._network, generator=generator(expert, "expert"))
        values = parameters_to_vector(network.parameters()).detach()
        return values + 0.02 * epoch * torch.randn(values.shape, generator=generator(expert, "drift"))


def _context(config: MatchingConfig, codec: Codec, preprocess: Codec, real: RealItems) -> Context:
    experts: Experts | None = DriftingExperts(real.shape, real.num_classes) if ("experts" in config.needs) else None
    augmentation = siamese_augmentation(config.views, codec, preprocess)
    return Context(
        real.shape,
        real.num_classes,
        num_steps=2,
        augmentation=augmentation,
        experts=experts,
        observer=SmallObserver() if ("observer" in config.needs) else None,
        originals=_other_digits if ("originals" in config.needs) else None,
        images_of=codec.decode,
    )


def _other_digits(items: Tensor) -> Tensor:
    """Real images that the items were not made from."""
    return digit_images().images[1000 + items].float() / 255


@pytest.fixture(scope="module")
def train() -> ImageSet:
    return load_images("digits").train


def _real(codec: Codec, train: ImageSet) -> RealItems:
    return RealItems(train.labels, train.num_classes, images=train, codec=codec)


@pytest.mark.parametrize(("codec", "kind", "objective"), _pairs(PARAMETERIZATIONS, OBJECTIVES))
def test_a_composition(codec: str, kind: str, objective: str, train: ImageSet) -> None:
    """Finite gradients reach every trainable tensor, twice the same; two steps change every item and stay finite."""
    image_codec = _fitted(codec)
    preprocess, matching = _preprocess(image_codec, train), _matching_codec(kind, image_codec, train)
    real = _real(matching, train)
    results = []
    for _ in range(2):
        items = PARAMETERIZATIONS[kind](image_codec, train)
        before = [parameter.detach().clone() for parameter in items.parameters()]
        matcher = OBJECTIVES[objective].build(_context(OBJECTIVES[objective], matching, preprocess, real))
        own = [value for group in matcher.parameter_groups() for value in group["params"]]
        optimizer = torch.optim.SGD([{"params": list(items.parameters())}, *matcher.parameter_groups()], lr=1.0)
        for step in range(2):
            optimizer.zero_grad()
            figures = matcher.accumulate(items, real, generator(0, "step", step))
            assert figures["loss"] > 0
            for parameter in items.parameters():
                assert parameter.grad is not None
                assert parameter.grad.isfinite().all()
                assert (parameter.grad.flatten(1).norm(dim=1) > 0).all()
            assert all(value.grad is not None and value.grad.isfinite() and value.grad != 0 for value in own)
            optimizer.step()
        assert matcher.learned().keys() == set(OBJECTIVES[objective].learned_names)
        after = [parameter.detach().clone() for parameter in items.parameters()]
        assert all(bool((new != old).any()) for new, old in zip(after, before, strict=True))
        results.append(after)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.parametrize(("codec", "kind", "objective"), _pairs(PRIORS, ("trajectories", "discrepancy", "sum")))
def test_a_composition_of_priors(codec: str, kind: str, objective: str, train: ImageSet) -> None:
    """As above; a bias before a norm moves nothing, so that its gradient is only finite."""
    image_codec = _fitted(codec)
    preprocess, real = _preprocess(image_codec, train), _real(image_codec, train)
    config, results = OBJECTIVES[objective], []
    for _ in range(2):
        items = PRIORS[kind](image_codec, train)
        matcher = config.build(_context(config, image_codec, preprocess, real))
        optimizer = torch.optim.SGD([{"params": list(items.parameters())}, *matcher.parameter_groups()], lr=1e-3)
        for step in range(2):
            optimizer.zero_grad()
            assert matcher.accumulate(items, real, generator(0, "step", step))["loss"] > 0
            for name, parameter in items.named_parameters():
                assert parameter.grad is not None and parameter.grad.isfinite().all()
                of_items = parameter.grad if name in ("mean", "log_variance") else parameter.grad.flatten()[None]
                assert name.endswith("grow.bias") or bool((of_items.norm(dim=1) > 0).all()), name
            optimizer.step()
        assert all(statistic.isfinite().all() for statistic in items.statistics().values())
        results.append([value.detach().clone() for value in (*items.parameters(), *items.statistics().values())])
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


DIFFUSED, DRAWN = {"codes", "conditioning"}, {"codes", "features"}


@pytest.mark.parametrize(
    ("codec", "kind", "names", "objective"),
    [
        ("pixels", "diffusion-float32", DIFFUSED, "features-dsa"),
        ("pca", "diffusion-float32", DIFFUSED, "gradients-cosine"),
        ("pixels", "diffusion-float32", DIFFUSED, "trajectories"),
        ("pca", "diffusion-float32", DIFFUSED, "sum"),
        ("pixels", "generator2-float32", DRAWN, "features-dsa"),
        ("pixels", "generator0-float32", {"codes"}, "gradients-cosine"),
        ("pixels", "generator0-float32", {"codes"}, "trajectories"),
        ("pixels", "generator2-float32", DRAWN, "sum"),
    ],
)
def test_a_composition_with_a_frozen_model(
    codec: str, kind: str, names: set[str], objective: str, train: ImageSet
) -> None:
    """As the first, with gradients at all that is learned of every item and none at the model."""
    image_codec = _fitted(codec)
    matching = _preprocess(image_codec, train)
    config, results, real = OBJECTIVES[objective], [], _real(matching, train)
    for _ in range(2):
        items = RENDERED[kind](image_codec, train)
        learned = {name: value for name, value in items.named_parameters() if value.requires_grad}
        assert set(learned) == names
        matcher = config.build(_context(config, matching, matching, real))
        optimizer = torch.optim.SGD([{"params": list(learned.values())}, *matcher.parameter_groups()], lr=1e-3)
        for step in range(2):
            optimizer.zero_grad()
            assert matcher.accumulate(items, real, generator(0, "step", step))["loss"] > 0
            for value in learned.values():
                assert value.grad is not None and value.grad.isfinite().all()
                assert (value.grad.flatten(1).norm(dim=1) > 0).all()
            optimizer.step()
        assert all(value.grad is None for value in items.parameters() if not value.requires_grad)
        results.append([value.detach().clone() for value in learned.values()])
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.parametrize("objective", ["gradients-cosine", "gradients-mse", "trajectories", "trajectories-dsa", "sum"])
def test_gradients_reach_soft_labels(objective: str, train: ImageSet) -> None:
    """Every item's logits are learned; adding the same to all logits of an item changes no label, so no loss."""
    codec = _fitted("pca")
    real = _real(codec, train)
    hard = PARAMETERIZATIONS["codes-int8"](codec, train)
    assert isinstance(hard, Codes)
    logits = class_logits(hard.labels, train.num_classes, 3.0)
    items = Codes(codec, hard.codes, hard.labels, "int8", logits)
    config = OBJECTIVES[objective]
    matcher = config.build(_context(config, codec, _fitted("pixels"), real))
    matcher.accumulate(items, real, generator(0, "step", 0))
    assert items.soft_labels is not None and items.soft_labels.grad is not None
    gradient = items.soft_labels.grad
    assert gradient.isfinite().all()
    assert (gradient.norm(dim=1) > 0).all()
    assert (gradient.sum(1).abs() < 1e-3 * gradient.abs().sum(1)).all()
    assert items.codes.grad is not None and (items.codes.grad.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize(
    ("codec", "kind"),
    [(codec, kind) for place, kind in enumerate(sorted(EVERY)) for codec in sorted(CODECS)[place % 2 :: 2]],
)
def test_payload_and_spec_rebuild_the_items(codec: str, kind: str, train: ImageSet) -> None:
    image_codec = _fitted(codec)
    items = EVERY[kind](image_codec, train)
    payload = items.payload()
    again = restore_parameterization(items.codec, payload, items.spec(), _preprocess(image_codec, train))
    assert torch.equal(again.labels, items.labels)
    everything = torch.arange(len(items))
    worst = (again.images(everything) - items.images(everything)).abs().max()
    assert worst <= {"float32": 1e-6, "float16": 2e-2, "int8": 0.2}[kind.partition("-")[2]]
    twice = again.payload()
    assert payload.keys() == twice.keys()
    assert all(torch.equal(payload[name], twice[name]) for name in payload)


@pytest.mark.parametrize("kind", sorted(EVERY))
def test_a_subset_of_items_is_that_subset(kind: str, train: ImageSet) -> None:
    codec = _fitted("pca")
    items = EVERY[kind](codec, train)
    chosen = torch.tensor([5, 0, 11])
    items.eval()
    if not items.stochastic:
        torch.testing.assert_close(items(chosen), items(torch.arange(len(items)))[chosen])
    torch.testing.assert_close(items.means(chosen), items.means(torch.arange(len(items)))[chosen])
    torch.testing.assert_close(items.images(chosen), items.images(torch.arange(len(items)))[chosen])
