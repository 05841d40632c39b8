"""Networks that are trained on images and on codes."""

from __future__ import annotations

from attar.networks.groups import GROUPS, networks_named
from attar.networks.network import (
    Network,
    NetworkConfig,
    build_network,
    depth_for,
    initialise_parameters,
    network_from_text,
    network_shell,
    num_parameters,
)

__all__ = [
    "GROUPS",
    "Network",
    "NetworkConfig",
    "build_network",
    "depth_for",
    "initialise_parameters",
    "network_from_text",
    "network_shell",
    "networks_named",
    "num_parameters",
]
