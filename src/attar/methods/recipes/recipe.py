"""A recipe: a method as a composition, with every setting explicit."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from attar.base.config import Config
from attar.base.errors import InputError
from attar.methods.initialization import Choice, KeySamplesConfig
from attar.methods.labels import HardLabels, SoftLabels
from attar.methods.labels.regions import RegionLabels
from attar.methods.objectives.discrepancy import DiscrepancyConfig
from attar.methods.objectives.objective import NoObjectiveConfig
from attar.methods.objectives.registry import ObjectiveConfig, has_experts, has_observer, has_originals, parts_of
from attar.methods.objectives.trajectories import TrajectoriesConfig
from attar.methods.parameterizations.codes import CodesConfig
from attar.methods.parameterizations.diffusion import DiffusionConfig
from attar.methods.parameterizations.generator import FEATURES, GeneratorConfig
from attar.methods.parameterizations.mosaic import MosaicConfig
from attar.methods.parameterizations.priors import DECODER, PriorsConfig
from attar.models.codecs.registry import CodecConfig
from attar.models.networks.network import NetworkConfig
from attar.models.observers.config import ObserverConfig

USUAL_BETAS = (0.9, 0.999)

Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Config):
    """How the synthetic items are updated; soft labels and an objective's own numbers are updated by SGD always.

    Args:
        kind: "sgd", "adam", or "adamw", whose weight decay is not scaled by the gradient's moments.
        learning_rate: the rate, or the rate per item.
        learning_rate_unit: "per-item" multiplies by the items per class (LatentDD Eq. 10), "absolute" does not.
        momentum: of sgd, in [0, 1); 0 for the others, which have betas.
        betas: decays of adam's and adamw's averages of the gradient and of its square, in [0, 1); None for sgd.
        weight_decay: towards zero in the items' own space.
        schedule: "constant", or "cosine": the rate falls to zero along half a cosine over the recipe's steps.
        average: decay per step of the exponential average of the items that becomes the result (FTD); 0 takes the
            items as they are after the last step.
        valid_range: after each update the items are cut to what decodes to [0, 1]; possible with codec `pixels`.

    Raises:
        InputError: a setting that the kind would ignore.
    """

    kind: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = Field(gt=0, le=1e30)
    learning_rate_unit: Literal["absolute", "per-item"] = "absolute"
    momentum: float = Field(default=0.5, ge=0, lt=1)
    betas: tuple[Decay, Decay] | None = None
    weight_decay: float = Field(default=0.0, ge=0, le=1e30)
    schedule: Literal["constant", "cosine"] = "constant"
    average: float = Field(default=0.0, ge=0, lt=1)
    valid_range: bool = False

    @model_validator(mode="before")
    @classmethod
    def _usual_for_kind(cls, settings: Any) -> Any:
        if not isinstance(settings, dict):
            return settings
        if settings.get("kind") in ("adam", "adamw"):
            usual = {"momentum": 0.0, "betas": USUAL_BETAS}
            settings = usual | {name: value for name, value in settings.items() if (name, value) != ("betas", None)}
        if isinstance(settings.get("betas"), list):  # as JSON has it
            settings = {**settings, "betas": tuple(settings["betas"])}
        return settings

    @model_validator(mode="after")
    def _refuse_settings_without_effect(self) -> OptimizerConfig:
        if self.kind == "sgd" and self.betas is not None:
            raise InputError("sgd has no betas; set optimizer.betas=null, or take optimizer.kind=adam")
        if self.kind != "sgd" and self.momentum:
            raise InputError(f"{self.kind} has betas and no momentum; set optimizer.momentum=0")
        return self

    def rate(self, items_per_class: int, progress: float = 0.0) -> float:
        """The learning rate for so many items of each class, when `progress` of the steps (0 to 1) are done."""
        rate = self.learning_rate * (items_per_class if self.learning_rate_unit == "per-item" else 1)
        return rate * (1 + math.cos(math.pi * progress)) / 2 if self.schedule == "cosine" else rate


class Expected(Config):
    """A published figure to hold a recipe against.

    Args:
        data: data set and resolution.
        budget: e.g. "1ipc".
        accuracy: percent, as published.
        source: paper and table.
    """

    data: str
    budget: str
    accuracy: float = Field(ge=0, le=100)
    source: str


class Recipe(Config):
    """init x parameterization x objective x labels, with the codec between images and items.

    Args:
        name: as in the registry.
        title: one line for people.
        codec: images <-> codes.
        initialization: which real items the synthetic ones start from.
        parameterization: what is stored.
        objective: what is matched, or none.
        labels: what items are said to be.
        observer: the network trained on the real data that key samples, region labels and some objectives need.
        optimizer: how items are updated; None without an objective.
        decoder_optimizer: how the decoder of priors is updated; None without one.
        feature_optimizer: how maps from inside a generator are updated, beside its w; None without them.
        steps: outer iterations; 0 without an objective.
        evaluation_network: the network that the paper's scores are for.
        image_size: the side in pixels that the settings are for, or None for any.
        budget: the budget used where none is given.
        citations: keys of `attar cite`.
        expected: published figures.
    """

    name: str
    title: str
    codec: CodecConfig
    initialization: Choice = "random"
    parameterization: CodesConfig | MosaicConfig | PriorsConfig | DiffusionConfig | GeneratorConfig = Field(
        default=CodesConfig(), discriminator="kind"
    )
    objective: ObjectiveConfig = NoObjectiveConfig()
    labels: HardLabels | SoftLabels | RegionLabels = Field(default=HardLabels(), discriminator="kind")
    observer: ObserverConfig | None = None
    optimizer: OptimizerConfig | None = None
    decoder_optimizer: OptimizerConfig | None = None
    feature_optimizer: OptimizerConfig | None = None
    steps: int = Field(default=0, ge=0)
    evaluation_network: NetworkConfig = NetworkConfig()
    image_size: int | None = Field(default=None, ge=1)
    budget: str = "1ipc"
    citations: tuple[str, ...] = ()
    expected: tuple[Expected, ...] = ()

    @property
    def observed(self) -> tuple[str, ...]:
        """The settings that need an observer."""
        needs = {
            "initialization": isinstance(self.initialization, KeySamplesConfig),
            "objective": has_observer(self.objective),
            "labels": isinstance(self.labels, RegionLabels),
        }
        return tuple(name for name, needed in needs.items() if needed)

    def optimizer_of(self, name: str) -> OptimizerConfig | None:
        """How the trainable tensor of the items called `name` is updated."""
        if name.startswith(DECODER):
            return self.decoder_optimizer
        return self.feature_optimizer if name == FEATURES else self.optimizer

    def without_flip(self) -> Recipe:
        """The same, mirroring nothing that an observer is trained on or looks at."""
        parts = {name: getattr(self, name) for name in ("observer", "objective", "labels")}
        changed = {name: part.without_flip() for name, part in parts.items() if hasattr(part, "without_flip")}
        return self.model_copy(update=changed)

    @model_validator(mode="after")
    def _composition(self) -> Recipe:
        self._check_observer()
        self._check_labels()
        self._check_samples()
        self._check_priors()
        self._check_rendered()
        self._check_generator()
        if isinstance(self.objective, NoObjectiveConfig):
            if self.steps or self.optimizer:
                raise ValueError("without an objective nothing is trained; set steps to 0 and optimizer to null")
            return self
        if self.steps == 0 or self.optimizer is None:
            raise ValueError(f"objective {self.objective.kind!r} needs an optimizer and steps of at least 1")
        if has_originals(self.objective) and not isinstance(self.parameterization, MosaicConfig):
            raise ValueError(
                f"objective {self.objective.kind!r} restores what squeezing lost; set parameterization.kind=mosaic"
            )
        if has_originals(self.objective) and self.initialization == "noise":
            raise ValueError(f"objective {self.objective.kind!r} needs real images to start from, not noise")
        self._check_augmentation()
        return self

    def _check_observer(self) -> None:
        if self.observed and self.observer is None:
            raise ValueError(f"{' and '.join(self.observed)} ask an observer, and there is none; set observer={{}}")
        if self.observer is not None and not self.observed:
            raise ValueError("nothing asks the observer; set observer=null")

    def _check_labels(self) -> None:
        if not isinstance(self.labels, SoftLabels):
            return
        if isinstance(self.objective, NoObjectiveConfig):
            raise ValueError("without an objective labels are not learned; set labels.kind to hard")
        if isinstance(self.parameterization, MosaicConfig):
            raise ValueError("the labels of tiles are not learned; set labels.kind to hard or regions")
        if self.labels.initial == "expert" and not has_experts(self.objective):
            raise ValueError("labels.initial=expert needs an objective with experts; set it to class")
        at_start = (self.labels.initial, self.labels.computed) == ("expert", "start")
        if isinstance(self.parameterization, PriorsConfig) and at_start:
            raise ValueError("an expert has nothing to say of priors before the first step; set labels.computed=end")

    def _check_samples(self) -> None:
        made = self.parameterization
        if isinstance(made, PriorsConfig) and made.distribution == "gaussian":
            return
        for part in parts_of(self.objective):
            if isinstance(part, TrajectoriesConfig | DiscrepancyConfig) and part.samples > 1:
                told = "priors with distribution 'fixed'" if isinstance(made, PriorsConfig) else f"{made.kind!r}"
                raise ValueError(f"{part.samples} samples of items that are not sampled ({told}); set samples=1")

    def _check_priors(self) -> None:
        """Refuse what priors cannot do, and settings that are theirs alone."""
        if not isinstance(self.parameterization, PriorsConfig):
            if self.decoder_optimizer is not None:
                raise ValueError("there is no decoder to update; set decoder_optimizer=null")
            return
        if self.initialization != "noise":
            raise ValueError("priors start from noise, not from real images; set initialization=noise")
        parts = parts_of(self.objective)
        if not parts or not all(isinstance(part, TrajectoriesConfig | DiscrepancyConfig) for part in parts):
            raise ValueError("priors are matched by trajectories, discrepancy or a sum of them; set objective.kind")
        if isinstance(self.labels, RegionLabels):
            raise ValueError("priors have no canvases whose regions could be labelled; set labels.kind to hard or soft")
        if self.optimizer is None or self.decoder_optimizer is None:
            raise ValueError("priors need an optimizer and their decoder a decoder_optimizer; give both")
        for name, optimizer in (("optimizer", self.optimizer), ("decoder_optimizer", self.decoder_optimizer)):
            if optimizer.average:
                raise ValueError(f"running statistics are not those of an average; set {name}.average=0")
            if optimizer.valid_range:
                raise ValueError(f"neither priors nor decoders have a valid range; set {name}.valid_range=false")
        if self.decoder_optimizer.learning_rate_unit != "absolute":
            raise ValueError("one decoder serves all items; set decoder_optimizer.learning_rate_unit=absolute")

    def _check_rendered(self) -> None:
        """Refuse a frozen model without items for it, items without one, and labels that they do not have."""
        made = self.parameterization.kind
        for kind, model, file in (("diffusion", "diffusion model", "MODEL"), ("generator", "generator", "FILE")):
            if (made == kind) != (self.codec.kind == kind):
                raise ValueError(
                    f"a {model} and items that it renders belong together; set parameterization.kind={kind} and "
                    f"--codec {kind}:{file}, or neither"
                )
        if not isinstance(self.parameterization, DiffusionConfig | GeneratorConfig):
            return
        if not isinstance(self.labels, HardLabels):
            raise ValueError("items that a model renders from a class have hard labels; set labels.kind=hard")
        if self.optimizer is not None and self.optimizer.valid_range:
            raise ValueError("what a frozen model renders has no valid range; set optimizer.valid_range=false")

    def _check_generator(self) -> None:
        """Refuse what a generator cannot start from, and an optimizer of features without features."""
        made = self.parameterization
        if isinstance(made, GeneratorConfig) and self.initialization != "noise":
            raise ValueError("a generator's items start from its own w, not from real images; set initialization=noise")
        learned = isinstance(made, GeneratorConfig) and made.depth > 0 and self.optimizer is not None
        if self.feature_optimizer is not None and not learned:
            raise ValueError("no features are learned; set feature_optimizer=null, or parameterization.depth above 0")
        if learned and self.feature_optimizer is None:
            raise ValueError(
                "features of a generator need an optimizer of their own; set "
                "feature_optimizer='{\"learning_rate\": 1}', or parameterization.depth=0"
            )
        if self.feature_optimizer is not None and self.feature_optimizer.valid_range:
            raise ValueError("features have no valid range; set feature_optimizer.valid_range=false")

    def _check_augmentation(self) -> None:
        matched_as_codes = not isinstance(self.parameterization, MosaicConfig | DiffusionConfig | GeneratorConfig)
        in_codes = matched_as_codes and not has_observer(self.objective)
        augmentation = None if isinstance(self.objective, NoObjectiveConfig) else self.objective.augmentation
        if augmentation is not None and in_codes and self.codec.kind not in ("pixels", "pca", "dct"):
            raise ValueError(
                f"the codes of {self.codec.kind!r} do not follow augmentation (DSA); "
                "set objective.augmentation=null, or use codec pixels, pca or dct"
            )
