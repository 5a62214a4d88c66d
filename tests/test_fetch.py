"""Public data sets fetched: from a server of the test's own, checked by digest, never half written; no network."""

from __future__ import annotations

import io
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from sim.fetch.fetching import fetch
from sim.fetch.http import check_url
from sim.fetch.sets import load_sets
from tests.fetch_world import COMMIT, ONE, OTHER, PATHS, TWO, World, serving, sha256


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.delenv("CHAMELEON_DATA_URL", raising=False)
    with serving() as server:
        yield World(tmp_path, server)


# --- fetching ---


def test_every_file_of_a_set_is_fetched_into_a_folder_of_its_name(world: World) -> None:
    said = world.fetch()
    assert said.code == 0, said.err
    assert world.left() == ["SOURCE.txt", "one.csv", "two.bin"]
    assert (world.root / "things" / "one.csv").read_bytes() == ONE
    assert (world.root / "things" / "two.bin").read_bytes() == TWO
    assert said.out.splitlines() == [str(world.root / "things" / name) for name in ("one.csv", "two.bin")]
    assert "fetched: 2, kept: 0" in said.err


def test_a_file_is_asked_for_at_the_pinned_commit_with_its_path_quoted(world: World) -> None:
    world.fetch()
    assert world.server.asked == list(PATHS.values())


def test_the_source_is_told_beside_the_files(world: World) -> None:
    world.fetch()
    text = (world.root / "things" / "SOURCE.txt").read_text()
    told = ("someone/things", COMMIT, "CC-BY-4.0", "Someone, Things, 2024", "one.csv", sha256(ONE), sha256(TWO))
    assert [item for item in told if item not in text] == []


def test_licence_and_citation_are_told_before_anything_is_fetched(world: World) -> None:
    world.server.pages.clear()
    said = world.fetch()
    assert said.err.startswith(f"someone/things @ {COMMIT}; licence: CC-BY-4.0; cite: Someone, Things, 2024\nerror: ")


def test_terms_are_shown_before_anything_is_fetched(world: World) -> None:
    world.server.pages.clear()
    said = world.fetch("study-things")
    assert 0 < said.err.index("\nterms: For study only.\n") < said.err.index("error: ")
    assert "\nterms: " not in world.fetch("things").err


def test_the_environment_names_a_mirror(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAMELEON_DATA_URL", world.server.url + "/")
    assert world.say("fetch", "things", "--to", world.root).code == 0
    assert world.server.asked == list(PATHS.values())


def test_the_flag_wins_over_the_environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAMELEON_DATA_URL", "https://mirror.invalid")
    assert world.fetch().code == 0


def test_a_mirror_on_this_machine_is_not_asked_through_a_proxy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert world.fetch().code == 0


def test_without_to_the_files_go_below_data_in_the_working_directory(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert world.say("fetch", "things", "--from", world.server.url).code == 0
    assert (tmp_path / "data" / "things" / "one.csv").read_bytes() == ONE


def test_a_redirect_is_followed(world: World) -> None:
    world.server.moved[PATHS["one.csv"]] = "/elsewhere"
    world.server.pages["/elsewhere"] = ONE
    assert world.fetch().code == 0
    assert (world.root / "things" / "one.csv").read_bytes() == ONE


def test_a_redirect_to_what_may_not_be_asked_is_refused(world: World) -> None:
    world.server.moved[PATHS["one.csv"]] = "http://mirror.invalid/one.csv"
    said = world.fetch()
    assert said.code == 2
    assert "the server redirects, and 'http://mirror.invalid/one.csv' is not allowed" in said.err
    assert world.left() == []


# --- a second time ---


def test_files_that_are_there_and_right_are_not_fetched_again(world: World) -> None:
    world.fetch()
    world.server.asked.clear()
    said = world.fetch()
    assert (said.code, world.server.asked) == (0, [])
    assert "fetched: 0, kept: 2" in said.err


def test_what_is_missing_is_fetched_beside_what_is_kept(world: World) -> None:
    kept = world.put("one.csv", ONE)
    before = kept.stat().st_mtime_ns
    assert world.fetch().code == 0
    assert world.server.asked == [PATHS["two.bin"]]
    assert kept.stat().st_mtime_ns == before
    assert world.left() == ["SOURCE.txt", "one.csv", "two.bin"]


def test_a_wrong_file_that_is_there_is_neither_replaced_nor_passed_over(world: World) -> None:
    path = world.put("two.bin", OTHER)
    said = world.fetch()
    assert said.code == 2
    assert f"{path}: expected sha256 {sha256(TWO)}, got {sha256(OTHER)}" in said.err
    assert "--force" in said.err
    assert (world.server.asked, path.read_bytes(), world.left()) == ([], OTHER, ["two.bin"])


def test_a_wrong_file_is_replaced_by_force(world: World) -> None:
    path = world.put("two.bin", OTHER)
    assert world.fetch("things", "--force").code == 0
    assert path.read_bytes() == TWO


# --- failures ---


def test_another_content_is_told_with_both_digests_and_nothing_is_left_of_it(world: World) -> None:
    world.server.pages[PATHS["one.csv"]] = OTHER
    said = world.fetch()
    assert said.code == 2
    assert world.server.url + PATHS["one.csv"] in said.err
    assert f"expected sha256 {sha256(ONE)}, got {sha256(OTHER)}" in said.err
    assert world.left() == []


def test_a_wrong_download_by_force_leaves_the_file_that_was_there(world: World) -> None:
    path = world.put("one.csv", b"mine")
    world.server.pages[PATHS["one.csv"]] = OTHER
    assert world.fetch("things", "--force").code == 2
    assert (path.read_bytes(), world.left()) == (b"mine", ["one.csv"])


def test_a_content_longer_than_expected_is_not_read_to_its_end(world: World) -> None:
    world.server.pages[PATHS["one.csv"]] = ONE + TWO
    said = world.fetch()
    assert said.code == 2
    assert f"longer than the {len(ONE)} bytes that were expected" in said.err
    assert world.left() == []


def test_an_error_of_the_server_is_told_with_its_status(world: World) -> None:
    world.server.pages[PATHS["one.csv"]] = 404
    said = world.fetch()
    assert said.code == 2
    assert f"{world.server.url}{PATHS['one.csv']}: the server answered 404 Not Found" in said.err
    assert world.left() == []


def test_files_before_the_failing_one_stay_and_are_kept_the_next_time(world: World) -> None:
    world.server.pages[PATHS["two.bin"]] = 503
    assert "answered 503" in world.fetch().err
    assert world.left() == ["one.csv"]
    world.server.pages[PATHS["two.bin"]] = TWO
    assert "fetched: 1, kept: 1" in world.fetch().err


def test_a_download_that_breaks_off_leaves_nothing_and_succeeds_the_next_time(world: World) -> None:
    world.put("one.csv", ONE)
    world.server.cut_after = 150_000
    said = world.fetch()
    assert said.code == 2
    assert "the connection broke off 50000 bytes before the end" in said.err
    assert world.left() == ["one.csv"]
    world.server.cut_after = None
    assert world.fetch().code == 0
    assert world.check().code == 0


def test_an_interrupt_leaves_no_half_file(world: World) -> None:
    with mock.patch("sim.fetch.http.hashlib.sha256", side_effect=KeyboardInterrupt):
        said = world.fetch()
    assert (said.code, world.left()) == (130, [])


def test_a_server_that_cannot_be_reached_is_told_with_what_to_do_by_hand(world: World) -> None:
    world.put("one.csv", ONE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    said = world.say("fetch", "things", "--from", url, "--to", world.root)
    assert said.code == 2
    assert "no connection" in said.err
    assert "Traceback" not in said.err
    needed = (
        url + PATHS["two.bin"],
        str(world.root / "things" / "two.bin"),
        sha256(TWO),
        f"chameleon data check things --to {world.root}",
    )
    assert [item for item in needed if item not in said.err] == []
    assert PATHS["one.csv"] not in said.err  # it is there already


def test_a_server_that_keeps_silent_is_given_up(world: World) -> None:
    world.server.is_silent = True
    with mock.patch("sim.fetch.http.TIMEOUT_S", 0.1):
        said = world.fetch()
    world.server.is_over.set()
    assert said.code == 2
    assert "no connection (timed out)" in said.err
    assert world.left() == []


def test_an_unknown_name_is_answered_with_the_close_one(world: World) -> None:
    said = world.fetch("study-thing")
    assert said.code == 2
    assert "unknown data set 'study-thing' - did you mean 'study-things'?" in said.err


@pytest.mark.parametrize(
    "url",
    ["ftp://127.0.0.1", "file:///etc", "http://mirror.invalid", "mirror.invalid", "https://", "http://localhost.a"],
)
def test_only_https_and_this_machine_s_http_are_asked(world: World, url: str) -> None:
    said = world.say("fetch", "things", "--from", url, "--to", world.root)
    assert said.code == 2
    assert f"{url!r} is not allowed" in said.err
    assert world.left() == []


@pytest.mark.parametrize(
    "url", ["https://mirror.invalid/a", "http://localhost:80", "http://127.0.0.1", "http://[::1]:80"]
)
def test_an_allowed_url_is_returned_as_it_is(url: str) -> None:
    assert check_url(url) == url


class Terminal(io.StringIO):
    """Where a person watches."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "is_shown"), [(Terminal(), True), (io.StringIO(), False)])
def test_progress_is_counted_on_a_terminal_alone(
    world: World, monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, is_shown: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stderr", stream)
    fetch(load_sets(world.catalogue)["things"], world.root, world.server.url)
    assert ("things (KiB)" in stream.getvalue()) == is_shown
    assert ("195/195" in stream.getvalue()) == is_shown


# --- what cannot be fetched ---


def test_a_table_made_from_others_is_refused_with_its_source_its_columns_and_its_place(world: World) -> None:
    said = world.fetch("made-things")
    assert said.code == 2
    place = world.root / "tables"
    needed = (
        "made-things cannot be fetched as is",
        "someone/things @ abc1234: results/*.json",
        "columns needed: a, b",
        str(place / "made.csv"),
        f"--data {place}",
        f"chameleon data check made-things --to {world.root}",
    )
    assert [item for item in needed if item not in said.err] == []
    assert (world.server.asked, world.left()) == ([], [])


def test_a_file_whose_path_is_not_recorded_is_refused_with_what_is_known(world: World) -> None:
    said = world.fetch("lost-things")
    assert said.code == 2
    assert "its repository has it, but the path is not recorded" in said.err
    assert f"someone/things @ {COMMIT}: in tables/ or below it" in said.err
    assert sha256(ONE) in said.err
    assert world.server.asked == []


def test_the_rest_of_a_set_is_fetched_and_what_is_left_out_is_told(world: World) -> None:
    said = world.fetch("mixed-things")
    assert said.code == 0
    assert world.server.asked == [PATHS["one.csv"]]
    assert "note: lost.csv is not fetched: its repository has it, but the path is not recorded" in said.err
    assert "lost.csv" not in (world.root / "mixed-things" / "SOURCE.txt").read_text()
