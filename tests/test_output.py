"""What is written appears whole, where it was asked for, and an error about it names what was asked for."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import pytest

import sim
from sim.files.output import check_file, check_folder, drafted
from sim.files.textfile import write_text
from sim.plots import p99_over_time, save
from sim.readers.write import write_canonical
from sim.report.page import write_report
from sim.results.timeline import write_timeline
from sim.trace import Trace
from tests.commands import python

NOBODYS = Path("/proc/self")
needs_nobodys = pytest.mark.skipif(not NOBODYS.is_dir(), reason="needs a folder in which nobody can write")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def piped(pipe: Path, write: Callable[[Path], object]) -> bytes:
    """Return what a writer puts into a pipe, which must stay one."""
    os.mkfifo(pipe)
    with TemporaryFile() as file, subprocess.Popen(["cat", str(pipe)], stdout=file) as reader:
        try:
            write(pipe)
            assert pipe.is_fifo()
            assert names(pipe.parent) == [pipe.name]
            reader.wait()
        finally:
            reader.kill()
        file.seek(0)
        return file.read()


def test_a_draft_lies_hidden_beside_its_place_until_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with drafted(tmp_path / "a.txt") as draft:
        draft.write_text("new")
        assert (draft.parent, draft.name[0]) == (tmp_path, ".")
        assert (tmp_path / "a.txt").read_text() == "old"
    assert (tmp_path / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_what_is_there_stays_when_writing_fails(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(KeyboardInterrupt), drafted(tmp_path / "a.txt") as draft:
        broken_off(draft)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def broken_off(draft: Path) -> None:
    draft.write_text("half")
    raise KeyboardInterrupt


@pytest.mark.parametrize("is_there", [True, False])
def test_a_symbolic_link_is_followed(tmp_path: Path, *, is_there: bool) -> None:
    (there := tmp_path / "elsewhere").mkdir()
    if is_there:
        (there / "real.txt").write_text("old")
    (link := tmp_path / "link.txt").symlink_to(Path("elsewhere", "real.txt"))
    write_text(link, "new")
    assert link.is_symlink()
    assert (there / "real.txt").read_text() == "new"
    assert names(there) == ["real.txt"]


def trace() -> Trace:
    one = np.ones(1, dtype=np.int64)
    return Trace("one", np.zeros(1), one, one, (None,), 0 * one, lacks=frozenset({"adapters"}))


def picture(path: Path) -> None:
    import pandas as pd  # noqa: PLC0415

    save(p99_over_time({"slora": pd.DataFrame({"t_s": [0.0], "p99_ttft_s": [1.0]})}, slo_s=None), path)


def timeline(path: Path) -> None:
    write_timeline(sim.run("slora", "paper", rate=9, requests=3).run, path)


@pytest.mark.parametrize(
    ("name", "write", "start"),
    [
        ("a.txt", lambda path: write_text(path, "text"), b"text"),
        ("a.csv", lambda path: write_canonical(trace(), path), b"request_id"),
        ("a.csv.gz", lambda path: write_canonical(trace(), path), b"\x1f\x8b"),
        ("a.json.gz", timeline, b"\x1f\x8b"),
        ("a.png", picture, b"\x89PNG"),
        ("a.svg", picture, b"<?xml"),
        ("a.pdf", picture, b"%PDF"),
    ],
)
def test_every_writer_writes_into_a_pipe_and_leaves_it_one(
    name: str, write: Callable[[Path], None], start: bytes, tmp_path: Path
) -> None:
    assert piped(tmp_path / name, write).startswith(start)


def test_a_report_is_written_into_a_pipe(tmp_path: Path) -> None:
    run = sim.run("slora", "paper", rate=9, requests=120).save(tmp_path / "run")
    (tmp_path / "pipes").mkdir()
    content = piped(tmp_path / "pipes" / "r.html", lambda path: write_report([run], path))
    assert content.lower().startswith(b"<!doctype html>")


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as caught:
        write_text(tmp_path, "text")
    assert caught.value.filename == str(tmp_path)
    assert names(tmp_path) == []


def test_a_file_in_the_place_of_a_folder_is_told_with_the_target(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError) as caught:
        write_text(tmp_path / "file" / "a.txt", "text")
    assert caught.value.filename == str(tmp_path / "file" / "a.txt")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EACCES])
def test_an_error_that_names_no_file_or_the_draft_names_the_target(number: int, tmp_path: Path) -> None:
    for is_named in (False, True):
        with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught, drafted(tmp_path / "a") as draft:
            raise OSError(number, f"a library says so of {draft}", *([str(draft)] if is_named else []))
        assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / "a"))
        assert ".draft" not in str(caught.value)


def test_an_error_about_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, drafted(tmp_path / "a"):
        (tmp_path / "other").read_text()
    assert caught.value.filename == str(tmp_path / "other")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("run", "slora", "--out", "full"), "error: full: File too large"),
        (
            ("sweep", "-s", "slora", "--rates", "9", "--reps", "1", "-j", "1", "--out", "full"),
            "'full/slora/rate-9/seed-0'",
        ),
    ],
)
def test_what_no_longer_fits_on_the_disk_is_named(command: tuple[str, ...], told: str, tmp_path: Path) -> None:
    code = (
        "import resource, sys\n"
        "from sim.__main__ import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        f"sys.argv = ['chameleon', *{command!r}, '-n', '1000']\n"
        "main()\n"
    )
    said = python(code, tmp_path)
    assert said.code in {1, 2}
    assert told in said.err
    assert not list(tmp_path.rglob(".*"))


@needs_nobodys
def test_a_folder_in_which_nobody_can_write_is_told_with_the_target() -> None:
    for target in (NOBODYS / "a.txt", NOBODYS / "new" / "a.txt"):
        with pytest.raises(OSError, match=r"/a\.txt") as caught:
            write_text(target, "text")
        assert caught.value.filename == str(target)


def test_a_check_leaves_nothing_behind(tmp_path: Path) -> None:
    check_file(tmp_path / "new" / "a.txt")
    check_folder(tmp_path / "new", tmp_path / "new")
    assert names(tmp_path) == []


@needs_nobodys
def test_a_check_finds_where_nobody_can_write() -> None:
    with pytest.raises(ValueError, match=r"^/proc/self/new/a.txt cannot be written: /proc/self: "):
        check_file(NOBODYS / "new" / "a.txt")
    with pytest.raises(ValueError, match=r"^/proc/self/new cannot be written: /proc/self: "):
        check_folder(NOBODYS / "new", NOBODYS / "new")


@needs_nobodys
def test_a_check_follows_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(NOBODYS / "a.txt")
    with pytest.raises(ValueError, match="link cannot be written: "):
        check_file(tmp_path / "link")


def test_a_check_tells_folders_from_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a directory; a file is needed"):
        check_file(tmp_path)
    with pytest.raises(ValueError, match=r"file is a file; a directory is needed for .*a\.txt"):
        check_file(tmp_path / "file" / "a.txt")


def test_a_check_of_a_pipe_waits_for_no_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    check_file(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_standard_output_that_is_a_file_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    code = "from pathlib import Path; from sim.files.textfile import write_text; write_text(Path('/dev/stdout'), {!r})"
    if not Path("/dev/stdout").exists():
        pytest.skip("there is no /dev/stdout here")
    file = tmp_path / "all.txt"
    file.write_text("before\n")
    with file.open("a") as out:
        for text in ("one\n", "two\n"):
            subprocess.run([sys.executable, "-c", code.format(text)], stdout=out, check=True)
    assert file.read_text() == "before\none\ntwo\n"
    with file.open("w") as out:
        for command in ([sys.executable, "-c", code.format("one\n")], ["echo", "two"]):
            subprocess.run(command, stdout=out, check=True)
    assert file.read_text() == "one\ntwo\n"


def test_what_others_may_not_read_stays_so(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("old")
    file.chmod(0o600)
    with drafted(file) as draft:
        draft.write_text("new")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("new", 0o600)


def test_a_name_as_long_as_the_system_allows_is_no_trouble(tmp_path: Path) -> None:
    file = tmp_path / ("x" * 251 + ".txt")
    with drafted(file) as draft:
        draft.write_text("there")
    assert file.read_text() == "there"
