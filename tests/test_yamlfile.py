"""Configuration files: where values come from, what overrides what, and what an error says."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator

from sim.files import yamlfile
from sim.files.yamlfile import ConfigError, Document, Mark, Problem
from sim.files.yamltext import parse, write
from sim.names import closest, did_you_mean


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Copy(Enum):
    PINNED = "pinned"
    PAGEABLE = "pageable"


class Cache(Strict):
    kind: str = "lru"
    capacity_gib: float = 1.0
    copies: Copy = Copy.PINNED


class Scheduler(Strict):
    kind: Literal["fifo", "sjf", "chameleon"] = "fifo"
    queues: int = Field(default=4, le=16)


class Poisson(Strict):
    kind: Literal["poisson"]
    rate: float


class Gamma(Strict):
    kind: Literal["gamma"]
    burstiness: float


class Config(Strict):
    label: str = ""
    rate: float = 1.0
    prompts: int = 10
    cache: Cache = Cache()
    scheduler: Scheduler = Scheduler()
    arrivals: Poisson | Gamma | None = Field(default=None, discriminator="kind")
    limit: int | Literal["auto"] = "auto"
    replicas: list[Cache] = []
    ranks: dict[int, float] = {}

    @field_validator("label")
    @classmethod
    def has_no_slash(cls, label: str) -> str:
        if "/" in label:
            raise ConfigError([Problem(("part",), "no slash"), Problem((), "no folder")])
        if label == "bad":
            msg = "not this one"
            raise ValueError(msg)
        return label


def errors(text: str) -> list[str]:
    """Return the lines of the error that a configuration makes, without the file's name."""
    document = yamlfile.load(text)
    with pytest.raises(ConfigError) as caught:
        yamlfile.validate(Config, *document)
    return [line.removeprefix("<text>:") for line in caught.value.lines]


def failure(text: str) -> str:
    """Return the error that reading a text makes, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        yamlfile.load(text)
    return str(caught.value).replace("<text>:", "")


def config(text: str) -> Config:
    return yamlfile.validate(Config, *yamlfile.load(text))


@pytest.fixture
def systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for the folder of packaged systems."""
    folder = tmp_path / "packaged"
    folder.mkdir()
    (folder / "slora.yaml").write_text("rate: 2\ncache: {kind: drop, capacity_gib: 3}\n")
    monkeypatch.setattr(yamlfile, "_packaged_folder", lambda: folder)
    return folder


# names


def test_a_close_name_is_proposed() -> None:
    assert did_you_mean("lruu", ["fifo", "lru"]) == " - did you mean 'lru'?"


def test_all_names_are_listed_when_none_is_close() -> None:
    assert did_you_mean("zzz", ["lru", "fifo"]) == "; allowed: fifo, lru"


def test_nothing_is_said_when_nothing_is_allowed() -> None:
    assert did_you_mean("zzz", []) == ""


def test_case_and_dashes_do_not_make_names_differ() -> None:
    assert closest("S-LoRA", ["s_lora", "slur"]) == "s_lora"


# reading


def test_every_key_and_item_has_a_mark() -> None:
    document = yamlfile.load("rate: 2\nreplicas:\n  - kind: lru\n  - {kind: fifo}\n")
    assert {path: (mark.line, mark.column) for path, mark in document.marks.items()} == {
        (): (1, 1),
        ("rate",): (1, 1),
        ("replicas",): (2, 1),
        ("replicas", 0): (3, 5),
        ("replicas", 0, "kind"): (3, 5),
        ("replicas", 1): (4, 5),
        ("replicas", 1, "kind"): (4, 6),
    }


def test_an_empty_text_is_a_configuration_of_defaults() -> None:
    assert config("") == Config()


def test_a_repeated_key_is_an_error_at_its_second_place() -> None:
    assert failure("cache:\n  kind: lru\n  kind: fifo\n") == "3:3: cache.kind: this key is already given in line 2"


def test_bad_syntax_is_an_error_with_its_place() -> None:
    assert failure("rate: [1, 2\n").startswith("2:1: not YAML: ")


def test_a_character_that_yaml_forbids_is_an_error() -> None:
    assert "not YAML: unacceptable character" in failure("rate: \x07\n")


def test_a_python_object_cannot_be_made_from_text() -> None:
    assert "could not determine a constructor" in failure("rate: !!python/name:os.system\n")


def test_a_date_that_does_not_exist_is_an_error() -> None:
    assert failure("label: 2024-02-31\n").startswith("1:8: label: 2024-02-31: day ")


def test_a_key_that_yaml_reads_as_a_boolean_is_an_error() -> None:
    assert failure("on: 1\n") == "1:1: YAML reads the key on as True; put it in quotes"


def test_a_value_that_contains_itself_is_an_error() -> None:
    assert failure("replicas: &a [*a]\n") == "1:11: replicas.0: a value cannot contain itself"


def test_a_list_is_no_configuration() -> None:
    assert failure("- 1\n").startswith("1:1: expected `key: value` lines, got [1]")


def test_a_merge_key_yields_to_the_mapping_around_it_each_time_it_is_used() -> None:
    text = "base: &b {x: 1, y: 1}\none: &o {<<: *b, y: 2}\ntwo: *o\n"
    assert yamlfile.load(text).tree["two"] == {"x": 1, "y": 2}


def test_a_merge_key_over_no_mapping_is_an_error() -> None:
    assert "expected a mapping" in failure("cache: {<<: 3}\n")


def test_several_mistakes_of_reading_are_told_at_once() -> None:
    assert len(failure("a: 1\na: 2\nno: 3\n").splitlines()) == 2


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*exp.yaml: No such file"):
        yamlfile.load(tmp_path / "exp.yaml")


# YAML 1.1


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "'1e-3'"])
def test_an_exponent_is_a_float_where_a_float_is_wanted(text: str) -> None:
    assert config(f"rate: {text}").rate == 0.001


def test_a_whole_number_may_have_an_exponent() -> None:
    assert config("prompts: 1e5").prompts == 100_000


def test_a_boolean_where_text_is_wanted_is_an_error_that_asks_for_quotes() -> None:
    assert errors("label: no") == [
        "1:1: label: Input should be a valid string - YAML reads this value as False; put it in quotes"
    ]


def test_a_boolean_where_a_choice_is_wanted_asks_for_quotes_too() -> None:
    assert errors("scheduler: {kind: off}")[0].endswith("YAML reads this value as False; put it in quotes")


# extending


def test_a_child_wins_over_what_it_extends_mapping_by_mapping(systems: Path) -> None:
    document = yamlfile.load("extends: slora\ncache: {capacity_gib: 5}\n")
    assert document.tree == {"rate": 2, "cache": {"kind": "drop", "capacity_gib": 5}}


def test_marks_follow_the_file_that_a_value_came_from(systems: Path) -> None:
    marks = yamlfile.load("extends: slora\ncache: {capacity_gib: 5}\n").marks
    packaged = str(systems / "slora.yaml")
    assert marks["cache", "kind"] == Mark(packaged, 2, 9)
    assert marks["cache", "capacity_gib"] == Mark("<text>", 2, 9)


def test_a_changed_kind_replaces_the_mapping_and_its_marks(systems: Path) -> None:
    document = yamlfile.load("extends: slora\ncache: {kind: lru}\n")
    assert document.tree["cache"] == {"kind": "lru"}
    assert ("cache", "capacity_gib") not in document.marks


def test_a_bare_name_changes_the_kind(systems: Path) -> None:
    assert yamlfile.load("extends: slora\ncache: lru\n").tree["cache"] == {"kind": "lru"}


def test_the_same_kind_keeps_the_other_parameters(systems: Path) -> None:
    assert yamlfile.load("extends: slora\ncache: drop\n").tree["cache"] == {"kind": "drop", "capacity_gib": 3}


def test_a_parent_is_found_beside_its_child(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "base.yaml").write_text("rate: 7\n")
    (tmp_path / "sub" / "mid.yaml").write_text("extends: ../base.yaml\nprompts: 3\n")
    (tmp_path / "exp.yaml").write_text("extends: sub/mid.yaml\n")
    assert yamlfile.load(tmp_path / "exp.yaml").tree == {"rate": 7, "prompts": 3}


def test_a_value_s_folder_is_that_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "base.yaml").write_text("cache: ./mine.py:Mine\n")
    (tmp_path / "exp.yaml").write_text("extends: sub/base.yaml\nrate: 1\n")
    tree, marks = yamlfile.load(tmp_path / "exp.yaml")
    _, marks = yamlfile.set_values(tree, ["prompts=3"], marks)
    folders = [yamlfile.folder_of(marks, (key,)) for key in ("cache", "rate", "prompts")]
    assert folders == [tmp_path / "sub", tmp_path, Path()]


def test_a_circle_of_files_is_an_error_where_it_closes(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("rate: 1\nextends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(ConfigError) as caught:
        yamlfile.load(tmp_path / "a.yaml")
    place = f"{tmp_path / 'b.yaml'}:1:1"
    assert str(caught.value) == f"{place}: files extend one another in a circle: a.yaml -> b.yaml -> a.yaml"


def test_an_unknown_system_is_an_error_with_a_close_name(systems: Path) -> None:
    assert failure("extends: slra\n").startswith("1:1: no packaged system is named 'slra' - did you mean 'slora'?")


def test_a_missing_parent_is_an_error_at_the_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "exp.yaml").write_text("rate: 1\nextends: gone.yaml\n")
    with pytest.raises(ConfigError, match=r"exp.yaml:2:1: cannot read .*gone.yaml"):
        yamlfile.load(tmp_path / "exp.yaml")


def test_packaged_systems_are_listed_by_name(systems: Path) -> None:
    assert yamlfile.packaged_names() == ["slora"]
    assert yamlfile.find("slora") == systems / "slora.yaml"


# --set


def test_set_values_are_read_as_yaml() -> None:
    tree = yamlfile.set_values({}, ["rate=1e-3", "cache.kind=lru", "ranks={8: 0.5}", "limit="]).tree
    assert tree == {"rate": 0.001, "cache": {"kind": "lru"}, "ranks": {8: 0.5}, "limit": None}


def test_set_values_do_not_change_the_tree_they_are_laid_on() -> None:
    tree = {"cache": {"kind": "lru"}}
    yamlfile.set_values(tree, ["cache.kind=fifo", "rate=2"])
    assert tree == {"cache": {"kind": "lru"}}


def test_a_set_kind_drops_the_old_parameters_but_not_those_set_beside_it() -> None:
    tree = {"cache": {"kind": "drop", "capacity_gib": 3}}
    result = yamlfile.set_values(tree, ["cache.copies=pageable", "cache.kind=lru"]).tree
    assert result == {"cache": {"kind": "lru", "copies": "pageable"}}


def test_a_parameter_may_be_set_under_a_bare_name() -> None:
    tree, marks = yamlfile.load("cache: lru")
    result = yamlfile.set_values(tree, ["cache.capacity_gib=2"], marks)
    assert result.tree == {"cache": {"kind": "lru", "capacity_gib": 2}}
    assert str(result.marks["cache", "kind"]) == "<text>:1:1"


def test_an_error_in_a_set_value_names_the_option() -> None:
    document = yamlfile.set_values({"scheduler": {"kind": "fifo"}}, ["scheduler.queues=99"])
    with pytest.raises(ConfigError) as caught:
        yamlfile.validate(Config, *document)
    message = "--set scheduler.queues=99: scheduler.queues: Input should be less than or equal to 16 (got 99)"
    assert str(caught.value) == message


def test_set_values_that_cannot_be_read_are_told_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        yamlfile.set_values({}, ["cache.kind", "rate=1", "a..b=2", "c=[1"])
    first, second, third = caught.value.lines
    assert first == "--set cache.kind: expected KEY=VALUE or KEY.KEY=VALUE"
    assert second.startswith("--set a..b=2: expected")
    assert third.startswith("--set c=[1:1:3: not YAML")


# validation


def test_all_errors_are_told_at_once_in_the_order_of_the_file() -> None:
    text = """\
label: x
rate: fast
scheduler:
  kind: chamelon
  queues: 99
cache:
  capacity_gb: 4
"""
    assert errors(text) == [
        "2:1: rate: Input should be a valid number, unable to parse string as a number (got 'fast')",
        (
            "4:3: scheduler.kind: Input should be 'fifo', 'sjf' or 'chameleon'"
            " - did you mean 'chameleon'? (got 'chamelon')"
        ),
        "5:3: scheduler.queues: Input should be less than or equal to 16 (got 99)",
        "7:3: cache.capacity_gb: Extra inputs are not permitted - did you mean 'capacity_gib'?",
    ]


def test_an_unknown_key_like_no_other_lists_the_allowed_ones() -> None:
    assert errors("cache: {zzz: 1}") == [
        "1:9: cache.zzz: Extra inputs are not permitted; allowed: capacity_gib, copies, kind"
    ]


def test_an_unknown_key_inside_a_list_is_compared_with_the_items_fields() -> None:
    assert errors("replicas:\n- {}\n- {kid: lru}") == [
        "3:4: replicas.1.kid: Extra inputs are not permitted - did you mean 'kind'?"
    ]


def test_an_unknown_key_inside_a_union_has_a_plain_path() -> None:
    assert errors("arrivals: {kind: gamma, burstiness: 1, rte: 1}") == [
        "1:40: arrivals.rte: Extra inputs are not permitted - did you mean 'rate'?"
    ]


def test_an_unknown_kind_of_a_union_is_located_and_corrected() -> None:
    (line,) = errors("arrivals: {kind: gama, burstiness: 1}")
    assert line.startswith("1:12: arrivals.kind: ")
    assert line.endswith("- did you mean 'gamma'?")


def test_a_close_enum_value_is_proposed() -> None:
    assert errors("cache: {copies: pined}") == [
        "1:9: cache.copies: Input should be 'pinned' or 'pageable' - did you mean 'pinned'? (got 'pined')"
    ]


def test_the_arms_of_a_union_make_one_line() -> None:
    assert errors("limit: x") == [
        (
            "1:1: limit: Input should be a valid integer, unable to parse string as an integer"
            " or Input should be 'auto' (got 'x')"
        )
    ]


def test_a_missing_key_is_told_at_the_mapping_that_lacks_it() -> None:
    assert errors("rate: 1\narrivals: {kind: gamma}") == ["2:1: arrivals.burstiness: Field required"]


def test_a_validator_s_own_words_are_kept() -> None:
    assert errors("label: bad") == ["1:1: label: not this one"]


def test_a_config_error_inside_a_validator_keeps_its_lines() -> None:
    assert errors("label: a/b") == ["1:1: label.part: no slash", "1:1: label: no folder"]


def test_a_tree_without_marks_is_validated_as_well() -> None:
    with pytest.raises(ConfigError, match=r"^rate: Input should be a valid number"):
        yamlfile.validate(Config, {"rate": "x"})


def test_an_error_survives_the_way_from_another_process() -> None:
    error = ConfigError([Problem(("a", 0), "wrong", Mark("f.yaml", 1, 2)), "also wrong"]).under((), {})
    assert pickle.loads(pickle.dumps(error)).lines == ["f.yaml:1:2: a.0: wrong", "also wrong"]  # noqa: S301


# writing


def test_a_dumped_model_loads_back_equal() -> None:
    model = Config(
        label="1e-3",
        rate=math.inf,
        cache=Cache(copies=Copy.PAGEABLE),
        arrivals=Gamma(kind="gamma", burstiness=1e-9),
        replicas=[Cache(), Cache(capacity_gib=1e20)],
        ranks={8: 0.5},
    )
    assert config(yamlfile.dump(model)) == model


@settings(max_examples=50)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists))
def test_what_is_written_reads_back_equal(value: Any) -> None:
    assert parse(write({"value": value}), "f").tree == {"value": value}


def test_the_schema_names_the_keys_and_forbids_others() -> None:
    schema = yamlfile.json_schema(Cache)
    assert list(schema["properties"]) == ["kind", "capacity_gib", "copies"]
    assert schema["additionalProperties"] is False


def test_merging_keeps_the_marks_of_both_sides() -> None:
    low = Document({"a": {"x": 1}}, {("a",): Mark("low", 1, 1), ("a", "x"): Mark("low", 2, 1)})
    high = Document({"a": {"y": 2}}, {("a",): Mark("high"), ("a", "y"): Mark("high")})
    tree, marks = yamlfile.merge(low, high)
    assert tree == {"a": {"x": 1, "y": 2}}
    assert {path: mark.file for path, mark in marks.items()} == {("a",): "high", ("a", "x"): "low", ("a", "y"): "high"}


def test_the_readers_of_configuration_import_nothing_heavy() -> None:
    program = "import sys, sim.plugins.named, sim.progress; print(sorted(sys.modules.keys() & {*sys.argv[1:]}))"
    heavy = ["pandas", "scipy", "matplotlib", "torch", "rich", "simpy"]
    done = subprocess.run([sys.executable, "-c", program, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
