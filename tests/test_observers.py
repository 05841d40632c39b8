"""Observers: never changed by what they see, refused where they know nothing, kept and found again."""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from attar.base.errors import InputError
from attar.base.randomness import generator
from attar.data.augmentation import DsaConfig
from attar.data.image_set import ImageSet
from attar.models.networks.network import NetworkConfig
from attar.models.networks.registry import build_network, network_from_text
from attar.models.observers.cache import cached_observer, cached_path, folder
from attar.models.observers.checking import balanced_sample, better_normalisation, check_observer
from attar.models.observers.config import Normalisation, ObserverConfig, pixels_normalised
from attar.models.observers.observer import Observer
from attar.models.observers.training import observer_for
from attar.models.training.settings import TrainingConfig
from attar.runs.preparing import make_observer, observer_config, observer_line
from observer_settings import Watcher, contents, few_digits, short
from small_sets import CLASSES, digit_images

NETWORK = network_from_text("convnet:w16-batch")
ORDER = (5, 8, 3, 1, 9, 2, 6, 7, 0, 4)


def trained(normalisation: Normalisation = "data") -> Observer:
    """A good observer of the digits, in about a second."""
    training = TrainingConfig(
        epochs=14,
        batch_size=128,
        learning_rate=0.05,
        schedule="cosine",
        augmentation=DsaConfig(strategy="crop", mode="multiple"),
    )
    config = ObserverConfig(network=NETWORK, training=training, normalisation=normalisation)
    return observer_for(config, digit_images())


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Observer]:
    """Observers under two normalisations; every test has a cache of its own, these are outside."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTAR_CACHE", str(tmp_path_factory.mktemp("observers")))
        return {"data": trained("data"), "symmetric": trained("symmetric")}


@pytest.fixture
def observer(kept: dict[str, Observer]) -> Observer:
    return copy.deepcopy(kept["data"])


def some_images(count: int = 6) -> Tensor:
    return digit_images().images[:count].float() / 255


# What an observer is


def test_logits_and_maps_are_the_networks_of_the_normalised_images(observer: Observer) -> None:
    images = some_images()
    inputs = (images - digit_images().images.double().mean().float() / 255) / (
        digit_images().images.double().std(correction=0).float() / 255
    )
    torch.testing.assert_close(observer.logits(images), observer.network(inputs))
    torch.testing.assert_close(observer.maps(images, -1), observer.network.maps(inputs, -1))
    assert torch.equal(observer(images), observer.logits(images))
    pooled = torch.nn.functional.avg_pool2d(observer.maps(images, 0), 2).flatten(1)
    torch.testing.assert_close(pooled, observer.network.features(observer.preprocess.encode(images)))


def test_nothing_switches_or_changes_it(observer: Observer) -> None:
    before = {name: value.clone() for name, value in observer.network.state_dict().items()}
    alone = observer.logits(some_images(1))
    for switched in (observer.train(), observer.train(True), torch.nn.Sequential(observer).train()[0]):
        assert not any(module.training for module in switched.modules())
    assert not any(parameter.requires_grad for parameter in observer.parameters())
    images = some_images().requires_grad_()
    torch.testing.assert_close(observer.logits(images)[:1], alone)
    (observer.logits(images).square().sum() + observer.maps(images, 0).square().sum()).backward()
    assert images.grad is not None and bool(images.grad.isfinite().all()) and images.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in observer.parameters())
    after = observer.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_gradients_to_the_images_agree_with_differences(observer: Observer) -> None:
    double = observer.double()
    images = some_images(1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: double.logits(x)[:, 3], images)


def test_batch_norm_layers_bytes_and_identity() -> None:
    config = network_from_text("resnet18:batch")
    images = few_digits()
    made = Observer(build_network(config, (1, 8, 8), 10), config, pixels_normalised("data", images), images.classes)
    layers = made.batch_statistics()
    assert len(layers) == 20 and layers[0] is made.network.bn1 and layers[-1] is made.network.layer4[1].bn2
    state = made.network.state_dict()
    assert made.num_bytes == 4 * sum(value.numel() for name, value in state.items() if "num_batches" not in name)
    plain = network_from_text("convnet")
    other = Observer(build_network(plain, (1, 8, 8), 10), plain, made.preprocess, images.classes)
    assert other.batch_statistics() == []


def test_the_identity_follows_what_logits_depend_on(observer: Observer) -> None:
    def again(change: Callable[[torch.nn.Module], object] = lambda network: None, **parts: Any) -> str:
        network = copy.deepcopy(observer.network)
        change(network)
        return Observer(network, NETWORK, parts.get("preprocess", observer.preprocess), CLASSES).identity

    def nudge(network: Any) -> None:
        network.blocks[0].norm.running_var[3] *= 1.0001

    assert again() == observer.identity == copy.deepcopy(observer).double().identity
    assert again(lambda network: network.blocks[0].norm.num_batches_tracked.add_(1)) == observer.identity
    others = [again(nudge), again(preprocess=pixels_normalised("none", digit_images()))]
    assert len({observer.identity, *others}) == 3


@pytest.mark.parametrize(
    ("name", "mean", "std"), [("none", [0.0] * 3, [1.0] * 3), ("symmetric", [0.5] * 3, [0.5] * 3), ("imagenet", [], [])]
)
def test_normalisations_are_the_usual_ones(name: Normalisation, mean: list[float], std: list[float]) -> None:
    pixels = torch.randint(0, 256, (4, 3, 5, 5), generator=generator(0)).to(torch.uint8)
    images = ImageSet(pixels, torch.tensor([0, 1, 0, 1]), ("a", "b"))
    mean, std = mean or [0.485, 0.456, 0.406], std or [0.229, 0.224, 0.225]
    scaled = pixels.float() / 255
    expected = (scaled - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(pixels_normalised(name, images).encode(scaled), expected)


def test_imagenets_normalisation_is_refused_for_grey_images() -> None:
    with pytest.raises(InputError, match="--channels rgb"):
        pixels_normalised("imagenet", few_digits())


# Checking


def reordered(observer: Observer, order: tuple[int, ...] = ORDER) -> Observer:
    """The observer with output j standing for class order[j]."""
    network: Any = copy.deepcopy(observer.network)
    with torch.no_grad():
        for values in (network.classifier.weight, network.classifier.bias):
            values.copy_(values[list(order)].clone())
    return Observer(network, NETWORK, observer.preprocess, observer.classes)


def renormalised(observer: Observer, name: Normalisation) -> Observer:
    return Observer(copy.deepcopy(observer.network), NETWORK, pixels_normalised(name, digit_images()), observer.classes)


def fault(observer: Observer, least_accuracy: float = 30.0) -> str:
    with pytest.raises(InputError) as caught:
        check_observer(observer, digit_images(), least_accuracy)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_good_observer_passes_with_its_accuracy(kept: dict[str, Observer]) -> None:
    images = digit_images()
    for observer in kept.values():
        predicted = observer.logits(images.images.float() / 255).argmax(1)
        accuracy = 100 * (predicted == images.labels).double().mean().item()
        assert check_observer(observer, images, 30.0) == pytest.approx(accuracy) == observer.accuracy
        assert accuracy > 85


def test_a_wrong_class_order_is_named(observer: Observer) -> None:
    text = fault(reordered(observer))
    assert re.search(r"has \d+\.\d % of 1797 training images right, and 30 % are needed", text)
    assert "another order" in text and ", ".join(CLASSES[index] for index in ORDER[:8]) + ", ..." in text
    assert "normalisation=" not in text
    swapped = reordered(observer, (1, 0, *range(2, 10)))
    assert "one, zero, two, three" in fault(swapped, least_accuracy=85.0)


@pytest.mark.parametrize(("own", "given"), [("symmetric", "none"), ("data", "none")])
def test_a_wrong_normalisation_is_named(kept: dict[str, Observer], own: str, given: Normalisation) -> None:
    text = fault(renormalised(kept[own], given), least_accuracy=85.0)
    assert f"take normalisation={own}" in text and "order" not in text


def test_a_normalisation_wrong_enough_is_caught_by_the_default_threshold(kept: dict[str, Observer]) -> None:
    assert "take normalisation=symmetric" in fault(renormalised(kept["symmetric"], "none"))


def test_both_faults_at_once_are_both_named(kept: dict[str, Observer]) -> None:
    text = fault(reordered(renormalised(kept["symmetric"], "none")))
    assert "normalisation=symmetric" in text and "five, eight, three, one" in text


def test_an_untrained_observer_is_called_untrained(observer: Observer) -> None:
    for text in ("convnet:w16-batch", "convnet:batch"):
        for seed in range(2):
            config = network_from_text(text)
            network = build_network(config, (1, 8, 8), 10, generator(seed))
            message = fault(Observer(network, config, observer.preprocess, CLASSES))
            assert "untrained, weak or of other data" in message and "training.epochs" in message


def test_a_threshold_of_zero_refuses_nothing(observer: Observer) -> None:
    assert check_observer(reordered(observer), digit_images(), 0.0) < 30


def test_other_classes_or_sizes_are_refused(observer: Observer) -> None:
    with pytest.raises(InputError, match="10 classes apart and the data has 2"):
        check_observer(observer, digit_images().with_classes(["one", "two"]), 30.0)
    larger = ImageSet(torch.zeros(10, 1, 9, 9, dtype=torch.uint8), torch.arange(10), CLASSES)
    with pytest.raises(InputError, match=r"\(1, 8, 8\) and the data's are \(1, 9, 9\)"):
        check_observer(observer, larger, 30.0)


def test_the_sample_is_balanced_and_bounded() -> None:
    images = digit_images()
    labels = images.labels[balanced_sample(images, 100)]
    assert torch.bincount(labels).tolist() == [10] * 10
    everything = balanced_sample(images, 10_000)
    assert torch.equal(everything.sort().values, torch.arange(1797))
    assert len(balanced_sample(images, 7)) == 7


# Files


def test_the_cache_finds_observers_by_identity() -> None:
    images = few_digits()
    observer = observer_for(short(), images)
    found = cached_observer(observer.identity)
    assert found is not None and found.classes == CLASSES and found.accuracy == observer.accuracy
    assert torch.equal(found.logits(some_images()), observer.logits(some_images()))
    assert cached_observer("0" * 64) is None
    (folder() / "foreign.safetensors").write_bytes(b"nothing")
    save_file({"x": torch.zeros(1)}, str(folder() / "other.safetensors"))
    path = cached_path(observer.identity)
    assert path is not None and len(path.stem) == 64 and path.parent == folder()
    assert check_observer(found, images, 0.0) == observer.accuracy


def header_end(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def with_manifest(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The file with another manifest, and otherwise whole."""
    end = header_end(data)
    header = json.loads(data[8:end])
    manifest = json.loads(header["__metadata__"]["attar"])
    change(manifest)
    header["__metadata__"]["attar"] = json.dumps(manifest)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[end:]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:-1],
    "empty": lambda data: b"",
    "one value": lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
    "not a number": lambda data: data[:-4] + b"\x00\x00\xc0\x7f",
    "a vast header": lambda data: (2**62).to_bytes(8, "little") + data[8:],
    "a vast network": lambda data: with_manifest(data, lambda m: m["network"].update(width=4096, depth=3)),
    "another norm": lambda data: with_manifest(data, lambda m: m["network"].update(norm="none")),
    "an unknown key": lambda data: with_manifest(data, lambda m: m.update(more=1)),
    "fewer classes": lambda data: with_manifest(data, lambda m: m.update(classes=m["classes"][:4])),
    "another shape": lambda data: with_manifest(data, lambda m: m.update(input_shape=[1, 9, 9])),
    "another identity": lambda data: with_manifest(data, lambda m: m.update(identity="a" * 64)),
    "another codec": lambda data: with_manifest(data, lambda m: m["preprocess"].update(whitening="zca")),
}


@pytest.mark.parametrize("name", sorted(DAMAGES))
def test_a_damaged_file_is_named_with_its_mend(name: str) -> None:
    observer_for(short(), few_digits())
    (path,) = folder().glob("*.safetensors")
    data = path.read_bytes()
    assert DAMAGES[name](data) != data
    path.write_bytes(DAMAGES[name](data))
    with pytest.raises(InputError, match="delete it") as caught:
        observer_for(short(), few_digits())
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    path.unlink()
    observer_for(short(), few_digits())
    assert path.read_bytes() == data


# Given weights


@pytest.fixture
def weights(observer: Observer, tmp_path: Path) -> Path:
    """The state dict of a good observer, as other tools save it."""
    path = tmp_path / "weights.safetensors"
    save_file(observer.network.state_dict(), str(path))
    return path


def given(path: object, **changes: Any) -> ObserverConfig:
    return ObserverConfig(network=NETWORK, weights=str(path), **changes)


def test_given_weights_make_the_same_observer(observer: Observer, weights: Path) -> None:
    watcher = Watcher()
    loaded = observer_for(given(weights), digit_images(), progress=watcher)
    assert loaded.identity == observer.identity and loaded.accuracy == observer.accuracy
    assert watcher.steps == 0 and len(watcher.notes) == 1
    path = cached_path(loaded.identity)
    assert (
        path is not None
        and b"weights.safetensors" in path.read_bytes()
        and str(weights.parent).encode() not in path.read_bytes()
    )
    found = cached_observer(loaded.identity)
    assert found is not None and torch.equal(found.logits(some_images()), observer.logits(some_images()))
    own = observer_for(given(path), digit_images())
    assert own.identity == observer.identity and len(contents()) == 1, "an observer's own file is a state dict too"


def test_given_weights_under_the_wrong_normalisation_are_refused_or_told(
    kept: dict[str, Observer], tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    save_file(kept["symmetric"].network.state_dict(), str(path))
    with pytest.raises(InputError, match="take normalisation=symmetric"):
        observer_for(given(path, normalisation="none"), digit_images())
    assert contents() == {}
    watcher = Watcher()
    observer_for(given(path, normalisation="none", least_accuracy=0.0), digit_images(), progress=watcher)
    assert "under normalisation=symmetric, which it seems to expect" in watcher.notes[0]
    assert better_normalisation(kept["symmetric"], digit_images()) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("classifier.bias"), "'classifier.bias' is absent; 1 absent and 0 unknown"),
        (lambda state: state.update(extra=torch.zeros(1)), "'extra' is not known; 0 absent and 1 unknown"),
        (
            lambda state: state.update({"blocks.0.convolution.weight": torch.zeros(16, 3, 3, 3)}),
            r"\(16, 3, 3, 3\) where",
        ),
        (lambda state: state.update({"classifier.weight": torch.zeros(7, 256)}), "7 classes apart and the data has 10"),
        (lambda state: state.update({"classifier.bias": torch.full((10,), torch.nan)}), "not finite"),
        (lambda state: state.update({"classifier.bias": torch.zeros(10, dtype=torch.int32)}), "not finite numbers"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: Callable[[Any], object], message: str, weights: Path) -> None:
    state = load_file(weights)
    change(state)
    save_file(state, str(weights))
    with pytest.raises(InputError, match=message) as caught:
        observer_for(given(weights), digit_images())
    assert "\n" not in str(caught.value) and str(weights.parent) not in str(caught.value)


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"\x08" + bytes(7) + b"nonsense")
    for name, message in {
        "absent.safetensors": "there are no weights",
        "model.pth": "pickled",
        "broken.safetensors": "no whole .safetensors file",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            observer_for(given(tmp_path / name), digit_images())
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_an_absent_package_is_named_with_its_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (package, f"{package}.models"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"need the package {package}; install it: pip install 'attar\[vision\]'"):
        observer_for(given(f"{package}:resnet18"), digit_images())


@pytest.fixture
def packages(observer: Observer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stand-ins for the two packages, with one network each."""
    state = observer.network.state_dict()

    def of(name: str) -> Any:
        if name != "known":
            raise ValueError(f"Unknown model {name}")
        return SimpleNamespace(DEFAULT=SimpleNamespace(get_state_dict=lambda progress, check_hash: state))

    def create(name: str, pretrained: bool) -> Any:
        assert pretrained and name == "known"
        return SimpleNamespace(state_dict=lambda: state)

    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torchvision.models", SimpleNamespace(get_model_weights=of))
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create))
    yield


@pytest.mark.usefixtures("packages")
def test_public_weights_are_asked_of_their_package(observer: Observer) -> None:
    for weights in ("torchvision:known", "timm:known"):
        assert observer_for(given(weights), digit_images()).identity == observer.identity
    with pytest.raises(InputError, match=r"torchvision gives no weights 'resnet17' \(Unknown model resnet17\)"):
        observer_for(given("torchvision:resnet17"), digit_images())


# Configuration and command


def test_settings_without_effect_are_refused() -> None:
    for changes in ({"training": TrainingConfig(epochs=3)}, {"seed": 4}):
        with pytest.raises(ValueError, match="which is not trained"):
            ObserverConfig(weights="x.safetensors", **changes)  # type: ignore[arg-type]
    assert ObserverConfig.model_validate_json(ObserverConfig().model_dump_json()) == ObserverConfig()
    assert ObserverConfig().network == NetworkConfig(norm="batch")


def test_the_command_says_where_the_observer_is(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"training.epochs": 2, "training.min_steps": None, "least_accuracy": 0.0}
    made = make_observer("digits", network="convnet:w4-batch", device="cpu", settings=settings)
    text = observer_line(made)
    assert made.path.exists() and made.observer.classes == tuple("0123456789")
    for part in (str(made.path), f"{made.observer.num_bytes} bytes", made.observer.identity, "convnet:w4-batch", " s"):
        assert part in text
    assert f"{made.observer.accuracy:.1f} %" in text and "\n" not in text
    again = make_observer("digits", network="convnet:w4-batch", device="cpu", settings=settings)
    assert again.path == made.path and again.observer.identity == made.observer.identity


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": "convnet", "settings": {"network.width": 8}}, "network is given twice"),
        ({"weights": "a.safetensors", "settings": {"weights": "b"}}, "weights are given twice"),
        ({"weights": "a.safetensors", "settings": {"training.epochs": 8}}, "not trained"),
        ({"settings": {"training.epoch": 8}}, "did you mean 'training.epochs'"),
        ({"network": "resnet"}, "unknown network"),
    ],
)
def test_the_command_refuses_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        observer_config(**arguments)
    assert "\n" not in str(caught.value)
