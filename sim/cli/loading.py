"""A configuration as a command needs it: names looked up and mistakes located before anything is simulated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.config import Loaded
    from sim.files.yamlfile import Mark, Problem


def load_checked(system: str, sets: Sequence[str] | None, flags: dict[str, Any] | None = None) -> Loaded:
    """Return a configuration that could run.

    Args:
        system: packaged name or path.
        sets: what --set gave.
        flags: see `sim.cli.options.overrides`.

    Raises:
        ConfigError: with one located line for everything that is wrong.
    """
    from sim.config import load_config  # noqa: PLC0415 - numpy and pydantic are slow to import

    loaded = load_config(system, sets or (), flags or {})
    check(loaded, flags)
    return loaded


def check(loaded: Loaded, flags: dict[str, Any] | None = None) -> None:
    """Look up what a configuration names and build every part of it, short of its workload.

    Args:
        loaded: the configuration.
        flags: see `sim.cli.options.overrides`.

    Raises:
        ConfigError: with one located line for everything that is wrong.
    """
    from sim.build import check_config  # noqa: PLC0415 - numpy and pydantic are slow to import
    from sim.files.yamlfile import ConfigError  # noqa: PLC0415
    from sim.plugins.named import problems_of  # noqa: PLC0415

    problems = _names(loaded, flags or {})
    if problems:
        raise ConfigError([*problems, *problems_of(vars(loaded.config), loaded.marks)])
    try:
        check_config(loaded)
    except ConfigError as error:
        raise ConfigError([_located(problem, loaded) for problem in error.problems]) from error.__cause__


def _names(loaded: Loaded, flags: dict[str, Any]) -> list[Problem]:
    """Return what is wrong with the hardware, the model and the trace file, each with the place that names it."""
    from sim.files.yamlfile import ConfigError, Problem  # noqa: PLC0415
    from sim.hardware import load_hardware  # noqa: PLC0415
    from sim.models import load_model  # noqa: PLC0415
    from sim.sizing import parallel_of  # noqa: PLC0415

    config, problems = loaded.config, []

    def look_up(key: str, name: str, find: Callable[[str], object]) -> None:
        try:
            find(name)
        except ConfigError:
            raise  # the profile's own content is wrong, and located there
        except (ValueError, OSError) as error:
            told = f"cannot read {name}: {error.strerror}" if isinstance(error, OSError) else str(error)
            problems.append(Problem((key,), told, _mark(loaded, key, flags)))

    look_up("hardware", config.hardware, load_hardware)
    look_up("model", config.model, load_model)
    if not problems and config.memory.reserve_bytes is None:
        card = load_hardware(config.hardware)
        gpus = parallel_of(config, card).as_one(card)
        look_up("model", config.model, lambda name: gpus.pool_bytes(load_model(name)))
    trace = config.workload.trace
    if trace is not None and not trace.exists():  # a folder for ServeGen or GenTD26
        mark = loaded.marks.get(("workload", "trace"))
        problems.append(Problem((), f"{trace}: no such trace file, seen from {Path.cwd()}", mark))
    return problems


def _mark(loaded: Loaded, key: str, flags: dict[str, Any]) -> Mark | None:
    from sim.files.yamlfile import Mark  # noqa: PLC0415

    mark = loaded.marks.get((key,))
    is_flag = flags.get(key) is not None and (mark is None or mark.line > 0)
    return Mark(f"--{key} {flags[key]}") if is_flag else mark


def _located(problem: Problem, loaded: Loaded) -> Problem:
    """Return a problem whose message begins with its key, but which was found far from any file, with its place."""
    path = tuple(problem.message.partition(":")[0].split("."))
    return problem if problem.mark else problem._replace(mark=loaded.marks.get(path))
