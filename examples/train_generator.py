# ruff: noqa: T201
"""Train attar's own generator on labelled images, for the recipes glad-dc, glad-dm and glad-mtt.

python examples/train_generator.py PHOTOS generator.safetensors 2000

Each class's images are matched by the kernel MMD of pixels (Li et al. 2015): enough for images of few pixels. Any other
loss will do, e.g. an adversary's.
"""

from __future__ import annotations

import sys

import torch

import attar
from attar.methods.objectives.discrepancy import squared_mmd
from attar.models.generators.generator import save_generator
from attar.models.networks.synthesis import SynthesisConfig, build_synthesis

PER_CLASS = 16


def main(source: str, out: str, num_steps: int = 2000, width: int = 32) -> None:
    """Train, and write the generator."""
    train, draw = attar.load_images(source).train, torch.Generator().manual_seed(0)
    config = SynthesisConfig(width=width, latent_size=16, noise_size=8)
    network = build_synthesis(config, train.image_shape, train.num_classes, draw)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3, (0.5, 0.9))
    classes = torch.arange(train.num_classes).repeat_interleave(PER_CLASS)
    counts = torch.full((train.num_classes,), PER_CLASS)
    for step in range(num_steps):
        chosen = [members[torch.randint(len(members), (PER_CLASS,), generator=draw)] for members in train.class_indices]
        real = torch.stack([train.images[items].flatten(1).float() / 255 for items in chosen])
        noise = torch.randn(len(classes), network.noise_size, generator=draw)
        made = network(network.mapping(noise, classes)).flatten(1).unflatten(0, (train.num_classes, PER_CLASS))
        usual = float(torch.pdist(real.flatten(0, 1)).median())
        bandwidths = [usual * scale for scale in (0.15, 0.3, 0.6, 1.2)]
        loss = squared_mmd(real, made, counts, counts, bandwidths).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}: {loss.item():.4f}")
    save_generator(network, out, train.classes, train.fingerprint)


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
