"""Weights that somebody else trained: read, compared with the architecture, and only then taken."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path

import torch
from torch import Tensor

from attar.base.container import one_line
from attar.base.errors import InputError
from attar.models.networks.network import Network, NetworkConfig
from attar.models.networks.registry import network_shell

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl")
COUNTS = "num_batches_tracked"
"""Ends the name of batch norm's counts, which nothing here is computed from."""

PREPROCESS = "preprocess."
"""Begins the names of what an observer's own file has beside the network's weights."""


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
    return {key: value for key, value in _read(path).items() if not key.startswith(PREPROCESS)}


def weights_name(weights: str) -> str:
    """How a manifest may name the source: without the folders of a path."""
    return weights if weights.startswith(("torchvision:", "timm:")) else Path(weights).name


def loaded_network(
    config: NetworkConfig,
    input_shape: tuple[int, int, int],
    num_classes: int,
    state: Mapping[str, Tensor],
    source: str,
) -> Network:
    """A network in evaluation mode on the CPU with exactly these weights, in float32.

    Args:
        config: the architecture.
        input_shape: (c, h, w).
        num_classes: K.
        state: parameters and running statistics; counts of batches are not needed.
        source: of the weights, for messages.

    Raises:
        InputError: a tensor is absent, superfluous, of another shape, or holds values that are not finite.
    """
    network = network_shell(config, input_shape, num_classes)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items() if not name.endswith(COUNTS)}
    values = {name: value for name, value in state.items() if not name.endswith(COUNTS)}
    _check_names(source, config, shapes.keys() - values.keys(), values.keys() - shapes.keys())
    for name, shape in shapes.items():
        _check_tensor(source, network, config, name, values[name], shape)
    network.to_empty(device="cpu")
    counts = {name: torch.zeros((), dtype=torch.int64) for name in network.state_dict() if name.endswith(COUNTS)}
    network.load_state_dict({**{name: values[name].float() for name in shapes}, **counts})
    return network.eval()


def _check_names(source: str, config: NetworkConfig, absent: Set[str], superfluous: Set[str]) -> None:
    if absent or superfluous:
        faults = [f"{name[:80]!r} is absent" for name in sorted(absent)[:1]]
        faults += [f"{name[:80]!r} is not known" for name in sorted(superfluous)[:1]]
        raise InputError(
            f"{source} does not fit network {config.name!r} ({', '.join(faults)}; {len(absent)} absent and "
            f"{len(superfluous)} unknown in all); take the network and the norm that it was trained as"
        )


def _check_tensor(
    source: str, network: Network, config: NetworkConfig, name: str, value: Tensor, shape: tuple[int, ...]
) -> None:
    given = tuple(value.shape)
    if given != shape and name == f"{network.last_layer}.weight" and given[1:] == shape[1:]:
        raise InputError(
            f"{source} tells {given[0]} classes apart and the data has {shape[0]}; take weights trained on these "
            "classes, or leave them out to train"
        )
    if given != shape:
        raise InputError(
            f"{source} does not fit network {config.name!r}: its {name!r} is {given} where {shape} is needed; take its "
            "own stem and width (resnet18:imagenet-batch has torchvision's shapes) and images of its size and channels"
        )
    if not value.is_floating_point() or not bool(value.isfinite().all()):
        raise InputError(f"{source}: {name!r} holds values that are not finite numbers; restore it from its source")


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
        if source == "torchvision":
            from torchvision.models import get_model_weights

            return dict(get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True))
        import timm

        return dict(timm.create_model(name, pretrained=True).state_dict())
    except ImportError:
        raise InputError(
            f"weights {source}:{name} need the package {source}; install it: pip install 'attar[vision]'"
        ) from None
    except Exception as error:  # unknown names, absent weights and failed downloads come as almost anything
        raise InputError(
            f"{source} gives no weights {name!r} ({one_line(error)}); give a name that it has with weights, or the "
            "path of a .safetensors file"
        ) from None
