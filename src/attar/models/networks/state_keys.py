"""Keys of a state dict as torchvision has them, where its names are not free here."""

from __future__ import annotations

from typing import Any

from torch import nn


def keep_torchvisions_keys(network: nn.Module) -> None:
    """Calls `layers` what torchvision calls `features`, in state dicts given and taken; their order is kept.

    Every network here has a method `features`, so that no child can have that name.
    """
    network.register_state_dict_post_hook(_to_torchvision)
    network.register_load_state_dict_pre_hook(_from_torchvision)


def _to_torchvision(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    _rename(state, f"{prefix}layers.", f"{prefix}features.")


def _from_torchvision(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    _rename(state, f"{prefix}features.", f"{prefix}layers.")


def _rename(state: dict[str, Any], old: str, new: str) -> None:
    for key in list(state):
        value = state.pop(key)
        state[new + key.removeprefix(old) if key.startswith(old) else key] = value
