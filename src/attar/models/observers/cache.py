"""Observers in files, which say all that they are, and weights that somebody else trained: read without trust."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from attar.base.config import Config, parse_config
from attar.base.container import METADATA_KEY, one_line, pack, unpack
from attar.base.errors import InputError
from attar.base.files import atomic_path, cache_directory, canonical_json
from attar.base.version import __version__
from attar.models.codecs.pixels import Pixels
from attar.models.codecs.restoring import ImageShape
from attar.models.codecs.weights import PICKLES, read_tensors
from attar.models.networks.network import Network, NetworkConfig
from attar.models.networks.registry import network_shell
from attar.models.observers.observer import Observer

SCHEMA_VERSION = 1
COUNTS = "num_batches_tracked"
"""Ends the name of batch norm's counts, which nothing here is computed from."""

PREPROCESS = "preprocess."
"""Begins the names of what an observer's own file has beside the network's weights."""


class ObserverManifest(Config):
    """What an observer's file says about itself.

    What is read must have the `identity`. `preprocess` is the spec of its pixels codec, `accuracy` percent of checked
    training images, `source` "trained" or the name of its weights.
    """

    schema_version: Literal[1] = 1
    identity: str = Field(pattern="^[0-9a-f]{64}$")
    network: NetworkConfig
    input_shape: ImageShape
    classes: tuple[Annotated[str, Field(max_length=1000)], ...] = Field(min_length=2, max_length=1 << 20)
    preprocess: dict[str, Any]
    accuracy: float = Field(ge=0, le=100)
    source: str
    attar_version: str
    torch_version: str


def folder() -> Path:
    """The cache folder of observers."""
    return cache_directory("observers")


def save_observer(observer: Observer, path: Path, source: str) -> None:
    """Writes a checked observer; the file appears whole or not at all, and equal observers give equal bytes."""
    manifest = ObserverManifest(
        identity=observer.identity,
        network=observer.config,
        input_shape=observer.network.input_shape,
        classes=observer.classes,
        preprocess=observer.preprocess.spec(),
        accuracy=observer.accuracy,
        source=source,
        attar_version=__version__,
        torch_version=torch.__version__,
    )
    stored = {PREPROCESS + name: value for name, value in observer.preprocess.stored_tensors().items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(pack(canonical_json(manifest.model_dump(mode="json")), {**observer.weights(), **stored}))


def read_observer(path: Path) -> Observer:
    """The observer in a file of `save_observer`, on the CPU; nothing in the file is trusted.

    Raises:
        InputError: a damaged file, or one whose content is not what it says.
    """
    try:
        text, tensors = unpack(path)
        manifest = parse_config(ObserverManifest, text, "its manifest")
        names = [name for name in tensors if name.startswith(PREPROCESS)]
        stored = {name.removeprefix(PREPROCESS): tensors.pop(name) for name in names}
        preprocess = Pixels.restore(manifest.preprocess, stored)
        if preprocess.image_shape != manifest.input_shape:
            raise InputError(f"its inputs are {manifest.input_shape} and its images {preprocess.image_shape}")
        num_classes = len(manifest.classes)
        network = loaded_network(manifest.network, manifest.input_shape, num_classes, tensors, "the file")
        observer = Observer(network, manifest.network, preprocess, manifest.classes, manifest.accuracy)
        if observer.identity != manifest.identity:
            raise InputError("its content has another identity than it says")
    except InputError as error:
        raise InputError(
            f"{path} cannot be read as an observer ({error}); delete it, and the command that made it makes it again"
        ) from None
    return observer


def cached_path(identity: str) -> Path | None:
    """The cached file whose manifest has this identity; None if there is none."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder().glob("*.safetensors")):
        try:
            with safe_open(str(path), framework="pt") as file:
                text = (file.metadata() or {}).get(METADATA_KEY, "")
            if parse_config(ObserverManifest, text, "manifest").identity == identity:
                return path
        except (OSError, SafetensorError, InputError):  # a file that claims nothing
            continue
    return None


def cached_observer(identity: str) -> Observer | None:
    """The observer of this identity from the cache, on the CPU; None where it is not there.

    Raises:
        InputError: its file is damaged.
    """
    path = cached_path(identity)
    return None if path is None else read_observer(path)


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
    if path.suffix not in PICKLES and not path.exists():
        raise InputError(f"there are no weights {path}; give a .safetensors file, torchvision:NAME or timm:NAME")
    return {key: value for key, value in read_tensors(path).items() if not key.startswith(PREPROCESS)}


def weights_name(weights: str) -> str:
    """The source of weights as a manifest names it: without the folders of a path."""
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
        config: the architecture, of the input shape (c, h, w) and K classes.
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
