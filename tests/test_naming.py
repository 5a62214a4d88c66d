"""The four ways to name a policy mean the same in a file, on the command line and in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import sim
from policies.eviction import GDSF, LFU
from sim.files.yamlfile import ConfigError

MINE = """class Mine:
    def __init__(self, *, sign: float = 1.0): self.sign, self.uses = sign, {}
    def used(self, adapter, now): self.uses[adapter] = self.uses.get(adapter, 0) + 1
    def evicted(self, adapter, now): self.uses.pop(adapter, None)
    def score(self, adapter, now): return self.sign * self.uses.get(adapter, 0)
"""


TIGHT = "memory.kv_pool_tokens=6000"


def run(system: str | Path = "slora", *changes: str, **policies: Any) -> Any:
    return sim.run(system, requests=120, rate=12, changes=(TIGHT, *changes), **policies)


@pytest.fixture(scope="module")
def expected() -> Any:
    return run(cache="lfu")


def test_a_tight_pool_tells_policies_apart(expected: Any) -> None:
    assert not run(cache="drop-after-use").requests.equals(expected.requests)


@pytest.mark.parametrize("kind", ["lfu", LFU, {"kind": LFU}, {"kind": "lfu"}, "policies.eviction:LFU"])
def test_python_takes_a_name_a_class_a_mapping_and_a_path(kind: object, expected: Any) -> None:
    assert run(cache=kind).requests.equals(expected.requests)


def test_python_takes_an_instance_and_leaves_it_with_what_it_saw(expected: Any) -> None:
    policy = LFU()
    result = run(cache=policy)
    assert result.requests.equals(expected.requests)
    assert policy._uses
    assert result.config["cache"] == {"kind": "policies.eviction:LFU"}


def test_a_file_s_class_may_be_named_by_a_file_and_by_set(tmp_path: Path, expected: Any) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    system = tmp_path / "mine.yaml"
    system.write_text("extends: slora\nname: mine\ncache: {kind: ./mine.py:Mine, sign: 1}\n")
    by_set, by_file = run("slora", f"cache.kind={tmp_path}/mine.py:Mine"), run(system)
    assert by_set.requests.equals(expected.requests)
    assert by_file.requests.equals(expected.requests)


def test_parameters_of_the_policy_before_are_dropped_with_it() -> None:
    result = sim.run("chameleon", requests=5, rate=9, cache={"kind": "lru"})
    assert result.config["cache"] == {"kind": "lru"}


@pytest.mark.parametrize(
    ("policies", "error", "told"),
    [
        ({"cach": "lru"}, TypeError, "did you mean 'cache'"),
        ({"rat": 9}, TypeError, "did you mean 'rate'"),
        ({"cache": "lrru"}, ConfigError, "did you mean 'lru'"),
        ({"cache": {"kind": "chameleon", "frequenci": 1}}, ConfigError, "did you mean 'frequency'"),
        ({"scheduler": LFU}, ConfigError, "LFU is a cache, not a scheduler"),
        ({"cache": 3}, ConfigError, "cache"),
    ],
)
def test_a_wrong_word_is_told_with_the_close_one(policies: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        sim.run("slora", requests=5, rate=9, **policies)


@pytest.mark.parametrize("kind", ["gdsf", "policies.eviction:GDSF", GDSF])
def test_python_names_a_policy_and_its_parameters_in_two_places(kind: object) -> None:
    result = sim.run("slora", requests=5, rate=9, cache=kind, changes="cache.cost=one")
    assert result.config["cache"]["cost"] == "one"
