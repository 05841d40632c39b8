"""Verbs that train networks on sets, and test them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import attar
from attar.base.errors import InputError
from attar.base.files import set_name
from attar.cli import options
from attar.cli.app import verb
from attar.cli.terminal import say, show_table, write_card

if TYPE_CHECKING:
    from attar.evaluation.scorecard import Scorecard
    from attar.sets.distilled import DistilledSet

Curves = Annotated[bool, "Keep accuracies of up to 12 epochs in the card; the last alone counts."]
STOPPED = "stopped; the same command continues: networks already trained are kept in the cache"


@dataclass(frozen=True, kw_only=True)
class Judging:
    """Which networks are trained, and which baselines stand beside the set."""

    protocol: options.Protocol = "quick"
    networks: options.Networks = None
    seeds: options.Seeds = None
    baselines: Annotated[
        str | None, "Only these rows beside it: names, or usual, coresets, bytes, dd-ranking, all."
    ] = None
    no_baselines: Annotated[bool, "Only the distilled sets themselves."] = False

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `evaluate` and `compare`. Raises InputError."""
        if self.baselines is not None and self.no_baselines:
            raise InputError("--baselines and --no-baselines are both given; give one of them")
        return {
            "protocol": self.protocol,
            "networks": options.names(self.networks),
            "seeds": self.seeds,
            "baselines": not self.no_baselines if self.baselines is None else options.names(self.baselines),
        }


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Whether scores are kept for the leaderboard."""

    record: Annotated[Path | None, "Keep the scores as a small file in this folder, for leaderboard."] = None
    commit: Annotated[str | None, "Of attar's source, where it does not run from its checkout."] = None

    def recorder(self, context: typer.Context, overwrite: bool) -> Recorder:
        """Return what records the run. Raises InputError, before any work, where it could not be recorded."""
        if self.record is None:
            if self.commit is not None:
                raise InputError("--commit has no effect without --record; leave it out, or give --record FOLDER")
            return Recorder(folder=None, commit="", command=(), overwrite=overwrite)
        if self.record.exists() and not self.record.is_dir():
            raise InputError(f"--record {self.record} is a file; give a folder")
        from attar.studies.leaderboard.provenance import source_commit

        command = ["attar", *(context.find_root().obj or [])]
        commit = source_commit(self.commit)
        return Recorder(folder=self.record, commit=commit, command=command, overwrite=overwrite)


@dataclass(frozen=True, kw_only=True)
class Recorder:
    """Where a verb's scores are kept, and what is known of the run before it begins.

    Args:
        folder: of the records; None keeps nothing.
        commit: of attar's source.
        command: the verb with its arguments.
        overwrite: whether other scores of the same run may be replaced.
    """

    folder: Path | None
    commit: str
    command: Sequence[str]
    overwrite: bool

    def keep(self, cards: Sequence[Scorecard], sets: Mapping[str, DistilledSet]) -> None:
        """Write the record of each card, of the set that has its name, and say where; without a folder nothing."""
        if self.folder is None:
            return
        from attar.studies.leaderboard.provenance import distilling_command
        from attar.studies.leaderboard.record import record_of, write_record

        for card, distilled in ((card, sets[card.name]) for card in cards):
            made_by = distilling_command(distilled, card.name)
            record = record_of(
                card, commit=self.commit, command=self.command, fingerprint=distilled.fingerprint, made_by=made_by
            )
            path, written = write_record(record, self.folder, self.overwrite)
            say(str(path) if written else f"{path} has these scores already and is left as it is")


@verb("evaluate", STOPPED)
def evaluate_verb(
    file: options.File,
    *,
    context: typer.Context,
    data: options.DataOption,
    judging: Judging,
    json_out: options.JsonOut = None,
    markdown: Annotated[bool, "Print the table as Markdown."] = False,
    recording: Recording,
    flip: options.Flip = None,
    curves: Curves = False,
    session: options.Session,
) -> None:
    """Train networks on a file, test them on real images.

    Baselines of the same bytes stand beside it: random real images, a coreset, the undistilled start.
    """
    options.refuse_outputs(session.output.overwrite, json_out)
    if curves and json_out is None:
        raise InputError("--curves has no effect without --json: the table does not show them; give --json FILE")
    recorder = recording.recorder(context, session.output.overwrite)
    arguments, engine = judging.arguments(), session.jobs.chosen()
    distilled, name = attar.load(file), set_name(file)
    with session.opened(distilled, data, engine) as (splits, shared):
        card = attar.evaluate(distilled, splits, name=name, flip=flip, curves=curves, **arguments, **shared)
    # What was measured is shown before a record may be refused, so that it is not lost with it.
    if json_out == Path("-"):
        say(card.to_json())
    else:
        show_table(card.as_markdown() if markdown else card.as_table())
        write_card(json_out, card)
    recorder.keep([card], {name: distilled})


@verb("compare", STOPPED)
def compare_verb(
    files: Annotated[list[Path], "Two or more distilled files."],
    *,
    context: typer.Context,
    data: options.DataOption,
    judging: Judging,
    out: Annotated[Path | None, "Write a plot (.png), a table (.md) or everything (.json)."] = None,
    recording: Recording,
    flip: options.Flip = None,
    curves: Curves = False,
    session: options.Session,
) -> None:
    """Evaluate several files alike: a table, and a plot of accuracy against bytes and against minutes."""
    options.refuse_outputs(session.output.overwrite, out)
    options.require_suffix("--out", out, (".png", ".md", ".json"), ".png (plot), .md (table) or .json")
    if curves and (out is None or out.suffix.lower() != ".json"):
        raise InputError("--curves has no effect without --out FILE.json: tables and plots do not show them")
    recorder = recording.recorder(context, session.output.overwrite)
    arguments, engine = judging.arguments(), session.jobs.chosen()
    sets, names = [attar.load(file) for file in files], [set_name(file) for file in files]
    repeated = [name for name in names if names.count(name) > 1]
    if recorder.folder is not None and repeated:
        raise InputError(f"two files are called {repeated[0]!r} and cannot be told apart in records; rename one")
    with session.opened(sets[0], data, engine) as (splits, shared):
        comparison = attar.compare(sets, splits, names=names, flip=flip, curves=curves, **arguments, **shared)
    show_table(comparison.as_table())
    if out is not None and out.suffix.lower() == ".png":
        comparison.plot(out, overwrite=session.output.overwrite)
        say(str(out))
    else:
        write_card(out, comparison)
    recorder.keep(comparison.cards, dict(zip(names, sets, strict=True)))
