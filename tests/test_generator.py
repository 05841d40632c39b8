"""Items through a frozen generator: the paper's gradient, chunks, starts, optimisers, resuming."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attar.base.config import override
from attar.base.errors import InputError
from attar.base.randomness import generator
from attar.methods.objectives.features import Features
from attar.methods.parameterizations.generator import GeneratorConfig, GeneratorItems
from attar.methods.recipes import recipe
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.generators.codec import GeneratorCodec
from attar.models.networks.synthesis import SynthesisConfig, build_synthesis, synthesis_shell
from attar.runs.distill import distill
from attar.sets.distilled import DistilledSet
from reference.generator import mapping, synthesis, two_passes
from small_generator import digit_generator_items, generator_codec, saved_synthesis, small_synthesis
from small_sets import digit_images


def _gradients(items: GeneratorItems) -> list[torch.Tensor]:
    inputs = items(torch.arange(len(items)))
    direction = torch.randn(inputs.shape, generator=generator(0, "direction"), dtype=inputs.dtype)
    return list(torch.autograd.grad((inputs * direction).sum(), _learned(items)))


def _learned(items: GeneratorItems) -> list[torch.Tensor]:
    return [value for value in items.parameters() if value.requires_grad]


def _relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).detach().norm() / wanted.detach().norm())


@pytest.mark.parametrize("depth", [0, 1, 2, 4])
def test_images_and_gradients_are_those_of_the_literal_generator(depth: int) -> None:
    """In float64, against every layer by hand in one graph, and against the official code's two passes."""
    items = digit_generator_items(depth=depth, chunk_items=7).double()
    values = {name: value.double() for name, value in items.codec.network.state_dict().items()}

    def render(codes: torch.Tensor, features: torch.Tensor | None) -> torch.Tensor:
        return synthesis(values, codes[:, :, 0, 0], 4, features, depth)

    learned = [value.detach().clone().requires_grad_(True) for value in _learned(items)]
    features = learned[1] if depth else None
    wanted = render(learned[0], features)
    assert _relative(items.images(torch.arange(20)), wanted) < 1e-12
    direction = torch.randn(wanted.shape, generator=generator(0, "direction"), dtype=torch.float64)

    def loss(images: torch.Tensor) -> torch.Tensor:
        return (items.preprocess.encode(images) * direction).sum()

    literal = torch.autograd.grad(loss(wanted), learned)
    in_two = two_passes(learned[0], features, render, loss, 10)
    assert len(literal) == (2 if depth else 1)
    for found, one, other in zip(_gradients(items), literal, in_two, strict=True):
        assert _relative(found, one) < 1e-9 and _relative(found, other) < 1e-9


def test_the_generator_takes_its_own_map_back() -> None:
    """G(w, f_n(w)) = G(w) at every depth; and f_n is the map after n layers."""
    network = small_synthesis()
    latents = network.mapping(torch.randn(3, 4, generator=generator(0)), torch.tensor([0, 5, 9]))
    values = network.state_dict()
    torch.testing.assert_close(
        latents, mapping(values, torch.randn(3, 4, generator=generator(0)), torch.tensor([0, 5, 9]))
    )
    whole = network(latents)
    assert whole.shape == (3, 1, 8, 8) and network.num_layers == 4
    for depth in range(1, 5):
        torch.testing.assert_close(network(latents, network.features(latents, depth), depth), whole)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 13), (3, 3, 2), (3, 64, 48)])
def test_images_of_any_shape(shape: tuple[int, int, int]) -> None:
    network = build_synthesis(SynthesisConfig(width=16), shape, 3, generator(0))
    latents = network.mapping(torch.randn(2, 16), torch.tensor([0, 2]))
    assert network(latents).shape == (2, *shape)
    assert network(latents, network.features(latents, 1), 1).shape == (2, *shape)


def test_a_generator_too_large_is_refused_before_it_is_made() -> None:
    with pytest.raises(InputError, match="take less width"):
        synthesis_shell(SynthesisConfig(noise_size=4096), (3, 8, 8), 1 << 17)


@pytest.mark.parametrize("chunk_items", [1, 3, 64])
@pytest.mark.parametrize("depth", [0, 3])
def test_an_items_image_and_gradient_do_not_depend_on_the_chunk(chunk_items: int, depth: int) -> None:
    whole, cut = digit_generator_items(depth=depth), digit_generator_items(depth=depth, chunk_items=chunk_items)
    chosen = torch.tensor([3, 0, 17, 3])
    torch.testing.assert_close(cut.images(chosen), whole.images(torch.arange(20))[chosen])
    for one, two in zip(_gradients(whole), _gradients(cut), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_activations_exist_for_one_chunk_at_a_time() -> None:
    """What is planned grows with the items by their images alone."""
    few, many = (digit_generator_items(count=count, chunk_items=5) for count in (1, 8))
    image = 3 * 4 * 64
    assert many.rendering_bytes()["rendering"] - few.rendering_bytes()["rendering"] == 70 * image
    wider = digit_generator_items(count=8, chunk_items=10)
    assert wider.rendering_bytes()["rendering"] - many.rendering_bytes()["rendering"] > 5 * image
    assert (
        digit_generator_items(depth=4).rendering_bytes()["rendering"]
        < digit_generator_items(depth=0).rendering_bytes()["rendering"]
    )


def test_bfloat16_renders_what_is_learned_and_not_what_is_read() -> None:
    """Through a chunk at a time, whose activations are made again."""
    exact, lowered = (digit_generator_items(precision=each, depth=2, chunk_items=3) for each in ("float32", "bfloat16"))
    everything = torch.arange(len(exact))
    assert torch.equal(lowered.images(everything), exact.images(everything))
    assert 0 < _relative(lowered(everything), exact(everything)) < 0.03
    for one, two in zip(_gradients(lowered), _gradients(exact), strict=True):
        assert 0 < _relative(one, two) < 0.1


def test_items_start_as_images_of_their_class() -> None:
    """Random w are M(z, y) with the map that they make; means are nearer to one another than random w are."""
    random, mean = digit_generator_items(), digit_generator_items(start="mean")
    codec = random.codec
    assert isinstance(codec, GeneratorCodec)
    torch.testing.assert_close(random.images(torch.arange(20)), codec.decode(random.codes))
    spreads = [(items.codes[0::2] - items.codes[1::2]).detach() for items in (random, mean)]
    assert float(spreads[1].norm()) < 0.2 * float(spreads[0].norm())
    between = (mean.codes[0] - mean.codes[2]).detach()
    assert float(between.norm()) > 3 * float(spreads[1][0].norm())


def test_a_class_has_the_same_start_in_a_part_of_the_data() -> None:
    """Classes are found by name, so that a subtask's first class is not the generator's."""
    train = digit_images()
    pixels, codec = fit_codec(PixelsConfig(), train), generator_codec(train)
    config = GeneratorConfig(start="mean")
    whole = GeneratorItems.initial(config, codec, pixels, train.classes, 1, generator(0))
    part = GeneratorItems.initial(config, codec, pixels, train.classes[7:], 1, generator(0))
    for place in range(3):
        distances = (whole.codes - part.codes[place]).flatten(1).norm(dim=1)
        assert int(distances.argmin()) == 7 + place


def _settings(path: Path, **changes: object) -> dict[str, object]:
    told = {"steps": 4, "objective.network.width": 8, "objective.real_batch_size": 4, "parameterization.depth": 2}
    return {**told, "codec.path": str(path), **changes}


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    return saved_synthesis(tmp_path / "generator.safetensors")


def test_digits_end_to_end_with_a_rate_for_w_and_one_for_features(own_file: Path, tmp_path: Path) -> None:
    """With a rate of next to nothing for one of them, only the other moves."""
    still, step = {"kind": "sgd", "learning_rate": 1e-30}, {"kind": "sgd", "learning_rate": 1.0}

    def made_with(of_codes: dict[str, object], of_features: dict[str, object]) -> DistilledSet:
        settings = _settings(own_file, steps=1, optimizer=of_codes, feature_optimizer=of_features)
        return distill(digit_images(), "glad-dm", "1ipc", settings=settings)

    start = made_with(still, still).payloads()[0]
    for rates, moved in (((step, still), "codes"), ((still, step), "features")):
        made = made_with(*rates)
        for name in ("codes", "features"):
            assert torch.equal(made.payloads()[0][name], start[name]) == (name != moved)
    made.save(tmp_path / "set.safetensors")
    own_file.unlink()
    again = DistilledSet.load(tmp_path / "set.safetensors")
    assert torch.equal(again.images(), made.images()) and again.images().isfinite().all()
    assert again.labels.tolist() == list(range(10)) and again.storage.external == ()


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("name", ["glad-dc", "glad-dm", "glad-mtt"])
def test_every_recipe_runs_at_any_depth(name: str, depth: int, own_file: Path, own_cache: Path) -> None:
    changes: dict[str, object] = {"steps": 3, "parameterization.depth": depth, "objective.augmentation": None}
    if depth == 0:
        changes["feature_optimizer"] = None
    if name == "glad-mtt":
        changes |= {"objective.experts.count": 1, "objective.experts.epochs": 4, "objective.expert_epochs": 1}
        changes |= {"objective.student_steps": 2, "objective.max_start_epoch": 1, "objective.network.depth": 1}
        settings = {key: value for key, value in _settings(own_file).items() if key != "objective.real_batch_size"}
    else:
        settings = _settings(own_file)
    made = distill(digit_images(), name, "1ipc", settings={**settings, **changes})
    assert made.images().isfinite().all() and ("features" in made.payloads()[0]) == (depth > 0)


def test_a_run_stopped_and_resumed_has_the_same_bytes(
    own_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(own_file, feature_optimizer={"learning_rate": 1.0, "average": 0.5})
    whole, stopped = tmp_path / "whole.attar.safetensors", tmp_path / "stopped.attar.safetensors"
    distill(digit_images(), "glad-dm", "1ipc", settings=settings, out=whole, checkpoint_steps=1)
    accumulate, taken = Features.accumulate, []

    def stopping(self: Features, *arguments: object) -> dict[str, float]:
        taken.append(1)
        if len(taken) == 3:
            raise KeyboardInterrupt
        return accumulate(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Features, "accumulate", stopping)
    with pytest.raises(KeyboardInterrupt):
        distill(digit_images(), "glad-dm", "1ipc", settings=settings, out=stopped, checkpoint_steps=1)
    distill(digit_images(), "glad-dm", "1ipc", settings=settings, out=stopped, checkpoint_steps=1)
    assert len(taken) == 5 and stopped.read_bytes() == whole.read_bytes()


def test_the_estimate_of_the_file_is_what_it_becomes(own_file: Path) -> None:
    made = distill(digit_images(), "glad-dm", "2ipc", settings=_settings(own_file))
    budget = f"{made.file_bytes + 100}B"
    again = distill(digit_images(), "glad-dm", budget, settings=_settings(own_file))
    assert len(again) == 20 and again.file_bytes <= made.file_bytes + 100


def test_parts_are_distilled_apart_and_merged(own_file: Path) -> None:
    """Every part's items start as images of their own classes."""
    still = {"optimizer.learning_rate": 1e-30, "feature_optimizer.learning_rate": 1e-30, "steps": 1}
    settings = _settings(own_file, **{"parameterization.start": "mean", **still})
    made = distill(digit_images(), "glad-dm", "1ipc", settings=settings, subtasks=2)
    codec = generator_codec(digit_images())
    wanted = codec.drawn(digit_images().classes, generator(1), 4000)
    found = torch.cat([payload["codes"] for payload in made.payloads()])[made.labels.argsort()].float()
    assert made.labels.sort().values.tolist() == list(range(10))
    distances = torch.cdist(found.flatten(1), wanted.flatten(1))
    assert distances.argmin(1).tolist() == list(range(10))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"initialization": "random"}, "initialization=noise"),
        ({"feature_optimizer": None}, "an optimizer of its own"),
        ({"parameterization.depth": 0}, "feature_optimizer=null"),
        ({"codec": {"kind": "pixels"}}, "--codec generator:FILE"),
        ({"optimizer.valid_range": True}, "valid range"),
        ({"feature_optimizer.valid_range": True}, "valid range"),
        ({"parameterization.storage": "int8"}, "float16"),
    ],
)
def test_what_a_generator_cannot_be_composed_with(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        override(recipe("glad-dm"), changes)
    assert "\n" not in str(caught.value)


def test_a_layer_that_the_generator_has_not(own_file: Path) -> None:
    with pytest.raises(InputError, match="depth 20 was asked for, and the generator has 4 layers"):
        distill(digit_images(), "glad-dm", "1ipc", settings={"codec.path": str(own_file)})


def test_items_need_the_codec_with_a_generator() -> None:
    items = digit_generator_items()
    with pytest.raises(InputError, match="codec 'generator'"):
        GeneratorItems(items.preprocess, items.codes, items.labels, GeneratorConfig(), preprocess=items.preprocess)
    with pytest.raises(InputError, match="encodes none"):
        items.codec.encode(torch.zeros(1, 1, 8, 8))
