"""A recipe: a method as a composition, with every setting explicit."""

from __future__ import annotations

from pydantic import Field, model_validator

from attar.base.config import Config
from attar.methods.composition import refusal, unmet_needs
from attar.methods.initialization import Choice
from attar.methods.labels import HardLabels, SoftLabels
from attar.methods.labels.regions import RegionLabels
from attar.methods.objectives.objective import NoObjectiveConfig
from attar.methods.objectives.sums import ObjectiveConfig
from attar.methods.optimizer import OptimizerConfig
from attar.methods.parameterizations.codes import CodesConfig
from attar.methods.parameterizations.registry import AnyParameterization
from attar.models.codecs.registry import CodecConfig
from attar.models.networks.network import NetworkConfig
from attar.models.observers.config import ObserverConfig


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
    parameterization: AnyParameterization = CodesConfig()
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
    def initial_kind(self) -> str:
        """One word for what items start from: "random", "herding", "k-centre", "key", "hardest" or "noise"."""
        return getattr(self.initialization, "kind", None) or str(self.initialization)

    @property
    def observed(self) -> tuple[str, ...]:
        """The settings that need an observer."""
        needs = {
            "initialization": not isinstance(self.initialization, str),
            "objective": "observer" in self.objective.needs,
            "labels": self.labels.asks_observer,
        }
        return tuple(name for name, needed in needs.items() if needed)

    def optimizer_of(self, name: str) -> OptimizerConfig | None:
        """How the trainable tensor of the items called `name` is updated."""
        for beginning, setting in self.parameterization.optimizers.items():
            if name.startswith(beginning):
                optimizer: OptimizerConfig | None = getattr(self, setting)
                return optimizer
        return self.optimizer

    def without_flip(self) -> Recipe:
        """The same, mirroring nothing that an observer is trained on or looks at."""
        observer = self.observer and self.observer.without_flip()
        parts = {"objective": self.objective.without_flip(), "labels": self.labels.without_flip()}
        return self.model_copy(update={"observer": observer, **parts})

    @model_validator(mode="after")
    def _composition(self) -> Recipe:
        """Refuse a composition whose parts need what it does not have, every unmet need by name."""
        if self.observed and self.observer is None:
            needing = " and ".join(self.observed)
            raise ValueError(f"{needing} ask an observer, and there is none; set observer={{}} (unmet need: observer)")
        if self.observer is not None and not self.observed:
            raise ValueError("nothing asks the observer; set observer=null")
        refused = refusal(unmet_needs(self))
        if refused is not None:
            raise ValueError(refused)
        return self
