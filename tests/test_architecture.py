"""Which way imports point, that ours are the packages imported, and what every built-in policy declares."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from policies.base import Cache, Policy, Predictor, Prefetch, Router, Scheduler
from policies.builtin import BUILTIN

ROOT = Path(__file__).resolve().parents[1]
CLOCKS_AND_DICE = {"time", "datetime", "random", "secrets"}
OF_POLICIES = (sys.stdlib_module_names - CLOCKS_AND_DICE) | {"numpy", "policies"}
OF_THE_GPU = {"torch", "triton", "gpu_validate"}
SEAMS: dict[str, type[Policy]] = {
    "scheduler": Scheduler,
    "cache": Cache,
    "prefetch": Prefetch,
    "predictor": Predictor,
    "router": Router,
}
NAMED = [(seam, name) for seam, table in BUILTIN.items() for name in table if seam in SEAMS]


def imports(source: str, *, late: bool = True) -> Iterator[str]:
    """Yield the top-level package of every import, and "random" for numpy's; `late`: also of those inside functions."""
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (_package(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (_package(f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Attribute) and node.attr == "random":
            yield "random"
        if late or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending += ast.iter_child_nodes(node)


def _package(name: str) -> str:
    return "random" if name.startswith("numpy.random") else name.partition(".")[0]


def modules(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert len(found) > 1
    return found


def may_reach_the_gpu_late(path: Path) -> bool:
    return path == ROOT / "sim" / "cli" / "gpu.py"


def policy_class(seam: str, name: str) -> type[Policy]:
    module, _, attribute = BUILTIN[seam][name].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    assert isinstance(found, type)
    assert issubclass(found, SEAMS[seam])
    return found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch.nn", {"torch"}),
        ("from sim.core import Core", {"sim"}),
        ("def f():\n    import time", {"time"}),
        ("import numpy as np\nnp.random.default_rng()", {"numpy", "random"}),
        ("from numpy import random", {"random"}),
    ],
)
def test_the_search_for_imports_finds_them(source: str, found: set[str]) -> None:
    assert set(imports(source)) == found


def test_a_late_import_is_seen_only_where_it_is_asked_for() -> None:
    assert list(imports("def f():\n    import torch", late=False)) == []
    assert list(imports("if True:\n    import torch", late=False)) == ["torch"]


@pytest.mark.parametrize("path", modules("policies"), ids=lambda path: path.name)
def test_policies_import_neither_clock_nor_dice_nor_simulator(path: Path) -> None:
    assert set(imports(path.read_text())) <= OF_POLICIES


@pytest.mark.parametrize("path", modules("sim"), ids=lambda path: path.name)
def test_the_simulator_does_not_import_the_gpu(path: Path) -> None:
    found = set(imports(path.read_text(), late=not may_reach_the_gpu_late(path)))
    assert found.isdisjoint(OF_THE_GPU)


def parts_of_the_simulator(*, late: bool) -> dict[str, set[str]]:
    """Return which of sim's folders and single modules each of them imports; `late`: also inside functions."""
    found: dict[str, set[str]] = {}
    for path in modules("sim"):
        inner = path.relative_to(ROOT / "sim").with_suffix("").parts
        names = {name for name in imported_names(path.read_text(), late=late) if name.startswith("sim.")}
        found.setdefault(inner[0], set()).update({name.split(".")[1] for name in names} - {inner[0]})
    return found


def imported_names(source: str, *, late: bool) -> Iterator[str]:
    """Yield the full name of everything that is imported when a program runs: not what only types need."""
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        elif late or not isinstance(node, ast.FunctionDef):
            pending += ast.iter_child_nodes(node)


def test_the_folders_of_the_simulator_import_one_another_one_way() -> None:
    graph = parts_of_the_simulator(late=True)
    assert "core" in graph["engine"]
    assert "experiments" in graph["cli"]
    TopologicalSorter(graph).prepare()  # raises CycleError, with the cycle in it


def test_what_the_core_is_made_of_imports_nothing_else_of_ours() -> None:
    assert parts_of_the_simulator(late=True)["serving"] == set()


def test_a_cycle_of_imports_is_found_and_one_of_types_alone_is_none() -> None:
    assert list(imported_names("if TYPE_CHECKING:\n    from sim.core import Core", late=True)) == []
    assert list(imported_names("def f():\n    from sim.core import Core", late=True)) == ["sim.core.Core"]
    assert list(imported_names("import sim.core", late=True)) == ["sim.core"]


def test_our_packages_are_found_from_any_folder(tmp_path: Path) -> None:
    try:
        distribution("chameleon-sim")
    except PackageNotFoundError:
        pytest.skip("chameleon-sim is not installed here (pip install -e .)")
    code = "import json, sim, policies, gpu_validate as g; print(json.dumps([m.__file__ for m in (sim, policies, g)]))"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    folders = [Path(file).parent for file in json.loads(run.stdout)]
    assert folders == [ROOT / "sim", ROOT / "policies", ROOT / "gpu_validate"]


def test_every_seam_has_built_in_policies() -> None:
    assert {seam for seam, _ in NAMED} == set(SEAMS)


@pytest.mark.parametrize(("seam", "name"), NAMED)
def test_a_built_in_policy_needs_no_keyword_and_bears_its_short_name(seam: str, name: str) -> None:
    assert policy_class(seam, name)().name == name


@pytest.mark.parametrize(("seam", "name"), NAMED)
def test_a_built_in_policy_says_what_it_does_and_where_it_comes_from(seam: str, name: str) -> None:
    cls = policy_class(seam, name)
    assert "__doc__" in vars(cls)
    first, *_ = (cls.__doc__ or "").splitlines()
    assert first.endswith(".")
    assert "source" in vars(cls)
    assert cls.source


@pytest.mark.parametrize(("seam", "name"), NAMED)
def test_a_built_in_policy_stores_its_keywords_under_their_names(seam: str, name: str) -> None:
    cls = policy_class(seam, name)
    built = cls()
    for parameter in inspect.signature(cls, eval_str=True).parameters.values():
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.annotation is not parameter.empty
        assert getattr(built, parameter.name) == parameter.default
