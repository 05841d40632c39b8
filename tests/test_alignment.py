"""Feature alignment against LIC's Algorithm 1 written out, and that every canvas is a problem of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.reference.compensation import compensate, literal_expand, literal_loss, literal_transform
from tests.reference.observer import LiteralObserver
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from attar.base.config import override
from attar.base.randomness import generator
from attar.data.augmentation import Dsa, DsaConfig
from attar.data.resizing import Grid, squeeze
from attar.methods.objectives.alignment import Alignment, AlignmentConfig
from attar.methods.objectives.objective import Context
from attar.methods.parameterizations.codes import Codes
from attar.methods.parameterizations.mosaic import Mosaic
from attar.methods.recipes import Recipe, recipe
from attar.models.codecs.pca import PcaConfig
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.networks.network import NetworkConfig
from attar.models.observers.observer import Observer
from attar.models.real_items import RealItems
from attar.runs.updates import Updates
from small_observer import SmallObserver
from small_sets import digit_images

ALL = DsaConfig(strategy="crop_cutout_flip", mode="multiple", flip=1.0)
SHAPE = (1, 8, 8)


class Originals:
    """Real digits by item, and what was asked for."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.asked: list[list[int]] = []

    def __call__(self, items: Tensor) -> Tensor:
        assert items.device.type == "cpu" and items.dtype == torch.int64
        self.asked.append(items.tolist())
        return self.images[items]


def digits(count: int, first: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return digit_images().images[first : first + count].to(dtype) / 255


def mosaic(originals: Tensor, grid: int) -> Mosaic:
    """Canvases squeezed from the originals, in their precision."""
    codec = fit_codec(PixelsConfig(), digit_images()).to(originals.dtype)
    labels = torch.arange(10).repeat_interleave(-(-len(originals) // 10))[: len(originals)]
    made = Mosaic(codec, codec.encode(squeeze(originals, Grid(grid))), labels, preprocess=codec, grid=grid)
    made.codes.data = codec.encode(squeeze(originals, Grid(grid)))  # not by way of float32
    return made


def objective_for(originals: Any, config: AlignmentConfig, dtype: torch.dtype = torch.float64) -> Alignment:
    observer = SmallObserver().to(dtype)
    made = config.build(Context(SHAPE, 10, observer=observer, originals=originals))
    assert isinstance(made, Alignment)
    return made


def real() -> RealItems:
    """No real item is looked at but the originals."""
    images = digit_images()
    return RealItems(images.labels, 10, codes=torch.full((len(images), *SHAPE), float("nan")))


def step_generator(step: int = 0) -> torch.Generator:
    return generator(0, "step", step)


def settings(**changes: Any) -> Recipe:
    return override(recipe("latent-dm"), {f"optimizer.{name}": value for name, value in changes.items()})


def taken(items: Mosaic, objective: Alignment, num_steps: int, **changes: Any) -> Tensor:
    """The canvases after so many steps."""
    config = settings(learning_rate_unit="absolute", schedule="constant", **changes)
    updates = Updates(config, items, objective, 1)
    for step in range(num_steps):
        updates.clear()
        objective.accumulate(items, real(), step_generator(step))
        updates.take(step / num_steps)
    updates.finish()
    return items.codes.detach()


ADAM = {"kind": "adamw", "momentum": 0.0, "learning_rate": 0.03}


@pytest.mark.parametrize(
    ("layer", "distance", "augmentation", "grid", "chunk"),
    [
        ("deep", "squared", ALL, 2, 1),
        ("deep", "squared", ALL, 2, 3),
        (-2, "absolute", ALL, 3, 7),
        ("shallow", "squared", None, 3, 256),
        ("logits", "absolute", None, 2, 5),
        (1, "squared", DsaConfig(strategy="cutout"), 1, 256),
    ],
)
def test_loss_and_gradient_agree_with_the_literal_loop(
    layer: Any, distance: Any, augmentation: DsaConfig | None, grid: int, chunk: int
) -> None:
    originals = digits(2 * grid * grid)
    items = mosaic(originals.flip(0) if grid == 1 else originals, grid)
    config = AlignmentConfig(layer=layer, distance=distance, augmentation=augmentation, chunk_items=chunk)
    figures = objective_for(Originals(originals), config).accumulate(items, real(), step_generator())
    drawn = None if augmentation is None else Dsa(augmentation).draw(1, SHAPE, step_generator(), siamese=True)
    observer = LiteralObserver(SmallObserver())
    codes = items.codes.detach().clone().requires_grad_()
    images = codes * observer.std[:, None, None] + observer.mean[:, None, None]
    loss = literal_loss(
        observer,
        [tile for canvas in images for tile in literal_expand(canvas, grid)],
        list(originals),
        (lambda x: x) if drawn is None else lambda x: literal_transform(x, drawn.operations, drawn.values),
        {"deep": -1, "shallow": 0}.get(layer, layer),
        distance,
    )
    loss.backward()
    assert float(loss.detach()) > 1e-3
    assert figures["loss"] == pytest.approx(float(loss.detach()), rel=1e-12)
    torch.testing.assert_close(items.codes.grad, codes.grad, rtol=1e-10, atol=1e-14)


def test_algorithm_1_canvas_by_canvas() -> None:
    """Canvases distilled together are canvases distilled one after the other, and the loss falls."""
    grid, steps, rate = 2, 4, 0.5
    originals = digits(8)
    items = mosaic(originals, grid)
    observer = LiteralObserver(SmallObserver())
    config = AlignmentConfig(augmentation=DsaConfig(strategy="crop_cutout_flip"), chunk_items=5)

    def loss_of(canvas: Tensor, step: int, own: Tensor) -> Tensor:
        drawn = Dsa(DsaConfig(strategy="crop_cutout_flip")).draw(1, SHAPE, step_generator(step), siamese=True)
        images = canvas * observer.std[:, None, None] + observer.mean[:, None, None]
        transform = lambda x: literal_transform(x, drawn.operations, drawn.values)  # noqa: E731
        return literal_loss(observer, literal_expand(images, grid), list(own), transform, -1, "squared")

    expected = []
    for canvas, own in zip(items.codes.detach(), originals.split(4), strict=True):
        losses, result = compensate(lambda c, step, own=own: loss_of(c, step, own), canvas.clone(), rate, steps)
        expected.append(result)
        assert float(loss_of(result, 0, own)) < losses[0]
    found = taken(items, objective_for(Originals(originals), config), steps, learning_rate=rate, momentum=0.0)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("distance", "dtype", "tolerance"),
    [("squared", torch.float64, 1e-12), ("absolute", torch.float64, 1e-12), ("squared", torch.float32, 1e-5)],
)
def test_a_canvas_depends_on_nobody(distance: Any, dtype: torch.dtype, tolerance: float) -> None:
    """Neither on its neighbours nor on the chunks: 20 steps of AdamW, each of about the rate."""
    originals = digits(12, dtype=dtype)

    def result(first: int, last: int, chunk: int) -> Tensor:
        own = originals[4 * first : 4 * last]
        config = AlignmentConfig(distance=distance, chunk_items=chunk)
        return taken(mosaic(own, 2), objective_for(Originals(own), config, dtype), 20, **ADAM)

    together = result(0, 3, 256)
    start = mosaic(originals, 2).codes.detach()
    assert ((together - start).abs().amax((1, 2, 3)) > 0.1).all()
    assert (result(0, 3, 5) - together).abs().max() < tolerance
    for number in (0, 2):
        assert (result(number, number + 1, 256) - together[number]).abs().max() < tolerance


def test_siamese_augmentation_is_shared() -> None:
    """Items equal to their originals have no distance, whatever the augmentation draws."""
    originals = digits(6)
    config = AlignmentConfig(augmentation=DsaConfig())
    same = objective_for(Originals(originals), config)
    for step in range(8):
        assert same.accumulate(mosaic(originals, 1), real(), step_generator(step))["loss"] < 1e-20
    other = objective_for(Originals(originals.flip(0)), config)
    assert other.accumulate(mosaic(originals, 1), real(), step_generator())["loss"] > 1e-2


def test_steps_draw_different_transformations() -> None:
    originals = digits(4)
    objective = objective_for(Originals(originals), AlignmentConfig())
    losses = {objective.accumulate(mosaic(originals, 2), real(), step_generator(step))["loss"] for step in range(12)}
    assert len(losses) > 3


def test_the_observer_is_left_as_it_is() -> None:
    """Even weights that could be trained get no gradient, and batch norm keeps its statistics."""
    originals = digits(4)
    objective = objective_for(Originals(originals), AlignmentConfig())
    observer = objective.observer
    assert isinstance(observer, SmallObserver)
    observer.requires_grad_(True)
    before = {name: value.clone() for name, value in observer.state_dict().items()}
    items = mosaic(originals, 2)
    objective.accumulate(items, real(), step_generator())
    assert items.codes.grad is not None
    assert all(value.grad is None for value in observer.parameters())
    assert all(torch.equal(value, before[name]) for name, value in observer.state_dict().items())


def test_gradients_add_up() -> None:
    originals = digits(4)
    objective, items = objective_for(Originals(originals), AlignmentConfig()), mosaic(originals, 2)
    objective.accumulate(items, real(), step_generator())
    assert items.codes.grad is not None
    once = items.codes.grad.clone()
    objective.accumulate(items, real(), step_generator())
    torch.testing.assert_close(items.codes.grad, 2 * once)


def test_features_of_originals_are_kept_where_nothing_is_drawn() -> None:
    """12 originals of 6 x 4 x 4 features in float64 take 9,216 bytes."""
    originals = digits(12)
    whole = AlignmentConfig(augmentation=None, chunk_items=8, kept_bytes=9216)
    gradients = []
    for kept_bytes, passes in ((9216, 1), (9215, 3)):
        source = Originals(originals)
        objective = objective_for(source, whole.model_copy(update={"kept_bytes": kept_bytes}))
        items = mosaic(originals, 2)
        for step in range(3):
            items.codes.grad = None
            objective.accumulate(items, real(), step_generator(step))
        assert source.asked == passes * [list(range(8)), list(range(8, 12))]
        gradients.append(items.codes.grad)
    assert torch.equal(*gradients)  # type: ignore[arg-type]


def test_features_are_not_kept_under_augmentation() -> None:
    source = Originals(digits(4))
    objective, items = objective_for(source, AlignmentConfig()), mosaic(digits(4), 2)
    for step in range(3):
        objective.accumulate(items, real(), step_generator(step))
    assert source.asked == 3 * [[0, 1, 2, 3]]


@pytest.mark.parametrize("augmentation", [None, ALL])
def test_memory_is_halved_down_to_one_item(augmentation: DsaConfig | None) -> None:
    source = Originals(digits(4))
    objective = objective_for(source, AlignmentConfig(augmentation=augmentation, chunk_items=4))
    items = mosaic(digits(4), 2)
    losses = [objective.accumulate(items, real(), step_generator())["loss"]]
    while objective.halve_memory():
        losses.append(objective.accumulate(items, real(), step_generator())["loss"])
    assert source.asked == [[0, 1, 2, 3], [0, 1], [2, 3], [0], [1], [2], [3]]
    assert losses == pytest.approx(3 * losses[:1], rel=1e-12)
    assert not objective.halve_memory()


def test_one_item_at_a_time_gives_up_what_it_keeps() -> None:
    source = Originals(digits(1))
    objective = objective_for(source, AlignmentConfig(augmentation=None, chunk_items=1))
    items = mosaic(digits(2).flip(0)[:1], 1)
    for _ in range(2):
        objective.accumulate(items, real(), step_generator())
    assert objective.halve_memory() and not objective.halve_memory()
    objective.accumulate(items, real(), step_generator())
    assert source.asked == [[0], [0]]


@pytest.mark.parametrize("augmentation", [None, ALL])
@pytest.mark.parametrize("done", [0, 3])
def test_a_resumed_run_goes_on_exactly(augmentation: DsaConfig | None, done: int) -> None:
    """Chunks that were halved stay so; Adam's averages are kept; to the last bit in float32."""
    originals = digits(12, dtype=torch.float32)
    config = AlignmentConfig(augmentation=augmentation, chunk_items=12)
    chosen = settings(learning_rate_unit="absolute", valid_range=True, **ADAM)
    runs = []
    for _ in range(2):
        objective, items = objective_for(Originals(originals), config, torch.float32), mosaic(originals, 2)
        runs.append((objective, items, Updates(chosen, items, objective, 1)))

    def go(run: Any, steps: range) -> None:
        objective, items, updates = run
        for step in steps:
            updates.clear()
            objective.accumulate(items, real(), step_generator(step))
            updates.take(step / 6)

    go(runs[0], range(done))
    runs[0][0].halve_memory()
    runs[1][2].restore({name: value.clone() for name, value in runs[0][2].tensors().items()})
    for run in runs:
        go(run, range(done, 6))
    assert runs[1][0].chunk_items == 6
    assert torch.equal(runs[0][1].codes, runs[1][1].codes)
    assert torch.equal(runs[0][2].tensors()["square.codes"], runs[1][2].tensors()["square.codes"])


def test_items_of_any_codec_become_images() -> None:
    """Codes of principal components, seen through their own decoder; without `images_of` items are network inputs."""
    images = digit_images()
    codec = fit_codec(PcaConfig(factor=2, channels=2), images)
    originals = digits(10, dtype=torch.float32)
    items = Codes(codec, codec.encode(originals), images.labels[:10])
    observer = SmallObserver()
    context = Context(codec.code_shape, 10, observer=observer, originals=originals.__getitem__, images_of=codec.decode)
    config = AlignmentConfig(augmentation=None)
    figures = config.build(context).accumulate(items, real(), step_generator())
    decoded, seen = codec.decode(items.codes).detach(), torch.zeros(())
    for one, two in zip(observer.maps(decoded, -1), observer.maps(originals, -1), strict=True):
        seen += (one - two).square().mean()
    assert figures["loss"] == pytest.approx(float(seen), rel=1e-5)
    assert items.codes.grad is not None and (items.codes.grad.flatten(1).norm(dim=1) > 0).all()

    pixels = Codes(observer.preprocess, observer.preprocess.encode(decoded), images.labels[:10])
    plain = Context(SHAPE, 10, observer=observer, originals=originals.__getitem__)
    again = config.build(plain).accumulate(pixels, real(), step_generator())
    assert again["loss"] == pytest.approx(figures["loss"], rel=1e-4)


@pytest.mark.parametrize("layer", ["deep", "shallow", "logits", 1])
def test_an_observer_of_the_other_room_sees_the_same(layer: Any) -> None:
    originals, small = digits(8, dtype=torch.float32), SmallObserver()
    config = NetworkConfig(depth=2, width=6, norm="batch")
    observer = Observer(small.network, config, small.preprocess, digit_images().classes)
    results = []
    for each in (small, observer):
        items = mosaic(originals, 2)
        context = Context(SHAPE, 10, observer=each, originals=originals.__getitem__)
        objective = AlignmentConfig(layer=layer).build(context)
        results.append((objective.accumulate(items, real(), step_generator())["loss"], items.codes.grad))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1])


def test_a_step_derives_nothing_for_weights() -> None:
    """Three forward passes' worth of computing a step, two where the originals' features are kept."""
    originals, flops = digits(8, dtype=torch.float32), []
    observer = SmallObserver()
    with FlopCounterMode(display=False) as counter:
        observer.maps(originals, -1)
    once = counter.get_total_flops()
    for augmentation in (DsaConfig(strategy="crop_cutout_flip"), None):
        context = Context(SHAPE, 10, observer=observer, originals=originals.__getitem__)
        objective = AlignmentConfig(augmentation=augmentation).build(context)
        items = Codes(observer.preprocess, torch.zeros(8, *SHAPE), torch.arange(8))
        objective.accumulate(items, real(), step_generator())
        with FlopCounterMode(display=False) as counter:
            objective.accumulate(items, real(), step_generator(1))
        flops.append(counter.get_total_flops() / once)
    assert flops == pytest.approx([3, 2], rel=1e-6)


def test_what_it_needs_is_known_before_it_is_built() -> None:
    config = AlignmentConfig()
    assert ("observer" in config.needs) and ("originals" in config.needs)
    for context in (Context(SHAPE, 10), Context(SHAPE, 10, observer=SmallObserver())):
        with pytest.raises(ValueError, match="needs an observer and the items' originals"):
            config.build(context)
