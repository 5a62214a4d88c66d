"""From names to policies: where they are found, what their parameters may be, and what a class lacks or misspells."""

from __future__ import annotations

import functools
import inspect
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from policies import base
from policies.base import Adapter, Cache, Facts, Prefetch, Refusal, Request
from sim.files import yamlfile
from sim.files.yamlfile import ConfigError, Mark
from sim.names import SEAMS
from sim.plugins.docstrings import parameter_docs, undocumented
from sim.plugins.named import PolicyInfo, describe, factory, list_policies, resolve, seams_of

GUIDE = Path(__file__).parent.parent / "docs" / "policies.md"


class Fading(Cache):
    """Old adapters go first.

    More about it.
    """

    name = "fading"
    source = "https://example.org/fading"

    def __init__(self, *, decay: float = 0.5, mode: Literal["slow", "fast"] = "slow", copy: int = 1) -> None:
        self.decay = decay
        self.mode = mode
        self.copy = copy

    def score(self, adapter: Adapter, now: float) -> float:
        return now * self.decay

    def _scor(self) -> None:
        """Helpers may be called anything."""


class Duck:
    """Smallest first, and no base class."""

    def score(self, adapter: Adapter, now: float) -> float:
        return adapter.size_bytes


class Needy(Cache):
    """Takes what has no default."""

    name = "needy"

    def __init__(self, *, rate: float, pair: tuple[int, int] = (1, 2)) -> None:
        if rate < 0:
            msg = f"rate must not be negative, got {rate}"
            raise ValueError(msg)
        self.rate = rate
        self.pair = pair


TABLE = {"cache": {"fading": f"{__name__}:Fading", "needy": f"{__name__}:Needy"}, "scheduler": {"gone": "no_such:X"}}


def cache(spec: object, **more: Any) -> Any:
    return resolve(spec, "cache", builtin=TABLE, **more)


def failure(spec: object, seam: str = "cache", **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(spec, seam, builtin=TABLE, **more)
    return str(caught.value)


def write(folder: Path, text: str, name: str = "mine.py") -> str:
    (folder / name).write_text(text)
    return f"./{name}"


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, entries: str, seam: str = "cache") -> None:
    """Put a package with entry points on the path, as an installer would."""
    (folder / "plug.py").write_text(
        "from policies.base import Cache\nclass Mine(Cache):\n    '''Plugged in.'''\nthing = 3\n"
    )
    (folder / "plug_broken.py").write_text("raise RuntimeError('no licence')\n")
    info = folder / "plug-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[chameleon_sim.{seam}]\n{entries}\n")
    monkeypatch.syspath_prepend(folder)


# where a policy is found


def test_an_instance_is_taken_as_it_is() -> None:
    policy = Fading(decay=0.1)
    assert cache(policy) is policy


def test_a_class_is_built_with_its_defaults() -> None:
    assert cache(Fading).decay == 0.5


def test_a_class_may_be_given_with_parameters() -> None:
    assert cache({"kind": Fading, "decay": 2}).decay == 2


def test_a_short_name_is_looked_up_in_the_table() -> None:
    assert type(cache("fading")) is Fading


def test_our_own_table_is_the_default() -> None:
    assert resolve("lru", "cache").name == "lru"


def test_a_class_of_an_importable_module_is_found() -> None:
    assert type(resolve("policies.base:Cache", "cache")).__mro__[1] is Cache


def test_a_class_of_a_file_is_found_beside_the_configuration(tmp_path: Path) -> None:
    file = write(tmp_path, "class Mine:\n    def score(self, adapter, now):\n        return 7.0\n")
    assert cache(f"{file}:Mine", base_dir=tmp_path).score(None, 0.0) == 7.0


def test_a_file_is_looked_for_beside_the_file_that_names_it(tmp_path: Path) -> None:
    file = write(tmp_path, "class Mine:\n    def score(self, adapter, now):\n        return 7.0\n")
    marks = {("cache", "kind"): Mark(str(tmp_path / "exp.yaml"), 3, 1)}
    assert cache({"kind": f"{file}:Mine"}, marks=marks).name == "Mine"


def test_a_file_that_has_changed_is_read_anew(tmp_path: Path) -> None:
    scores = []
    for text in ("1.0", "22.0"):
        file = write(tmp_path, f"class Mine:\n    def score(self, adapter, now):\n        return {text}\n")
        scores.append(cache(f"{file}:Mine", base_dir=tmp_path).score(None, 0.0))
    assert scores == [1.0, 22.0]


def test_a_file_that_has_not_changed_is_read_once(tmp_path: Path) -> None:
    file = write(tmp_path, "class Mine:\n    def score(self, adapter, now):\n        return 1.0\n")
    first, second = (cache(f"{file}:Mine", base_dir=tmp_path) for _ in range(2))
    assert type(first) is type(second)


def test_a_file_s_class_can_show_its_source(tmp_path: Path) -> None:
    file = write(tmp_path, "class Mine:\n    def score(self, adapter, now):\n        return 1.0\n")
    policy = cache(f"{file}:Mine", base_dir=tmp_path)
    assert inspect.getsource(type(policy).__mro__[1]).startswith("class Mine:")


def test_a_file_may_define_a_dataclass(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass(kw_only=True)\n"
        "class Mine:\n    bias: float = 0\n    def score(self, adapter, now):\n        return self.bias\n"
    )
    spec = {"kind": f"{write(tmp_path, text)}:Mine", "bias": "1e-3"}
    assert cache(spec, base_dir=tmp_path).score(None, 0.0) == 0.001


def test_an_installed_entry_point_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "mine = plug:Mine")
    assert cache("mine").__doc__ == "Plugged in."


def test_a_built_in_name_is_not_taken_over_by_an_installed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "fading = plug:Mine")
    assert type(cache("fading")) is Fading


# what may be wrong with a name


def test_an_unknown_name_lists_close_ones() -> None:
    assert failure("fadng").startswith("cache.kind: no cache is named 'fadng' - did you mean 'fading'?")


def test_an_error_carries_the_place_of_the_key() -> None:
    marks = {("replicas", 0, "cache", "kind"): Mark("exp.yaml", 4, 3)}
    message = failure({"kind": "fadng"}, key=("replicas", 0, "cache"), marks=marks)
    assert message.startswith("exp.yaml:4:3: replicas.0.cache.kind: no cache is named 'fadng'")


def test_an_unknown_class_lists_close_ones_of_its_module() -> None:
    assert failure("policies.base:Cach").startswith(
        "cache.kind: policies.base has no class 'Cach' - did you mean 'Cache'?"
    )


def test_a_missing_module_is_an_error() -> None:
    assert "no_such cannot be imported: ModuleNotFoundError" in failure("no_such:Mine")


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    assert "./mine.py cannot be imported: FileNotFoundError" in failure("./mine.py:Mine", base_dir=tmp_path)


def test_a_file_that_fails_is_an_error_and_is_tried_again(tmp_path: Path) -> None:
    file = write(tmp_path, "1 / 0\n")
    messages = {failure(f"{file}:Mine", base_dir=tmp_path) for _ in range(2)}
    assert messages == {"cache.kind: ./mine.py cannot be imported: ZeroDivisionError: division by zero"}


def test_the_cause_of_a_failed_import_is_kept(tmp_path: Path) -> None:
    file = write(tmp_path, "1 / 0\n")
    with pytest.raises(ConfigError) as caught:
        cache(f"{file}:Mine", base_dir=tmp_path)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("spec", [None, False, 3, ["lru"], {"decay": 1}, {"kind": {"kind": "lru"}}])
def test_what_is_no_name_is_an_error(spec: object) -> None:
    assert failure(spec).startswith("cache.kind: expected the name of a cache, got ")


def test_an_unknown_seam_is_an_error() -> None:
    assert failure("fading", "cach") == "cach: no seam is named 'cach' - did you mean 'cache'?"


# parameters


def test_parameters_are_coerced_to_their_annotations() -> None:
    policy = cache({"kind": "needy", "rate": "1e-3", "pair": [3, 4]})
    assert (policy.rate, policy.pair) == (0.001, (3, 4))


def test_a_parameter_may_bear_a_name_that_pydantic_uses() -> None:
    assert cache({"kind": "fading", "copy": 5}).copy == 5


def test_a_misspelt_parameter_is_an_error_with_a_close_name() -> None:
    message = failure({"kind": "fading", "decya": 1})
    assert message == "cache.decya: Extra inputs are not permitted - did you mean 'decay'?"


def test_all_wrong_parameters_are_told_at_once() -> None:
    assert failure({"kind": "fading", "decay": "x", "mode": "fst"}).splitlines() == [
        "cache.decay: Input should be a valid number, unable to parse string as a number (got 'x')",
        "cache.mode: Input should be 'slow' or 'fast' - did you mean 'fast'? (got 'fst')",
    ]


def test_a_missing_parameter_is_an_error() -> None:
    assert failure("needy") == "cache.rate: Field required"


def test_what_a_constructor_refuses_is_an_error_at_the_policy() -> None:
    assert failure({"kind": "needy", "rate": -1}) == "cache: rate must not be negative, got -1.0"


def test_an_instance_takes_no_parameters() -> None:
    assert "already built and takes no parameters here: decay" in failure({"kind": Fading(), "decay": 1})


def test_keywords_that_a_class_would_swallow_are_errors_all_the_same() -> None:
    class Greedy(Cache):
        name = "greedy"

        def __init__(self, *, decay: float = 1.0, **rest: float) -> None:
            self.rest = rest

    assert failure({"kind": Greedy, "decy": 1}).startswith("cache.decy: Extra inputs are not permitted")


def test_a_parameter_without_a_name_is_an_error() -> None:
    class Positional(Cache):
        name = "positional"

        def __init__(self, decay: float, /) -> None:
            self.decay = decay

    assert failure(Positional) == "cache.kind: Positional takes 'decay' by position only; parameters are given by name"


def test_an_annotation_that_cannot_be_evaluated_is_an_error(tmp_path: Path) -> None:
    text = "class Mine:\n    def __init__(self, *, x: 'Nowhere' = 1): ...\n    def score(self, adapter, now): ...\n"
    message = failure(f"{write(tmp_path, text)}:Mine", base_dir=tmp_path)
    assert message == "cache.kind: the constructor of Mine cannot be read: name 'Nowhere' is not defined"


# hooks


def test_a_class_without_the_base_is_given_the_hooks_it_lacks() -> None:
    policy = cache(Duck)
    assert isinstance(policy, Duck)
    assert isinstance(policy, Cache)
    assert list(policy.drops([], 0.0, batch_is_empty=True)) == []
    assert policy.scores([Adapter("a", 8, 100)], 0.0) == [100]


def test_an_instance_without_the_base_stays_itself_and_is_given_the_hooks_it_lacks() -> None:
    duck = Duck()
    policy = cache(duck)
    assert policy is duck
    assert isinstance(policy, Cache)


def test_a_class_without_a_name_is_called_by_its_own() -> None:
    assert cache(Duck).name == "Duck"


def test_a_class_keeps_its_docstring_and_module_when_it_is_completed() -> None:
    completed = type(cache(Duck))
    assert (completed.__doc__, completed.__module__) == (Duck.__doc__, Duck.__module__)


def test_an_instance_that_cannot_be_extended_says_what_to_derive_from() -> None:
    class Fixed:
        __slots__ = ()

        def score(self, adapter: Adapter, now: float) -> float:
            return 0.0

    assert "derive it from policies.base.Cache" in failure(Fixed())


@pytest.mark.parametrize(
    ("seam", "wrong", "right"),
    [
        ("cache", "scor", "score"),
        ("cache", "load", "loaded"),
        ("cache", "evict", "evicted"),
        ("scheduler", "arrive", "arrived"),
        ("scheduler", "started", "start"),
        ("prefetch", "want", "wanted"),
        ("prefetch", "woke", "woken"),
        ("predictor", "predicts", "predict"),
    ],
)
def test_a_misspelt_hook_is_an_error(seam: str, wrong: str, right: str) -> None:
    base_class = getattr(base, seam.capitalize())
    cls = type("Mine", (base_class,), {"name": "mine", wrong: lambda self, *args: 0})
    message = f"{seam}.kind: Mine has {wrong!r}, which nothing asks - did you mean {right!r}?"
    assert failure(cls, seam).startswith(message)


def test_a_misspelt_attribute_is_an_error() -> None:
    cls = type("Mine", (Prefetch,), {"name": "mine", "may_evct": True})
    assert "did you mean 'may_evict'?" in failure(cls, "prefetch")


def test_a_helper_unlike_any_hook_is_no_error() -> None:
    helpers = {"refresh": lambda self: 0, "stats": lambda self: 0}
    cls = type("Mine", (Cache,), {"name": "mine", "score": lambda self, *_: 3.0, **helpers})
    assert cache(cls).refresh() == 0


@pytest.mark.parametrize("wrong", ["scoer", "scroe"])
def test_a_hook_with_its_letters_in_another_order_is_an_error(wrong: str) -> None:
    cls = type("Mine", (Cache,), {"name": "mine", wrong: lambda self, *_: 3.0})
    assert "did you mean 'score'?" in failure(cls, "cache")


def test_a_class_whose_methods_are_all_strange_is_an_error() -> None:
    cls = type("Mine", (Cache,), {"name": "mine", "priority": lambda self, *_: 3.0})
    message = failure(cls, "cache")
    assert message.startswith("cache.kind: Mine has 'priority', which nothing asks, and none of")
    assert "score" in message


def test_a_class_that_changes_nothing_is_no_error() -> None:
    assert cache(type("Mine", (Cache,), {"name": "mine"})).name == "mine"


def test_a_helper_like_a_hook_that_the_class_has_is_no_error() -> None:
    cls = type("Mine", (Cache,), {"name": "mine", "score": lambda self, *_: 3.0, "scored": lambda self: 0})
    assert cache(cls).scored() == 0


def test_a_policy_of_another_seam_is_an_error() -> None:
    assert failure(Fading, "scheduler") == "scheduler.kind: Fading is a cache, not a scheduler"


def test_a_class_with_no_hook_at_all_is_an_error() -> None:
    @dataclass
    class Point:
        x: int = 0

    assert failure(Point).startswith("cache.kind: Point is no cache: it has none of ")


@pytest.mark.parametrize(
    ("seam", "hook", "own", "told"),
    [
        (
            "cache",
            "score",
            lambda self, adapter: 0.0,
            "score(self, adapter), which should be score(self, adapter, now)",
        ),
        ("cache", "start", lambda self: None, "start(self), which should be start(self, facts)"),
        ("cache", "drops", lambda self, idle, now: (), "should be drops(self, idle, now, *, batch_is_empty)"),
        ("scheduler", "key", lambda self, now, request: 0.0, "should be key(self, request, now)"),
        ("scheduler", "wakes_at_s", lambda self, now: None, "should be wakes_at_s(self)"),
        ("router", "choose", lambda request, replicas, now: 0, "should be choose(self, request, replicas, now)"),
        ("cache", "score", staticmethod(lambda now: 0.0), "score(now), which should be score(self, adapter, now)"),
        ("cache", "score", 3.0, "score = 3.0, which should be a method: score(self, adapter, now)"),
    ],
)
def test_a_hook_that_takes_other_arguments_than_it_is_given_is_an_error(
    seam: str, hook: str, own: object, told: str
) -> None:
    cls = type("Mine", (getattr(base, seam.capitalize()),), {"name": "mine", hook: own})
    message = failure(cls, seam)
    assert message.startswith(f"{seam}.kind: Mine has {hook}")
    assert told in message


def test_a_class_without_the_base_is_asked_for_the_same_arguments() -> None:
    assert "which should be score(self, adapter, now)" in failure(type("Mine", (), {"score": lambda self, now: 0.0}))


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*given: Any, **named: Any) -> Any:
        return function(*given, **named)

    return wrapper


@pytest.mark.parametrize(
    "own",
    [
        lambda self, one, now: 3.0,
        lambda self, adapter, now, weight=1.0: 3.0,
        lambda self, *given: 3.0,
        lambda *given: 3.0,
        staticmethod(lambda adapter, now: 3.0),
        classmethod(lambda cls, adapter, now: 3.0),
        functools.partialmethod(lambda self, weight, adapter, now: weight, 3.0),
        functools.cache(lambda self, adapter, now: 3.0),
        wrapped(lambda self, adapter, now: 3.0),
    ],
)
def test_a_hook_may_take_its_arguments_as_it_likes(own: Any) -> None:
    cls = type("Mine", (Cache,), {"name": "mine", "score": own})
    assert cache(cls).score(Adapter("a", 8, 1), 0.0) == 3.0


# fresh instances, and which seam


def test_a_factory_builds_a_fresh_policy_at_every_call() -> None:
    make = factory({"kind": Fading, "decay": 3}, "cache")
    assert (make().decay, make() is make()) == (3, False)


@pytest.mark.parametrize(
    ("name", "seams"),
    [
        ("lru", ["cache"]),
        ("fcfs", ["scheduler"]),
        ("nobody", []),
        (f"{__name__}:Fading", ["cache"]),
        (f"{__name__}:Duck", ["cache"]),
        (f"{__name__}:Prefetching", ["prefetch"]),
        ("policies.base:Adapter", []),
    ],
)
def test_the_seam_of_a_name_or_class_is_found(name: str, seams: list[str]) -> None:
    assert seams_of(name) == seams


class Prefetching:
    """Has a hook that caches have too, and one that they have not."""

    def used(self, adapter: Adapter, now: float) -> None: ...

    def wanted(self, waiting: Iterable[Request], now: float) -> Iterable[Adapter]:
        return ()


# what docstrings say


class Documented(Cache):
    """Keep some.

    Not a section:
        decay: no.

    Attributes:
        first, second: both of them,
            at length.
        third (int): typed.
    """

    def __init__(self, *, first: int = 1, second: int = 2, third: int = 3, decay: int = 4, other: int = 5) -> None:
        """Store.

        Args:
            other: told here.
        """


def test_parameters_are_documented_by_sections_of_the_class_and_its_constructor() -> None:
    assert parameter_docs(Documented) == {
        "first": "both of them, at length.",
        "second": "both of them, at length.",
        "third": "typed.",
        "other": "told here.",
    }


def test_a_parameter_that_no_docstring_names_is_undocumented() -> None:
    assert undocumented(Fading) == ["decay", "mode", "copy"]
    assert undocumented(Documented) == []


# listing


def test_a_listed_policy_says_where_it_is_from_and_what_it_takes() -> None:
    assert list_policies("cache", builtin=TABLE)[0] == PolicyInfo(
        seam="cache",
        name="fading",
        origin="built in",
        summary="Old adapters go first.",
        source="https://example.org/fading",
        parameters=("decay: float = 0.5", "mode: Literal['slow', 'fast'] = 'slow'", "copy: int = 1"),
    )


def test_all_seams_are_listed_in_order() -> None:
    assert [(info.seam, info.name) for info in list_policies(builtin=TABLE)] == [
        ("scheduler", "gone"),
        ("cache", "fading"),
        ("cache", "needy"),
    ]


def test_a_broken_policy_is_listed_as_broken() -> None:
    (info,) = list_policies("scheduler", builtin=TABLE)
    assert info.broken == "no_such cannot be imported: ModuleNotFoundError: No module named 'no_such'"


def test_a_broken_entry_point_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "bad = plug_broken:Mine\nmine = plug:Mine\nthing = plug:thing")
    assert {info.name: (info.origin, info.broken) for info in list_policies("cache", builtin={})} == {
        "bad": ("plug 1.2", "plug 1.2 is broken: RuntimeError: no licence"),
        "mine": ("plug 1.2", ""),
        "thing": ("plug 1.2", "plug 1.2 is broken: plug:thing is no class"),
    }


def test_a_policy_in_a_file_can_be_described(tmp_path: Path) -> None:
    file = write(tmp_path, "class Mine:\n    '''It is mine.'''\n    def score(self, adapter, now): ...\n")
    info = describe("cache", f"{file}:Mine", base_dir=tmp_path)
    assert (info.origin, info.summary) == ("./mine.py", "It is mine.")


def test_describing_an_unknown_policy_is_an_error() -> None:
    with pytest.raises(ConfigError, match="did you mean 'fading'"):
        describe("cache", "fadin", builtin=TABLE)


def test_every_policy_of_our_own_is_whole_and_has_a_summary() -> None:
    listed = list_policies()
    assert {info.seam for info in listed} <= set(SEAMS)
    assert [info for info in listed if info.broken or not info.summary] == []


# the guide for authors: its examples are run


@pytest.fixture
def guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the guide's files, named by their first lines, and a system for them to extend."""
    for _, text, name in examples():
        (tmp_path / name).write_text(text)
    (tmp_path / "chameleon.yaml").write_text("cache: {kind: other, weight: 1}\nprefetch: none\n")
    monkeypatch.setattr(yamlfile, "_packaged_folder", lambda: tmp_path)
    return tmp_path


def examples() -> list[tuple[str, str, str]]:
    """Return (language, text, file name) of the guide's files."""
    return re.findall(r"^```(python|yaml)\n(# (\w+\.\w+)\n.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


def policies_of(document: yamlfile.Document) -> dict[str, Any]:
    specs = {seam: spec for seam, spec in document.tree.items() if seam in SEAMS}
    return {seam: resolve(spec, seam, marks=document.marks) for seam, spec in specs.items()}


def test_every_example_of_the_guide_is_one_short_file() -> None:
    assert all(len(text.splitlines()) < 40 for _, text, _ in examples())
    assert GUIDE.read_text().count("```python\n") == sum(language == "python" for language, _, _ in examples()) == 7


def test_the_guide_s_system_is_made_of_the_guide_s_policies(guide: Path) -> None:
    made = policies_of(yamlfile.load(guide / "my_system.yaml"))
    assert {seam: policy.name for seam, policy in made.items()} == {
        "cache": "cost-aware",
        "scheduler": "patient-shortest",
        "prefetch": "popular",
    }
    assert (made["cache"].fade_s, made["prefetch"].top) == (20.0, 4)


def test_the_guide_s_command_line_changes_the_guide_s_system(guide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(guide)
    line, _ = re.findall(r"^chameleon run (.*)$", GUIDE.read_text(), re.MULTILINE)
    file, *words = shlex.split(line.replace("--requests 300 ", ""))
    tree, marks = yamlfile.load(Path(file))
    made = policies_of(yamlfile.set_values(tree, [word for word in words if word != "--set"], marks))
    assert (made["cache"].fade_s, made["scheduler"].name) == (60.0, "around-misfits")


def facts() -> Facts:
    return Facts(1, 1, 1, 1, 1, 1, 1, 1, 1.0, lambda adapter: float(adapter.size_bytes))


def test_the_guide_s_cache_keeps_what_is_used_recent_and_slow_to_load(guide: Path) -> None:
    policy = resolve("./my_cache.py:CostAware", "cache", base_dir=guide)
    policy.start(facts())
    used, big, fresh, never = (Adapter(name, 8, size) for name, size in (("u", 1), ("b", 9), ("f", 1), ("n", 9)))
    for adapter, now in ((used, 0.0), (used, 0.0), (big, 0.0), (fresh, 30.0)):
        policy.used(adapter, now)
    assert policy.scores([used, big, fresh, never], 30.0) == [1.0, 4.5, 1.0, 0.0]


class TinyBatch:
    """Admits requests without an adapter; refuses the others for the reason given."""

    def __init__(self, reason: Refusal) -> None:
        self.reason = reason
        self.refusal: Refusal | None = None
        self.taken: list[int] = []

    def try_add(self, request: Request) -> bool:
        self.refusal = None if request.adapter is None else self.reason
        if self.refusal is None:
            self.taken.append(request.id)
        return self.refusal is None


def requests() -> Iterator[Request]:
    """Yield a long one that has waited, a short one whose adapter does not fit, and one between."""
    yield Request(0, 0.0, 10, 100, None)
    yield Request(1, 20.0, 10, 5, Adapter("a", 8, 1))
    yield Request(2, 20.0, 10, 50, None)


@pytest.mark.parametrize(
    ("kind", "reason", "taken"),
    [
        ("PatientShortest", Refusal.ADAPTER, [0]),
        ("AroundMisfits", Refusal.ADAPTER, [0, 2]),
        ("AroundMisfits", Refusal.KV, [0]),
    ],
)
def test_the_guide_s_schedulers_order_and_pass_as_they_say(
    guide: Path, kind: str, reason: Refusal, taken: list[int]
) -> None:
    policy = resolve(f"./my_scheduler.py:{kind}", "scheduler", base_dir=guide)
    waiting = reversed(list(requests()))
    batch = TinyBatch(reason)
    policy.fill(batch, waiting, 20.0)
    assert batch.taken == taken


def test_the_guide_s_prefetcher_brings_waiting_adapters_first_and_then_popular_ones(guide: Path) -> None:
    policy = resolve({"kind": "./my_prefetch.py:Popular", "top": 1}, "prefetch", base_dir=guide)
    once, twice = Adapter("once", 8, 1), Adapter("twice", 8, 1)
    for adapter in (twice, once, twice):
        policy.used(adapter, 0.0)
    waiting: Iterable[Request] = [Request(0, 0.0, 1, 1, once), Request(1, 0.0, 1, 1, None)]
    assert list(policy.wanted(waiting, 0.0)) == [once, twice]


def test_a_policys_file_may_import_what_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside_the_policy.py").write_text("WORTH = 3.0\n")
    (tmp_path / "mine.py").write_text(
        "from policies.eviction import LRU\n"
        "from beside_the_policy import WORTH\n"
        "class Mine(LRU):\n"
        "    def score(self, adapter, now): return WORTH\n"
    )
    assert resolve(f"{tmp_path}/mine.py:Mine", "cache").score(None, 0.0) == 3.0
