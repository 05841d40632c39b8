"""The state of an unfinished run: what it was, how far it came, its figures so far."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from attar.base.errors import InputError
from attar.base.files import atomic_path, canonical_json, write_text
from attar.base.locks import Claims


def run_folder(out: Path) -> Path:
    """`NAME.run` beside `NAME.attar.safetensors`."""
    stem = out.name.removesuffix(".safetensors").removesuffix(".attar")
    return out.with_name(f"{stem}.run")


class RunState:
    """The folder `NAME.run` beside the file `NAME.attar.safetensors` that a run will write.

    run.json holds the resolved configuration, metrics.jsonl a line for each step, checkpoint.safetensors the tensors of
    the last saved step. A finished run keeps the first two.

    Args:
        out: the file that the run will write.
        configuration: JSON-able; a run is resumed only where it is the same.
    """

    def __init__(self, out: Path, configuration: dict[str, Any]) -> None:
        self.folder = run_folder(out)
        self._lock_file, self._metrics_file = self.folder / "run.lock", self.folder / "metrics.jsonl"
        self._checkpoint, self._configuration_file = self.folder / "checkpoint.safetensors", self.folder / "run.json"
        self.configuration = configuration
        self._metrics: list[str] = []
        self._claims: Claims | None = None

    def open(self, overwrite: bool = False) -> tuple[int, dict[str, Tensor]]:
        """Start or resume: the number of steps done, and the tensors saved then (empty at the start).

        Raises:
            InputError: an unfinished run of another configuration is here and `overwrite` is False, or another process
                is at this run now.
        """
        self.folder.mkdir(exist_ok=True)
        self._claim()
        earlier = self._read_configuration()
        same = earlier is not None and canonical_json(earlier) == canonical_json(self.configuration)
        if not self._checkpoint.exists() or (overwrite and not same):
            self._checkpoint.unlink(missing_ok=True)
            self._metrics_file.unlink(missing_ok=True)
            write_text(self._configuration_file, json.dumps(self.configuration, indent=1, sort_keys=True))
            return 0, {}
        if not same:
            differing = _first_difference(earlier or {}, self.configuration)
            raise InputError(
                f"{self.folder} holds an unfinished run of another configuration ({differing}); repeat its own command "
                "to finish it, give another --out, or --overwrite to start anew"
            )
        step, tensors = self._read_checkpoint()
        self._keep_metrics_until(step)
        return step, tensors

    def close(self) -> None:
        """Let other processes have the run."""
        if self._claims is not None:
            self._claims.close()
            self._claims = None

    def record(self, step: int, figures: dict[str, float]) -> None:
        """Note the figures of a step (counted from 1); written at the next `save`."""
        self._metrics.append(canonical_json({"step": step, **figures}))

    def save(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Make `step` the one to resume from."""
        from safetensors.torch import save_file

        if self._metrics:
            with self._metrics_file.open("a", encoding="utf-8") as file:
                file.write("\n".join(self._metrics) + "\n")
            self._metrics = []
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with atomic_path(self._checkpoint) as temporary:
            save_file(contiguous, str(temporary), metadata={"step": str(step)})

    def finish(self) -> None:
        """The run's file is written: the checkpoint is no longer needed."""
        self._checkpoint.unlink(missing_ok=True)
        self._lock_file.unlink(missing_ok=True)

    def _claim(self) -> None:
        """Refuse a run that another process is at; where files cannot be locked, hope that there is none."""
        self.close()
        self._claims = Claims(self._lock_file)
        with suppress(InputError):
            if self._claims.take(0):
                return
            self.close()
        if self._claims is None:
            raise InputError(f"another process is distilling into {self.folder}; wait for it, or give another --out")

    def _read_configuration(self) -> dict[str, Any] | None:
        try:
            return dict(json.loads(self._configuration_file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return None

    def _read_checkpoint(self) -> tuple[int, dict[str, Tensor]]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(self._checkpoint), framework="pt") as file:
                return int(file.metadata()["step"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise InputError(
                f"{self._checkpoint} is damaged ({error}); delete {self.folder} or give --overwrite to start anew"
            ) from None

    def _keep_metrics_until(self, step: int) -> None:
        if self._metrics_file.exists():
            lines = self._metrics_file.read_text(encoding="utf-8").splitlines()
            write_text(self._metrics_file, "".join(f"{line}\n" for line in lines[:step]))


def _first_difference(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> str:
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if old != new:
            if isinstance(old, dict) and isinstance(new, dict):
                return _first_difference(old, new, f"{prefix}{key}.")
            return f"{prefix}{key} was {old!r} and is now {new!r}"[:160]
    return "unreadable run.json"
