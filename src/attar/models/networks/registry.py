"""Every architecture by name, one by one or in groups."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

import torch

from attar.base.config import parse_config
from attar.base.errors import InputError, unknown
from attar.base.randomness import generator as derived_generator
from attar.models.networks.convnet import ConvNet, PlainNet
from attar.models.networks.convnext import ConvNextTiny
from attar.models.networks.mobile import MobileNetV2, ShuffleNetV2
from attar.models.networks.network import _WORDS, NORMS, Network, NetworkConfig, initialise_parameters
from attar.models.networks.resnet import ResNet
from attar.models.networks.vit import Vit

_FAMILIES: dict[str, Callable[[NetworkConfig, tuple[int, int, int], int], Network]] = {
    "convnet": ConvNet,
    "resnet18": ResNet,
    "resnet50": ResNet,
    "vgg11": PlainNet,
    "alexnet": PlainNet,
    "mobilenet_v2": MobileNetV2,
    "shufflenet_v2": ShuffleNetV2,
    "convnext_tiny": ConvNextTiny,
    "vit": Vit,
}

GROUPS: dict[str, tuple[str, ...]] = {
    "all": tuple(NORMS),
    "unseen": ("alexnet", "vgg11", "resnet18", "vit"),
}
"""Every kind in its default form; and those on which GLaD and LD3M test sets that were made with a ConvNet."""


def network_from_text(text: str) -> NetworkConfig:
    """A configuration from the command line's short form: kind[:[dDEPTH][wWIDTH][-WORD]...].

    The words are stems (small, imagenet), norms (instance, batch, layer, group, nonorm), poolings (average, max,
    nopool) and activations (relu, leaky_relu, sigmoid, gelu).

    Raises:
        InputError: an unknown kind or word, or a setting given twice.
    """
    kind, *options = (part for part in re.split("[:-]", text) if part) if text else ("",)
    if kind not in NORMS:
        raise unknown("network", kind, NORMS)
    settings: dict[str, str | int] = {"kind": kind}
    for option in options:
        setting = _settings_of(option)
        if settings.keys() & setting.keys():
            raise InputError(f"network {text!r} sets {next(iter(setting))} twice; set it once")
        settings |= setting
    return parse_config(NetworkConfig, json.dumps(settings), f"network {text!r}")


def build_network(
    config: NetworkConfig,
    input_shape: tuple[int, int, int],
    num_classes: int,
    generator: torch.Generator | None = None,
) -> Network:
    """A network on the CPU in float32, in training mode.

    Args:
        config: the architecture.
        input_shape: (c, h, w) of network inputs; odd and oblong sizes are allowed.
        num_classes: K, at least 2.
        generator: source of the initial values (see `initialise_parameters`); None takes that of seed 0, so that
            nothing ever depends on the global state.

    Raises:
        InputError: an architecture that does not fit the input.
    """
    network = network_shell(config, input_shape, num_classes).to_empty(device="cpu")
    initialise_parameters(network, generator or derived_generator(0, "network"))
    return network


def network_shell(config: NetworkConfig, input_shape: tuple[int, int, int], num_classes: int) -> Network:
    """As `build_network`, but of names and shapes without values, on the meta device: no memory is taken."""
    if num_classes < 2 or min(input_shape) < 1:
        raise InputError(f"a network for {num_classes} classes of {input_shape} inputs; at least 2 classes are needed")
    with torch.device("meta"):  # no value is computed twice, and the global generator is left alone
        return _FAMILIES[config.kind](config, input_shape, num_classes)


def networks_named(
    names: Sequence[str | NetworkConfig] | str | NetworkConfig, input_shape: tuple[int, int, int] | None = None
) -> list[NetworkConfig]:
    """The architectures named, each once, in the order of the names.

    Args:
        names: short forms (see `network_from_text`), names of `GROUPS`, configurations.
        input_shape: (c, h, w); of a group, members that cannot see such inputs are left out. None checks nothing.

    Raises:
        InputError: none, an unknown one, or one named by itself that cannot see the inputs.
    """
    configs: list[NetworkConfig] = []
    for name in [names] if isinstance(names, str) or not isinstance(names, Sequence) else names:
        if isinstance(name, str) and name in GROUPS:
            members = map(network_from_text, GROUPS[name])
            configs += [config for config in members if input_shape is None or _sees(config, input_shape)]
            continue
        configs.append(network_from_text(name) if isinstance(name, str) else name)
        if input_shape is not None:
            network_shell(configs[-1], input_shape, 2)
    if not configs:
        raise InputError("no network was named; name at least one, e.g. convnet")
    return list(dict.fromkeys(configs))


def _settings_of(option: str) -> dict[str, str | int]:
    if option in _WORDS:
        key, value = _WORDS[option]
        return {key: value}
    sizes = re.fullmatch(r"(?:d(\d{1,4}))?(?:w(\d{1,6}))?", option)
    if sizes is None:
        raise unknown("network option", option, [*_WORDS, "d3", "w128"])
    return {key: int(text) for key, text in zip(("depth", "width"), sizes.groups(), strict=True) if text is not None}


def _sees(config: NetworkConfig, input_shape: tuple[int, int, int]) -> bool:
    try:
        network_shell(config, input_shape, 2)
    except InputError:
        return False
    return True
