"""A finished run as its user meets it: tables built when asked for, a summary, one line, one block of text, files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import ceil
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.base import IntArray
from sim.results import frames
from sim.results import timeline as timelines
from sim.results.rundir import environment, write_run
from sim.results.summary import Summary, summarise
from sim.results.vllm_bench import BenchMeta, vllm_bench
from sim.serving.records import Records
from sim.serving.ticks import TICKS_PER_S
from sim.trace import Trace

if TYPE_CHECKING:
    import pandas as pd


MOST_ROWS = 100_000  # of a time series whose step nobody chose


@dataclass(frozen=True, eq=False)
class Run:
    """What a finished run leaves behind, and what it was a run of.

    Attributes:
        trace: the workload, of n requests.
        records: one per replica.
        adapter_bytes: bytes of each palette entry; that of the base model is ignored.
        predicted_tokens: shape (n,), output tokens as predicted.
        system: name of the policies and options.
        hardware: name of the GPU profile.
        model: name of the base model.
        seed: seed of the run's random streams.
        kv_token_bytes: bytes of K and V of one token.
        ttft_slo_s: objective for the time to first token; None for none.
        cost_origins: where each group of the hardware's coefficients comes from.
        cost_warnings: coefficients that were used outside the range they are supported for.
        idle_settings: settings that were given and could have no effect.
        link_copies: bytes over the link per byte of an adapter (S-LoRA: 2).
        isolated: called at most once for shape (n,), how many ticks each request takes alone (`sim.results.isolated`).
        is_simulated: False for a run that was served in real time.
    """

    trace: Trace
    records: tuple[Records, ...]
    adapter_bytes: Sequence[int]
    predicted_tokens: IntArray
    system: str
    hardware: str
    model: str
    seed: int
    kv_token_bytes: int = 0
    ttft_slo_s: float | None = None
    cost_origins: Mapping[str, str] = field(default_factory=dict)
    cost_warnings: Sequence[str] = ()
    idle_settings: Sequence[str] = ()
    link_copies: float = 1.0
    isolated: Callable[[], IntArray] | None = None
    is_simulated: bool = True

    @cached_property
    def isolated_ticks(self) -> IntArray | None:
        """What `isolated` returns; None where it is not known."""
        return None if self.isolated is None else self.isolated()


class Result:
    """The results of one run; see `sim.results.frames` for the tables and `sim.results.summary` for the numbers.

    Attributes:
        run: the raw outcome.
        config: the resolved configuration that led to it.
        meta: what `vllm_bench.json` tells beside the results.
        timeseries_step_s: seconds between rows of `timeseries`; None: 1, or more where a run is very long.
    """

    def __init__(
        self,
        run: Run,
        config: Mapping[str, Any] | None = None,
        *,
        meta: BenchMeta | None = None,
        timeseries_step_s: float | None = None,
    ) -> None:
        self.run = run
        self.meta = meta or BenchMeta()
        self.config = dict(config or {})
        self.timeseries_step_s = timeseries_step_s

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row per offered request."""
        return frames.requests_frame(self.run)

    @cached_property
    def adapters(self) -> pd.DataFrame:
        """One row per adapter."""
        return frames.adapters_frame(self.run.trace, self.run.records, self.run.adapter_bytes)

    @cached_property
    def timeseries(self) -> pd.DataFrame:
        """The state at regular instants."""
        run = self.run
        end_s = max(one.end for one in run.records) / TICKS_PER_S
        step_s = self.timeseries_step_s or max(1.0, ceil(end_s / MOST_ROWS))
        return frames.timeseries_frame(run.trace, run.records, step_s=step_s, kv_token_bytes=run.kv_token_bytes)

    @cached_property
    def summary(self) -> Summary:
        """The run in numbers."""
        return summarise(self.run)

    def save(
        self,
        directory: str | PathLike[str],
        meta: BenchMeta | None = None,
        *,
        detailed: bool = False,
        timeline: bool = False,
    ) -> Path:
        """Write the run directory and return its path; see `sim.results.rundir.write_run`.

        Args:
            directory: where the files go; an earlier run there is replaced.
            meta: what `vllm_bench.json` tells beside the results; by default the result's own.
            detailed: whether `vllm_bench.json` gets one entry per request.
            timeline: whether `timeline.json.gz` is written too; see `sim.results.timeline`.

        Raises:
            ValueError: if the directory holds something else.
        """
        requests = self.requests if "requests" in vars(self) else frames.requests_in_parts(self.run)
        tables = {"requests": requests, "adapters": self.adapters, "timeseries": self.timeseries}
        bench = vllm_bench(self.run, self.summary, meta or self.meta, detailed=detailed)
        env = environment(self.config, seed=self.run.seed, hardware=self.run.hardware)
        extras = {timelines.FILE: partial(timelines.write_timeline, self.run)} if timeline else {}
        return write_run(directory, self.config, self.summary, tables, bench, env, extras)

    def __repr__(self) -> str:
        summary = self.summary
        requests, ttft, hit_rate = summary["requests"], summary["metrics"]["ttft_ms"], summary["adapters"]["hit_rate"]
        return (
            f"<Result {summary['system']} on {summary['workload']}: "
            f"{requests['completed']} of {requests['offered']} requests, "
            f"TTFT P50 {_shown(ttft['p50'])} ms P99 {_shown(ttft['p99'])} ms (n={ttft['n']}), "
            f"hit rate {_shown(hit_rate)}, {summary['stability']['verdict']}>"
        )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


HEADINGS = {
    "ttft": "Time to First Token",
    "tpot": "Time per Output Token (excl. 1st token)",
    "itl": "Inter-token Latency",
    "e2el": "End-to-end Latency",
}


def vllm_style_report(summary: Summary) -> str:
    """Return the block of text that `vllm bench serve` prints, and one more about adapters; missing numbers are nan."""
    requests, rates, metrics = summary["requests"], summary["throughput"], summary["metrics"]
    lines = [
        _heading("Serving Benchmark Result", "="),
        _line("Successful requests:", requests["completed"]),
        _line("Failed requests:", requests["offered"] - requests["completed"]),
        _line("Benchmark duration (s):", rates["duration_s"]),
        _line("Total input tokens:", rates["input_tokens"]),
        _line("Total generated tokens:", rates["output_tokens"]),
        _line("Request throughput (req/s):", rates["requests_per_s"]),
        _line("Output token throughput (tok/s):", rates["output_tokens_per_s"]),
        _line("Total token throughput (tok/s):", rates["total_tokens_per_s"]),
    ]
    for name, heading in HEADINGS.items():
        lines += [_heading(heading, "-"), *_latency_lines(name.upper(), metrics[f"{name}_ms"])]
    return "\n".join([*lines, *_lora_lines(summary), "=" * 50])


def _latency_lines(name: str, metric: Mapping[str, Any]) -> list[str]:
    words = {"Mean": "mean", "Median": "p50", "P90": "p90", "P99": "p99"}
    return [_line(f"{word} {name} (ms):", metric[key]) for word, key in words.items()]


def _lora_lines(summary: Summary) -> list[str]:
    adapters, link = summary["adapters"], summary["link"]
    return [
        _heading("LoRA Adapters (simulated)", "-"),
        _line("Adapter hit rate (%):", _percent(adapters["hit_rate"])),
        _line("Adapter loads on demand:", adapters["loads"]),
        _line("Adapter prefetches:", adapters["prefetches"]),
        _line("Useful prefetches:", adapters["useful_prefetches"]),
        _line("Adapter evictions:", adapters["evictions"]),
        _line("Adapter data loaded (GB):", adapters["bytes_loaded"] / 1e9),
        _line("Link utilisation (%):", _percent(link["utilisation"])),
        *_preemption_lines(summary["preemption"]),
        _line("Queue:", summary["stability"]["verdict"]),
    ]


def _preemption_lines(preemption: Mapping[str, Any]) -> list[str]:
    if not preemption["stops"]:
        return []
    swapped_gb = (preemption["swapped_in_bytes"] + preemption["swapped_out_bytes"]) / 1e9
    return [_line("Times that requests were stopped:", preemption["stops"]), _line("KV swapped (GB):", swapped_gb)]


def _heading(text: str, fill: str) -> str:
    return f" {text} ".center(50, fill) if fill == "=" else text.center(50, fill)


def _line(label: str, value: float | str | None) -> str:
    if value is None:
        value = float("nan")
    return f"{label:<40} {value:<10.2f}" if isinstance(value, float) else f"{label:<40} {value:<10}"


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
