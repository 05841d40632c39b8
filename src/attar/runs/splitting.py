"""Which classes a subtask has."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from attar.base.errors import InputError, unknown
from attar.base.randomness import generator
from attar.base.shapes import Float
from attar.data.image_set import ImageSet

Split: TypeAlias = Literal["contiguous", "random", "similarity"]
"""By the classes' order, by chance, or so that similar classes meet."""

SPLITS: tuple[Split, ...] = get_args(Split)
BLOCK_VALUES = 2**24
MOST_EXCHANGES = 10
"""For each class, at most."""

SMALLEST_GAIN = 1e-12
"""Of the largest distance: less is rounding."""


def split_classes(train: ImageSet, subtasks: int, split: Split, seed: int) -> list[list[int]]:
    """The classes of each part, as equally many as can be, the first parts having one more where they must differ.

    Args:
        train: whose classes are split; its pixels matter to "similarity" alone.
        subtasks: k, how many parts.
        split: "contiguous" keeps the data set's order; "random" shuffles it; "similarity" is `similar_classes`.
        seed: of "random"; the others need none.

    Returns:
        k lists of class indices, each ascending.

    Raises:
        InputError: fewer than two parts, or than two classes in one; an unknown split.

    Source: D3 (Qin et al. 2024) section 2.3, whose experiments have contiguous classes.
    """
    if split not in SPLITS:
        raise unknown("split", str(split), SPLITS)
    if subtasks < 2:
        raise InputError(f"subtasks are {subtasks}; give at least 2, or leave them out to distil all classes together")
    if train.num_classes < 2 * subtasks:
        most = train.num_classes // 2
        mend = f"take at most {most}" if most > 1 else "leave subtasks out"
        raise InputError(
            f"{train.num_classes} classes cannot be split into {subtasks} subtasks of at least 2 classes each; {mend}"
        )
    if split == "similarity":
        return similar_classes(class_means(train), subtasks)
    order = torch.arange(train.num_classes)
    if split == "random":
        order = torch.randperm(train.num_classes, generator=generator(seed, "subtasks"))
    return [sorted(part.tolist()) for part in torch.tensor_split(order, subtasks)]


def similar_classes(means: Float[Tensor, "classes values"], subtasks: int) -> list[list[int]]:
    """Classes whose means are near one another, in parts of equal sizes: k-means with fixed sizes, without any chance.

        minimise sum over parts p of sum_(a in p) || m_a - mean of p ||^2

    Centres are the class farthest from the mean of all, then the one farthest from all centres, and so on. Pairs of
    class and centre are taken, the nearest first, as long as the centre's part has room. Then the two classes whose
    exchange lowers the sum most change places, until no exchange does. Ties go to the lower index.

    Args:
        means: m, of each class's images, float64.
        subtasks: k parts; the first ones may have one class more.

    Returns:
        The parts, each ascending; those of one size in the order of their first classes.
    """
    sizes = torch.tensor([len(part) for part in torch.tensor_split(torch.arange(len(means)), subtasks)])
    distances = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist").square()
    assigned = _nearest_first(distances[:, _far_apart(means, subtasks)], sizes.tolist())
    least = -SMALLEST_GAIN * float(distances.max())
    for _ in range(MOST_EXCHANGES * len(means)):
        gain = _exchanges(distances, assigned, sizes)
        if float(gain.min()) >= least:
            break
        one, other = divmod(int(gain.argmin()), len(means))
        assigned[[one, other]] = assigned[[other, one]]
    parts = [(assigned == part).nonzero()[:, 0].tolist() for part in range(subtasks)]
    return sorted(parts, key=lambda part: (-len(part), part[0]))


def class_means(train: ImageSet) -> Float[Tensor, "classes values"]:
    """The mean image of each class, float64 [K, C H W], in [0, 1]; read in blocks."""
    values = train.images[0].numel() if len(train) else 1
    block = max(1, BLOCK_VALUES // values)
    means = torch.zeros(train.num_classes, values, dtype=torch.float64)
    for images, labels in zip(train.images.split(block), train.labels.split(block), strict=True):
        means.index_add_(0, labels, images.flatten(1).double() / 255)
    counts = torch.bincount(train.labels, minlength=train.num_classes).clamp_min(1)
    return means / counts.unsqueeze(1)


def _far_apart(means: Tensor, count: int) -> list[int]:
    distances = (means - means.mean(0)).square().sum(1)
    chosen = [int(distances.argmax())]
    distances = (means - means[chosen[0]]).square().sum(1)
    while len(chosen) < count:
        chosen.append(int(distances.argmax()))
        distances = torch.minimum(distances, (means - means[chosen[-1]]).square().sum(1))
    return chosen


def _nearest_first(distances: Tensor, sizes: list[int]) -> Tensor:
    """The part of each class: nearest pairs of class and centre first, no part above its size."""
    room, assigned = list(sizes), torch.full((len(distances),), -1)
    for place in distances.flatten().argsort(stable=True).tolist():
        label, part = divmod(place, len(sizes))
        if assigned[label] < 0 and room[part]:
            assigned[label] = part
            room[part] -= 1
    return assigned


def _exchanges(distances: Tensor, assigned: Tensor, sizes: Tensor) -> Float[Tensor, "classes classes"]:
    """By how much the sum changes where class a of part p and class b of part q change places.

    (S_bp - S_ap - D_ab) / |p| + (S_aq - S_bq - D_ab) / |q|,   S_ap the sum of D_aj over j in p
    """
    members = torch.nn.functional.one_hot(assigned, len(sizes)).double()
    to_parts = distances @ members
    to_own_part = to_parts.gather(1, assigned.unsqueeze(1))
    leaving = (to_parts[:, assigned].T - to_own_part - distances) / sizes[assigned].unsqueeze(1)
    change = leaving + leaving.T
    return change.masked_fill(assigned.unsqueeze(1) == assigned.unsqueeze(0), 0.0)
