"""Training attar's own prior: a small denoiser of the real codes, once, kept by content, continued after a stop."""

from __future__ import annotations

import math
from collections.abc import Mapping
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

UNEVEN = 3.0
"""How many times as wide as another a channel of codes may spread before it is spoken of."""

MOMENTS = {"mean": "exp_avg", "square": "exp_avg_sq", "count": "step"}
"""Names in a state -> Adam's own."""


def trained_prior(
    training: PriorTraining,
    codec: Codec,
    train: ImageSet,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Prior:
    """The prior of some data's codes: trained once, kept in the cache.

    After a stop or a kill the same call goes on from the last kept state, on CPUs to the same bytes. What another
    process is training is waited for. A prior that has not learnt its codes, whatever its loss, is spoken of.

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
    if codec.kind in ("diffusion", "generator"):
        raise InputError(f"a prior is of codes, not of a {codec.kind}'s; take codec pixels, pca, dct or autoencoder")
    denoiser_shell(training.denoiser, codec.code_shape, train.num_classes)  # refused now, not after the encoding
    device, progress = torch.device(device), progress or Silent()
    about = ["prior", 1, training, codec.identity(), train.fingerprint, device.type]
    path = cache_directory(ROOM) / f"{content_key(*about)}.safetensors"
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
    work = _Training(training, codec.code_shape, codes, train.labels, train.num_classes, device)
    loss = work.run(path.with_suffix(".state"), progress)
    model = OwnModel(work.finished(), training.schedule)
    fidelity = fidelity_of(model, codes, train.labels, training.seed)
    save_prior(
        codec,
        model.cpu(),
        path,
        classes=train.classes,
        data=train.fingerprint,
        training=training,
        loss=loss,
        fidelity=fidelity,
    )
    path.with_suffix(".state").unlink(missing_ok=True)


def _warn_of_uneven(codec: Codec, codes: Tensor, progress: Progress) -> None:
    """Noise is as strong in every channel, and what is left of it in z_0 drowns those that spread little."""
    spread = codes.float().std((0, 2, 3)).clamp_min(torch.finfo(torch.float32).tiny)
    ratio = float(spread.max() / spread.min())
    if ratio > UNEVEN:
        channels, side, _ = codec.code_shape
        name = f"{codec.kind}:f{codec.image_shape[1] // side}c{channels}-whiten"
        mend = f"; write {name}" if codec.kind in ("pca", "dct") else ""
        progress.note(f"channels of the codes spread {ratio:.0f} times apart, and small ones drown in noise{mend}")


class _Training:
    """A denoiser with its optimiser and average; a step depends on its number and on what the step before left.

    Args:
        training: settings.
        code_shape: (c, h, w).
        codes: float32 [N, c, h, w], on the CPU.
        labels: int64 [N].
        num_classes: K.
        device: where it is trained.
    """

    def __init__(
        self,
        training: PriorTraining,
        code_shape: tuple[int, int, int],
        codes: Tensor,
        labels: Tensor,
        num_classes: int,
        device: torch.device,
    ) -> None:
        self.training, self.device = training, device
        self.codes, self.labels = codes, labels
        draw = generator(training.seed, "denoiser")
        self.network = build_denoiser(training.denoiser, code_shape, num_classes, draw).to(device)
        self.average = {name: value.detach().clone() for name, value in self.network.named_parameters()}
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=training.learning_rate)
        self.kept = alpha_bars(training.schedule).float()
        self.done, self.late = 0, list[float]()
        self.first_late = training.steps - math.ceil(training.steps / 10)

    def run(self, state: Path, progress: Progress) -> float:
        """All steps that are missing; the mean loss of the last tenth."""
        self._resume(state)
        steps = self.training.steps
        progress.start("training a diffusion prior", steps)
        progress.advance(self.done)
        try:
            with stop_requested() as stop:
                while self.done < steps:
                    loss = self._step(self.done)
                    if not math.isfinite(loss):
                        raise NonFiniteLossError(
                            f"the prior's loss is {loss} in step {self.done + 1}; lower learning_rate"
                        )
                    self.done += 1
                    self.late += [loss] * (self.done > self.first_late)
                    progress.advance(1, loss=loss)
                    if stop.is_set() or self.done % KEPT_EVERY == 0:
                        self._keep(state)
                    if stop.is_set():
                        raise KeyboardInterrupt
        finally:
            progress.finish()
        return sum(self.late) / len(self.late)

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
        levels = torch.randint(len(self.kept), (len(chosen),), generator=draw)
        noise = torch.randn(codes.shape, generator=draw).to(self.device)
        dropped = torch.rand(len(chosen), generator=draw) < training.drop_probability
        classes = torch.where(dropped, self.network.num_classes, self.labels[chosen]).to(self.device)
        kept = self.kept[levels].to(self.device)[:, None, None, None]
        noisy = kept.sqrt() * codes + (1 - kept).sqrt() * noise
        found = self.network(noisy, levels.to(self.device), self.network.classes(classes))
        loss = nn.functional.mse_loss(found, noise)
        self.optimizer.param_groups[0]["lr"] = (
            training.learning_rate * (1 + math.cos(math.pi * number / training.steps)) / 2
        )
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

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"average.{name}": value for name, value in self.average.items()}
        for name, value in self.network.named_parameters():
            tensors[f"value.{name}"] = value.detach()
            found = self.optimizer.state.get(value, {})
            tensors |= {f"{ours}.{name}": found[theirs] for ours, theirs in MOMENTS.items() if theirs in found}
        return tensors

    def _keep(self, path: Path) -> None:
        from safetensors.torch import save_file

        late = torch.tensor(self.late, dtype=torch.float64)
        tensors = {name: value.cpu().contiguous() for name, value in self._tensors().items()}
        with atomic_path(path) as temporary:
            save_file({**tensors, "done": torch.tensor(self.done), "late": late}, str(temporary))

    def _resume(self, path: Path) -> None:
        """Go on from a kept state; from the beginning where there is none, or none whole."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(path)
        except (OSError, SafetensorError):
            return
        if not self._fits(tensors):
            return
        with torch.no_grad():
            for name, value in self.network.named_parameters():
                value.copy_(tensors[f"value.{name}"])
                self.average[name].copy_(tensors[f"average.{name}"])
                self.optimizer.state[value] = {
                    "step": tensors[f"count.{name}"],
                    "exp_avg": tensors[f"mean.{name}"].to(self.device),
                    "exp_avg_sq": tensors[f"square.{name}"].to(self.device),
                }
        self.done, self.late = int(tensors["done"]), tensors["late"].tolist()

    def _fits(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether these are a state of this denoiser, each value finite, before the last step."""
        shapes: dict[str, tuple[int, ...]] = {}
        for name, value in self.network.named_parameters():
            shapes |= {f"{part}.{name}": tuple(value.shape) for part in ("value", "average", "mean", "square")}
            shapes[f"count.{name}"] = ()
        if tensors.keys() != shapes.keys() | {"done", "late"}:
            return False
        whole = all(tuple(tensors[name].shape) == shape for name, shape in shapes.items())
        finite = all(bool(value.isfinite().all()) for value in tensors.values())
        if not (whole and finite and tensors["done"].ndim == 0):
            return False
        done = int(tensors["done"])
        return 0 < done <= self.training.steps and len(tensors["late"]) == max(0, done - self.first_late)
