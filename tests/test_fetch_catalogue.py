"""Public data sets known: what a catalogue may say, what is told of it, and files that are checked by it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sim.fetch.sets import DataFile, DataSet, find_set, load_sets
from sim.files.yamltext import ConfigError, write
from tests.commands import chameleon, python
from tests.fetch_world import COMMIT, LOST, ONE, OTHER, PATHS, World, file_entry, serving, set_entry, sha256

DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.delenv("CHAMELEON_DATA_URL", raising=False)
    with serving() as server:
        yield World(tmp_path, server)


# --- checking ---


def test_fetched_files_pass_the_check(world: World) -> None:
    world.fetch()
    said = world.check()
    assert said.code == 0
    assert [line.split(": ")[:2] for line in said.out.splitlines()] == [["one.csv", "ok"], ["two.bin", "ok"]]


def test_wrong_and_absent_files_fail_the_check(world: World) -> None:
    world.put("one.csv", OTHER)
    said = world.check()
    assert said.code == 2
    assert f"one.csv: wrong: expected sha256 {sha256(ONE)}, got {sha256(OTHER)}" in said.out
    assert "two.bin: absent: " in said.out
    assert f"things: absent or wrong in {world.root / 'things'}: one.csv, two.bin" in said.err


@pytest.mark.parametrize(("content", "code", "verdict"), [(None, 0, "absent"), (ONE, 0, "ok"), (OTHER, 2, "wrong")])
def test_a_file_placed_beside_fetched_ones_may_be_absent_but_not_wrong(
    world: World, content: bytes | None, code: int, verdict: str
) -> None:
    world.fetch("mixed-things")
    if content is not None:
        world.put("lost.csv", content, "mixed-things")
    said = world.check("mixed-things")
    assert (said.code, f"lost.csv: {verdict}: " in said.out) == (code, True)


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [
        (ONE, 0, "made.csv: ok"),
        (b'"b", a,c\n1,2,3\n', 0, "made.csv: made anew"),
        (b"\xef\xbb\xbfa,b\r\n1,2\r\n", 0, "made.csv: made anew"),
        (b"a,c\n1,2\n", 2, "columns are missing: b"),
        (None, 2, "made.csv: absent"),
    ],
)
def test_a_table_made_anew_is_checked_by_its_columns(world: World, content: bytes | None, code: int, told: str) -> None:
    if content is not None:
        world.put("made.csv", content, "tables")
    said = world.check("made-things")
    assert said.code == code
    assert told in said.out


# --- listing ---


def test_the_list_says_of_each_set_whether_it_can_be_fetched(world: World) -> None:
    lines = world.say("list").out.splitlines()
    assert [re.split(r"  +", line)[:2] for line in lines] == [
        ["things", "fetched"],
        ["study-things", "fetched"],
        ["mixed-things", "in part"],
        ["made-things", "by hand"],
        ["lost-things", "by hand"],
    ]
    assert all(f"someone/things @ {COMMIT[:3]}" in line or "@ abc1234" in line for line in lines)
    assert all(line.endswith("; CC-BY-4.0]") for line in lines)


def test_a_set_is_told_with_the_addresses_of_its_files(world: World) -> None:
    told = world.say("list", "study-things", "--from", "https://mirror.invalid", "--to", "here").out
    needed = (f"https://mirror.invalid{PATHS['one.csv']}", "here/study-things/one.csv", sha256(ONE), "For study only.")
    assert [item for item in needed if item not in told] == []


def test_a_set_that_cannot_be_fetched_is_told_with_its_columns_and_its_place(world: World) -> None:
    told = world.say("list", "made-things", "--to", "here").out
    needed = ("not fetched: made from someone/things @ abc1234", "columns needed: a, b", "--data here/tables")
    assert [item for item in needed if item not in told] == []
    assert "data fetch" not in told


@pytest.mark.parametrize("arguments", [["data", "--help"], ["data", "fetch", "--help"]])
def test_help_loads_nothing_slow(arguments: list[str], tmp_path: Path) -> None:
    slow = ("numpy", "pandas", "matplotlib", "scipy", "torch")
    code = (
        f"import sys; sys.argv = ['chameleon', *{arguments!r}]\n"
        "from sim.__main__ import main\n"
        "try: main()\n"
        f"except SystemExit: print([name for name in {slow!r} if name in sys.modules])"
    )
    assert python(code, tmp_path).out.splitlines()[-1] == "[]"


# --- catalogues ---


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"licence": ""}, "licence: "),
        ({"commit": "main"}, "commit: "),
        ({"repository": "things"}, "repository: "),
        ({"files": []}, "files: "),
        ({"files": [LOST, LOST]}, "lost.csv is named twice"),
        ({"files": [file_entry("SOURCE.txt", ONE, path="a")]}, "SOURCE.txt is taken"),
        ({"files": [file_entry("../a", ONE, path="a")]}, "files.0.name: "),
        ({"files": [file_entry("a", ONE, path="../a")]}, "files.0.path: "),
        ({"files": [file_entry("a", ONE, path="/a")]}, "files.0.path: "),
        ({"files": [file_entry("a", ONE)]}, "exactly one of path, whereabouts and made_from"),
        ({"files": [{**LOST, "path": "a"}]}, "exactly one of path, whereabouts and made_from"),
        ({"files": [{**LOST, "columns": ["a"]}]}, "columns are for made_from"),
        ({"files": [{**LOST, "sha256": "0" * 63}]}, "files.0.sha256: "),
        ({"license": "MIT"}, "did you mean 'licence'?"),
    ],
)
def test_a_wrong_entry_is_refused_and_located(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    path = tmp_path / "datasets.yaml"
    path.write_text(write({"good": set_entry(LOST), "bad": set_entry(LOST, **changes)}))
    with pytest.raises(ConfigError) as caught:
        load_sets(path)
    assert told in str(caught.value)
    assert re.match(rf"{re.escape(str(path))}:\d+:\d+: ", str(caught.value))


def test_a_catalogue_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "datasets.yaml"
    path.write_text("- things\n")
    with pytest.raises(ConfigError, match="expected a mapping"):
        load_sets(path)


PACKAGED = load_sets()
FILES = [(entry, file) for entry in PACKAGED.values() for file in entry.files]
named = pytest.mark.parametrize(("entry", "file"), FILES, ids=[f"{entry.name}-{file.name}" for entry, file in FILES])


@pytest.mark.parametrize("name", PACKAGED)
def test_a_packaged_set_is_pinned_and_names_licence_and_citation(name: str) -> None:
    entry = find_set(name, PACKAGED)
    assert re.fullmatch("[0-9a-f]{40}" if entry.fetched else "[0-9a-f]{7}|[0-9a-f]{40}", entry.commit)
    assert entry.licence
    assert entry.citation
    assert len({sha for file in entry.files if (sha := file.sha256)}) == len(entry.files)


@pytest.mark.parametrize("entry", PACKAGED.values(), ids=PACKAGED)
def test_a_packaged_set_without_a_licence_shows_terms(entry: DataSet) -> None:
    assert (entry.terms is not None) == ("no licence" in entry.licence)


@named
def test_a_packaged_table_made_from_others_names_its_columns(entry: DataSet, file: DataFile) -> None:
    assert bool(file.columns) == (file.made_from is not None and file.name.endswith(".csv"))


def test_no_two_packaged_files_lie_at_one_place() -> None:
    places = [entry.place(Path()) / file.name for entry, file in FILES]
    assert len(set(places)) == len(places)


@named
def test_a_packaged_digest_is_that_of_the_copy_at_hand(entry: DataSet, file: DataFile) -> None:
    path = DATA / entry.place(Path()) / file.name
    if not path.is_file():
        pytest.skip(f"{file.name} is not on this machine")
    content = path.read_bytes()
    assert (len(content), sha256(content)) == (file.bytes, file.sha256)
    if file.columns:
        assert content.splitlines()[0].decode().split(",") == file.columns


@pytest.mark.skipif(not DATA.is_dir(), reason="the public data are not on this machine")
def test_every_published_table_at_hand_is_in_the_catalogue() -> None:
    known = {entry.place(Path()) / file.name for entry, file in FILES}
    ours = {"README.md", "gpu_priors.json"}  # derived by us
    found = {path.relative_to(DATA) for path in DATA.glob("*/*") if path.name not in ours}
    assert {path for path in found if path.parts[0] != "derived"} - known == {Path("servegen/LICENSE")}


def test_the_packaged_research_data_show_their_terms_before_the_network_is_asked(world: World) -> None:
    said = chameleon("data", "fetch", "alibaba-gentd26", "--from", world.server.url, "--to", world.root)
    assert said.code == 2
    assert 0 < said.err.index("Research and study only") < said.err.index("error: ")
    assert len(world.server.asked) == 1
