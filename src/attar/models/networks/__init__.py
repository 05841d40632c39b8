"""Networks that are trained on images and on codes."""

from __future__ import annotations

from attar.models.networks.network import Network, NetworkConfig, depth_for, initialise_parameters, num_parameters
from attar.models.networks.registry import GROUPS, build_network, network_from_text, network_shell, networks_named

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
