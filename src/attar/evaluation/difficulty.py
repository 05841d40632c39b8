"""How hard a training image is to networks that were trained on all of them: the scores behind EL2N coresets."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from attar.base.progress import Progress, Silent
from attar.base.shapes import Float, Int64
from attar.data.augmentation import DsaConfig
from attar.data.image_set import ImageSet
from attar.methods.labels.regions import Labeller
from attar.models.networks.network import NetworkConfig
from attar.models.observers.config import ObserverConfig
from attar.models.observers.training import observer_for
from attar.models.training.settings import TrainingConfig

NUM_NETWORKS = 3
BATCH = 256
TRAINING = TrainingConfig(
    epochs=10,
    batch_size=128,
    learning_rate=0.05,
    schedule="cosine",
    augmentation=DsaConfig(strategy="crop", mode="multiple"),
    max_steps=1000,
)
"""The training of the networks that score: short, as in the source, which looks at networks early in training."""


def scoring_networks() -> list[ObserverConfig]:
    """The networks whose errors are averaged."""
    network = NetworkConfig(norm="batch")
    return [
        ObserverConfig(network=network, training=TRAINING, least_accuracy=0.0, seed=seed)
        for seed in range(NUM_NETWORKS)
    ]


def el2n_scores(
    train: ImageSet, device: torch.device | str = "cpu", progress: Progress | None = None
) -> Float[torch.Tensor, " items"]:
    """The EL2N score of every training image, by networks trained on these images alone and kept as observers."""
    progress = progress or Silent()
    networks = [observer_for(config, train, device, progress) for config in scoring_networks()]
    return mean_errors(networks, train, device)


@torch.no_grad()
def mean_errors(
    networks: Sequence[Labeller], train: ImageSet, device: torch.device | str = "cpu"
) -> Float[torch.Tensor, " items"]:
    """The mean length of the networks' error vectors, float64 on the CPU.

        s_i = 1/M sum_m || softmax(f_m(x_i)) - onehot(y_i) ||_2

    Source: Paul, Ganguli & Dziugaite 2021, the EL2N score; they average 10 ResNet-18 early in training.
    Deviation: 3 ConvNets after 10 epochs, at most 1,000 steps, with a falling rate.
    """
    errors = torch.zeros(len(train), dtype=torch.float64)
    for items in torch.arange(len(train)).split(BATCH):
        images = train.images[items].to(device).float() / 255
        labels = torch.nn.functional.one_hot(train.labels[items], train.num_classes).double()
        for network in networks:
            errors[items] += (network.logits(images).cpu().double().softmax(1) - labels).norm(dim=1)
    return errors / len(networks)


def extremes(
    scores: Float[torch.Tensor, " items"], train: ImageSet, count: int, hardest: bool
) -> Int64[torch.Tensor, " chosen"]:
    """Up to `count` images of each class with the highest scores, or the lowest; class-major, ties by place."""
    chosen = []
    for members in train.class_indices:
        order = scores[members].argsort(descending=hardest, stable=True)
        chosen.append(members[order[:count]])
    return torch.cat(chosen)
