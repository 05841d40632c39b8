# ruff: noqa: T201
"""Train a network of one's own on a distilled file, with torch alone.

python examples/train_on_it.py photos.attar.safetensors PHOTOS
"""

from __future__ import annotations

import sys

import torch
from torch import nn

import attar


def main(file: str, folder: str, num_epochs: int = 60) -> None:
    """Train a small network on the decoded items and print its accuracy on the real test images."""
    small = attar.load(file)
    test = attar.load_images(folder, classes=small.classes).test
    torch.manual_seed(0)
    channels = small.image_shape[0]
    network = nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(512, len(small.classes)),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for epoch in range(num_epochs):
        for images, labels in small.loader(batch_size=64, epoch=epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(small.preprocess.encode(images)), labels).backward()
            optimizer.step()
    with torch.no_grad():
        predicted = network(small.preprocess.encode(test.images.float() / 255)).argmax(1)
    print(f"{100 * (predicted == test.labels).float().mean():.1f} % of {len(test)} real test images")


if __name__ == "__main__":
    main(*sys.argv[1:])
