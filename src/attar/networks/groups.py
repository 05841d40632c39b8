"""Architectures by name, one by one or in groups."""

from __future__ import annotations

from collections.abc import Sequence

from attar.errors import InputError
from attar.networks.network import NORMS, NetworkConfig, network_from_text, network_shell

GROUPS: dict[str, tuple[str, ...]] = {
    "all": tuple(NORMS),
    "unseen": ("alexnet", "vgg11", "resnet18", "vit"),
}
"""Every kind in its default form; and those on which GLaD and LD3M test sets that were made with a ConvNet."""


def networks_named(
    wanted: Sequence[str | NetworkConfig] | str | NetworkConfig, input_shape: tuple[int, int, int] | None = None
) -> list[NetworkConfig]:
    """The architectures named, each once, in the order of the names.

    Args:
        wanted: short forms (see `network_from_text`), names of `GROUPS`, configurations.
        input_shape: (c, h, w); of a group, members that cannot see such inputs are left out. None checks nothing.

    Raises:
        InputError: none, an unknown one, or one named by itself that cannot see the inputs.

    Example:
        >>> [config.name for config in networks_named("unseen", (3, 16, 16))]
        ['alexnet', 'resnet18', 'vit']
    """
    configs: list[NetworkConfig] = []
    for each in [wanted] if isinstance(wanted, str | NetworkConfig) else wanted:
        if isinstance(each, str) and each in GROUPS:
            members = [network_from_text(text) for text in GROUPS[each]]
            configs += [config for config in members if input_shape is None or _sees(config, input_shape)]
            continue
        configs.append(network_from_text(each) if isinstance(each, str) else each)
        if input_shape is not None:
            network_shell(configs[-1], input_shape, 2)
    if not configs:
        raise InputError("no network was named; name at least one, e.g. convnet")
    return list(dict.fromkeys(configs))


def _sees(config: NetworkConfig, input_shape: tuple[int, int, int]) -> bool:
    try:
        network_shell(config, input_shape, 2)
    except InputError:
        return False
    return True
