"""The contract of a parameterization: what is stored, and how it becomes images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from attar.base.errors import InputError
from attar.base.shapes import Float, Int64
from attar.models.codecs.codec import Codec


class Parameterization(nn.Module, ABC):
    """M learnable items with their labels.

    Attributes:
        kind: its name in the registry and in manifests.
        codec: how codes become images; never trained.
        labels: int64 [M], class-major (all items of class 0 first).
        soft_labels: float32 [M, K], logits whose softmax is each item's label, trained with the items; None where
            labels are hard.
        label_storage: how `payload` stores them.
        chunk_items: the most items that are rendered at once; None where that is not in chunks.
    """

    kind: ClassVar[str]
    codec: Codec
    labels: Int64[Tensor, " items"]
    soft_labels: Tensor | None
    label_storage: Literal["float16", "float32"]
    chunk_items: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("soft_labels", None)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def stochastic(self) -> bool:
        """True where `forward` and `images` sample, so that every epoch sees other images."""
        return False

    @property
    def num_canvases(self) -> int:
        """How many images are stored; more than one item may lie in each."""
        return len(self)

    @abstractmethod
    def forward(
        self, items: Int64[Tensor, " batch"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch ..."]:
        """The items in the space where the objective matches, differentiable with respect to every trainable tensor.

        Args:
            items: indices into the M items.
            generator: source of all randomness; needed by stochastic parameterizations only.
        """

    @abstractmethod
    def images(
        self, items: Int64[Tensor, " batch"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch C H W"]:
        """The items as images, nominally in [0, 1] and not clamped; without gradient."""

    @torch.no_grad()
    def means(self, items: Int64[Tensor, " batch"]) -> Float[Tensor, "batch ..."]:
        """As `forward`, without what is sampled: the one item that an expert's soft label is made from. No gradient."""
        found: Tensor = self(items)
        return found

    def latents(self, items: Int64[Tensor, " batch"]) -> Float[Tensor, "batch ..."]:
        """The code behind each item, without gradient: what `decode` makes an image of, and others on the way to it.

        Raises:
            InputError: items that have no code.
        """
        raise InputError(f"items of kind {self.kind!r} have no code of their own; take a set of priors, or of codes")

    def decode(self, latents: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch C H W"]:
        """The images of codes such as `latents` gives, stored or not; no gradient. Raises InputError as it does."""
        raise InputError(f"items of kind {self.kind!r} have no code of their own; take a set of priors, or of codes")

    def statistics(self) -> dict[str, Tensor]:
        """What `forward` changes without a gradient, e.g. a norm's running values: themselves, not copies."""
        return {}

    def halve_memory(self) -> bool:
        """Render in chunks of half the size from now on; False where they cannot become smaller."""
        if self.chunk_items is None or self.chunk_items == 1:
            return False
        self.chunk_items //= 2
        return True

    def resume_state(self) -> dict[str, Tensor]:
        """What one step leaves for the next, apart from trainable tensors and `statistics`."""
        return {} if self.chunk_items is None else {"chunk_items": torch.tensor(self.chunk_items)}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `resume_state` gave, or from less."""
        if self.chunk_items is not None:
            self.chunk_items = min(self.chunk_items, int(state.get("chunk_items", self.chunk_items)))

    def take_soft_labels(
        self, logits: Float[Tensor, "items classes"], storage: Literal["float16", "float32"] = "float16"
    ) -> None:
        """From now on the labels are soft: trainable logits, and how `payload` stores them."""
        self.soft_labels = nn.Parameter(logits.detach().clone().float().to(self.labels.device))
        self.label_storage = storage

    def canvases(
        self, indices: Int64[Tensor, " batch"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch C H W"]:
        """Stored images, of which `indices` counts `num_canvases`, as `images` gives items: by default the items."""
        return self.images(indices, generator)

    @abstractmethod
    def payload(self) -> dict[str, Tensor]:
        """Exactly what a distilled file stores of the items: names to tensors, labels included, codec apart."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """JSON-able: with the payload and the codec, everything needed to rebuild it. Has "kind"."""
