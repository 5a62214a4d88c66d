"""The simulator against any server's log, without a GPU: the log's own requests are simulated, or a run is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu_validate.bootstrap import DRAWS
from gpu_validate.check import report_pair
from gpu_validate.engine_costs import has_engine_costs
from gpu_validate.fit import REPORT
from gpu_validate.logs import Log, read_log
from gpu_validate.observed import Observed, from_directory, from_result
from gpu_validate.report import draw, text_of, write_report
from sim.build import deploy, play
from sim.config import Loaded, load_config
from sim.experiments.faults import told_of_answers, told_of_code
from sim.experiments.run import result_of
from sim.trace import Trace

if TYPE_CHECKING:
    import pandas as pd


def run_compare(  # noqa: PLR0913 - one keyword per question of the command
    log: Path,
    run: Path | None = None,
    *,
    system: str = "chameleon",
    hardware: str | None = None,
    model: str | None = None,
    changes: Sequence[str] = (),
    out: Path | None = None,
    format: str | None = None,  # noqa: A002 - the field's own word
    adapters: Sequence[str] = (),
    ranks: Mapping[str, int] | int | None = None,
    repeat: Path | None = None,
    load: float | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the report of a simulation against a real log, see `gpu_validate.check.report_pair`.

    Beside the report's keys: `log` (name, format, clock, notes), `client_overhead_s` and `text` (the table). Nothing is
    fitted to the log. No simulated time contains what lies between a client and the engine (`costs.api_s`): it is added
    to first tokens and ends of what is simulated here if the log's format has a client's clock, else not.

    Args:
        log: a file that `gpu_validate.logs` reads.
        run: directory of a simulated run of the same requests; None simulates the log's requests.
        system: what to simulate: a packaged system, or the path of one.
        hardware: profile; None: the system's.
        model: base model; None: the system's.
        changes: texts such as "memory.kv_pool_tokens=41408".
        out: folder for report.json, report.txt and report.png; None writes nothing.
        format: of the log; None recognises it.
        adapters: names that the client dealt to its requests in turn, where the log does not name them.
        ranks: of adapters that the log names without a rank.
        repeat: a second log of the same requests, whose errors are the noise.
        load: offered load as a share of measured capacity; None if nobody knows.
        draws: bootstrap resamples.
        seed: of the simulation and of the resampling.

    Raises:
        LogError: if a log is wrong.
        PolicyError: if a policy from outside fails.
        ValueError: if the log cannot be replayed, or the system, hardware or model is wrong.
    """
    read = read_log(log, format, adapters=adapters)
    measured = observed(read)
    overhead_s = None
    if run is None:
        extra = {"seed": seed, "hardware": hardware, "model": model}
        loaded = load_config(system, changes, extra, marks_arguments=True)
        simulated, overhead_s = _simulated(loaded, read.trace(ranks), read.clock)
    else:
        simulated = from_directory(run)
    again = None if repeat is None else observed(read_log(repeat, format, adapters=adapters))
    paired = run is None or _is_same(simulated.requests, measured.requests)
    report = report_pair(simulated, measured, again, load=load, draws=draws, seed=seed, paired=paired)
    about = {"name": read.name, "format": read.format, "clock": read.clock}
    report |= {"log": about | {"notes": [list(note) for note in read.notes]}, "client_overhead_s": overhead_s}
    text = _head(read) + _overhead_line(read, overhead_s, is_given=run is not None)
    if run is None and has_engine_costs(hardware):
        text += f"engine costs: those of {system}, not the mini engine's in {REPORT} beside the profile\n"
    text += text_of(report)
    if out is not None:
        write_report(report, text, out, draw(simulated, measured, again))
    return report | {"text": text}


def _simulated(loaded: Loaded, trace: Trace, clock: str) -> tuple[Observed, float | None]:
    """Return the simulation as the log's clock would see it, and what was added for that; None: nothing."""
    with told_of_code(loaded):
        deployment = deploy(loaded, trace)
    with told_of_answers(loaded):
        records = play(deployment)
    seen = from_result(result_of(deployment, *records))
    if clock != "client":
        return seen, None
    overhead_s = deployment.costs.api_s
    later = {name: seen.requests[name] + overhead_s for name in ("ttft_s", "e2el_s")}
    return replace(seen, requests=seen.requests.assign(**later)), overhead_s


def observed(log: Log) -> Observed:
    """Return a log as a measured run; it knows completed requests, nothing of iterations or caches."""
    return Observed(log.name, log.requests, None, {"requests.completed": float(len(log.requests))})


def _is_same(simulated: pd.DataFrame, measured: pd.DataFrame) -> bool:
    """Whether two tables are of the same requests in the same order, by their lengths."""
    names = ["prompt_tokens", "output_tokens"]
    return len(simulated) == len(measured) and all(
        np.array_equal(simulated[name].to_numpy(dtype=np.int64), measured[name].to_numpy(dtype=np.int64))
        for name in names
    )


def _overhead_line(log: Log, overhead_s: float | None, *, is_given: bool) -> str:
    if overhead_s is not None:
        return f"client overhead added: {1e3 * overhead_s:.1f} ms (costs.api_s, to first tokens and ends)\n"
    if is_given and log.clock == "client":
        return "client overhead not added: the given run has the engine's clock and the log a client's\n"
    return f"client overhead not added: times of the format {log.format} are of the engine's clock\n"


def _head(log: Log) -> str:
    notes = "".join(f"; {count} {what}" for what, count in log.notes)
    return f"log {log.name} ({log.format}): {len(log.requests)} completed requests{notes}\n"
