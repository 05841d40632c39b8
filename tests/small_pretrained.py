"""Tiny randomly initialised models of diffusers, saved as their folders are."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

KINDS = ("unet-embedding", "unet-attention", "dit")
_SCHEDULER = {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195, "num_train_timesteps": 1000}


def save_pretrained(kind: str, folder: Path, num_classes: int = 4, seed: int = 0, **told: int) -> Path:
    """A model of 16-pixel images and codes of 4 x 4 x 4, with `num_classes` classes and the null class.

    Args:
        kind: one of `KINDS`.
        folder: made here.
        num_classes: K.
        seed: of its values.
        **told: further settings of a U-Net.
    """
    import diffusers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(diffusers, kind, num_classes, **told)
        network.save_pretrained(folder / ("transformer" if kind == "dit" else "unet"))
        autoencoder, place = _autoencoder(diffusers, kind)
        autoencoder.save_pretrained(folder / place)
        if kind == "unet-attention":
            (folder / "class_embedder").mkdir()
            table = torch.randn(num_classes + 1, 12)
            save_file({"embedding.weight": table}, folder / "class_embedder" / "model.safetensors")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(_SCHEDULER))
    return folder


def saved_autoencoder(folder: Path) -> Path:
    """A tiny autoencoder by itself: 16-pixel images in colour to codes of 4 x 4 x 4."""
    import diffusers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        autoencoder, _ = _autoencoder(diffusers, KINDS[0])
        autoencoder.save_pretrained(folder)
    return folder


def _network(diffusers, kind: str, num_classes: int, **told: int):
    if kind == "dit":
        transformer = diffusers.DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            sample_size=4,
            patch_size=2,
            num_embeds_ada_norm=num_classes,
            norm_num_groups=4,
        )
        first, *others = (block.norm1.emb.class_embedder for block in transformer.transformer_blocks)
        for other in others:  # as every published transformer has it
            other.load_state_dict(first.state_dict())
        return transformer
    common = {
        "sample_size": 4,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "attention_head_dim": 4,
        **told,
    }
    if kind == "unet-embedding":
        return diffusers.UNet2DConditionModel(
            **common,
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
            mid_block_type="UNetMidBlock2D",
            num_class_embeds=num_classes + 1,
        )
    return diffusers.UNet2DConditionModel(
        **common,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
    )


def _autoencoder(diffusers, kind: str):
    levels = 3
    shared = {
        "block_out_channels": (8,) * levels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "latent_channels": 4,
        "norm_num_groups": 4,
    }
    if kind == "dit":
        return diffusers.AutoencoderKL(**shared), "vae"
    return diffusers.VQModel(**shared, num_vq_embeddings=32), "vqvae"
