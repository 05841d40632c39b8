"""LatentDD (Duan et al. 2023): distillation in an autoencoder's latent space. LatentDM is here."""

from __future__ import annotations

from attar.codecs.autoencoder import AutoencoderConfig
from attar.codecs.pca import PcaConfig
from attar.codecs.registry import CodecConfig
from attar.codecs.resample import ResampleConfig
from attar.data.augmentation import DsaConfig
from attar.networks.network import NetworkConfig
from attar.objectives.features import FeaturesConfig
from attar.recipes.recipe import Expected, OptimizerConfig, Recipe

STABLE_DIFFUSION = AutoencoderConfig(path="CompVis/stable-diffusion-v1-4")

SUBSETS = ("Bird", "Fruit", "Woof", "Cat", "Nette")


def latent_dm() -> Recipe:
    """LatentDM on patch-PCA codes: no download, any image size that 4 divides.

    Command: attar distill PHOTOS --recipe latent-dm --budget 1ipc
    """
    return Recipe(
        name="latent-dm",
        title="LatentDM: mean features in the space of a patch-PCA codec",
        codec=PcaConfig(factor=4, channels=4, scaling="whiten"),
        objective=FeaturesConfig(network=NetworkConfig(depth=1), augmentation=DsaConfig()),
        optimizer=OptimizerConfig(learning_rate=0.08, learning_rate_unit="per-item", schedule="cosine"),
        steps=1000,
        citations=("latentdd", "dm", "dsa"),
    )


def latent_dm_256_f4_ipc1() -> Recipe:
    """LatentDD Table 6, resolution 256, f = 4, IPC 1: 12 codes per class. Expected: Table 1.

    Command: attar distill FOLDER --image-size 256 --resize crop --recipe latent-dm-256-f4-ipc1
    """
    rows = _expected("256 px", "1ipc", "Table 1", SUBSETS, (47.08, 30.68, 28.00, 36.28, 56.08))
    return _table_6("latent-dm-256-f4-ipc1", 256, 4, "1ipc", 64, 0.5, 4, 6, rows)


def latent_dm_256_f8_ipc1() -> Recipe:
    """LatentDD Table 6, resolution 256, f = 8, IPC 1: 48 codes per class. Expected: Table 5."""
    rows = _expected("256 px", "1ipc", "Table 5", SUBSETS, (67.40, 37.60))
    return _table_6("latent-dm-256-f8-ipc1", 256, 8, "1ipc", 64, 0.1, 3, 6, rows)


def latent_dm_256_f4_ipc10() -> Recipe:
    """LatentDD Table 6, resolution 256, f = 4, IPC 10: 120 codes per class. Expected: Table 1."""
    rows = _expected("256 px", "10ipc", "Table 1", SUBSETS, (77.20, 47.76))
    return _table_6("latent-dm-256-f4-ipc10", 256, 4, "10ipc", 64, 0.5, 4, 6, rows)


def latent_dm_512_f4_ipc1() -> Recipe:
    """LatentDD Table 6, resolution 512, f = 4, IPC 1: 12 codes per class. Expected: Table 1."""
    rows = _expected("512 px", "1ipc", "Table 1", SUBSETS, (46.20, 30.60))
    return _table_6("latent-dm-512-f4-ipc1", 512, 4, "1ipc", 32, 0.5, 5, 7, rows)


def latent_dm_512_f8_ipc1() -> Recipe:
    """LatentDD Table 6, resolution 512, f = 8, IPC 1: 48 codes per class. Expected: Table 5."""
    rows = _expected("512 px", "1ipc", "Table 5", SUBSETS, (68.22, 37.20))
    return _table_6("latent-dm-512-f8-ipc1", 512, 8, "1ipc", 16, 0.1, 4, 7, rows)


def _table_6(
    name: str,
    image_size: int,
    factor: int,
    budget: str,
    batch: int,
    rate: float,
    train_depth: int,
    test_depth: int,
    expected: tuple[Expected, ...],
) -> Recipe:
    """A LatentDM column of Table 6. Momentum is DM's 0.5, "the default settings of the original DM" (appendix A)."""
    codec: CodecConfig = STABLE_DIFFUSION if factor == 8 else ResampleConfig(factor=2, codec=STABLE_DIFFUSION)
    return Recipe(
        name=name,
        title=f"LatentDM as published: {image_size} px, f = {factor}, Stable Diffusion's autoencoder",
        codec=codec,
        objective=FeaturesConfig(network=NetworkConfig(depth=train_depth), real_batch_size=batch),
        optimizer=OptimizerConfig(learning_rate=rate, learning_rate_unit="per-item"),
        steps=1000,
        evaluation_network=NetworkConfig(depth=test_depth),
        image_size=image_size,
        budget=budget,
        citations=("latentdd", "dm"),
        expected=expected,
    )


def _expected(
    resolution: str, budget: str, table: str, subsets: tuple[str, ...], accuracies: tuple[float, ...]
) -> tuple[Expected, ...]:
    return tuple(
        Expected(data=f"{subset} {resolution}", budget=budget, accuracy=accuracy, source=f"LatentDD {table}")
        for subset, accuracy in zip(subsets, accuracies, strict=False)
    )
