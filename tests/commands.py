"""The command, run inside the test's own process: what it says, where it says it, and its exit code."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

from sim.__main__ import main

AZURE = Path(__file__).resolve().parents[2] / "shared" / "data" / "azure-llm-2023" / "AzureLLMInferenceTrace_conv.csv"
AZURE_HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
needs_azure = pytest.mark.skipif(
    not AZURE.exists(), reason=f"the public trace {AZURE.name} is not here; see traces/README.md"
)


class Said(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def chameleon(*arguments: str | Path) -> Said:
    """Run `chameleon` with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["chameleon", *map(str, arguments)]
    heard = redirect_stdout(out), redirect_stderr(err)
    with mock.patch.object(sys, "argv", argv), heard[0], heard[1], pytest.raises(SystemExit) as left:
        main()
    assert isinstance(left.value.code, int)
    return Said(left.value.code, out.getvalue(), err.getvalue())


def python(code: str, folder: Path) -> Said:
    """Run Python code in a process of its own, for what a process must not do to this one."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    return Said(done.returncode, done.stdout, done.stderr)


def azure_file(path: Path, *rows: str) -> Path:
    """Write a small trace in Azure's format; rows are of the form "seconds,input,output"."""
    path.write_text(AZURE_HEADER + "".join(f"2023-11-16 18:15:{row}\n" for row in rows), encoding="utf-8")
    return path
