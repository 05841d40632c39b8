"""Key samples: the images of each class that an observer, a network trained on the real data, labels best."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Discriminator, Field, Tag
from torch import Tensor

from attar.base.config import Config
from attar.base.errors import InputError
from attar.base.progress import Progress, Silent
from attar.base.shapes import Float, Int64
from attar.data.image_set import ImageSet
from attar.methods.initialization.selection import Initialization, too_few
from attar.methods.initialization.sources import Sources, random_crops
from attar.methods.labels.regions import Labeller

# 64 MiB of float32; a deep network needs about fifty times its input.
BATCH_VALUES = 1 << 24
LARGEST_BATCH = 512


class KeySamplesConfig(Config):
    """Real images ranked by an observer's loss.

    Args:
        kind: "key" takes the images with the lowest loss, "hardest" those with the highest.
        pool: images of each class that are drawn at random first, and ranked.
        crops: random crops of each image, of which the best-ranked stands for it (RDED: 5); 0 ranks whole images (LIC).
    """

    kind: Literal["key", "hardest"] = "key"
    pool: int = Field(default=300, ge=1)
    crops: int = Field(default=0, ge=0, le=1000)


def key_samples(
    config: KeySamplesConfig,
    observer: Labeller,
    train: ImageSet,
    count: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Sources:
    """The `count` best of each class's pool, class-major, the best first.

        s_i = - cross-entropy(observer(x_i), y_i)

    highest s first ("hardest": lowest). Equal scores go by place in the training images. Pools depend on neither
    `crops`, `kind` nor `count`: the same generator gives the same ones.

    Args:
        observer: on `device`.
        count: of each class.
        generator: on the CPU.

    Raises:
        InputError: a class with fewer images than `count` (it is named), a smaller pool, or losses that are not finite.

    Source: LIC section 2.1, equation 1 and Algorithm 1, stage 1; Sun et al. 2024 (RDED) for pools and crops.
    Deviation: a crop is ranked at full size, as it will be seen; RDED's code ranks it reduced to its tile on a black
        image. Neighbours in rank share a canvas (LIC's Algorithm 1); RDED's code deals ranks out, so that canvas j of n
        has ranks j, j + n, j + 2n, ...
    """
    pools = draw_pools(config.pool, train, count, generator)
    members, num_crops = torch.cat(pools), max(1, config.crops)
    boxes = random_crops(len(members) * num_crops, train.image_shape, generator) if config.crops else None
    candidates = Sources(train, members.repeat_interleave(num_crops), boxes, device)
    batch_size = min(LARGEST_BATCH, max(1, BATCH_VALUES // math.prod(train.image_shape)))
    losses = observer_losses(observer, candidates.images, candidates.labels, batch_size, progress)
    lowest, best_crops = (losses if config.kind == "key" else -losses).view(-1, num_crops).min(1)
    chosen, first = [], 0
    for pool in pools:
        order = lowest[first : first + len(pool)].argsort(stable=True)[:count] + first
        chosen.append(order * num_crops + best_crops[order])
        first += len(pool)
    return candidates.select(torch.cat(chosen))


def draw_pools(
    pool: int, train: ImageSet, count: int, generator: torch.Generator
) -> tuple[Int64[Tensor, " members"], ...]:
    """For each class up to `pool` different images of it at random, in ascending order.

    Raises:
        InputError: the pool is smaller than `count`, or a class is (it is named).
    """
    if pool < count:
        raise InputError(
            f"{count} images of each class are needed and the pool they are chosen from has {pool}; "
            f"set initialization.pool to at least {count}, or lower the budget"
        )
    for name, members in zip(train.classes, train.class_indices, strict=True):
        if len(members) < count:
            raise too_few(name, len(members), count)
    return tuple(
        members[torch.randperm(len(members), generator=generator)[:pool]].sort().values
        for members in train.class_indices
    )


@torch.no_grad()
def observer_losses(
    observer: Labeller,
    images: Callable[[Int64[Tensor, " batch"]], Tensor],
    labels: Int64[Tensor, " items"],
    batch_size: int = 256,
    progress: Progress | None = None,
) -> Float[Tensor, " items"]:
    """Cross-entropy of each image with its label, float64 on the CPU.

        log(1 + sum_{k != y} exp(z_k - z_y))

    In this form small losses keep their order; as a logarithm of a float32 probability, many good ones are all 0.

    Args:
        images: int64 [B] to images [B, C, H, W] in [0, 1], where the observer is.
        labels: int64 [T], on the CPU.
        batch_size: images at a time.

    Raises:
        InputError: losses that are not finite.
    """
    progress = progress or Silent()
    losses = torch.empty(len(labels), dtype=torch.float64)
    progress.start("ranking real images", len(labels))
    try:
        for items in torch.arange(len(labels)).split(batch_size):
            # On the CPU, because MPS has no float64.
            logits = observer.logits(images(items)).cpu().double()
            classes = labels[items].unsqueeze(1)
            others = (logits - logits.gather(1, classes)).scatter(1, classes, -torch.inf).logsumexp(1)
            losses[items] = torch.logaddexp(others, torch.zeros_like(others))
            progress.advance(len(items))
    finally:
        progress.finish()
    if not bool(losses.isfinite().all()):
        raise InputError("the observer's losses are not finite; its weights are damaged: train it anew")
    return losses


def _spell_out(value: Any) -> Any:
    """The words key and hardest stand for settings of which no other is given."""
    return KeySamplesConfig(kind=value) if value in ("key", "hardest") else value


#: "random", "herding", "k-centre", or a KeySamplesConfig, for which "key" and "hardest" may stand; or "noise": codes
#: drawn from N(0, 1), without a real image behind them.
Choice = Annotated[
    Annotated[Initialization | Literal["noise"], Tag("name")] | Annotated[KeySamplesConfig, Tag("settings")],
    Discriminator(lambda value: "name" if isinstance(value, str) else "settings"),
    BeforeValidator(_spell_out),
]
