"""The flags that several commands share: short names, with vLLM's words as aliases, and values checked as they come."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer


def whole_number(lowest: int) -> Callable[[Any], int]:
    """Return a parser of whole numbers from `lowest` up."""

    def parse(given: Any) -> int:
        text = str(given).strip()
        if not text.removeprefix("-").isdecimal() or int(text) < lowest:
            msg = f"{text!r} is not allowed; a whole number of at least {lowest} is"
            raise typer.BadParameter(msg)
        return int(text)

    return parse


def positive_number(given: Any) -> float:
    """Return a number above 0, which may be infinite."""
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not value > 0:
        msg = f"{str(given)!r} is not allowed; a number above 0 is"
        raise typer.BadParameter(msg)
    return value


def share(given: Any) -> float:
    """Return a number above 0 and at most 1."""
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        msg = f"{str(given)!r} is not allowed; a share above 0 and at most 1 is, such as 0.95"
        raise typer.BadParameter(msg)
    return value


def processes(given: Any) -> int:
    """Return a number of processes, or -1 for all cores."""
    text = str(given).strip()
    if text == "-1":
        return -1
    if not text.isdecimal() or int(text) < 1:
        msg = f"{text!r} is not allowed; a number of processes or -1 for all cores is"
        raise typer.BadParameter(msg)
    return int(text)


def goodput_bounds(given: list[str] | None) -> tuple[tuple[str, float], ...]:
    """Return the bounds in texts such as "ttft:500" or "ttft:500 tpot:50": latencies of vLLM's names, and ms.

    Raises:
        BadParameter: if a text is none.
    """
    from sim.names import closest  # noqa: PLC0415 - these are slow to import
    from sim.results.vllm_bench import JUDGED  # noqa: PLC0415

    found: dict[str, float] = {}
    for word in (word for text in given or () for word in text.split()):
        name, colon, bound = word.partition(":")
        if not colon:
            msg = f"--goodput {word!r} is not allowed; KEY:MS is, such as ttft:500"
            raise typer.BadParameter(msg)
        if name not in JUDGED:
            match = closest(name, JUDGED)
            hint = f" - did you mean {match!r}?" if match else ""
            msg = f"--goodput {word!r}: no latency is named {name!r}{hint} ({', '.join(JUDGED)})"
            raise typer.BadParameter(msg)
        if name in found:
            msg = f"--goodput: {name} is there twice"
            raise typer.BadParameter(msg)
        found[name] = positive_number(bound)
    return tuple(found.items())


def preset(given: str) -> str:
    """Return the name of a workload preset."""
    from sim.names import did_you_mean  # noqa: PLC0415
    from sim.workload.making import PRESETS  # noqa: PLC0415 - numpy and pydantic are slow to import

    if given not in PRESETS:
        msg = f"no workload is named {given!r}{did_you_mean(given, PRESETS)} (the presets: {', '.join(PRESETS)})"
        raise typer.BadParameter(msg)
    return given


System = Annotated[
    str | None,
    typer.Option("--system", "-s", help="Packaged system (see `systems list`) or a YAML file. [default: chameleon]"),
]
Workload = Annotated[
    str | None,
    typer.Option(
        "--workload",
        "-w",
        parser=preset,
        metavar="NAME",
        help="Preset: paper, azure-conv, azure-code or uniform. [default: paper]",
    ),
]
TraceFile = Annotated[
    Path | None,
    typer.Option("--trace", help="Trace file, or the folder of one: its lengths, in order of its stamps."),
]
Rate = Annotated[
    float | None,
    typer.Option(
        "--rate",
        "--request-rate",
        parser=positive_number,
        metavar="NUMBER",
        help="Requests per second. [default: the preset's; of a trace file its own stamps]",
    ),
]
Requests = Annotated[
    int | None,
    typer.Option("--requests", "-n", "--num-prompts", parser=whole_number(1), metavar="N", help="Number of requests."),
]
Scale = Annotated[
    float | None,
    typer.Option(
        "--scale",
        parser=positive_number,
        metavar="NUMBER",
        help="Divide all lengths by this. [default: the preset's, 7 for paper; 1 of a trace file]",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        parser=whole_number(0),
        metavar="N",
        help="Draws the same workload for every system and load.",
    ),
]
OwnSeed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        parser=whole_number(0),
        metavar="N",
        help="Draws the same workload for every system and load. [default: that of a system's file, else 0]",
    ),
]
Reps = Annotated[
    int,
    typer.Option(
        "--reps", parser=whole_number(1), metavar="N", help="Replications, with seeds counted up from --seed."
    ),
]
Hardware = Annotated[
    str | None,
    typer.Option(
        "--hardware",
        help="a40, a10g, a100-40, a100-80, a6000, h100, h100-64, h200, l40s, rtx-3090, rtx-4090 or a profile file. "
        "[default: a40]",
    ),
]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Base model such as llama-3.1-8b, or a YAML file with its dimensions (docs/costs.md). [default: llama-7b]",
    ),
]
MaxConcurrency = Annotated[
    int | None,
    typer.Option(
        "--max-concurrency",
        parser=whole_number(1),
        metavar="N",
        help="A closed loop: a request that is due while N are under way is sent when one has left.",
    ),
]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Change any key: --set cache.kind=lru (repeatable).")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        "--result-dir",
        help="Directory to write, one run below it per seed with --reps; what it already holds is not simulated again.",
    ),
]
Jobs = Annotated[
    int,
    typer.Option("--jobs", "-j", parser=processes, metavar="N", help="Processes for replications; -1 for all cores."),
]
Goodput = Annotated[
    list[str] | None,
    typer.Option(
        "--goodput",
        metavar="KEY:MS ...",
        help="Bounds that make a request good, in ms: --goodput ttft:500 tpot:50 (keys ttft, tpot, e2el). "
        "[default: ttft: the system's ttft_slo_s]",
    ),
]
Label = Annotated[str | None, typer.Option("--label", help="Name in vllm_bench.json. [default: the system's]")]
Timeline = Annotated[
    bool, typer.Option("--timeline", help="Also write timeline.json.gz, event by event, for ui.perfetto.dev.")
]
SaveDetailed = Annotated[
    bool, typer.Option("--save-detailed", help="Also write vLLM's arrays, one entry per request, to vllm_bench.json.")
]
Bootstrap = Annotated[
    bool,
    typer.Option(
        "--bootstrap", help="Add 95 % intervals from the first seed's run alone, by drawing blocks of its time again."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def overrides(
    workload: str | None,
    trace: Path | None,
    rate: float | None,
    requests: int | None,
    scale: float | None,
    seed: int | None,
    hardware: str | None,
    model: str | None,
) -> dict[str, Any]:
    """Return what the shared flags change in a configuration; flags that were not given are None."""
    drawn = {
        "preset": workload,
        "trace": None if trace is None else str(trace),
        "rate_per_s": rate,
        "requests": requests,
        "scale": scale,
    }
    return {"workload": drawn, "seed": seed, "hardware": hardware, "model": model}


def note(what: str, rows: int) -> str:
    """Return a trace's note as a sentence that says its count."""
    if what.startswith("rows "):
        return f"1 row {what.removeprefix('rows ')}" if rows == 1 else f"{rows} {what}"
    return f"{what} ({rows} {'row' if rows == 1 else 'rows'})"
