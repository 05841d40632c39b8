"""Training attar's own diffusion prior: a denoiser of real codes, made once, cached by content, resumed if stopped."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from attar.base.errors import InputError, NonFiniteLossError
from attar.base.files import atomic_path, cache_directory, content_key
from attar.base.interrupts import stop_requested
from attar.base.locks import Claims, made_once
from attar.base.progress import Progress, Silent
from attar.base.randomness import generator
from attar.data.image_set import ImageSet
from attar.models.codecs.codec import Codec
from attar.models.codecs.encoding import encode_images
from attar.models.diffusion.fidelity import fidelity_of
from attar.models.diffusion.model import OwnModel
from attar.models.diffusion.priors import ROOM, Prior, PriorTraining, read_prior, save_prior
from attar.models.diffusion.schedule import alpha_bars
from attar.models.networks.denoiser import Denoiser, build_denoiser, denoiser_shell

KEPT_EVERY = 250
"""Steps between two states that a stopped training goes on from."""

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What Adam remembers of a parameter, by its own names."""

UNEVEN = 3.0
"""How many times as wide as another a channel of codes may spread before a note says so."""


def trained_prior(
    training: PriorTraining,
    codec: Codec,
    train: ImageSet,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Prior:
    """The diffusion prior of some data's codes: trained once and cached.

    After a stop or a kill the same call goes on from the last kept state, on CPUs to the same bytes. What another
    process is training is waited for. A note says where a prior has not learnt its codes, whatever its loss.

    Args:
        training: settings.
        codec: images <-> codes.
        train: the training images.
        device: where it is trained.
        progress: told every step and its loss.

    Raises:
        InputError: a codec that is a model itself, or a denoiser that is too large.
        NonFiniteLossError: its loss, or what it predicts in the end, is not finite.
        KeyboardInterrupt: on Ctrl-C, once the state is kept.
    """
    if codec.carries_model:
        raise InputError(f"a prior is of codes, not of a {codec.kind}'s; take codec pixels, pca, dct or autoencoder")
    denoiser_shell(training.denoiser, codec.code_shape, train.num_classes)  # refused now, not after the encoding
    device, progress = torch.device(device), progress or Silent()
    key = content_key("prior", 1, training, codec.identity(), train.fingerprint, device.type)
    path = cache_directory(ROOM) / f"{key}.safetensors"
    if not path.exists():
        waiting = partial(progress.note, "another process trains this prior: waiting for it")
        with Claims(path.with_name("claims.lock")) as claims, stop_requested() as stop:
            train_it = partial(_train, training, codec, train, device, path, progress)
            made_once(path, train_it, claims, stop, waiting)
    prior = read_prior(path)
    if prior.manifest.fidelity is not None and prior.manifest.fidelity.fault is not None:
        progress.note(prior.manifest.fidelity.fault)
    return prior


def _train(
    training: PriorTraining, codec: Codec, train: ImageSet, device: torch.device, path: Path, progress: Progress
) -> None:
    codes = encode_images(codec, train, device=device, progress=progress)
    _warn_of_uneven(codec, codes, progress)
    work = _Training(training, codes, train.labels, train.num_classes, device)
    loss = work.run(path.with_suffix(".state"), progress)
    model = OwnModel(work.finished(), training.schedule)
    fidelity = fidelity_of(model, codes, train.labels, training.seed)
    facts = {"classes": train.classes, "data": train.fingerprint, "training": training}
    save_prior(codec, model.cpu(), path, loss=loss, fidelity=fidelity, **facts)
    path.with_suffix(".state").unlink(missing_ok=True)


def _warn_of_uneven(codec: Codec, codes: Tensor, progress: Progress) -> None:
    """Note where channels spread unevenly: noise is as strong in all, and what z_0 keeps of it drowns small ones."""
    spread = codes.float().std((0, 2, 3)).clamp_min(torch.finfo(torch.float32).tiny)
    ratio = float(spread.max() / spread.min())
    if ratio > UNEVEN:
        mend = f"; write {codec.whitened_name}" if codec.whitened_name else ""
        progress.note(f"channels of the codes spread {ratio:.0f} times apart, and small ones drown in noise{mend}")


class _Training:
    """A denoiser with its optimizer and average; a step depends on its number and on what the step before left.

    Args:
        training: settings.
        codes: float32 [N, c, h, w], on the CPU.
        labels: int64 [N].
        num_classes: K.
        device: where it is trained.
    """

    def __init__(
        self, training: PriorTraining, codes: Tensor, labels: Tensor, num_classes: int, device: torch.device
    ) -> None:
        self.training, self.device = training, device
        self.codes, self.labels = codes, labels
        draw = generator(training.seed, "denoiser")
        channels, height, width = codes.shape[1:]
        self.network = build_denoiser(training.denoiser, (channels, height, width), num_classes, draw).to(device)
        self.average = {name: value.detach().clone() for name, value in self.network.named_parameters()}
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=training.learning_rate)
        for value in self.network.parameters():  # as Adam itself begins, so that a state has all of it from the start
            zeros = (torch.zeros_like(value) for _ in range(2))
            self.optimizer.state[value] = dict(zip(MOMENTS, (torch.tensor(0.0), *zeros), strict=True))
        self.alpha_bars = alpha_bars(training.schedule).float()
        self.done = torch.tensor(0)
        self.losses = torch.zeros(training.steps, dtype=torch.float64)

    def run(self, state: Path, progress: Progress) -> float:
        """Take all steps that are missing; the mean loss of the last tenth."""
        self._resume(state)
        steps = self.training.steps
        progress.start("training a diffusion prior", steps)
        progress.advance(int(self.done))
        try:
            with stop_requested() as stop:
                for number in range(int(self.done), steps):
                    loss = self._step(number)
                    if not math.isfinite(loss):
                        raise NonFiniteLossError(
                            f"the prior's loss is {loss} in step {number + 1}; lower learning_rate"
                        )
                    self.losses[number] = loss
                    self.done += 1
                    progress.advance(1, loss=loss)
                    if stop.is_set() or int(self.done) % KEPT_EVERY == 0:
                        self._keep(state)
                    if stop.is_set():
                        raise KeyboardInterrupt
        finally:
            progress.finish()
        last = self.losses[-math.ceil(steps / 10) :].tolist()
        return sum(last) / len(last)

    @torch.no_grad()
    def finished(self) -> Denoiser:
        """The denoiser with averaged weights."""
        for name, value in self.network.named_parameters():
            value.copy_(self.average[name])
        return self.network

    def _step(self, number: int) -> float:
        training, draw = self.training, generator(self.training.seed, "prior step", number)
        chosen = torch.randint(len(self.codes), (training.batch_size,), generator=draw)
        codes = self.codes[chosen].to(self.device)
        levels = torch.randint(len(self.alpha_bars), (len(chosen),), generator=draw)
        noise = torch.randn(codes.shape, generator=draw).to(self.device)
        dropped = torch.rand(len(chosen), generator=draw) < training.drop_probability
        classes = torch.where(dropped, self.network.num_classes, self.labels[chosen]).to(self.device)
        share = self.alpha_bars[levels].to(self.device)[:, None, None, None]
        noisy = share.sqrt() * codes + (1 - share).sqrt() * noise
        predicted = self.network(noisy, levels.to(self.device), self.network.classes(classes))
        loss = nn.functional.mse_loss(predicted, noise)
        cosine = (1 + math.cos(math.pi * number / training.steps)) / 2
        self.optimizer.param_groups[0]["lr"] = training.learning_rate * cosine
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self._follow(min(training.average, (1 + number) / (10 + number)))
        return float(loss.detach())

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        """average <- d average + (1 - d) weights, with a smaller d in the beginning."""
        for name, value in self.network.named_parameters():
            self.average[name].lerp_(value, 1 - decay)

    def _state(self) -> dict[str, Tensor]:
        """All tensors that the next step depends on, themselves and not copies; no step changes their shapes."""
        tensors = {"done": self.done, "losses": self.losses}
        for name, value in self.network.named_parameters():
            tensors |= {f"value.{name}": value.detach(), f"average.{name}": self.average[name]}
            tensors |= {f"{moment}.{name}": self.optimizer.state[value][moment] for moment in MOMENTS}
        return tensors

    def _keep(self, path: Path) -> None:
        from safetensors.torch import save_file

        with atomic_path(path) as temporary:
            save_file({name: value.cpu().contiguous() for name, value in self._state().items()}, str(temporary))

    @torch.no_grad()
    def _resume(self, path: Path) -> None:
        """Go on from a kept state, or from the beginning where there is no whole one."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            kept_state = load_file(path)
        except (OSError, SafetensorError):
            return
        state = self._state()
        if {name: value.shape for name, value in kept_state.items()} != {
            name: value.shape for name, value in state.items()
        }:
            return
        finite = all(bool(value.isfinite().all()) for value in kept_state.values())
        if finite and 0 < int(kept_state["done"]) <= self.training.steps:
            for name, value in state.items():
                value.copy_(kept_state[name])
