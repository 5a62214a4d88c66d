"""A command that is told to end ends its workers too: nobody is left who holds its output open."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer

from sim.cli.app import app
from sim.cli.mistakes import KEEPING
from tests.commands import chameleon, python

ENDED_AFTER_S = 120.0  # else it hangs
# Says that it has begun, and never comes back.
POLICY = """
import time
from policies.base import Cache

class Stuck(Cache):
    def used(self, adapter, now):
        with open({pipe!r}, "w") as pipe:
            pipe.write("begun")
        time.sleep(3600)
"""


@pytest.mark.parametrize(("number", "left_with"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_command_and_its_workers(number: signal.Signals, left_with: int, tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    (tmp_path / "stuck.py").write_text(POLICY.format(pipe=str(pipe)))
    flags = ("-s", "slora", "--rates", "4,8", "-n", "20", "--reps", "1", "--out", "runs", "-j", "2")
    code = (
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "from sim.__main__ import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, "sweep", *flags, "--set", "cache.kind=stuck.py:Stuck"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert pipe.read_text().startswith("begun")
            process.send_signal(number)
            out, err = process.communicate(timeout=ENDED_AFTER_S)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, out) == (left_with, "")
    first, second, *_ = err.splitlines()  # joblib may have words of its own about its semaphores
    assert first == "0 of 2 runs are finished"
    assert second == "interrupted; with --out, what was finished is kept"


def interrupted(*command: str) -> str:
    with mock.patch("sim.experiments.replications.execute", side_effect=KeyboardInterrupt):
        said = chameleon(*command)
    assert said.code == 130
    return said.err.splitlines()[-1]


def test_an_interrupted_command_says_when_it_keeps_what_was_finished() -> None:
    sweep = ("sweep", "-s", "slora", "--rates", "4", "-n", "20", "-j", "1")
    assert interrupted(*sweep) == "interrupted; with --out, what was finished is kept"
    table = ("systems", "table", "-s", "slora", "-n", "20", "-j", "1")
    assert interrupted(*table) == "interrupted; with --keep, what was finished is kept"
    with mock.patch("sim.experiments.demo.do", side_effect=KeyboardInterrupt):
        assert interrupted("demo", "-n", "100", "-j", "1") == "interrupted"


@pytest.mark.parametrize("name", KEEPING)
def test_what_keeps_is_a_command_with_the_flags_that_it_names(name: str) -> None:
    command: Any = typer.main.get_command(app)
    for word in name.split():
        command = command.get_command(None, word)
    assert set(re.findall("--[a-z]+", KEEPING[name] or "")) <= {flag for one in command.params for flag in one.opts}


def test_a_second_sigterm_does_not_break_off_what_the_first_has_begun(tmp_path: Path) -> None:
    code = (
        "import signal, sim.cli.app\n"
        "def twice(**_):\n"
        "    try:\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "    finally:\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "        print('told')\n"
        "sim.cli.app.app = twice\n"
        "from sim.__main__ import main\n"
        "main()\n"
    )
    assert python(code, tmp_path) == (143, "told\n", "")


def test_the_signals_handler_is_the_commands_own_and_gone_after_it() -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert chameleon("--version").code == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_command_in_a_thread_leaves_signals_alone(tmp_path: Path) -> None:
    code = (
        "import sys, threading\n"
        "from sim.__main__ import main\n"
        "sys.argv = ['chameleon', '--version']\n"
        "thread = threading.Thread(target=main)\n"
        "thread.start(); thread.join()\n"
    )
    said = python(code, tmp_path)
    assert said.out.startswith("chameleon-sim ")
    assert said.err == ""
