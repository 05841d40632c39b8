"""The protocols that come with attar as one table, made of their files: that of docs/protocols.md.

python bench/protocol_table.py
"""

from __future__ import annotations

from attar.evaluation.protocol import LABEL_WORDS, Protocol, protocol, protocol_names
from attar.models.training.settings import TrainingConfig

COLUMNS = ("protocol", "networks, runs", "training", "augmentation", "learning rate", "refuses", "comparable")


def protocol_table() -> str:
    """Every protocol as a row of a markdown table, as docs/protocols.md has it."""
    rows = [COLUMNS, ["---"] * len(COLUMNS), *(_cells(protocol(name)) for name in protocol_names())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _cells(each: Protocol) -> list[str]:
    networks = ", ".join(config.name for config in each.networks)
    return [
        f"`{each.name}` v{each.version}",
        f"{networks}; {each.seeds}",
        _training(each.training),
        _augmentation(each),
        _rate(each),
        _refused(each),
        "yes" if each.comparable else "no",
    ]


def _training(training: TrainingConfig) -> str:
    optimizer = "SGD" if training.optimizer == "sgd" else "AdamW"
    steps = f"{training.max_steps} steps" if training.max_steps else f"{training.epochs} epochs"
    temperature = f", temperature {training.temperature:g}" if training.temperature != 1 else ""
    return f"{optimizer}, {steps}, batch {training.batch_size}, {_schedule(training)}{temperature}"


def _schedule(training: TrainingConfig) -> str:
    if training.schedule != "step":
        return training.schedule
    places = ", ".join(f"{fraction:.2g}" for fraction in training.milestones)
    return f"x {training.decay:g} at {places}"


def _augmentation(each: Protocol) -> str:
    dsa, share = each.training.augmentation, each.training.cutmix_probability
    parts = [] if dsa is None else [f"{', '.join(dsa.operations)} ({dsa.mode})"]
    return "; ".join([*parts, *([f"CutMix {share:g}"] if share else []), *(["means too"] if each.means else [])])


def _rate(each: Protocol) -> str:
    if each.rate_search is not None:
        rates = ", ".join(f"{rate:g}" for rate in each.rate_search.learning_rates)
        return f"best of {rates} on {100 * each.rate_search.validation_share:g} % of the training images"
    rate = f"{each.training.learning_rate:g}"
    return f"the set's own, else {rate}" if each.use_learned_rate else rate


def _refused(each: Protocol) -> str:
    parts = [words for kind, words in LABEL_WORDS.items() if kind not in each.labels]
    parts += [f"images below {each.smallest_side} pixels"] if each.smallest_side > 1 else []
    parts += [f"images above {each.largest_side} pixels"] if each.largest_side is not None else []
    return ", ".join(parts) or "nothing"


if __name__ == "__main__":
    print(protocol_table())
