"""Whether a prior has learnt its codes: known models of known codes, and a training that ends without an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attar.base.errors import InputError, NonFiniteLossError
from attar.base.progress import Silent
from attar.base.randomness import generator
from attar.data.image_set import ImageSet
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import fit_codec
from attar.models.diffusion import training
from attar.models.diffusion.fidelity import Fidelity, fidelity_of, linear_loss
from attar.models.diffusion.model import DiffusionModel
from attar.models.diffusion.priors import PriorTraining, read_prior
from attar.models.diffusion.schedule import ScheduleConfig, alpha_bars
from attar.models.diffusion.training import trained_prior
from attar.runs import preparing as command
from attar.runs.preparing import prior_line, train_prior
from small_diffusion import SMALL_DENOISER, Noted
from small_generator import generator_codec
from small_sets import digit_images

QUICK = PriorTraining(denoiser=SMALL_DENOISER, steps=3, batch_size=16)
VARIANCES = torch.tensor([4.0, 0.25])


class Filter(DiffusionModel):
    """The best linear filter of independent normal codes, whose predictions may be made `factor` times as large."""

    kind = "filter"

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.code_shape, self.num_classes = factor, (2, 8, 8), 1
        self.alpha_bars, self.null = alpha_bars(ScheduleConfig()), torch.zeros(3)

    def predict(self, codes: Tensor, level: int, conditioning: Tensor) -> Tensor:
        kept = float(self.alpha_bars[level])
        return self.factor * (1 - kept) ** 0.5 / (kept * VARIANCES[:, None, None] + 1 - kept) * codes

    def embed(self, classes: Tensor) -> Tensor:
        return self.null.expand(len(classes), -1)

    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind}


def _codes() -> Tensor:
    return VARIANCES.sqrt()[:, None, None] * torch.randn(200, 2, 8, 8, generator=generator(0, "codes"))


def _measured(factor: float) -> Fidelity:
    return fidelity_of(Filter(factor), _codes(), torch.zeros(200, dtype=torch.int64), 0)


def test_the_best_filter_has_the_filters_loss_and_its_samples_the_codes_spread() -> None:
    found = _measured(1)
    assert found.loss == pytest.approx(found.linear_loss, rel=0.03)
    assert found.spread == pytest.approx(1, abs=0.1) and found.fault is None
    kept = Filter(1).alpha_bars
    wanted = [(kept * v / (kept * v + 1 - kept)).mean() for v in _codes()[:64].double().var((0, 2, 3)).tolist()]
    assert linear_loss(Filter(1), _codes()[:64]) == pytest.approx(float(sum(wanted)) / 2, rel=1e-3)


@pytest.mark.parametrize(("factor", "message"), [(0.0, "no better"), (0.78, "not spread"), (1.2, "not spread")])
def test_predictions_that_are_off_by_little_or_much_are_spoken_of(factor: float, message: str) -> None:
    """Of a fifth too much or too little the loss says next to nothing: errors add up over a sample's steps."""
    found = _measured(factor)
    assert found.fault is not None and message in found.fault and "lower learning_rate" in found.fault


def test_predictions_that_are_not_finite_stop() -> None:
    with pytest.raises(NonFiniteLossError, match="lower learning_rate"):
        _measured(float("nan"))


def test_a_prior_that_diverged_without_an_error_is_spoken_of_whenever_it_is_asked_for(tmp_path: Path) -> None:
    """Its loss is finite to the end, and that of predicting nothing."""
    hot = {"denoiser.width": 8, "steps": 25, "batch_size": 16, "learning_rate": 1.0}
    for number in (1, 2):
        noted = Noted()
        prior = train_prior(digit_images(), tmp_path / f"{number}.safetensors", settings=hot, progress=noted)
        assert len([note for note in noted.notes if "no better than a linear filter" in note]) == 1
    fidelity = read_prior(tmp_path / "2.safetensors").manifest.fidelity
    assert fidelity is not None and fidelity.loss > 0.9 and fidelity == prior.manifest.fidelity
    assert "a linear filter's 0." in prior_line(prior, tmp_path / "2.safetensors")


def test_what_no_prior_can_be_of_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    images = digit_images()
    monkeypatch.setattr(training, "encode_images", lambda *_, **__: pytest.fail("encoded"))
    with pytest.raises(InputError, match="not of a generator's"):
        trained_prior(QUICK, generator_codec(images), images)
    wide = QUICK.model_copy(update={"denoiser": SMALL_DENOISER.model_copy(update={"width": 1024, "levels": 6})})
    with pytest.raises(InputError, match="take less width"):
        trained_prior(wide, fit_codec(PixelsConfig(), images), images)
    monkeypatch.setattr(command, "trained_prior", lambda *_: pytest.fail("trained"))
    unnamed = ImageSet(images.images, images.labels, ("a\nb", *"123456789"))
    with pytest.raises(InputError, match="control character"):
        train_prior(unnamed, tmp_path / "prior.safetensors")
    with pytest.raises(InputError, match="drop_probability"):
        train_prior(images, tmp_path / "prior.safetensors", settings={"drop_probability": 0})


def test_a_state_whose_losses_are_not_those_of_its_steps_is_made_anew(tmp_path: Path) -> None:
    """A mean over none of them had no value."""
    images = digit_images()
    codes = fit_codec(PixelsConfig(), images).encode(images.images[:50].float() / 255)

    def work() -> training._Training:
        return training._Training(QUICK, codes, images.labels[:50], 10, torch.device("cpu"))

    first, path = work(), tmp_path / "prior.state"
    wanted = first.run(path, Silent())
    first._keep(path)
    assert work().run(path, Silent()) == wanted
    first.losses = torch.zeros(0)
    first._keep(path)
    again = work()
    again._resume(path)
    assert again.done == 0 and isinstance(again.network, nn.Module)
