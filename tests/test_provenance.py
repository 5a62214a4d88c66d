"""Whose files a policy is made of, and that a run is made anew when one of them has changed."""

from __future__ import annotations

import sys
from json import JSONDecoder
from pathlib import Path

import pytest

from policies.eviction import LRU
from sim.plugins.named import class_of
from sim.plugins.provenance import is_ours, is_users, own_files, source_file, users_files
from sim.results.identity import files_sha256

MINE = "from policies.eviction import LRU\nfrom {helper} import decay\nimport json\nclass Mine(LRU):\n    'As LRU.'\n"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A policy in a file, which takes something out of a second one, which imports a third."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "deepest_of_mine.py").write_text("HALF = 0.5\n")
    (tmp_path / "helper_of_mine.py").write_text("import deepest_of_mine\ndef decay(): return deepest_of_mine.HALF\n")
    (tmp_path / "policy_of_mine.py").write_text(MINE.format(helper="helper_of_mine"))
    for name in ("deepest_of_mine", "helper_of_mine", "policy_of_mine"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path / "policy_of_mine.py"


@pytest.mark.parametrize("by", ["file", "module"])
def test_a_policy_is_made_of_its_file_and_of_those_that_it_imports(mine: Path, by: str) -> None:
    kind = f"{mine}:Mine" if by == "file" else "policy_of_mine:Mine"
    names = {"policy_of_mine.py", "helper_of_mine.py", "deepest_of_mine.py"}
    assert {path.name for path in users_files(class_of(kind, "cache"))} == names
    assert {Path(path).name for path in files_sha256({"cache": {"kind": kind}})} == names


def test_an_edit_of_a_helper_changes_the_hash(mine: Path) -> None:
    config = {"cache": {"kind": f"{mine}:Mine"}}
    before = files_sha256(config)
    (mine.parent / "deepest_of_mine.py").write_text("HALF = 0.25\n")
    assert files_sha256(config) != before


def test_a_policy_that_cannot_be_imported_still_has_its_file(tmp_path: Path) -> None:
    (broken := tmp_path / "broken.py").write_text("raise RuntimeError\n")
    assert list(files_sha256({"cache": {"kind": f"{broken}:Mine"}})) == [str(broken)]


def test_built_in_policies_have_no_files_of_the_users() -> None:
    assert files_sha256({"cache": {"kind": "lru"}, "scheduler": {"kind": "policies.scheduling:FCFS"}}) == {}
    assert own_files(LRU) == users_files(LRU) == frozenset()


def test_files_are_told_apart_by_where_they_lie(tmp_path: Path) -> None:
    python, installed = Path(str(pytest.__file__)), Path(str(sys.modules["json"].__file__))
    assert [is_users(path) for path in (tmp_path / "a.py", python, installed)] == [True, False, False]
    assert is_ours(Path(str(sys.modules["sim.results.identity"].__file__)))


def test_a_number_taken_from_a_helper_and_a_helper_that_only_a_hook_imports_count_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "numbers_of_mine.py").write_text("HALF = 0.5\n")
    (tmp_path / "lazy_of_mine.py").write_text("WORTH = 2\n")
    (tmp_path / "both_of_mine.py").write_text(
        "from policies.eviction import LRU\n"
        "from numbers_of_mine import HALF\n"
        "class Mine(LRU):\n"
        "    def score(self, adapter, now):\n"
        "        import lazy_of_mine, json.tool\n"
        "        return lazy_of_mine.WORTH * HALF\n"
    )
    names = {path.name for path in users_files(class_of("both_of_mine:Mine", "cache"))}
    assert names == {"both_of_mine.py", "numbers_of_mine.py", "lazy_of_mine.py"}
    assert "json.tool" not in sys.modules


def test_packages_of_a_users_own_site_are_installed_ones(tmp_path: Path) -> None:
    assert not is_users(tmp_path / "lib" / "site-packages" / "theirs.py")
    assert not is_users(tmp_path / "dist-packages" / "theirs.py")


def test_a_class_typed_at_a_prompt_has_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    class Typed(LRU):
        pass

    monkeypatch.setattr(Typed, "__module__", "__main__")
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    assert source_file(Typed) is None


def test_a_base_class_from_the_standard_library_makes_no_stranger() -> None:
    class Reading(LRU, JSONDecoder):
        pass

    assert own_files(JSONDecoder) == frozenset()
    assert own_files(Reading) == {Path(__file__).resolve()}
