"""What every network offers, how it is configured and how it is initialised."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from attar.base.config import Config
from attar.base.errors import InputError
from attar.base.shapes import Float

Norm: TypeAlias = Literal["instance", "batch", "layer", "group", "none"]
Pooling: TypeAlias = Literal["average", "max", "none"]
Activation: TypeAlias = Literal["relu", "leaky_relu", "sigmoid", "gelu"]
Stem: TypeAlias = Literal["small", "imagenet"]

ModuleType = TypeVar("ModuleType", bound=nn.Module)

LARGEST_VALUES = 2**28
"""Of one denoiser, generator or decoder: 1 GiB as float32."""

#: Kind -> the norms it can have, its default first.
NORMS: dict[str, tuple[Norm, ...]] = {
    "convnet": ("instance", "batch", "layer", "group", "none"),
    "resnet18": ("instance", "batch"),
    "resnet50": ("batch", "instance"),
    "vgg11": ("instance", "batch"),
    "alexnet": ("none", "batch"),
    "mobilenet_v2": ("batch",),
    "shufflenet_v2": ("batch",),
    "convnext_tiny": ("layer",),
    "vit": ("layer",),
}

#: Settings that only some kinds have -> those kinds.
_KINDS_WITH: dict[str, tuple[str, ...]] = {
    "depth": ("convnet",),
    "width": ("convnet",),
    "pooling": ("convnet",),
    "activation": ("convnet",),
    "stem": ("resnet18", "resnet50", "mobilenet_v2", "shufflenet_v2", "convnext_tiny"),
}


class NetworkConfig(Config):
    """An architecture without its input shape and number of classes.

    Args:
        kind: "convnet" is the field's ConvNet; "vgg11" and "alexnet" are the forms for small images, in which the field
            tests on unseen architectures; "vit" is of ViT-Tiny's size, with patches that suit the images; the others
            have a form for small images and torchvision's.
        depth: blocks of the ConvNet; None takes `depth_for` of the smaller side of the input.
        width: channels of every ConvNet block.
        norm: "instance" is the field's default: one group for each channel, affine; alexnet has "none" by default,
            resnet50 "batch"; mobilenet_v2 and shufflenet_v2 have "batch" alone, convnext_tiny and vit "layer".
        pooling: after every ConvNet block, by a factor of 2; "none" leaves the size as it is.
        activation: of every ConvNet block.
        stem: how kinds with torchvision's form begin: "small" is for images of about 32 pixels, "imagenet" is
            torchvision's for about 224, so that its weights fit.

    Raises:
        InputError: a setting that the kind would ignore.
    """

    kind: Literal[
        "convnet", "resnet18", "resnet50", "vgg11", "alexnet", "mobilenet_v2", "shufflenet_v2", "convnext_tiny", "vit"
    ] = "convnet"
    depth: int | None = Field(default=None, ge=1, le=10)
    width: int = Field(default=128, ge=1, le=4096)
    norm: Norm = "instance"
    pooling: Pooling = "average"
    activation: Activation = "relu"
    stem: Stem = "small"

    @model_validator(mode="before")
    @classmethod
    def _norm_of_kind(cls, settings: Any) -> Any:
        kind = settings.get("kind") if isinstance(settings, dict) else None
        if isinstance(kind, str) and kind in NORMS and "norm" not in settings:
            return {**settings, "norm": NORMS[kind][0]}
        return settings

    @model_validator(mode="after")
    def _refuse_settings_without_effect(self) -> NetworkConfig:
        ignored = [
            name
            for name, kinds in _KINDS_WITH.items()
            if self.kind not in kinds and getattr(self, name) != type(self).model_fields[name].default
        ]
        if ignored:
            kinds = " or ".join(map(repr, _KINDS_WITH[ignored[0]]))
            raise InputError(f"{self.kind} has no {' or '.join(ignored)} to choose; leave it out, or take kind {kinds}")
        if self.norm not in NORMS[self.kind]:
            raise InputError(f"{self.kind} has no norm {self.norm!r}; take {' or '.join(map(repr, NORMS[self.kind]))}")
        return self

    def shortest(self, input_shape: tuple[int, int, int]) -> NetworkConfig:
        """The same network, with its depth left out where these inputs get that depth anyway: both are then equal."""
        usual = self.kind == "convnet" and self.depth == depth_for(min(input_shape[1:]))
        return self.model_copy(update={"depth": None}) if usual else self

    @property
    def name(self) -> str:
        """The short text that `network_from_text` reads, e.g. "convnet", "convnet:d3-batch"."""
        sizes = f"d{self.depth}" if self.depth is not None else ""
        sizes += f"w{self.width}" if self.width != 128 else ""
        usual = {key: field.default for key, field in type(self).model_fields.items()} | {"norm": NORMS[self.kind][0]}
        chosen = [word for word, (key, value) in _WORDS.items() if getattr(self, key) == value != usual[key]]
        options = "-".join([sizes] * bool(sizes) + chosen)
        return f"{self.kind}:{options}" if options else self.kind


_WORDS: dict[str, tuple[str, str]] = {
    "small": ("stem", "small"),
    "imagenet": ("stem", "imagenet"),
    "instance": ("norm", "instance"),
    "batch": ("norm", "batch"),
    "layer": ("norm", "layer"),
    "group": ("norm", "group"),
    "nonorm": ("norm", "none"),
    "average": ("pooling", "average"),
    "max": ("pooling", "max"),
    "nopool": ("pooling", "none"),
    "relu": ("activation", "relu"),
    "leaky_relu": ("activation", "leaky_relu"),
    "sigmoid": ("activation", "sigmoid"),
    "gelu": ("activation", "gelu"),
}


@runtime_checkable
class DrawsOwnValues(Protocol):
    """A network, or a block of one, with parameters that belong to no layer and a law of their own."""

    def draw_own(self, generator: torch.Generator) -> None:
        """Draw these parameters anew, in place."""


class Network(nn.Module, ABC):
    """A classifier of network inputs: parts one after another, features, then one linear layer.

    Args:
        input_shape: (c, h, w) it is built for.
        num_classes: K.
    """

    last_layer: ClassVar[str] = "classifier"
    """Name of the linear layer that makes logits of the features."""

    def __init__(self, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.input_shape, self.num_classes = input_shape, num_classes

    @abstractmethod
    def parts(self) -> list[tuple[nn.Module, bool]]:
        """The layers up to the last map, in order, each with whether its output is a block's map."""

    def pooled(self, maps: Tensor) -> Tensor:
        """The features that the output of the last part becomes."""
        return maps.flatten(1)

    def features(self, inputs: Float[Tensor, "items c h w"]) -> Float[Tensor, "items features"]:
        """The input of the last linear layer."""
        for part, _ in self.parts():
            inputs = part(inputs)
        return self.pooled(inputs)

    def forward(self, inputs: Float[Tensor, "items c h w"]) -> Float[Tensor, "items classes"]:
        """Logits."""
        return self.get_submodule(self.last_layer)(self.features(inputs))

    @property
    def num_blocks(self) -> int:
        """How many maps `maps` can show."""
        return sum(ends_block for _, ends_block in self.parts())

    def block_maps(self, inputs: Float[Tensor, "items c h w"]) -> Iterator[Tensor]:
        """The map after every block, before its pooling, first to last; each is computed when it is asked for."""
        for part, ends_block in self.parts():
            inputs = part(inputs)
            if ends_block:
                yield inputs

    def maps(self, inputs: Float[Tensor, "items c h w"], layer: int) -> Float[Tensor, "items channels height width"]:
        """The map after one block, before its pooling; what comes later is not computed.

        Blocks are counted from 0, or from the end: -1 is the last. Raises InputError where there is no such block.
        """
        count = self.num_blocks
        if not -count <= layer < count:
            raise InputError(
                f"layer {layer} was asked for; this network's {count} are 0 to {count - 1}, or from the end -1 to "
                f"-{count}"
            )
        return next(islice(self.block_maps(inputs), layer % count, None))


class AveragingNetwork(Network):
    """A network whose features are the last map averaged over its pixels."""

    def pooled(self, maps: Tensor) -> Tensor:
        """The mean over all pixels, whatever the size."""
        return maps.mean((2, 3))


def depth_for(resolution: int) -> int:
    """Blocks that leave a map of about 4 x 4: 3 at 32 pixels, 4 at 64, 5 at 128, 6 at 256, 7 at 512, never below 1."""
    return max(1, round(math.log2(max(1, resolution))) - 2)


def first_padding(sides: Sequence[int], padding: int) -> tuple[int, tuple[int, int]]:
    """Padding of the first convolution and the size of what it makes: 28 x 28 inputs become 32 x 32, others stay.

    Source: DC's networks pad every one-channel input so; here it is every 28 x 28 one.
    """
    added = 2 if tuple(sides) == (28, 28) else 0
    return padding + added, (sides[0] + 2 * added, sides[1] + 2 * added)


def num_parameters(network: nn.Module) -> int:
    """The number of trainable values."""
    return sum(parameter.numel() for parameter in network.parameters())


def initialise_parameters(network: nn.Module, generator: torch.Generator) -> None:
    """Redraws every layer by PyTorch's default law, in place, so that a compiled network is reused.

        weight, bias ~ U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for convolutions and linear layers; norms become 1 and 0.

    Values are drawn in float32 on the generator's own device, in contiguous order: the same generator gives the same
    network on every device, in every precision and memory format.

    Args:
        network: of convolutions, linear layers, norms and `DrawsOwnValues`.
        generator: on the CPU, or on the network's device (faster there for large networks).

    Raises:
        ValueError: a layer with parameters whose law is not known here.

    Source: `reset_parameters` of torch.nn.Conv2d and Linear; kaiming_uniform with a = sqrt(5) has this bound.
    """
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                bound = 1 / math.sqrt(layer.weight[0].numel())
                for parameter in layer.parameters(recurse=False):
                    values = torch.empty(parameter.shape, device=generator.device)
                    parameter.copy_(values.uniform_(-bound, bound, generator=generator))
            elif isinstance(layer, (nn.GroupNorm, nn.LayerNorm, nn.BatchNorm2d)):
                layer.reset_parameters()
            elif isinstance(layer, DrawsOwnValues):
                layer.draw_own(generator)
            elif [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]:
                raise ValueError(f"no law of initialisation for {type(layer).__name__}")


def bounded_shell(build: Callable[[], ModuleType], name: str) -> ModuleType:
    """A module of names and shapes without values, on the meta device; InputError above `LARGEST_VALUES` values."""
    with torch.device("meta"):
        shell = build()
    num_values = sum(value.numel() for value in shell.state_dict().values())
    if num_values > LARGEST_VALUES:
        raise InputError(f"a {name} of {num_values} values; at most {LARGEST_VALUES} are allowed: take less width")
    return shell


def keep_torchvisions_keys(network: nn.Module) -> None:
    """Calls `layers` what torchvision calls `features`, in state dicts given and taken; their order is kept.

    Every network here has a method `features`, so that no child can have that name.
    """

    def rename(state: dict[str, Any], old: str, new: str) -> None:
        for key in list(state):
            value = state.pop(key)
            state[new + key.removeprefix(old) if key.startswith(old) else key] = value

    network.register_state_dict_post_hook(
        lambda module, state, prefix, metadata: rename(state, f"{prefix}layers.", f"{prefix}features.")
    )
    network.register_load_state_dict_pre_hook(
        lambda module, state, prefix, *rest: rename(state, f"{prefix}features.", f"{prefix}layers.")
    )


def norm_layer(norm: Norm, channels: int, size: tuple[int, int]) -> nn.Module:
    """The norm layer for maps of `channels` x `size`.

    "instance" is one group for each channel, "group" four groups (fewer where four do not divide the channels), "layer"
    normalises the whole map with an affine value for each of its elements, as the field's networks have it.
    """
    if norm == "instance":
        return nn.GroupNorm(channels, channels)
    if norm == "group":
        return nn.GroupNorm(math.gcd(4, channels), channels)
    if norm == "layer":
        return nn.LayerNorm([channels, *size])
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.Identity()
