"""Frozen diffusion models: trained here, read with diffusers, stored or named by content."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from bench.gradient_flow import GradientFlow, gradient_flow, plot_gradient_flow
from torch import Tensor

from attar.base.config import override
from attar.base.errors import InputError
from attar.base.randomness import generator
from attar.data.image_set import ImageSet
from attar.data.sources import load_images
from attar.methods.objectives.features import Features
from attar.methods.parameterizations.diffusion import Diffusion, DiffusionConfig
from attar.methods.recipes import recipe
from attar.models.codecs.pixels import PixelsConfig
from attar.models.codecs.registry import codec_from_text, fit_codec, restore_codec
from attar.models.diffusion import training
from attar.models.diffusion.codec import DiffusionCodec, DiffusionCodecConfig
from attar.models.diffusion.model import OwnModel
from attar.models.diffusion.pretrained import PretrainedModel, find_folder
from attar.models.diffusion.priors import PriorTraining, read_prior
from attar.models.diffusion.schedule import SamplingConfig, ScheduleConfig
from attar.models.diffusion.training import trained_prior
from attar.models.networks.denoiser import DenoiserConfig
from attar.runs.distill import distill
from attar.sets.distilled import DistilledSet
from attar.sets.manifest_text import manifest_text
from small_diffusion import SMALL_DENOISER, Noted, digit_items, saved_prior
from small_pretrained import KINDS, save_pretrained
from small_sets import digit_images, first_items

QUICK = PriorTraining(denoiser=SMALL_DENOISER, steps=12, batch_size=16)


def _codec():
    return fit_codec(PixelsConfig(), digit_images())


def _tiny_images(num_classes: int = 4) -> ImageSet:
    pixels = torch.randint(0, 256, (2 * num_classes, 3, 16, 16), dtype=torch.uint8, generator=generator(0, "pixels"))
    return ImageSet(pixels, torch.arange(2 * num_classes) % num_classes, tuple("abcdefgh"[:num_classes]))


@cache
def _learnt_weights() -> dict[str, Tensor]:
    longer = QUICK.model_copy(update={"steps": 80, "batch_size": 64, "learning_rate": 8e-3})
    return trained_prior(longer, _codec(), digit_images()).model.stored_tensors()


def test_a_prior_stopped_and_resumed_has_the_same_bytes(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained_prior(QUICK, _codec(), digit_images())
    path = next((own_cache / "priors").glob("*.safetensors"))
    content = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(training, "KEPT_EVERY", 5)
    steps = training._Training._step

    def stopping(self: training._Training, number: int) -> float:
        if number == 7:
            raise KeyboardInterrupt
        return steps(self, number)

    monkeypatch.setattr(training._Training, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        trained_prior(QUICK, _codec(), digit_images())
    assert _kept(own_cache) == [".state"]
    taken = []
    monkeypatch.setattr(
        training._Training, "_step", lambda self, number: (taken.append(number), steps(self, number))[1]
    )
    again = trained_prior(QUICK, _codec(), digit_images())
    assert taken == list(range(5, 12)) and path.read_bytes() == content
    assert _kept(own_cache) == [".safetensors"]
    assert trained_prior(QUICK, _codec(), digit_images()).weights == again.weights and len(taken) == 7
    assert whole.manifest == again.manifest


def _kept(cache: Path) -> list[str]:
    return [each.suffix for each in (cache / "priors").iterdir() if each.name != "claims.lock"]


def test_a_prior_that_another_process_trains_is_waited_for(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = trained_prior(QUICK, _codec(), digit_images())
    path = next((own_cache / "priors").glob("*.safetensors"))
    content, noted, taken = path.read_bytes(), Noted(), iter([False, False, True])
    path.unlink()

    def take(claims: object, number: int) -> bool:
        free = next(taken)
        if free:  # its owner finished between our look and our claim
            path.write_bytes(content)
        return free

    monkeypatch.setattr("attar.base.locks.Claims.take", take)
    monkeypatch.setattr("attar.base.locks.WAIT_SECONDS", 0.001)
    monkeypatch.setattr(training._Training, "_step", lambda self, number: pytest.fail("trained twice"))
    assert trained_prior(QUICK, _codec(), digit_images(), progress=noted).weights == prior.weights
    first, second = noted.notes
    assert first == "another process trains this prior: waiting for it" and "filter" in second


@pytest.mark.slow
def test_two_processes_train_one_prior_once(own_cache: Path) -> None:
    """The second starts while the first trains, and neither is refused: one of them trains, both have it."""
    script = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from test_diffusion_models import QUICK, _codec\n"
        "from attar.models.diffusion import training\n"
        "from small_sets import digit_images\n"
        "whole = training._train\n"
        "def told(*arguments):\n    print('trained'); whole(*arguments)\n"
        "training._train = told\n"
        "print(training.trained_prior(QUICK, _codec(), digit_images()).weights.sha256)\n"
    )
    root = str(Path(__file__).parents[1])
    runs = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=root) for _ in "ab"]
    said = sorted((run.communicate()[0].split() for run in runs), key=len)
    assert [len(each) for each in said] == [1, 2] and said[0][0] == said[1][1]


def test_a_damaged_state_is_made_anew(own_cache: Path) -> None:
    whole = trained_prior(QUICK, _codec(), digit_images())
    path = next((own_cache / "priors").glob("*.safetensors"))
    content = path.read_bytes()
    path.rename(path.with_suffix(".state"))  # tensors, and none of a state
    assert trained_prior(QUICK, _codec(), digit_images()).weights == whole.weights and path.read_bytes() == content


@pytest.mark.parametrize("text", ["pca:f2c4", "pca:f2c4-whiten", "pixels"])
def test_codes_whose_channels_spread_unevenly_are_noted_with_the_users_own_codec_whitened(text: str) -> None:
    """A few steps of a residual leave noise of one size in all channels."""
    noted, codec = Noted(), fit_codec(codec_from_text(text), digit_images())
    trained_prior(QUICK.model_copy(update={"steps": 1}), codec, digit_images(), progress=noted)
    mends = [note for note in noted.notes if note.endswith("write pca:f2c4-whiten")]
    assert len(mends) == (text == "pca:f2c4") == len([note for note in noted.notes if "-whiten" in note])


def test_a_prior_learns() -> None:
    weights = _learnt_weights()
    prior = trained_prior(QUICK, _codec(), digit_images())
    assert prior.manifest.loss > 0.5
    model = prior.model
    model.denoiser.load_state_dict(weights)
    codes = _codec().encode(digit_images().images[:200].float() / 255)
    noise = torch.randn(codes.shape, generator=generator(0, "noise"))
    kept = model.alpha_bars[500].float()
    conditioning = model.embed(digit_images().labels[:200])
    found = model.predict(kept.sqrt() * codes + (1 - kept).sqrt() * noise, 500, conditioning)
    assert float((found - noise).square().mean()) < 0.3


def _flows(weights: dict[str, Tensor], items: Diffusion, num_draws: int) -> dict[tuple[str, int], GradientFlow]:
    assert isinstance(items.codec, DiffusionCodec) and isinstance(items.codec.model, OwnModel)
    items.codec.model.denoiser.load_state_dict(weights)
    flows = gradient_flow(items, num_steps=(20, 40), num_draws=num_draws)
    return {(flow.residual, flow.num_steps): flow for flow in flows}


def test_with_the_residual_less_of_the_gradient_at_the_codes_is_noise() -> None:
    """LD3M Figure 7, T = 20 and 40: the signal-to-noise ratio, of a model that has learnt a little."""
    found = _flows(_learnt_weights(), digit_items(count=1), 2)
    for num_steps in (20, 40):
        assert found["linear", num_steps].signal_to_noise > 1.5 * found["none", num_steps].signal_to_noise


@pytest.mark.slow
def test_with_the_residual_more_of_the_gradient_reaches_the_codes() -> None:
    """LD3M section 4.2, T = 20 and 40: norm and ratio both, of a model that has learnt the digits.

    It takes about 90 seconds of one core. Through a model that has not learnt them the norm is larger without it.
    """
    longer = PriorTraining(denoiser=DenoiserConfig(width=16), steps=1500)
    train = load_images("digits").train
    pixels = fit_codec(PixelsConfig(), train)
    prior = trained_prior(longer, pixels, train)
    model, fidelity = prior.model, prior.manifest.fidelity
    assert fidelity is not None and fidelity.fault is None
    codec = DiffusionCodec(pixels, model)
    codes, labels = pixels.encode(train.images[first_items(train, 1)].float() / 255), torch.arange(10)
    items = Diffusion(codec, codes, labels, DiffusionConfig(), 0, preprocess=pixels, classes=labels)
    found = _flows(model.stored_tensors(), items, 8)
    for num_steps in (20, 40):
        with_it, without = (found[residual, num_steps] for residual in ("linear", "none"))
        assert with_it.norm > 1.2 * without.norm and with_it.signal_to_noise > without.signal_to_noise


def test_gradient_flow_is_drawn(tmp_path: Path) -> None:
    flows = gradient_flow(digit_items(count=1), num_steps=(2, 4), num_draws=2)
    path = plot_gradient_flow(flows, tmp_path / "flow.png")
    assert path.read_bytes()[:4] == b"\x89PNG" and len(flows) == 4
    with pytest.raises(InputError, match="exists"):
        plot_gradient_flow(flows, path)


@pytest.fixture(scope="module")
def prior_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    cache = tmp_path_factory.mktemp("prior")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTAR_CACHE", str(cache))
        trained_prior(QUICK, _codec(), digit_images())
    return next((cache / "priors").glob("*.safetensors")).read_bytes()


@pytest.fixture
def prior_file(tmp_path: Path, prior_bytes: bytes) -> Path:
    path = tmp_path / "prior.safetensors"
    path.write_bytes(prior_bytes)
    return path


_QUICKLY = {
    "steps": 2,
    "objective.network.width": 8,
    "objective.real_batch_size": 4,
    "parameterization.sampling.num_steps": 2,
}


def _distilled(path: Path, **changes: object) -> DistilledSet:
    settings = {**_QUICKLY, "codec.path": str(path), **changes}
    return distill(digit_images(), recipe("ld3m-dm"), "2ipc", settings=settings)


def test_a_set_embeds_the_prior_and_counts_it(prior_file: Path, tmp_path: Path) -> None:
    made = _distilled(prior_file)
    made.save(tmp_path / "set.safetensors")
    prior_file.unlink()
    again = DistilledSet.load(tmp_path / "set.safetensors")
    everything = torch.arange(20)
    assert torch.equal(again.images(everything), made.images(everything)) and again.images(everything).isfinite().all()
    prior_bytes = 4 * sum(value.numel() for value in digit_items().codec.stored_tensors().values())
    assert again.file_bytes == (tmp_path / "set.safetensors").stat().st_size > prior_bytes
    assert again.storage.paper_bytes > prior_bytes and again.storage.external == ()
    assert str(prior_file) not in manifest_text(again.manifest)


@pytest.mark.parametrize("learned", ["both", "codes"])
def test_parts_start_from_their_own_classes_and_merging_changes_no_image(
    prior_file: Path, tmp_path: Path, learned: str
) -> None:
    """A part numbers its classes from 0; the model's numbers are others."""
    path = tmp_path / "two.attar.safetensors"
    still = {"steps": 1, "optimizer.learning_rate": 1e-30, "parameterization.learned": learned}
    settings = {**_QUICKLY, "codec.path": str(prior_file), **still}
    made = distill(digit_images(), recipe("ld3m-dm"), "2ipc", settings=settings, subtasks=2, out=path)
    embedded = read_prior(prior_file).model.embed(torch.arange(10))
    for payload, items in zip(made.payloads(), made.parameterizations(), strict=True):
        assert isinstance(items, Diffusion)
        torch.testing.assert_close(items.conditioning.data, embedded[payload["labels"].long()], rtol=2e-3, atol=1e-3)
    again = DistilledSet.load(path)
    everything = torch.arange(20)
    torch.testing.assert_close(again.images(everything), made.images(everything))


def test_a_public_prior_is_named_and_missed(prior_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = read_prior(prior_file).weights
    made = _distilled(prior_file, **{"codec.public": True})
    made.save(tmp_path / "set.safetensors")
    assert made.storage.external == (weights,) and made.storage.external_bytes == prior_file.stat().st_size
    assert made.file_bytes < _distilled(prior_file).file_bytes / 2
    monkeypatch.setenv("ATTAR_WEIGHTS", str(tmp_path))
    everything = torch.arange(20)
    assert torch.equal(DistilledSet.load(tmp_path / "set.safetensors").images(everything), made.images(everything))
    monkeypatch.delenv("ATTAR_WEIGHTS")
    with pytest.raises(InputError, match=f"prior.safetensors.*{weights.sha256}"):
        DistilledSet.load(tmp_path / "set.safetensors").images(everything)


def test_a_public_prior_whose_name_no_file_can_hold_is_refused_before_the_run(prior_file: Path) -> None:
    """It was refused by the reader, once all was done."""
    badly = prior_file.rename(prior_file.with_name("prior-12:30.safetensors"))
    with pytest.raises(InputError, match="rename their file"):
        _distilled(badly, **{"codec.public": True})
    assert len(_distilled(badly)) == 20


def test_a_run_does_not_go_on_through_another_model_of_the_same_path(
    prior_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its codes were learned through the first."""
    accumulate, taken, out = Features.accumulate, [], tmp_path / "set.attar.safetensors"

    def stopping(self: Features, *arguments: object) -> dict[str, float]:
        taken.append(1)
        if len(taken) == 2:
            raise KeyboardInterrupt
        return accumulate(self, *arguments)  # type: ignore[arg-type]

    def run() -> DistilledSet:
        settings = {**_QUICKLY, "codec.path": str(prior_file)}
        return distill(digit_images(), "ld3m-dm", "1ipc", settings=settings, out=out, checkpoint_steps=1)

    monkeypatch.setattr(Features, "accumulate", stopping)
    with pytest.raises(KeyboardInterrupt):
        run()
    content = prior_file.read_bytes()
    saved_prior(prior_file)
    with pytest.raises(InputError, match="another configuration"):
        run()
    prior_file.write_bytes(content)
    assert len(run()) == 10 and len(taken) == 3


def test_the_estimate_of_the_file_is_what_it_becomes(prior_file: Path) -> None:
    made = _distilled(prior_file)
    budget = f"{made.file_bytes + 200}B"
    settings = {"steps": 1, "objective.network.width": 8, "objective.real_batch_size": 4, "codec.path": str(prior_file)}
    again = distill(digit_images(), recipe("ld3m-dm"), budget, settings=settings)
    assert len(again) == 20 and again.file_bytes <= made.file_bytes + 200
    with pytest.raises(InputError, match="too small"):
        distill(digit_images(), recipe("ld3m-dm"), "20kB", settings=settings)


def test_random_values_of_a_prior_are_the_same_for_the_same_seed(prior_file: Path) -> None:
    one, two, other = (
        fit_codec(DiffusionCodecConfig(path=str(prior_file), random_seed=seed), digit_images()) for seed in (0, 0, 1)
    )
    assert one.identity() == two.identity() != other.identity()
    assert one.identity() != fit_codec(DiffusionCodecConfig(path=str(prior_file)), digit_images()).identity()


def test_what_no_model_can_be_found_for_is_refused(prior_file: Path, tmp_path: Path) -> None:
    images = digit_images()
    with pytest.raises(InputError, match="attar train-prior"):
        fit_codec(DiffusionCodecConfig(), images)
    with pytest.raises(InputError, match="there is no diffusion model"):
        fit_codec(DiffusionCodecConfig(path=str(tmp_path / "absent")), images)
    with pytest.raises(InputError, match="resize"):
        fit_codec(
            DiffusionCodecConfig(path=str(prior_file)),
            ImageSet(torch.zeros(20, 1, 9, 9).byte(), images.labels[:20], images.classes),
        )
    renamed = ImageSet(images.images, images.labels, tuple("abcdefghij"))
    with pytest.raises(InputError, match=r"codec\.classes"):
        fit_codec(DiffusionCodecConfig(path=str(prior_file)), renamed)
    given = fit_codec(DiffusionCodecConfig(path=str(prior_file), classes=tuple(range(10))), renamed)
    assert given.identity() == fit_codec(DiffusionCodecConfig(path=str(prior_file)), images).identity()
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(prior_file.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be read as a prior"):
        fit_codec(DiffusionCodecConfig(path=str(damaged)), images)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": [99] * 10},
        {"public": {"id": "x", "sha256": "0" * 64, "num_bytes": 1, "num_values": 1}},
        {"codec": {"kind": "diffusion"}},
        {"model": {"kind": "own", "denoiser": {"width": 16}, "schedule": {}, "num_classes": 10}},
    ],
)
def test_a_damaged_description_is_refused(change: dict) -> None:
    codec = digit_items().codec
    with pytest.raises(InputError):
        restore_codec({**codec.spec(), **change}, codec.stored_tensors())
    assert restore_codec(codec.spec(), codec.stored_tensors()).identity() == codec.identity()


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_diffusers(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is predicted from a class's conditioning is what the model itself says of the class; the file finds it."""
    import diffusers

    folder, images = save_pretrained(kind, tmp_path / "tiny"), _tiny_images()
    codec = fit_codec(DiffusionCodecConfig(path=str(folder)), images)
    assert isinstance(codec, DiffusionCodec) and codec.model.num_classes == 4  # and not 1000
    classes = torch.tensor([0, 2, 4])  # the last is the null class
    codes = torch.randn(3, 4, 4, 4, generator=generator(0))
    conditioning = torch.cat([codec.conditioning(classes[:2]), codec.model.null[None]]).requires_grad_()
    found = codec.model.predict(codes, 500, conditioning)
    if kind == "dit":
        theirs = diffusers.DiTTransformer2DModel.from_pretrained(folder / "transformer").eval()
        wanted = theirs(codes, timestep=torch.full((3,), 500), class_labels=classes).sample[:, :4]
    else:
        theirs = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").eval()
        told = {"class_labels": classes} if kind == "unet-embedding" else {}
        attended = None if told else conditioning[:, None]
        wanted = theirs(codes, 500, encoder_hidden_states=attended, **told).sample
    torch.testing.assert_close(found, wanted)
    assert torch.autograd.grad(found.square().sum(), conditioning)[0].abs().sum() > 0
    external = codec.external()
    assert external is not None and external.id == "tiny" and codec.stored_tensors() == {}
    monkeypatch.setenv("ATTAR_WEIGHTS", str(tmp_path))
    assert restore_codec(codec.spec(), {}).identity() == codec.identity()
    save_pretrained(kind, tmp_path / "other" / "tiny", seed=1)
    monkeypatch.setenv("ATTAR_WEIGHTS", str(tmp_path / "other"))
    with pytest.raises(InputError, match="tiny"):
        restore_codec(codec.spec(), {})


@pytest.mark.parametrize("kind", KINDS)
def test_items_through_models_of_diffusers(kind: str, tmp_path: Path) -> None:
    images = _tiny_images()
    codec = fit_codec(DiffusionCodecConfig(path=str(save_pretrained(kind, tmp_path / "tiny"))), images)
    preprocess = fit_codec(PixelsConfig(), images)
    codes = codec.encode(images.images[:4].float() / 255)
    config = DiffusionConfig(sampling=SamplingConfig(num_steps=3), chunk_items=3)
    items = Diffusion(codec, codes, images.labels[:4], config, 0, preprocess=preprocess, classes=images.labels[:4])
    items(torch.arange(4)).square().sum().backward()
    for learned in (items.codes, items.conditioning):
        assert learned.grad is not None and (learned.grad.flatten(1).norm(dim=1) > 0).all()
    assert items.rendering_bytes()["rendering"] > 0


def test_random_values_of_a_model_of_diffusers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, images = save_pretrained("unet-embedding", tmp_path / "tiny"), _tiny_images()
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    before = torch.random.get_rng_state()
    PretrainedModel(find_folder(str(folder), 3)[0], (4, 4, 4), 3)
    assert torch.equal(torch.random.get_rng_state(), before)
    codec = fit_codec(DiffusionCodecConfig(path=str(folder), random_seed=3), images)
    monkeypatch.setenv("ATTAR_WEIGHTS", str(tmp_path))
    assert restore_codec(codec.spec(), {}).identity() == codec.identity()
    with pytest.raises(InputError, match="random_seed"):
        fit_codec(DiffusionCodecConfig(path=str(folder)), images)


def test_settings_of_a_prior_are_checked() -> None:
    assert override(PriorTraining(), {"denoiser.width": 16}).denoiser.width == 16
    with pytest.raises(InputError, match=r"denoiser\.width"):
        override(PriorTraining(), {"denoiser.wdth": 16})
    with pytest.raises(ValueError, match="greater than 50"):
        ScheduleConfig(num_levels=10)
    assert os.environ["ATTAR_CACHE"]


def test_the_least_codes_of_each_class_start_as_real_images(prior_file: Path) -> None:
    made = _distilled(prior_file, **{"optimizer.learning_rate": 1e-30})
    payload = made.payloads()[0]
    indices = list(made.manifest.initialization.indices)
    real = _codec().encode(digit_images().images[indices].float() / 255)
    torch.testing.assert_close(payload["codes"].float(), real, rtol=1e-3, atol=1e-3)
    noise = _distilled(prior_file, initialization="noise").payloads()[0]["codes"].float()
    assert abs(float(noise.std()) - 1) < 0.1 and len(indices) == 20
