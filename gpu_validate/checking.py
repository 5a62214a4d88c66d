"""`chameleon gpu check`: real runs against simulated ones, policies against each other, aims met or not supported."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from gpu_validate.check import Observed, Pair, report_pair, report_policies
from gpu_validate.engine_costs import Calibrated, engine_costs
from gpu_validate.kept import FROZEN, Kept, Shelf, profile_digest, require_runs
from gpu_validate.live import Setup, can_predict_anew, serve, simulate
from gpu_validate.pace import Pace
from gpu_validate.profile import with_attention
from gpu_validate.report import draw, policies_text, text_of, write_report
from sim.build import deploy
from sim.config import Loaded, load_config
from sim.files.textfile import write_text
from sim.hardware import Hardware, load_hardware
from sim.idle_settings import INPUTS
from sim.names import did_you_mean


@dataclass(frozen=True)
class Plan:
    """What is checked.

    Attributes:
        systems: the first is the baseline of gains.
        rates: requests per second.
        requests: per run.
        hardware: profile under test, a packaged name or a path; it is hashed before anything runs.
        model: base model, or None for the systems' own.
        changes: texts such as "memory.kv_pool_tokens=6000", for all systems.
        seed: of the workload; use another than for any calibration.
        capacity: measured highest rate in requests/s; None if nobody knows, then no aim on TTFT can be met.
        repeats: whether each run is served a second time, which is the noise floor.
        setup: how the engine executes.
        out: folder of the runs and reports; finished runs that it holds are not served again.
        budget_s: no further run is started that should not end within so many seconds; None: no limit.
        runs: folder of an earlier check, whose runs are judged in place of new ones; nothing is executed then.
    """

    systems: tuple[str, ...]
    rates: tuple[float, ...]
    requests: int
    hardware: str
    model: str | None
    changes: tuple[str, ...]
    seed: int
    capacity: float | None
    repeats: bool
    setup: Setup
    out: Path
    budget_s: float | None = None
    runs: Path | None = None


class Cell(NamedTuple):
    """One system at one rate."""

    rate: float
    system: str  # as its file calls it


@dataclass
class _Desk:
    """What a check has so far."""

    plan: Plan
    engine: Calibrated
    loaded: dict[Cell, Loaded]
    asked: dict[str, Any]  # by every run
    shelf: Shelf
    pace: Pace
    now: Callable[[], float]
    simulated: dict[Cell, Observed] = field(default_factory=dict)
    pairs: dict[Cell, Pair] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    changed: dict[Cell, tuple[str, ...]] = field(default_factory=dict)  # since the runs that are judged were served


def run_check(plan: Plan, now: Callable[[], float] = perf_counter) -> Iterator[str]:
    """Serve and simulate every system at every rate; yield the text of each report as it is done.

    All first runs come before the repeats, whose reports replace the earlier ones. Every run and report appears under
    `plan.out` at once: a check that was killed, or that its budget ended, goes on when it is started again.

    Args:
        plan: what is checked.
        now: the clock of the budget.

    Raises:
        ConfigError: if a configuration is wrong.
        ValueError: if the profile is, the engine cannot be built, or the folder holds another check's runs.
    """
    engine = engine_costs(plan.hardware, plan.setup)
    desk = _desk(plan, engine, now)
    yield f"{engine.remark}\n"
    for kinds in _passes(plan):
        for rate in plan.rates:
            cells = [cell for cell in desk.loaded if cell.rate == rate]
            changed = [cell for cell in cells if any([_advance(desk, cell, is_repeat=one) for one in kinds])]  # noqa: C419 - all of them
            yield from (_report(desk, cell) for cell in changed)
            if changed:
                yield from _policies(desk, rate)
    yield from _ending(desk)


def _passes(plan: Plan) -> list[tuple[bool, ...]]:
    """Return in which turns cells are taken, each by whether it is a repeat: kept runs all at once."""
    kinds = (False, True)[: 1 + plan.repeats]
    return [kinds] if plan.runs is not None else [(kind,) for kind in kinds]


def _desk(plan: Plan, engine: Calibrated, now: Callable[[], float]) -> _Desk:
    loaded: dict[Cell, Loaded] = {}
    for rate in plan.rates:
        for system in plan.systems:
            one = _loaded(plan, system, rate, engine.costs)
            cell = Cell(rate, one.config.name)
            if cell in loaded:
                msg = f"two systems, or one twice, are called {cell.system!r} at {rate:g} requests/s"
                raise ValueError(msg)
            loaded[cell] = one
    if plan.runs is None:
        _require_kernels(plan.setup.backend)
    else:
        require_runs(plan.runs, plan.out, [_name(cell, is_repeat=False) for cell in loaded])
    pace = Pace(plan.budget_s, now)
    plan.out.mkdir(parents=True, exist_ok=True)
    device = _device(plan.setup) if plan.runs is None else ""
    asked = {"profile_sha256": _freeze(plan, engine), "setup": plan.setup._asdict(), "device": device}
    return _Desk(plan, engine, loaded, asked, Shelf(plan.runs or plan.out), pace, now)


def _loaded(plan: Plan, system: str, rate: float, costs: dict[str, Any] | None) -> Loaded:
    workload = {"rate_per_s": rate, "requests": plan.requests}
    extra = {"workload": workload, "hardware": plan.hardware, "model": plan.model, "seed": plan.seed, "costs": costs}
    loaded = load_config(system, plan.changes, extra)
    if given := [f"loading.{key}" for key in INPUTS if getattr(loaded.config.loading, key)]:
        msg = f"{system}: {', '.join(given)}: a check counts what the mini engine sends with a step"
        raise ValueError(msg)
    return loaded


def _require_kernels(backend: str) -> None:
    """Raise ValueError if there are no such LoRA kernels, or they cannot be used here."""
    from gpu_validate.lora.backends import available  # noqa: PLC0415 - looks for torch

    reasons = available()
    if backend not in reasons:
        msg = f"unknown LoRA kernels {backend!r}{did_you_mean(backend, reasons)}"
        raise ValueError(msg)
    if reason := reasons[backend]:
        msg = f"LoRA kernels {backend!r} cannot be used here: {reason}"
        raise ValueError(msg)


def _device(setup: Setup) -> str:
    from gpu_validate.probe import facts, find_device  # noqa: PLC0415 - needs torch

    return str(facts(find_device(setup.device))["device"])


def _freeze(plan: Plan, engine: Calibrated) -> str:
    """Write down the profile under test before anything is measured; return its hash."""
    attention = None if engine.attention is None else engine.attention.model_dump(mode="json")
    frozen: dict[str, Any] = {"profile": load_hardware(plan.hardware).model_dump(mode="json")}
    frozen |= {"engine_costs": engine.costs, "engine_attention": attention}
    hashed = profile_digest(frozen)
    frozen = {"hardware": plan.hardware, "sha256": hashed, **frozen}
    write_text(plan.out / FROZEN, json.dumps(frozen, indent=1) + "\n")
    return hashed


def _advance(desk: _Desk, cell: Cell, *, is_repeat: bool) -> bool:
    """Serve a cell once, or find it served; whether there is something new to report."""
    if is_repeat and cell not in desk.pairs:
        desk.left_out.append(_name(cell, is_repeat=True))
        return False
    if cell not in desk.simulated:
        desk.simulated[cell] = simulate(desk.loaded[cell], desk.plan.setup, _gpu(desk, cell))
    found = _found_or_served(desk, cell, is_repeat=is_repeat)
    if found is None:
        return False
    if is_repeat:
        desk.pairs[cell] = desk.pairs[cell]._replace(repeat=found.observed)
    else:
        load = None if desk.plan.capacity is None else cell.rate / desk.plan.capacity
        desk.pairs[cell] = Pair(desk.simulated[cell], found.observed, None, load)
    return True


def _found_or_served(desk: _Desk, cell: Cell, *, is_repeat: bool) -> Kept | None:
    name, label = _name(cell, is_repeat=is_repeat), "measured again" if is_repeat else "measured"
    span_s = _span_s(desk.simulated[cell])
    asked = {**desk.asked, "config": desk.loaded[cell].config.model_dump(mode="json")}
    if desk.plan.runs is not None:
        kept = desk.shelf.read(name, label, asked, deploy(desk.loaded[cell], gpu=_gpu(desk, cell)))
        if kept is None:
            desk.left_out.append(name)
        else:
            desk.changed[cell] = kept.changed
        return kept
    kept = desk.shelf.find(name, label, asked)
    if kept is None:
        if desk.left_out or not desk.pace.fits(span_s):
            desk.left_out.append(name)
            return None
        begin = desk.now()
        served = serve(desk.loaded[cell], desk.plan.setup, label, gpu=_gpu(desk, cell))
        kept = Kept(served.observed, desk.now() - begin)
        desk.shelf.keep(name, asked, served, kept.wall_s)
    desk.pace.note(kept.wall_s, span_s)
    return kept


def _gpu(desk: _Desk, cell: Cell) -> Hardware:
    """Return the profile under test, with the attention of the engine that is run if that is known."""
    return with_attention(load_hardware(desk.loaded[cell].config.hardware), desk.engine.attention)


def _name(cell: Cell, *, is_repeat: bool) -> str:
    return f"{cell.system}-at-{cell.rate:g}-{'repeated' if is_repeat else 'measured'}"


def _span_s(simulated: Observed) -> float:
    """Return how long a run lasts in the simulation."""
    requests = simulated.requests
    ends = requests["arrival_s"] + requests["e2el_s"].fillna(0.0)
    return float(ends.max()) if len(ends) else 0.0


def _policies(desk: _Desk, rate: float) -> Iterator[str]:
    """Yield the report of the systems against the first one, where that and others were served."""
    pairs = {cell.system: pair for cell, pair in desk.pairs.items() if cell.rate == rate}
    baseline = next(iter(desk.loaded)).system
    if baseline in pairs and len(pairs) > 1:
        gains = report_policies({baseline: pairs[baseline], **pairs})
        text = policies_text(gains)
        write_report(gains, text, desk.plan.out, name=f"policies-at-{rate:g}")
        yield text


def _report(desk: _Desk, cell: Cell) -> str:
    plan, pair, name = desk.plan, desk.pairs[cell], f"{cell.system}-at-{cell.rate:g}"
    report: dict[str, Any] = report_pair(pair.simulated, pair.measured, pair.repeat, load=pair.load)
    remark = _remark(desk, cell)
    report |= {"evidence": plan.setup.device == "cuda", "predicted_with": remark}
    report |= {"profile": plan.hardware, "changes": list(plan.changes)}
    report["runs"] = None if plan.runs is None else str(plan.runs)
    note = "" if report["evidence"] else "executed on a CPU with tiny dimensions: this shows that it works, no more\n"
    text = f"{name}\n{note}{remark}\n{text_of(report)}"
    write_report(report, text, plan.out, draw(pair.simulated, pair.measured, pair.repeat), name)
    return text


def _remark(desk: _Desk, cell: Cell) -> str:
    """Return what the prediction was made with."""
    plan, inputs = desk.plan, "wait for no copy"
    if desk.loaded[cell].config.loading.sharing == "fifo":
        inline = _gpu(desk, cell).link.inline_bytes
        inputs = f"wait behind the copy under way if they are larger than {inline} bytes"
    remark = f"profile: {plan.hardware}; {desk.engine.remark}; a step's inputs {inputs}"
    if plan.changes:
        remark += f"; set: {', '.join(plan.changes)}"
    if changed := desk.changed.get(cell):
        remark += f"; served with {', '.join(changed)}"
    table = desk.pairs[cell].measured.iterations
    if plan.runs is not None and table is not None and not can_predict_anew(table):
        remark += "; iterations: as predicted when they were served"
    if table is not None and "wait_s" not in table:
        remark += ", without their waits for copies"
    return remark


def _ending(desk: _Desk) -> Iterator[str]:
    """Write what the check covers, and yield a sentence on what it does not."""
    names = [f"{cell.system}-at-{cell.rate:g}" for cell in desk.pairs]
    repeated = [f"{cell.system}-at-{cell.rate:g}" for cell, pair in desk.pairs.items() if pair.repeat is not None]
    told = {"budget_s": desk.plan.budget_s, "served": names, "repeated": repeated, "left_out": desk.left_out}
    write_text(desk.plan.out / "check.json", json.dumps(told, indent=1) + "\n")
    if desk.left_out and desk.plan.runs is not None:
        yield f"left out, because {desk.plan.runs} has no such runs: {', '.join(desk.left_out)}\n"
    elif desk.left_out:
        yield (
            f"left out, because they would not have ended within {desk.plan.budget_s:g} s: "
            f"{', '.join(desk.left_out)}; the same command goes on from here\n"
        )
