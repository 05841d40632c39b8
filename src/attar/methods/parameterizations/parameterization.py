"""The contract of a parameterization: what is stored, how it becomes images, and what a recipe says of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from attar.base.config import Config, parse_config
from attar.base.errors import InputError
from attar.base.files import canonical_json
from attar.base.randomness import generator
from attar.base.shapes import CodeBatch, Float, Images, Indices, Labels
from attar.data.image_set import ImageSet
from attar.data.resizing import Grid
from attar.methods.composition import Composition, Unmet, starts_from_noise
from attar.methods.initialization.sources import Sources, encoded
from attar.methods.labels.hard import class_major_labels
from attar.models.codecs.codec import Codec, codes_per_image

Draw: TypeAlias = torch.Generator | None
"""On the CPU, so that samples are the same on every device."""

LabelStorage: TypeAlias = Literal["float16", "float32"]
Table: TypeAlias = dict[str, tuple[str, tuple[int, ...]]]
"""Names of stored tensors to their dtypes and shapes."""

DTYPE_OF = {"float32": "F32", "float16": "F16", "int8": "I8"}


@dataclass(frozen=True)
class Spaces:
    """The spaces of a run, all of the same images.

    Args:
        codec: images <-> what is stored.
        preprocess: images -> network inputs; the codec itself where it is one of pixels.
        matching: images <-> what an objective sees: `codec` or `preprocess`, as the parameterization says.
    """

    codec: Codec
    preprocess: Codec
    matching: Codec

    def to(self, device: torch.device) -> Spaces:
        """On a device; one codec in two roles stays one."""
        return Spaces(self.codec.to(device), self.preprocess.to(device), self.matching.to(device))


@dataclass(frozen=True)
class Material:
    """What the first items are made of.

    Args:
        spaces: of the run.
        train: the real images.
        count: codes, canvases or priors of each class.
        seed: of the run.
        sources: the real image, or the part of one, behind each item; None where items start from noise.
        held: every training image's code in the matching space, where those are held.
    """

    spaces: Spaces
    train: ImageSet
    count: int
    seed: int
    sources: Sources | None = None
    held: Tensor | None = None

    @property
    def draw(self) -> torch.Generator:
        """The source of whatever the start draws; fresh at each call."""
        return generator(self.seed, "initialization")

    def labels(self, num_tiles: int = 1) -> Labels:
        """Class of every item, class-major."""
        if self.sources is not None:
            return self.sources.labels
        return class_major_labels(self.train.num_classes, self.count * num_tiles)

    def codes(self, grid: int = 1) -> Float[Tensor, "stored c h w"]:
        """The codes to start from: of the sources, squeezed into canvases of grid x grid, or N(0, 1)."""
        codec = self.spaces.codec
        if self.sources is None:
            shape = self.train.num_classes * self.count, *codec.code_shape
            return torch.randn(*shape, generator=self.draw)
        whole_images = grid == 1 and self.sources.boxes is None
        if self.held is not None and whole_images and self.spaces.matching is codec:
            return self.held[self.sources.indices].float()
        return encoded(codec, self.sources, Grid(grid))


class ParameterizationConfig(Config):
    """What a recipe says of its items; each kind says here what it needs and what it can.

    Attributes:
        matching: where an objective sees the items: as "codes", or as network "inputs".
        starts: what items may start from.
        model: the kind of frozen model in the codec that renders the items, or None.
        has_range: whether each value decodes by itself, so that items can be cut to what is an image.
        has_average: whether a running average of the items is again such items.
        blank_start: whether the first items show nothing yet, e.g. those of an untrained decoder.
    """

    matching: ClassVar[Literal["codes", "inputs"]] = "codes"
    starts: ClassVar[tuple[str, ...]] = ("images", "noise")
    model: ClassVar[str | None] = None
    has_range: ClassVar[bool] = True
    has_average: ClassVar[bool] = True
    blank_start: ClassVar[bool] = False

    kind: str
    storage: str

    @property
    def stochastic(self) -> bool:
        """Whether items are drawn anew whenever they are seen."""
        return False

    @property
    def num_tiles(self) -> int:
        """Items in each stored code."""
        return 1

    @property
    def optimizers(self) -> Mapping[str, str]:
        """Beginnings of names of tensors that have an optimizer of their own, and the recipe's setting for each."""
        return {}

    def codes_of_images(self, codec: Codec) -> int:
        """Codes that a budget in images buys for each image: as many as hold the same number of values."""
        return codes_per_image(codec)

    def restores_loss(self, codec: Any) -> bool:
        """Whether items begin as less than their originals, so that an objective has something to restore."""
        return self.num_tiles > 1 or not codec.gives_inputs

    def spec(self, codec: Codec, num_classes: int) -> dict[str, Any]:
        """What a file will say of such items of so many classes, but for soft labels; see `item_spec`."""
        return {"kind": self.kind, "storage": self.storage}

    @abstractmethod
    def initial(self, material: Material) -> Parameterization:
        """The first items. Raises InputError where they cannot be made."""

    def unmet(self, recipe: Composition) -> Iterator[Unmet]:
        """Needs of these items that the recipe does not meet."""
        start = "noise" if starts_from_noise(recipe) else "images"
        if start not in self.starts:
            mend = "they start from noise, not from real images; set initialization=noise"
            yield Unmet("start", f"items of kind {self.kind!r}: {mend if start == 'images' else 'give real images'}")
        if self.model != recipe.codec.model:
            kind = self.model or recipe.codec.model
            yield Unmet(
                "model",
                f"a {kind} model and items that it renders belong together; set parameterization.kind={kind} and "
                f"--codec {kind}:FILE, or neither",
            )
        yield from self._unmet_of_optimizers(recipe)

    def _unmet_of_optimizers(self, recipe: Composition) -> Iterator[Unmet]:
        learned = set(self.optimizers.values()) if recipe.optimizer is not None else set()
        for name in ("decoder_optimizer", "feature_optimizer"):
            optimizer = getattr(recipe, name)
            if optimizer is None and name in learned:
                mend = f"set {name}='{{\"learning_rate\": 1}}'"
                text = f"what is learned beside items of kind {self.kind!r} needs an optimizer of its own"
                yield Unmet("own optimizer", f"{text}; {mend}")
            elif optimizer is not None and name not in learned:
                yield Unmet("own optimizer", f"there is nothing for {name} to update; set {name}=null")
            elif optimizer is not None and optimizer.valid_range:
                yield Unmet("value range", f"what {name} updates has no valid range; set {name}.valid_range=false")
            elif optimizer is not None and optimizer.average and not self.has_average:
                yield Unmet("average", f"running statistics are not those of an average; set {name}.average=0")
        if recipe.optimizer is not None and recipe.optimizer.valid_range and not self.has_range:
            mend = "set optimizer.valid_range=false"
            yield Unmet("value range", f"items of kind {self.kind!r} have no valid range; {mend}")
        if recipe.optimizer is not None and recipe.optimizer.average and not self.has_average:
            yield Unmet("average", "running statistics are not those of an average; set optimizer.average=0")


class ItemSpec(Config):
    """What a file says of its items; `label_storage` is there with soft labels only."""

    kind: str
    label_storage: LabelStorage | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """All but how labels are stored, as JSON."""
        return self.model_dump(mode="json", exclude={"label_storage"})


class Parameterization(nn.Module, ABC):
    """M learnable items with their labels.

    Attributes:
        kind: its name in the registry and in manifests.
        spec_type: what a file says of such items, with `label_storage` where labels are soft.
        codec: how codes become images; never trained.
        labels: int64 [M], class-major (all items of class 0 first).
        soft_labels: float32 [M, K], logits whose softmax is each item's label, trained with the items; None where
            labels are hard.
        label_storage: how `payload` stores them.
        chunk_items: the most items that are rendered at once; None where that is not in chunks.

    Args:
        labels: as above.
        soft_labels: float [M, K], the logits that soft labels start from; None for hard labels.
        label_storage: as above.
    """

    kind: ClassVar[str]
    spec_type: ClassVar[type[Config]]
    codec: Codec
    labels: Labels
    soft_labels: Tensor | None
    chunk_items: int | None = None

    def __init__(
        self,
        labels: Labels,
        soft_labels: Float[Tensor, "items classes"] | None = None,
        label_storage: LabelStorage = "float16",
    ) -> None:
        super().__init__()
        self.register_buffer("labels", labels.clone())
        self.register_parameter("soft_labels", None)
        self.label_storage: LabelStorage = label_storage
        if soft_labels is not None:
            self.take_soft_labels(soft_labels, label_storage)

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
    def forward(self, items: Indices, generator: Draw = None) -> Float[Tensor, "batch ..."]:
        """The items in the space where the objective matches, differentiable with respect to every trainable tensor.

        Args:
            items: indices into the M items.
            generator: source of all randomness; needed by stochastic parameterizations only.
        """

    @torch.no_grad()
    def images(self, items: Indices, generator: Draw = None) -> Images:
        """The items as images, nominally in [0, 1] and not clamped; without gradient."""
        return self.codec.decode(self(items))

    @torch.no_grad()
    def means(self, items: Indices) -> Float[Tensor, "batch ..."]:
        """As `forward`, without what is sampled: the one item that an expert's soft label is made from. No gradient."""
        mean: Tensor = self(items)
        return mean

    @torch.no_grad()
    def latents(self, items: Indices) -> Float[Tensor, "batch ..."]:
        """The code behind each item, without gradient: what `decode` makes an image of, and others on the way to it.

        Raises:
            InputError: items that have no code.
        """
        codes: Tensor = self(items)
        return codes

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "batch ..."]) -> Images:
        """The images of codes such as `latents` gives, stored or not; no gradient. Raises InputError as it does."""
        return self.codec.decode(latents)

    def canvases(self, indices: Indices, generator: Draw = None) -> Images:
        """Stored images, of which `indices` counts `num_canvases`, as `images` gives items: by default the items."""
        return self.images(indices, generator)

    def remade(self, sources: Sources, preprocess: Codec) -> Parameterization:
        """Items that begin as `sources`, quantised as these are stored.

        Raises:
            NotImplementedError: items whose start is more than their images; see `registry.can_be_remade`.
        """
        raise NotImplementedError(f"items of kind {self.kind!r} start from more than their images")

    def for_sampling(self) -> Parameterization:
        """Frozen items that give the same samples up to rounding, in the fastest form there is."""
        return self

    def sampled_inputs(self, items: Indices, draw: Draw, preprocess: Codec, lowered: bool = False) -> CodeBatch:
        """One sample of each item as network inputs; without a generator its mean.

        Args:
            items: indices.
            draw: on the CPU.
            preprocess: images to network inputs.
            lowered: what may be computed in bfloat16 is.
        """
        home = next(preprocess.buffers(), self.labels).device
        return preprocess.encode(self.images(items, draw).to(home, torch.float32))

    @torch.no_grad()
    def cut_to_valid_range(self) -> None:
        """Every value becomes the nearest one that decodes to [0, 1]. Raises InputError as `valid_range`."""
        raise InputError(f"items of kind {self.kind!r} have no valid range; set optimizer.valid_range=false")

    def valid_range(self) -> tuple[Tensor, Tensor]:
        """The least and largest valid value. Raises InputError where values are not valid each by itself."""
        raise InputError(f"items of kind {self.kind!r} have no valid range; set optimizer.valid_range=false")

    def rendering_bytes(self, samples: int = 1) -> dict[str, int]:
        """Bytes at the peak of rendering all items `samples` times, by purpose; nothing where it takes little."""
        return {}

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

    @abstractmethod
    def item_payload(self) -> dict[str, Tensor]:
        """What a file stores of the items, labels and codec apart: names to tensors."""

    @abstractmethod
    def item_spec(self) -> dict[str, Any]:
        """JSON-able: with the payload and the codec, everything needed to rebuild the items. Has "kind"."""

    def payload(self) -> dict[str, Tensor]:
        """Exactly what a distilled file stores of the items: names to tensors, labels included, codec apart."""
        tensors = self.item_payload() | {"labels": self.labels.cpu().to(torch.int32)}
        if self.soft_labels is not None:
            tensors["soft_labels"] = stored_values(self.soft_labels, self.label_storage)
        return tensors

    def spec(self) -> dict[str, Any]:
        """`item_spec`, and how soft labels are stored where there are any."""
        return self.item_spec() | ({} if self.soft_labels is None else {"label_storage": self.label_storage})

    @classmethod
    @abstractmethod
    def item_table(cls, spec: Any, num_items: int, code_shape: tuple[int, int, int]) -> Table:
        """Dtypes and shapes of `item_payload`; nothing is allocated. Raises InputError for what cannot be."""

    @classmethod
    def table(cls, spec: Any, num_items: int, code_shape: tuple[int, int, int], num_classes: int) -> Table:
        """Dtypes and shapes of `payload`; nothing is allocated. Raises InputError for what cannot be."""
        table = cls.item_table(spec, num_items, code_shape) | {"labels": ("I32", (num_items,))}
        if spec.label_storage is not None:
            table["soft_labels"] = (DTYPE_OF[spec.label_storage], (num_items, num_classes))
        return table

    @classmethod
    @abstractmethod
    def _rebuilt(
        cls, codec: Codec, payload: dict[str, Tensor], spec: Any, preprocess: Codec | None
    ) -> Parameterization:
        """The items of a payload, with hard labels."""

    @classmethod
    def restore(
        cls, codec: Codec, payload: dict[str, Tensor], spec: dict[str, Any], preprocess: Codec | None = None
    ) -> Parameterization:
        """Rebuild from what `payload` and `spec` gave; quantised values come back as those they stand for.

        Raises:
            ValueError: no `preprocess`, and items that are seen as network inputs.
            InputError: a spec or payload that cannot be.
        """
        parsed: Any = parse_config(cls.spec_type, canonical_json(spec), f"parameterization {cls.kind!r}")
        items = cls._rebuilt(codec, payload, parsed, preprocess)
        if "soft_labels" in payload:
            items.take_soft_labels(payload["soft_labels"], parsed.label_storage or "float16")
        return items


def stored_values(values: Tensor, storage: str) -> Tensor:
    """Values on the CPU as float16, beyond its range cut to the largest instead of made infinite, or as float32."""
    values = values.detach().cpu()
    if storage == "float32":
        return values.float()
    largest = torch.finfo(torch.float16).max
    return values.clamp(-largest, largest).half()


def given_preprocess(preprocess: Codec | None, kind: str) -> Codec:
    """What makes network inputs of images, of which payloads say nothing. Raises ValueError where it is absent."""
    if preprocess is None:
        raise ValueError(f"items of kind {kind!r} are restored with the codec of network inputs; give preprocess")
    return preprocess
