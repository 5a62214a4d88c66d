"""The page that `chameleon systems table` writes: Markdown from configurations and rows, nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sim.config import RunConfig
from sim.experiments.field import SESSIONS, Block, Line, alike
from sim.statistics import Interval
from sim.texttable import interval_text
from sim.workload.making import PRESETS

Cells = Sequence[str]

HEAD = """\
# Systems, side by side

Every system in `sim/data/systems/` is one YAML file: an engine's options, its costs, and a policy for each seam.
`chameleon systems list` names them, `chameleon systems show NAME` prints one with everything written out. This page
is written by `chameleon systems table --out docs/systems.md`; change the systems, not the page.

All serve the same requests: workload `paper` ({adapters} adapters of ranks {ranks}, lengths divided by {scale:g},
Poisson arrivals), {requests} requests a run, {seeds} with the same draws for every system. One A40 (simulated),
Llama-7B, and 27 GB set aside, so that 7.5 GB are left for KV and adapters together.
{gpus}

## How to read it

* **Times are simulated.** The A40's rates are fitted or derived; S-LoRA's engine is fitted to published first
  tokens on this card. **All other engines' software costs are priors here:** vLLM's were found on an H100, those
  marked "unmeasured" in the files are vLLM's or S-LoRA's put in their place, and some have none at all
  (`docs/costs.md`). So compare rows of one engine first: what `slora-*`, `chameleon-*`, `vllm-*` or `sglang-*` do
  among themselves is due to their rules alone.
* **Rows differ in more than the policy.** The next table says in what: how prompts run beside decodes, how memory
  is promised, where adapters live, how they are loaded, which kernel is charged.
* **Eight slots for {adapters} adapters is a hard case** for the systems that have slots (vLLM's own default is
  one). They are bound by slots, not by GPU time; with more slots they look better, until slots eat the KV.
* **A P99 stands beside its n**: completed requests over all seeds. Intervals are t intervals over seeds, 95 %; they
  say nothing about a wrong cost.
* **Ten steps.** S-LoRA and Chameleon look for new requests every tenth decode step, all others after every step. That
  is most of the distance between their P50 and everybody else's: `slora-ideal` is S-LoRA without it.
* **Queue** is the verdict on each run. Where it says `overloaded`, the percentiles measure the length of the run: with
  twice the requests they would be about twice as long. `backlogged` runs are somewhere on the way there.
* **Hits**: share of requests that found their adapter on the GPU when they were admitted. A scheduler that waits
  for loads before it admits gets hits by definition. **GB**: bytes of adapters sent over the link, all runs' mean;
  an engine that copies each byte twice (S-LoRA) is counted once.
* **Only first tokens are shown.** Preemptive systems (`fastserve`, `learning-to-rank`, `dlora`) buy them with later
  ones; `chameleon compare` shows the rest.
* **`vllm-base` is no LoRA system:** it loads adapters and computes them for nothing. It is here because every packaged
  system is; it serves requests for the base model, as in `docs/fidelity.md`.
* Requests that a system turns away (`slora-abort`) are in nobody's percentile; n is then smaller than what was
  offered.
"""

SESSION_TEXT = """\
**Sessions with drift** are `workload.locality` at its defaults: {mean:g} requests a session (geometric), each with
the adapter of the one before with probability {repeat:g}; gaps inside a session lognormal, median {gap:g} s at
{base:g} requests/s, scaled to the load ({scaled:.2f} s at 9); every {epoch:.0f} requests {share:.0%} of the
adapters swap popularity. Otherwise every request draws its own.

**A KV pool of 6000 tokens** is the released S-LoRA's default, 3.1 GB. Engines whose adapters live in the pool have
to fit them in there too; the others keep what they have beside it. There memory is short, and rules that only order
a queue differ.
"""

TAIL = """\
## What is not here

aLoRA and prefix caches (no reuse across requests is modelled), InfiniLoRA's separate LoRA servers, FastLibra's KV half,
migration between replicas (Punica, dLoRA), and LoRAServe's remote fetches. Each file's `source` says what it
follows, and what is from memory.
"""


def page(
    configs: Mapping[str, RunConfig],
    blocks: Sequence[Block],
    requests: int,
    reps: int,
) -> str:
    """Return the page.

    Args:
        configs: every system, by name.
        blocks: the rows.
        requests: of each run.
        reps: seeds.
    """
    parts = [_head(configs, requests, reps), _differences(configs), _sessions()]
    parts += [_block(block) for block in blocks]
    return "\n".join([*parts, TAIL])


def _head(configs: Mapping[str, RunConfig], requests: int, reps: int) -> str:
    workload = PRESETS["paper"]
    many = [f"`{name}` has {config.replicas}" for name, config in configs.items() if config.replicas > 1]
    return HEAD.format(
        adapters=workload.adapters,
        ranks=", ".join(map(str, workload.ranks)),
        scale=workload.scale,
        requests=requests,
        seeds="one seed" if reps == 1 else f"{reps} seeds",
        gpus=f"Of such GPUs {', '.join(many)}; the others have one." if many else "Each has one such GPU.",
    )


def _sessions() -> str:
    return "## Latency, hits and traffic\n\n" + SESSION_TEXT.format(
        mean=SESSIONS.session_requests_mean,
        repeat=SESSIONS.repeat_probability,
        gap=SESSIONS.session_gap_median_s,
        base=SESSIONS.at_rate_per_s,
        scaled=SESSIONS.session_gap_median_s * SESSIONS.at_rate_per_s / 9,
        epoch=SESSIONS.epoch_s * SESSIONS.at_rate_per_s,
        share=SESSIONS.drift_share,
    )


def _markdown(header: Cells, rows: Sequence[Cells]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _differences(configs: Mapping[str, RunConfig]) -> str:
    header = [
        "system",
        "prefill",
        "promises",
        "adapters in",
        "loads",
        "kernel",
        "scheduler",
        "cache",
        "prefetch",
        "GPUs",
    ]
    return "## What differs\n\n" + _markdown(header, [_difference(*item) for item in configs.items()])


def _difference(name: str, config: RunConfig) -> list[str]:
    adapters, steps = config.adapters, config.admission.every_steps
    place = f"{adapters.slots} slots" if adapters.memory == "slots" else adapters.memory
    gpus = "1" if config.replicas == 1 else f"{config.replicas}, {config.router['kind']}"
    return [
        f"`{name}`",
        config.prefill,
        config.admission.reserve + (f", every {steps} steps" if steps > 1 else ""),
        place,
        config.loading.mode,
        config.costs.kernel,
        _policy(config.scheduler),
        _policy(config.cache),
        _policy(config.prefetch),
        gpus,
    ]


def _policy(spec: Mapping[str, Any]) -> str:
    parameters = [f"{key} {value}" for key, value in spec.items() if key != "kind"]
    return str(spec["kind"]) + (f" ({', '.join(parameters)})" if parameters else "")


def _block(block: Block) -> str:
    header = ["system", "P50 TTFT, ms", "P99 TTFT, ms", "n", "hits, %", "GB", "queue"]
    title = f"### {block.rate_per_s:g} requests/s, {block.setting.title}\n\n"
    return title + _markdown(header, [_row(line) for line in block.lines]) + "".join(_alike(block))


def _row(line: Line) -> list[str]:
    row = line.row
    count = f"{row.completed}" if row.completed == row.offered else f"{row.completed} of {row.offered}"
    return [
        f"`{row.system}`",
        interval_text(row.p50_ms),
        interval_text(row.p99_ms),
        count,
        _spread(row.hit_rate, 100),
        _spread(line.loaded_gb, 1),
        _queue(row.verdicts),
    ]


def _queue(verdicts: Mapping[str, int]) -> str:
    return (
        next(iter(verdicts)) if len(verdicts) == 1 else ", ".join(f"{verdicts[one]} {one}" for one in sorted(verdicts))
    )


def _spread(interval: Interval | None, factor: float) -> str:
    if interval is None:
        return "-"
    estimate = f"{factor * interval.estimate:.1f}"
    return estimate if interval.high is None else f"{estimate} ± {factor * (interval.high - interval.estimate):.1f}"


def _alike(block: Block) -> Iterator[str]:
    groups = [" = ".join(f"`{name}`" for name in group) for group in alike(block)]
    if groups:
        yield f"\nThe same to the last digit, because what tells them apart never came up: {'; '.join(groups)}.\n"
