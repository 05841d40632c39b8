"""Sampling through a frozen diffusion model: the paper's algorithm, its gradient, its noise, its memory."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.base.errors import InputError
from attar.base.randomness import Counter, generator
from attar.methods.parameterizations.diffusion import Diffusion, DiffusionConfig
from attar.models.codecs.registry import restore_codec
from attar.models.diffusion.sampling import item_noise, recomputed, sampled
from attar.models.diffusion.schedule import SamplingConfig, ScheduleConfig, alpha_bars, steps_of
from reference.diffusion import algorithm_1, official_steps
from small_diffusion import digit_items, gradients, small_model


def _double():
    model = small_model().double()
    draw = generator(0, "codes")
    codes = torch.randn(3, 1, 8, 8, generator=draw, dtype=torch.float64, requires_grad=True)
    conditioning = torch.randn(3, 12, generator=draw, dtype=torch.float64, requires_grad=True)
    noises = {t: item_noise(5, [0, 1, 2], t, (1, 8, 8)).double() for t in range(51)}
    return model, codes, conditioning, noises.__getitem__


def _relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).detach().norm() / wanted.detach().norm())


@pytest.mark.parametrize(("num_steps", "eta"), [(2, 0.0), (5, 1.0), (20, 0.5)])
@pytest.mark.parametrize("residual", ["linear", "none"])
def test_algorithm_1_and_its_gradient(num_steps: int, eta: float, residual: str) -> None:
    """Checkpointed, with Eq. 9's mean: images and gradients at Z and c are those of one unrolled graph in float64."""
    model, codes, conditioning, noise = _double()
    config = SamplingConfig(num_steps=num_steps, solver="ddpm", eta=eta, residual=residual)
    found = sampled(model, config, codes, conditioning, noise)
    wanted = algorithm_1(
        model.predict,
        model.alpha_bars,
        codes,
        conditioning,
        model.null,
        noise,
        num_steps,
        eta=eta,
        residual=residual == "linear",
    )
    assert _relative(found, wanted) < 1e-12
    direction = torch.randn(found.shape, generator=generator(1), dtype=torch.float64)
    for learned in (codes, conditioning):
        ours, theirs = (
            torch.autograd.grad((each * direction).sum(), learned, retain_graph=True)[0] for each in (found, wanted)
        )
        assert _relative(ours, theirs) < 1e-9


def test_the_official_codes_residual() -> None:
    model, codes, conditioning, noise = _double()
    config = SamplingConfig(num_steps=10, residual_target="clean")
    found = sampled(model, config, codes, conditioning, noise)
    kept = steps_of(config, model.alpha_bars)[0].alpha_bar
    begin = kept**0.5 * codes + (1 - kept) ** 0.5 * noise(0)
    wanted = official_steps(model.predict, model.alpha_bars, codes, conditioning, model.null, begin, 10)
    assert _relative(found, wanted) < 1e-12
    of_codes = [torch.autograd.grad(each.square().sum(), codes, retain_graph=True)[0] for each in (found, wanted)]
    assert _relative(*of_codes) < 1e-9


@pytest.mark.parametrize("grid", ["leading", "trailing"])
def test_ddim_with_all_noise_has_the_posterior_mean(grid: str) -> None:
    model, codes, conditioning, noise = _double()
    found, wanted = (
        sampled(
            model,
            SamplingConfig(num_steps=7, solver=solver, eta=1.0, residual="none", grid=grid),
            codes,
            conditioning,
            noise,
        )
        for solver in ("ddim", "ddpm")
    )
    assert _relative(found, wanted) < 1e-9


def test_dpm_solver_is_of_higher_order_than_ddim() -> None:
    """Against 50 steps of DDIM-trailing's own limit: with 12 steps the second-order solver ends nearer."""
    model, codes, conditioning, noise = _double()
    codes, conditioning = codes.detach(), conditioning.detach()

    def end(solver: str, num_steps: int) -> torch.Tensor:
        config = SamplingConfig(num_steps=num_steps, solver=solver, guidance=1, residual="none", grid="trailing")
        return sampled(model, config, codes, conditioning, noise)

    limit = end("dpm", 50)
    assert _relative(end("ddim", 50), limit) < _relative(end("ddim", 12), limit)
    assert _relative(end("dpm", 12), limit) < 0.5 * _relative(end("ddim", 12), limit)


@pytest.mark.parametrize("solver", ["ddim", "dpm"])
@pytest.mark.parametrize("target", ["noisy", "clean"])
def test_checkpoints_change_no_image_and_no_gradient(solver: str, target: str) -> None:
    """The same images to the bit; gradients are added up in another order, which shows in the last digits alone."""
    settings = {"num_steps": 6, "solver": solver, "residual_target": target, "chunk_items": 7}
    kept, made_again = (digit_items(checkpointed=each, **settings).double() for each in (False, True))
    everything = torch.arange(len(kept))
    assert torch.equal(kept(everything), made_again(everything))
    assert all(_relative(one, two) < 1e-12 for one, two in zip(gradients(made_again), gradients(kept), strict=True))


def test_bfloat16_renders_what_is_learned_and_not_what_is_read() -> None:
    """Inputs and gradients are close to float32's and not equal; images are float32's to the bit."""
    exact, lowered = (digit_items(precision=each, num_steps=6) for each in ("float32", "bfloat16"))
    everything = torch.arange(len(exact))
    assert torch.equal(lowered.images(everything), exact.images(everything))
    inputs, wanted = lowered(everything), exact(everything)
    assert inputs.dtype == torch.float32
    assert 0 < _relative(inputs, wanted) < 0.03
    assert all(0 < _relative(one, two) < 0.1 for one, two in zip(gradients(lowered), gradients(exact), strict=True))


def test_what_is_made_again_is_made_again_in_bfloat16() -> None:
    kept, made_again = (digit_items(precision="bfloat16", checkpointed=each, num_steps=6) for each in (False, True))
    everything = torch.arange(len(kept))
    assert torch.equal(kept(everything), made_again(everything))
    assert all(_relative(one, two) < 1e-3 for one, two in zip(gradients(made_again), gradients(kept), strict=True))


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    """Its graph would lack what was not kept."""
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    cubes = recomputed(lambda x: x**3, value).sum()
    with pytest.raises(RuntimeError, match="twice"):
        torch.autograd.grad(cubes, value, create_graph=True, retain_graph=True)
    assert torch.equal(torch.autograd.grad(cubes, value)[0], 3 * value.detach() ** 2)


def test_every_pass_sees_the_same_images() -> None:
    items = digit_items(eta=1.0)
    everything = torch.arange(len(items))
    assert torch.equal(items.images(everything), items.images(everything))
    assert torch.equal(items(everything).detach(), items.preprocess.encode(items.images(everything)))


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=6), st.integers(0, 50), st.integers(0, 2**63 - 1))
@settings(max_examples=25, deadline=None)
def test_an_items_noise_does_not_depend_on_its_company(numbers: list[int], step: int, seed: int) -> None:
    together = item_noise(seed, numbers, step, (2, 3, 4))
    alone = torch.cat([item_noise(seed, [number], step, (2, 3, 4)) for number in numbers])
    assert torch.equal(together, alone) and together.isfinite().all()


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2.0**-53])
def test_noise_is_finite_at_both_ends_of_the_uniform_numbers(uniform: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counter, "uniform", lambda self, count: torch.full((count,), uniform, dtype=torch.float64))
    drawn = item_noise(0, [0], 0, (1, 2, 2))
    assert drawn.isfinite().all() and drawn.abs().max() < 9


def test_noise_is_standard_normal_and_another_for_each_item_and_step() -> None:
    drawn = torch.stack([item_noise(1, list(range(20)), step, (3, 16, 16)) for step in range(5)]).flatten(2)
    assert abs(float(drawn.mean())) < 0.02 and abs(float(drawn.var()) - 1) < 0.03
    correlations = torch.corrcoef(drawn.flatten(0, 1))
    assert (correlations - torch.eye(len(correlations))).abs().max() < 0.2


@pytest.mark.parametrize("chunk_items", [1, 3, 64])
def test_an_items_image_and_gradient_do_not_depend_on_the_chunk(chunk_items: int) -> None:
    whole, cut = digit_items(eta=0.5), digit_items(eta=0.5, chunk_items=chunk_items)
    chosen = torch.tensor([3, 0, 17, 3])
    torch.testing.assert_close(cut.images(chosen), whole.images(torch.arange(20))[chosen])
    for one, two in zip(gradients(whole), gradients(cut), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "scaled-linear", "cosine"])
@pytest.mark.parametrize("num_steps", [1, 2, 7, 40, 50])
@pytest.mark.parametrize("grid", ["leading", "trailing"])
def test_any_grid_goes_down_to_little_noise(kind: str, num_steps: int, grid: str) -> None:
    kept = alpha_bars(ScheduleConfig(kind=kind, first=1e-4, last=0.02))
    assert ((kept > 0) & (kept < 1)).all() and (kept.diff() < 0).all()
    steps = steps_of(SamplingConfig(num_steps=num_steps, residual="none", grid=grid, eta=1.0), kept)
    assert [step.number for step in steps] == list(range(num_steps, 0, -1))
    assert all(one.alpha_bar_after == two.alpha_bar for one, two in pairwise(steps))
    assert all(step.alpha_bar_after > step.alpha_bar for step in steps) and steps[-1].alpha_bar_after > 0.999
    assert all(0 <= step.deviation < 1 for step in steps)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"num_levels": 50}, "greater than 50"),
        ({"first": 0.99, "last": 0.99}, "last level"),
        ({"num_levels": 10_000}, "fewer levels"),
        ({"first": 1e-300, "last": 1e-300}, "greater than or equal"),
    ],
)
def test_a_schedule_that_leaves_nothing_to_predict_is_refused(told: dict, message: str) -> None:
    """Sampling divides by what is left of the code, and by what there is of noise; a file may say anything."""
    with pytest.raises(ValueError, match=message):
        ScheduleConfig(**told)
    damaged = {**(items := digit_items()).codec.spec()["model"], "schedule": ScheduleConfig().model_dump() | told}
    with pytest.raises(InputError) as caught:
        restore_codec({**items.codec.spec(), "model": damaged}, items.codec.stored_tensors())
    assert "\n" not in str(caught.value)


@given(st.integers(51, 120), st.integers(1, 50), st.sampled_from(["leading", "trailing"]))
@settings(max_examples=60, deadline=None)
def test_any_number_of_steps_fits_any_number_of_levels(num_levels: int, num_steps: int, grid: str) -> None:
    kept = alpha_bars(ScheduleConfig(num_levels=num_levels))
    steps = steps_of(SamplingConfig(num_steps=num_steps, residual="none", grid=grid), kept)
    levels = [step.level for step in steps]
    assert levels == sorted(set(levels), reverse=True) and 0 <= levels[-1] <= levels[0] < num_levels


def test_residual_schedules() -> None:
    def weights(**told: object) -> list[float]:
        return [SamplingConfig(num_steps=4, **told).weight(step) for step in (4, 3, 2, 1)]

    assert weights() == [1, 0.75, 0.5, 0.25]
    assert weights(residual_target="clean") == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert weights(residual="none") == [0] * 4 and weights(residual="constant", residual_weight=0.3) == [0.3] * 4
    assert weights(residual="cosine") == pytest.approx([1, 0.8535534, 0.5, 0.1464466])


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"num_steps": 1}, "no effect"),
        ({"num_steps": 51}, "less than or equal to 50"),
        ({"residual": "constant"}, "both or neither"),
        ({"residual_weight": 0.5}, "both or neither"),
        ({"solver": "dpm", "eta": 0.5}, "eta=0"),
        ({"residual": "none", "residual_target": "clean"}, "no effect"),
    ],
)
def test_settings_without_effect_are_refused(told: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**told)


@pytest.mark.parametrize("learned", ["both", "codes", "conditioning"])
def test_what_is_learned_has_a_gradient_and_is_stored(learned: str) -> None:
    items = digit_items(learned=learned)
    wanted = {"both": {"codes", "conditioning"}}.get(learned, {learned})
    assert {name for name, value in items.named_parameters() if value.requires_grad} == wanted
    assert all((each.flatten(1).norm(dim=1) > 0).all() for each in gradients(items))
    assert ("conditioning" in items.payload()) == (learned != "codes")
    again = Diffusion.restore(items.codec, items.payload(), items.spec(), items.preprocess)
    everything = torch.arange(len(items))
    torch.testing.assert_close(again.images(everything), items.images(everything), rtol=0, atol=0.03)


def test_items_need_the_codec_with_a_model() -> None:
    items = digit_items()
    with pytest.raises(InputError, match="codec 'diffusion'"):
        Diffusion(
            items.preprocess,
            items.codes,
            items.labels,
            DiffusionConfig(),
            0,
            preprocess=items.preprocess,
            classes=items.labels,
        )
