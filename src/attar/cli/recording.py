"""What verbs that score need to record their runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attar.base.errors import InputError

if TYPE_CHECKING:
    from attar.evaluation.scorecard import Scorecard
    from attar.sets.distilled import DistilledSet

RecordOption = Annotated[
    Path | None, typer.Option("--record", help="Keep the scores as a small file in this folder, for leaderboard.")
]
CommitOption = Annotated[
    str | None, typer.Option("--commit", help="Of attar's source, where it does not run from its checkout.")
]


@dataclass(frozen=True)
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

    @classmethod
    def of(cls, context: typer.Context, folder: Path | None, commit: str | None, overwrite: bool) -> Recorder:
        """Raises InputError, before any work, where a run could not be recorded."""
        if folder is None:
            if commit is not None:
                raise InputError("--commit has no effect without --record; leave it out, or give --record FOLDER")
            return cls(None, "", (), overwrite)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--record {folder} is a file; give a folder")
        from attar.studies.leaderboard.provenance import source_commit

        return cls(folder, source_commit(commit), ["attar", *(context.find_root().obj or [])], overwrite)

    def check(self, names: Sequence[str]) -> None:
        """Raise InputError where two sets that are to be recorded have one name."""
        twice = [name for name in names if names.count(name) > 1]
        if self.folder is not None and twice:
            raise InputError(f"two files are called {twice[0]!r} and cannot be told apart in records; rename one")

    def keep(self, cards: Sequence[Scorecard], sets: Sequence[tuple[str, DistilledSet]]) -> list[str]:
        """Write each card's record, of the set of its name; what to say of them, nothing without a folder."""
        if self.folder is None:
            return []
        from attar.studies.leaderboard.provenance import distilling_command
        from attar.studies.leaderboard.record import record_of, write_record

        said = []
        for card, distilled in ((card, dict(sets)[card.name]) for card in cards):
            made_by = distilling_command(distilled, card.name)
            record = record_of(
                card, commit=self.commit, command=self.command, fingerprint=distilled.fingerprint, made_by=made_by
            )
            path, written = write_record(record, self.folder, self.overwrite)
            said.append(str(path) if written else f"{path} has these scores already and is left as it is")
        return said
