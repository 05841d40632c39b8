"""Learning rates that are chosen on images neither trained on nor tested on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from attar.base.errors import InputError, NonFiniteLossError
from attar.base.shapes import Int64
from attar.data.image_set import ImageSet, Splits
from attar.evaluation.candidates import Candidate
from attar.evaluation.measuring import Measurement
from attar.evaluation.protocol import RateSearch
from attar.evaluation.rows import DISTILLED, NAMES, Row
from attar.models.codecs.codec import Codec

SEED = 0
"""The seed that draws the images held out, and of the networks that rates are compared with."""
UNSEARCHED = "at the protocol's rate, because there is no such row without the images held out"
SET_ROWS = {DISTILLED, NAMES["initial"], NAMES["hard-labels"], NAMES["plain"]}
"""Rows of the set's own items or of its start, which have no other items without the images held out."""


def measured_rows(
    job: Measurement, candidates: Callable[[ImageSet], list[Candidate]], preprocess: Codec, splits: Splits
) -> list[Row]:
    """The rows of candidates from training images, each at the protocol's rate or at the best of its search.

        r* = argmax over r of the accuracy on V of one network trained at r, V a share of every class's training images

    Real images that stand beside the set are drawn without V while rates are compared, so that none of them is trained
    and validated on; the set itself and its starting point are what they are, and may have seen some of V. Test images
    choose nothing. A rate at which the training diverges loses to every other.

    Args:
        job: networks, seeds, device and protocol; it also tells the cache and the engine.
        candidates: training images to the rows.
        preprocess: images to network inputs.
        splits: V is drawn from the training part.

    Raises:
        InputError: a search, and a class of fewer than two training images.

    Source: DD-Ranking searches so, on test images: ddranking/metrics/hard_label.py.
    """
    search = job.protocol.rate_search
    if search is None:
        return job.run(candidates(splits.train), preprocess, splits.test)
    rest, held = held_out(splits.train, search)
    scored, validation = candidates(splits.train), splits.train.select(held)
    compared = scored
    # The rest is copied only where something is drawn from it: it may be far larger than memory.
    if not all(map(_stays, scored)):
        drawn = {candidate.name: candidate for candidate in candidates(splits.train.select(rest))}
        compared = [candidate if _stays(candidate) else drawn[candidate.name] for candidate in scored]
        scored = [
            _noted(candidate, UNSEARCHED) if stand_in.absent and not candidate.absent else candidate
            for candidate, stand_in in zip(scored, compared, strict=True)
        ]
    choice = f"{_listed(search)} on {len(validation)} training images held out"
    rows: list[Row] = []
    for network in job.networks:
        alone = replace(job, networks=[network])
        job.progress.note(f"{network.name}: each row's learning rate is chosen from {choice}")
        best = _best_rates(replace(alone, seeds=(SEED,), curves=False), search, compared, preprocess, validation)
        rated = [
            candidate
            if rate is None
            else _at(candidate, rate, f"{network.name} at {rate:g}, the best rate of {choice}")
            for candidate, rate in zip(scored, best, strict=True)
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
    """The remark of a card on the search."""
    return (
        f"learning rates: on each network every row has its own, the best of {_listed(search)} by one network on "
        f"{100 * search.validation_share:g} % of the training images; rows of real images are drawn without these "
        "meanwhile, the set may have been made with them; minutes are without the search"
    )


def _listed(search: RateSearch) -> str:
    return ", ".join(f"{rate:g}" for rate in search.learning_rates)


def _stays(candidate: Candidate) -> bool:
    """Whether rates are compared with the very row that is scored."""
    return candidate.name in SET_ROWS or candidate.absent is not None


def _noted(candidate: Candidate, note: str) -> Candidate:
    return replace(candidate, note=f"{candidate.note}; {note}" if candidate.note else note)


def _at(candidate: Candidate, rate: float, note: str) -> Candidate:
    return replace(_noted(candidate, note), learning_rate=rate)


def _best_rates(
    job: Measurement, search: RateSearch, candidates: Sequence[Candidate], preprocess: Codec, validation: ImageSet
) -> list[float | None]:
    """The best rate of each candidate on the job's one network, the smaller of equals; None for an absent one."""
    rates, present = search.learning_rates, [candidate for candidate in candidates if candidate.absent is None]
    trials = [replace(candidate, learning_rate=rate) for candidate in present for rate in rates]
    accuracies = iter(_accuracies(job, trials, preprocess, validation))
    best: list[float | None] = []
    for candidate in candidates:
        scores = {rate: next(accuracies) for rate in rates} if candidate.absent is None else {}
        best.append(max(scores, key=scores.__getitem__, default=None))  # the first of equals, and rates ascend
    return best


def _accuracies(job: Measurement, trials: Sequence[Candidate], preprocess: Codec, validation: ImageSet) -> list[float]:
    """The accuracy of each trial; -1 where it diverges. An engine begins all together, unless one diverges."""
    if job.engine is not None:
        try:
            return [row.mean or 0.0 for row in job.run(trials, preprocess, validation)]
        except NonFiniteLossError:
            pass  # which one it was, is found below; those that were finished are in the cache
    accuracies = []
    for trial in trials:
        try:
            accuracies += [row.mean or 0.0 for row in job.run([trial], preprocess, validation)]
        except NonFiniteLossError:
            accuracies.append(-1.0)
    return accuracies
