"""Weights that somebody else trained: read, compared with the architecture, and only then taken."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar.base.container import one_line
from attar.base.errors import InputError
from attar.models.networks.network import Network, NetworkConfig
from attar.models.networks.registry import network_shell

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl")
COUNTS = "num_batches_tracked"
"""Ends the name of batch norm's counts, which nothing here is computed from."""

OWN = "preprocess."
"""Begins the names of what an observer's own file has beside the network's weights."""

_LAST_WEIGHTS = ("classifier.weight", "classifier.1.weight", "classifier.2.weight", "fc.weight")


def find_weights(weights: str) -> dict[str, Tensor]:
    """The state dict that a user names.

    Args:
        weights: the path of a .safetensors file (an observer's own file is one), or "torchvision:NAME", "timm:NAME".

    Raises:
        InputError: a file that is absent, damaged or pickled, a package that is absent, or a name that it lacks.
    """
    source, _, name = weights.partition(":")
    if source in ("torchvision", "timm") and name:
        return _public(source, name)
    path = Path(weights).expanduser()
    if path.suffix in PICKLES:
        raise InputError(
            f"{path} is pickled, which could run code, and is not read; load it where it is trusted and save its state "
            "dict with safetensors.torch.save_file"
        )
    return {key: value for key, value in _read(path).items() if not key.startswith(OWN)}


def weights_name(weights: str) -> str:
    """How a manifest may name the source: without the folders of a path."""
    return weights if weights.startswith(("torchvision:", "timm:")) else Path(weights).name


def loaded_network(
    config: NetworkConfig,
    input_shape: tuple[int, int, int],
    num_classes: int,
    state: Mapping[str, Tensor],
    what: str,
) -> Network:
    """A network in evaluation mode on the CPU with exactly these weights, in float32.

    Args:
        config: the architecture.
        input_shape: (c, h, w).
        num_classes: K.
        state: parameters and running statistics; counts of batches are not needed.
        what: names the weights' source.

    Raises:
        InputError: a tensor is absent, superfluous, of another shape, or holds values that are not finite.
    """
    network = network_shell(config, input_shape, num_classes)
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items() if not name.endswith(COUNTS)}
    given = {name: value for name, value in state.items() if not name.endswith(COUNTS)}
    _check_names(what, config, list(given), list(wanted))
    for name, shape in wanted.items():
        _check_tensor(what, config, name, given[name], shape)
    network.to_empty(device="cpu")
    counts = {name: torch.zeros((), dtype=torch.int64) for name in network.state_dict() if name.endswith(COUNTS)}
    network.load_state_dict({**{name: given[name].float() for name in wanted}, **counts})
    return network.eval()


def _check_names(what: str, config: NetworkConfig, given: list[str], wanted: list[str]) -> None:
    absent, superfluous = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    if not absent and not superfluous:
        return
    found = [f"{name[:80]!r} is absent" for name in absent[:1]]
    found += [f"{name[:80]!r} is not known" for name in superfluous[:1]]
    raise InputError(
        f"{what} does not fit network {config.name!r} ({', '.join(found)}; {len(absent)} absent and "
        f"{len(superfluous)} unknown in all); take the network and the norm that it was trained as"
    )


def _check_tensor(what: str, config: NetworkConfig, name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    found = tuple(value.shape)
    if found != shape and name in _LAST_WEIGHTS and found[1:] == shape[1:]:
        raise InputError(
            f"{what} tells {found[0]} classes apart and the data has {shape[0]}; take weights trained on these "
            "classes, or leave them out to train"
        )
    if found != shape:
        raise InputError(
            f"{what} does not fit network {config.name!r}: its {name!r} is {found} where {shape} is needed; take its "
            "own stem and width (resnet18:imagenet-batch has torchvision's shapes) and images of its size and channels"
        )
    if not value.is_floating_point() or not bool(value.isfinite().all()):
        raise InputError(f"{what}: {name!r} holds values that are not finite numbers; restore it from its source")


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(
            f"there are no weights {path}; give a .safetensors file, torchvision:NAME or timm:NAME"
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or one_line(error)}") from None
    except (SafetensorError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise InputError(f"{path} is no whole .safetensors file ({one_line(error)}); copy it again") from None


def _public(source: str, name: str) -> dict[str, Tensor]:
    """The state dict of a package's pretrained model, from its cache or downloaded by it."""
    try:
        state: dict[str, Any] = _from_torchvision(name) if source == "torchvision" else _from_timm(name)
    except ImportError:
        raise InputError(
            f"weights {source}:{name} need the package {source}; install it: pip install 'attar[vision]'"
        ) from None
    except Exception as error:  # unknown names, absent weights and failed downloads come as almost anything
        raise InputError(
            f"{source} gives no weights {name!r} ({one_line(error)}); give a name that it has with weights, or the "
            "path of a .safetensors file"
        ) from None
    return state


def _from_torchvision(name: str) -> dict[str, Any]:
    from torchvision.models import get_model_weights

    return dict(get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True))


def _from_timm(name: str) -> dict[str, Any]:
    import timm

    return dict(timm.create_model(name, pretrained=True).state_dict())
