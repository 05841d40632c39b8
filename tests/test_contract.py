"""One suite over every parameterization and objective: what each must do to be one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from attar.codecs.augmenting import siamese_augmentation
from attar.codecs.codec import Codec
from attar.codecs.dct import DctConfig
from attar.codecs.pca import PcaConfig
from attar.codecs.pixels import PixelsConfig
from attar.codecs.registry import fit_codec
from attar.config import Config
from attar.data.augmentation import DsaConfig
from attar.data.image_set import ImageSet
from attar.data.sources import load_images
from attar.labels import class_major_labels
from attar.networks.network import NetworkConfig
from attar.objectives.features import FeaturesConfig
from attar.objectives.objective import Context, RealItems
from attar.objectives.registry import build_objective
from attar.parameterizations.codes import Codes
from attar.parameterizations.parameterization import Parameterization
from attar.parameterizations.registry import restore_parameterization
from attar.randomness import generator

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

OBJECTIVES: dict[str, FeaturesConfig] = {
    "features": FeaturesConfig(network=SMALL, real_batch_size=4),
    "features-dsa": FeaturesConfig(network=SMALL, real_batch_size=4, augmentation=DsaConfig()),
}


@pytest.fixture(scope="module")
def train() -> ImageSet:
    return load_images("digits").train


def _real(codec: Codec, train: ImageSet) -> RealItems:
    return RealItems(train.labels, train.num_classes, images=train, codec=codec)


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
@pytest.mark.parametrize("kind", sorted(PARAMETERIZATIONS))
@pytest.mark.parametrize("codec", sorted(CODECS))
def test_a_composition(codec: str, kind: str, objective: str, train: ImageSet) -> None:
    """Finite gradients reach every trainable tensor, twice the same; two steps change every item and stay finite."""
    image_codec = fit_codec(CODECS[codec], train)  # type: ignore[arg-type]
    preprocess = image_codec if codec in ("pixels", "zca") else fit_codec(PixelsConfig(), train)
    real = _real(image_codec, train)
    results = []
    for _ in range(2):
        items = PARAMETERIZATIONS[kind](image_codec, train)
        before = [parameter.detach().clone() for parameter in items.parameters()]
        augmentation = siamese_augmentation(OBJECTIVES[objective].augmentation, image_codec, preprocess)
        matcher = build_objective(OBJECTIVES[objective], Context(real.shape, train.num_classes, "cpu", 2, augmentation))
        optimizer = torch.optim.SGD(items.parameters(), lr=1.0)
        for step in range(2):
            optimizer.zero_grad()
            figures = matcher.accumulate(items, real, generator(0, "step", step))
            assert figures["loss"] > 0
            for parameter in items.parameters():
                assert parameter.grad is not None
                assert parameter.grad.isfinite().all()
                assert (parameter.grad.flatten(1).norm(dim=1) > 0).all()
            optimizer.step()
        after = [parameter.detach().clone() for parameter in items.parameters()]
        assert all(bool((new != old).any()) for new, old in zip(after, before, strict=True))
        results.append(after)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.parametrize("kind", sorted(PARAMETERIZATIONS))
@pytest.mark.parametrize("codec", sorted(CODECS))
def test_payload_and_spec_rebuild_the_items(codec: str, kind: str, train: ImageSet) -> None:
    image_codec = fit_codec(CODECS[codec], train)  # type: ignore[arg-type]
    items = PARAMETERIZATIONS[kind](image_codec, train)
    payload = items.payload()
    again = restore_parameterization(image_codec, payload, items.spec())
    assert torch.equal(again.labels, items.labels)
    everything = torch.arange(len(items))
    worst = (again.images(everything) - items.images(everything)).abs().max()
    assert worst <= {"float32": 1e-6, "float16": 2e-2, "int8": 0.2}[kind.removeprefix("codes-")]
    twice = again.payload()
    assert payload.keys() == twice.keys()
    assert all(torch.equal(payload[name], twice[name]) for name in payload)


@pytest.mark.parametrize("kind", sorted(PARAMETERIZATIONS))
def test_a_subset_of_items_is_that_subset(kind: str, train: ImageSet) -> None:
    codec = fit_codec(PcaConfig(factor=2, channels=2), train)
    items = PARAMETERIZATIONS[kind](codec, train)
    chosen = torch.tensor([5, 0, 11])
    assert torch.equal(items(chosen), items(torch.arange(len(items)))[chosen])
    torch.testing.assert_close(items.images(chosen), items.images(torch.arange(len(items)))[chosen])
