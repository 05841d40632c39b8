"""The folder of an unfinished run: one process at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attar.base.errors import InputError
from attar.runs.checkpoints import RunState

HOLD = """
import sys
from pathlib import Path
from attar.runs.checkpoints import RunState
state = RunState(Path(sys.argv[1]), {"a": 1})
state.open()
print("open", flush=True)
sys.stdin.read()
"""


def test_a_run_belongs_to_one_process_until_it_ends(tmp_path: Path) -> None:
    out = tmp_path / "x.attar.safetensors"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "open\n"
    with pytest.raises(InputError, match=r"another process is distilling into .*x\.run; wait for it"):
        RunState(out, {"a": 1}).open()
    other.kill()
    other.communicate()
    state = RunState(out, {"a": 1})
    assert state.open() == (0, {})
    state.save(3, {"values": torch.ones(2)})
    state.close()
    step, tensors = RunState(out, {"a": 1}).open()
    assert step == 3 and torch.equal(tensors["values"], torch.ones(2))
    state.finish()
    assert [path.name for path in state.folder.iterdir()] == ["run.json"]
