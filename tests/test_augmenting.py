"""Augmentation through a codec: the one matrix against decoding, augmenting and encoding every item."""

from __future__ import annotations

import pytest
import torch

from attar.base.randomness import generator
from attar.data.augmentation import OPERATIONS, Dsa, DsaConfig
from attar.data.sources import load_images
from attar.models.codecs import augmenting
from attar.models.codecs.augmenting import AffineMap, CodeDsa, siamese_augmentation
from attar.models.codecs.dct import DctConfig
from attar.models.codecs.pca import PcaConfig
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import CodecConfig, fit_codec

CODECS: dict[str, CodecConfig] = {
    "pca": PcaConfig(factor=2, channels=3, scaling="whiten"),
    "dct": DctConfig(factor=2, channels=2),
}


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
@pytest.mark.parametrize("name", sorted(CODECS))
def test_the_matrix_is_the_long_way(name: str, operation: str) -> None:
    train = load_images("digits").train
    codec, preprocess = fit_codec(CODECS[name], train), fit_codec(PixelsConfig(), train)
    augment = CodeDsa(DsaConfig(strategy=operation), codec, preprocess)
    codes = codec.encode(train.images[:50].float() / 255)
    for seed in range(5):
        parameters = augment.draw(1, codec.code_shape, generator(seed, "draw"), siamese=True)
        assert isinstance(parameters, AffineMap)
        images = Dsa(DsaConfig(strategy=operation)).apply(
            preprocess.encode(codec.decode(codes)),
            Dsa(DsaConfig(strategy=operation)).draw(1, codec.image_shape, generator(seed, "draw"), siamese=True),
        )
        long_way = codec.encode(preprocess.decode(images))
        torch.testing.assert_close(augment.apply(codes, parameters), long_way, rtol=1e-4, atol=1e-4)


def test_large_codes_take_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmenting, "LARGEST_MATRIX", 3)
    train = load_images("digits").train
    codec, preprocess = fit_codec(CODECS["pca"], train), fit_codec(PixelsConfig(), train)
    augment = CodeDsa(DsaConfig(strategy="flip", flip=1.0), codec, preprocess)
    codes = codec.encode(train.images[:4].float() / 255).requires_grad_()
    parameters = augment.draw(1, codec.code_shape, generator(0, "draw"), siamese=True)
    mirrored = augment.apply(codes, parameters)
    torch.testing.assert_close(codec.decode(mirrored), codec.decode(codes).flip(3), rtol=1e-3, atol=0.2)
    mirrored.sum().backward()
    assert codes.grad is not None and bool((codes.grad != 0).any())


def test_items_that_are_network_inputs_are_augmented_themselves() -> None:
    train = load_images("digits").train
    pixels = fit_codec(PixelsConfig(), train)
    assert siamese_augmentation(None, pixels, pixels) is None
    assert isinstance(siamese_augmentation(DsaConfig(), pixels, pixels), Dsa)
    with pytest.raises(ValueError, match="one set of parameters"):
        CodeDsa(DsaConfig(), pixels, pixels).draw(3, (1, 8, 8), generator(0, "x"), siamese=False)
