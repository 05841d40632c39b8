"""Learning rates that are chosen on images neither trained on nor tested on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from attar.base.errors import InputError, NonFiniteLossError
from attar.base.shapes import Int64
from attar.data.image_set import ImageSet, Splits
from attar.evaluation.baselines import Candidate
from attar.evaluation.measuring import Measurement
from attar.evaluation.protocol import RateSearch
from attar.evaluation.rows import NAMES, Row
from attar.evaluation.scorecard import DISTILLED
from attar.models.codecs.codec import Codec

SEED = 0
"""Of the images held out, and of the networks that rates are compared with, whichever seeds are scored."""
UNSEARCHED = "at the protocol's rate, because there is no such row without the images held out"


def rows_at_best_rates(
    job: Measurement,
    search: RateSearch,
    made: Callable[[ImageSet], list[Candidate]],
    preprocess: Codec,
    splits: Splits,
) -> list[Row]:
    """`job.run`, each candidate on each network at the rate that is best for it on images held out.

        r* = argmax over r of the accuracy on V of one network trained at r, V a share of every class's training images

    Real images that stand beside the set are drawn without V while rates are compared, so that none of them is trained
    and validated on; the set itself and its starting point are what they are, and may have seen some of V. Test images
    choose nothing. A rate at which the training diverges loses to every other.

    Args:
        job: networks, seeds and device; it also tells the cache and the engine.
        search: the rates, and V's share.
        made: training images to the rows.
        preprocess: images to network inputs.
        splits: V is drawn from the training part.

    Raises:
        InputError: a class of fewer than two training images.

    Source: DD-Ranking searches so, on test images: ddranking/metrics/hard_label.py.
    """
    places, held = held_out(splits.train, search)
    candidates, validation = made(splits.train), splits.train.select(held)
    # The rest is copied only where something is drawn from it: it may be far larger than memory.
    some = [] if all(map(_stays, candidates)) else made(splits.train.select(places))
    drawn = {each.name: each for each in some}
    stand_ins = [each if _stays(each) else drawn[each.name] for each in candidates]
    candidates = [
        replace(each, note=f"{each.note}; {UNSEARCHED}") if stand_in.absent and not each.absent else each
        for each, stand_in in zip(candidates, stand_ins, strict=True)
    ]
    told = f"{', '.join(f'{rate:g}' for rate in search.learning_rates)} on {len(validation)} training images held out"
    rows: list[Row] = []
    for network in job.networks:
        alone = replace(job, networks=[network])
        job.progress.note(f"{network.name}: each row's learning rate is chosen from {told}")
        chosen = _best_rates(replace(alone, seeds=(SEED,), curves=False), search, stand_ins, preprocess, validation)
        rated = [
            candidate if rate is None else _at(candidate, rate, f"{network.name} at {rate:g}, the best rate of {told}")
            for candidate, rate in zip(candidates, chosen, strict=True)
        ]
        rows += alone.run(rated, preprocess, splits.test)
    return rows


def held_out(train: ImageSet, search: RateSearch) -> tuple[Int64[Tensor, " rest"], Int64[Tensor, " validation"]]:
    """(places of the rest, places of the validation images), stratified by class.

    Raises:
        InputError: a class of fewer than two images.
    """
    from attar.data.sources import stratified_places

    for name, members in zip(train.classes, train.class_indices, strict=True):
        if len(members) < 2:
            raise InputError(
                f"class {name!r} has {len(members)} training images; a search for learning rates holds one out and "
                "needs at least 2, so take a protocol without, e.g. quick"
            )
    return stratified_places(train.labels, train.classes, search.validation_share, SEED, "validation")


def search_note(search: RateSearch) -> str:
    """What a card says of the search."""
    rates = ", ".join(f"{rate:g}" for rate in search.learning_rates)
    return (
        f"learning rates: on each network every row has its own, the best of {rates} by one network on "
        f"{100 * search.validation_share:g} % of the training images; rows of real images are drawn without these "
        "meanwhile, the set may have been made with them; minutes are without the search"
    )


def _stays(candidate: Candidate) -> bool:
    """Whether rates are compared with the very row: the set however it is trained on, its start, what is absent."""
    own = (DISTILLED, *(NAMES[kind] for kind in ("initial", "hard-labels", "plain")))
    return candidate.name in own or candidate.absent is not None


def _best_rates(
    job: Measurement, search: RateSearch, candidates: Sequence[Candidate], preprocess: Codec, validation: ImageSet
) -> list[float | None]:
    """The best rate of each candidate on the job's one network; None for an absent one."""
    trials = [
        (place, rate, replace(candidate, learning_rate=rate))
        for place, candidate in enumerate(candidates)
        for rate in search.learning_rates
        if candidate.absent is None
    ]
    accuracies = _accuracies(job, [trial for _, _, trial in trials], preprocess, validation)
    best: list[tuple[float, float] | None] = [None] * len(candidates)
    for (place, rate, _), accuracy in zip(trials, accuracies, strict=True):
        known = best[place]
        if known is None or accuracy > known[0]:
            best[place] = accuracy, rate
    return [None if found is None else found[1] for found in best]


def _accuracies(job: Measurement, trials: Sequence[Candidate], preprocess: Codec, validation: ImageSet) -> list[float]:
    """Of each trial; -1 where it diverges. With an engine all are begun together, unless one diverges."""
    if job.engine is not None:
        try:
            return [_mean(row) for row in job.run(trials, preprocess, validation)]
        except NonFiniteLossError:
            pass  # which one it was, is found below; those that were finished are in the cache
    found = []
    for trial in trials:
        try:
            found += [_mean(row) for row in job.run([trial], preprocess, validation)]
        except NonFiniteLossError:
            found.append(-1.0)
    return found


def _mean(row: Row) -> float:
    assert row.mean is not None
    return row.mean


def _at(candidate: Candidate, rate: float, told: str) -> Candidate:
    return replace(candidate, learning_rate=rate, note=f"{candidate.note}; {told}" if candidate.note else told)
