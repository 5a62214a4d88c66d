"""Logs of a real engine's requests: every request replayed at its own instant, and its latencies set side by side.

A log is JSON lines with the instants of vLLM's request statistics (monotonic clock, seconds): queued, first token, last
token; time to first token and time per output token are defined by them. Nothing of a log but arrivals and lengths
reaches the simulator.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, ValidationError, model_validator

from sim.config import Loaded, load_config
from sim.experiments.run import execute
from sim.fidelity.load import capacity_per_s
from sim.fidelity.measures import Measure, region_of
from sim.fidelity.tables import MAX_PROBLEMS
from sim.files.yamltext import ConfigError
from sim.names import did_you_mean
from sim.trace import Trace

FloatArray = npt.NDArray[np.float64]

LOG = "vllm_rtx4090_llama31_8b_requests.jsonl"

Tokens = Annotated[int, Field(ge=1, strict=True)]
Instant = Annotated[float, Field(allow_inf_nan=False)]


class LoggedRequest(BaseModel):
    """One line of a log: lengths in tokens, instants in seconds of one clock."""

    input_toks: Tokens
    output_toks: Tokens
    queued_ts: Instant
    first_token_ts: Instant
    last_token_ts: Instant

    @model_validator(mode="after")
    def _time_does_not_run_backwards(self) -> Self:
        if not self.queued_ts <= self.first_token_ts <= self.last_token_ts:
            msg = (
                "need queued_ts <= first_token_ts <= last_token_ts, "
                f"got {self.queued_ts!r}, {self.first_token_ts!r} and {self.last_token_ts!r}"
            )
            raise ValueError(msg)
        return self


class Engine(NamedTuple):
    """What wrote a log, as a configuration.

    Attributes:
        set: the name of the published set.
        system: a packaged system or the path of one.
        changes: texts such as "memory.kv_pool_tokens=41408".
    """

    set: str
    system: str
    changes: tuple[str, ...]


RTX4090 = Engine(
    "vllm-rtx4090",
    "vllm-base",
    (
        "hardware=rtx-4090",
        "model=llama-3.1-8b",
        "memory.kv_pool_tokens=41408",  # what the engine's own log says
    ),
)


@dataclass(frozen=True)
class Latencies:
    """Latencies of the same requests in the same order, all in seconds.

    Attributes:
        ttft_s: from queueing to the first token.
        tpot_s: from there per further token; NaN where there is only one.
        e2e_s: from queueing to the last token.
        span_s: from the first queueing to the last token of all.
    """

    ttft_s: FloatArray
    tpot_s: FloatArray
    e2e_s: FloatArray
    span_s: float


@dataclass(frozen=True)
class LogCase:
    """One log of one engine.

    Attributes:
        log: where it lies, for its name.
        rows: its requests by time of queueing.
        engine: what wrote it.
    """

    log: Path
    rows: tuple[LoggedRequest, ...]
    engine: Engine = RTX4090

    @property
    def name(self) -> str:
        """The log."""
        return self.log.stem

    @property
    def requests(self) -> int:
        """Return how many requests it simulates: the log's own, and as many for the engine's capacity."""
        return 2 * len(self.rows)

    def measures(self) -> list[Measure]:
        """Simulate it and return its metrics beside the logged ones."""
        loaded, trace = self._loaded(), self._trace()
        tokens = int(trace.output_tokens.sum())
        region = region_of(_offered_per_s(trace) / capacity_per_s(loaded, trace))
        logged, simulated = (metrics(one, tokens) for one in (self.logged(), self.simulated()))
        return [
            Measure(self.engine.set, self.log.stem, region, name, value, simulated[name])
            for name, value in logged.items()
        ]

    def logged(self) -> Latencies:
        """Return the latencies of the log."""
        queued, first, last = (self._column(name) for name in ("queued_ts", "first_token_ts", "last_token_ts"))
        return _latencies(queued, first, last, self._column("output_toks"))

    def simulated(self) -> Latencies:
        """Simulate the log's requests and return their latencies."""
        return _simulated(self._loaded(), self._trace())

    def _loaded(self) -> Loaded:
        return load_config(self.engine.system, self.engine.changes)

    def _trace(self) -> Trace:
        queued = self._column("queued_ts")
        prompt, output = (self._column(name).astype(np.int64) for name in ("input_toks", "output_toks"))
        return Trace(self.log.stem, queued - queued[0], prompt, output, (None,), np.zeros(len(queued), dtype=np.int64))

    def _column(self, name: str) -> FloatArray:
        return np.array([getattr(row, name) for row in self.rows], dtype=float)


def cases(data: Path, log: Path | None = None, engine: Engine = RTX4090) -> list[LogCase]:
    """Return the case of one log.

    Args:
        data: folder of the published data.
        log: another log in the same format; None: the published one.
        engine: what wrote it.

    Raises:
        ConfigError: with one line for every key that is missing or wrong.
        FileNotFoundError: if there is no such file.
    """
    path = data / LOG if log is None else log
    return [LogCase(path, tuple(sorted(read_log(path), key=lambda row: row.queued_ts)), engine)]


def read_log(path: Path) -> list[LoggedRequest]:
    """Return the requests of a log in the order of the file; further keys are left alone.

    Raises:
        ConfigError: with one line for every key that is missing or wrong.
        FileNotFoundError: if there is no such file.
    """
    rows: list[LoggedRequest] = []
    problems: list[str] = []
    for number, text in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not text.strip():
            continue
        try:
            rows.append(LoggedRequest.model_validate(_object(text)))
        except ValueError as error:
            problems += [f"{path}:{number}: {one}" for one in _told(error, text)]
        if len(problems) >= MAX_PROBLEMS:
            break
    if not problems and not rows:
        problems = [f"{path}: the log has no requests"]
    if problems:
        raise ConfigError(problems)
    return rows


def metrics(latencies: Latencies, output_tokens: int) -> dict[str, float]:
    """Return what is compared: seconds, and output tokens per second.

    Args:
        latencies: of all requests.
        output_tokens: of all requests.
    """
    found = {"ttft_mean": float(latencies.ttft_s.mean())}
    found |= _percentiles("ttft", latencies.ttft_s, (50, 90, 99))
    if not np.isnan(latencies.tpot_s).all():
        found["tpot_mean"] = float(np.nanmean(latencies.tpot_s))
        found |= _percentiles("tpot", latencies.tpot_s, (50, 99))
    return found | {"e2e_mean": float(latencies.e2e_s.mean()), "throughput": output_tokens / latencies.span_s}


def _percentiles(name: str, values: FloatArray, at: Sequence[int]) -> dict[str, float]:
    return {f"{name}_p{one}": float(np.nanpercentile(values, one)) for one in at}


def _simulated(loaded: Loaded, trace: Trace) -> Latencies:
    table = execute(loaded, trace).requests
    if not (table["status"] == "ok").all():
        row = table[table["status"] != "ok"].iloc[0]
        msg = (
            f"{trace.name}: request {row['request_id']} of the log is {row['status']} in the simulation: {row['error']}"
        )
        raise ValueError(msg)
    first, last = (table[name].to_numpy(dtype=float) for name in ("first_token_s", "finish_s"))
    return _latencies(trace.arrival_s, first, last, trace.output_tokens.astype(float))


def _latencies(queued: FloatArray, first: FloatArray, last: FloatArray, tokens: FloatArray) -> Latencies:
    gaps = np.where(tokens > 1, tokens - 1, np.nan)
    return Latencies(first - queued, (last - first) / gaps, last - queued, float(last.max() - queued.min()))


def _offered_per_s(trace: Trace) -> float:
    span_s = float(trace.arrival_s[-1] - trace.arrival_s[0])
    return (len(trace) - 1) / span_s if span_s else 0.0


def _object(text: str) -> dict[str, object]:
    found = json.loads(text)
    if not isinstance(found, dict):
        msg = f"a line must hold an object of keys and values, got {type(found).__name__}"
        raise ValueError(msg)
    return found


def _told(error: ValueError, text: str) -> Iterator[str]:
    if isinstance(error, json.JSONDecodeError):
        yield f"no JSON: {error.msg} at column {error.colno}"
    elif not isinstance(error, ValidationError):
        yield str(error)
    else:
        given = list(json.loads(text))
        for one in error.errors():
            key = ".".join(map(str, one["loc"]))
            if one["type"] == "missing":
                yield f"key {key!r} is missing{did_you_mean(key, given)}"
            elif key:
                yield f"{key}: {one['msg']}, got {one['input']!r}"
            else:
                yield one["msg"].removeprefix("Value error, ")
