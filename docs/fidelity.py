"""Write docs/fidelity.md: how far the simulator is from servers that other people ran.

chameleon validate all --thorough --data DIR --json measures.json
chameleon fit slora --data DIR --out FOLDER
chameleon fit vllm --data DIR --out FOLDER
chameleon fit vllm-v0 --data DIR --out FOLDER
python docs/fidelity.py measures.json FOLDER/fit.json FOLDER/fit_vllm.json FOLDER/fit_v0.json
"""  # noqa: INP001 - a script beside the page that it writes, no package

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sim.fidelity.aims import FIT_SUFFIX, aim_of, verdict
from sim.fidelity.measures import REGIONS, Measure, errors
from sim.fidelity.report import errors_grid, metrics_of, sets_of
from sim.files.textfile import write_text

PAGE = Path(__file__).resolve().with_suffix(".md")
CLIFF_ADAPTERS, CLIFF_RATES = 64, "0.1/0.05/0.025"
HALVES = ", halves"
TEMPLATE = PAGE.with_name("fidelity_template.md")


class Words(NamedTuple):
    """What is said of a published set.

    Attributes:
        what: which server on which card.
        seen: what a fit has seen of it.
    """

    what: str
    seen: str


SETS = {
    "slora-a10g": Words("S-LoRA by its authors, Llama-7B, A10G, ranks 8 and 64/32/16/8", "yes"),
    "slora-a100-80": Words("S-LoRA by its authors, Llama-13B, A100-80, ranks 64/32/16", "yes"),
    "slora-h100": Words("S-LoRA by others, Llama-2-7B, H100 of 64 GB, rank 32", "yes, but for the highest rate"),
    "vllm-lora-h100-8b": Words("vLLM 0.8 with LoRA, Llama-3.1-8B, H100 of 64 GB, rank 16", "no number, a rule"),
    "vllm-lora-h100-7b": Words(
        "an older vLLM with LoRA, taken for V0, Llama-2-7B, H100 of 64 GB, rank 16", "no: the other half was"
    ),
    "vllm-h100-microbench": Words("decode steps of the same vLLM", "no: Qwen-2.5-7B, by its dimensions"),
    "vllm-rtx4090": Words(
        "vLLM 0.19 without LoRA, Llama-3.1-8B, RTX 4090, 300 logged requests", "no; single layers were"
    ),
}

HALVED = {"vllm-v0-h100": "those of Llama-2-7B's servers that kept up"}  # sets that halves alone are of


def read_measures(path: Path) -> list[Measure]:
    """Return what `chameleon validate --json` wrote."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return _measures(rows)


def page(measures: Sequence[Measure], fits: Sequence[dict[str, Any]]) -> str:
    """Return the whole page.

    Args:
        measures: of all sets.
        fits: what `chameleon fit slora` and `chameleon fit vllm` found.
    """
    sets = sets_of(measures)
    if missing := [name for name in SETS if name not in sets]:
        msg = f"no measure is of {', '.join(missing)}; `chameleon validate all --thorough` makes them"
        raise ValueError(msg)
    text = TEMPLATE.read_text(encoding="utf-8")
    for mark, lines in (
        ("summary", summary(sets, fits)),
        ("fits", fit_tables(fits)),
        ("errors", error_tables(sets)),
        ("cliff", cliff(measures)),
        ("misses", misses(sets | unseen_of(fits))),
    ):
        text = text.replace(f"<!-- {mark} -->\n", "\n".join(lines).rstrip("\n") + "\n")
    return text


def unseen_of(fits: Sequence[dict[str, Any]]) -> dict[str, list[Measure]]:
    """Return, by set, how each half of its runs is predicted by a fit of the other."""
    return {f"{one['set']}{HALVES}": _measures(one["unseen"]) for one in fits}


def _measures(rows: Sequence[dict[str, Any]]) -> list[Measure]:
    return [Measure(**{name: row[name] for name in Measure._fields}) for row in rows]


def summary(sets: dict[str, list[Measure]], fits: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield one line a set: what it is, how many runs, and how far each metric with an aim is off."""
    header = ["set", "what", "runs", "seen by a fit", "median size of the error, all loads"]
    yield from _markdown(header, [_summary_row(name, own) for name, own in (sets | unseen_of(fits)).items()])


def _summary_row(name: str, measures: Sequence[Measure]) -> list[str]:
    own = name.removesuffix(FIT_SUFFIX).removesuffix(HALVES)
    what = HALVED.get(own) or SETS[own].what
    runs = len({one.row for one in measures})
    return [f"`{name}`", what, str(runs), _seen(name), "; ".join(_headlines(measures))]


def _seen(name: str) -> str:
    if name.endswith(HALVES):
        return "the other half was"
    return "yes" if name.endswith(FIT_SUFFIX) else SETS[name].seen


def _headlines(measures: Sequence[Measure]) -> Iterator[str]:
    for metric in metrics_of(measures):
        own = [one for one in measures if one.metric == metric]
        judged = [one for one in own if aim_of(one) is not None] or own
        found = verdict(own)
        kept = "" if found is None else f" ({found.within} of {found.judged} within {100 * found.aim:g} %)"
        yield f"{metric} {100 * errors(judged).median_abs:.1f} %{kept}"


def error_tables(sets: dict[str, list[Measure]]) -> Iterator[str]:
    """Yield the errors of every set, by metric and load region."""
    for name, own in sets.items():
        yield f"### {name}\n"
        yield from _markdown(*errors_grid(own))


def cliff(measures: Sequence[Measure]) -> Iterator[str]:
    """Yield the runs that differ in their adapter slots only, from the most to the fewest."""
    metrics = ("ttft_p50", "ttft_p99", "ttft_mean", "tpot_mean")
    runs: dict[int, dict[str, Measure]] = {}
    for one in measures:
        if found := re.fullmatch(rf"{CLIFF_ADAPTERS} adapters, (\d+) slots, {CLIFF_RATES} req/s each.*", one.row):
            runs.setdefault(int(found[1]), {})[one.metric] = one
    rows = [
        [str(slots), *(f"{runs[slots][name].measured:.4g} / {runs[slots][name].simulated:.4g}" for name in metrics)]
        for slots in sorted(runs, reverse=True)
    ]
    yield from _markdown(["slots", *(f"{name}, ms" for name in metrics)], rows)


def misses(sets: dict[str, list[Measure]]) -> Iterator[str]:
    """Yield every metric, by load region, whose aim is not kept by all runs."""
    rows = []
    for name, own in sets.items():
        for metric in metrics_of(own):
            for region in ("", *REGIONS):
                here = [one for one in own if (one.metric, one.region) == (metric, region)]
                found = verdict(here) if here else None
                if found is not None and found.within < found.judged:
                    worst = max(here, key=lambda one: abs(one.relative_error) if aim_of(one) else 0.0)
                    told = f"{worst.row}: {100 * worst.relative_error:+.0f} %"
                    kept = f"{found.within} of {found.judged}"
                    rows.append([name, metric, region, f"{100 * found.aim:g} %", kept, told])
    yield from _markdown(["set", "metric", "load", "aim", "kept by", "largest error"], rows)


def fit_tables(fits: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the coefficients of each fit, and how each half of the rows is predicted by a fit of the other."""
    for one in fits:
        yield f"### `{one['target']}`, from {one['set']}\n"
        values = [
            [f"`{key}`", f"{prior:.4g}", *(f"{found[key]:.4g}" for found in one["values"])]
            for key, prior in one["priors"].items()
        ]
        beside = one.get("beside", "prior")
        yield from _markdown(["coefficient", beside, "all rows", "one half", "other half"], values)
        rows = [*_fit_errors("all rows, fitted", one["fitted"]), *_fit_errors("halves, unseen", one["unseen"])]
        yield from _markdown(["metric", "rows", "mean size", "largest", "bias"], rows)


def _fit_errors(title: str, told: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    found = _measures(told)
    for metric in dict.fromkeys(one.metric for one in found):
        one = errors(measure for measure in found if measure.metric == metric)
        sizes = f"{100 * one.mean_abs:.1f} %", f"{100 * one.max_abs:.1f} %", f"{100 * one.bias:+.1f} %"
        yield [f"{metric}, {title}", str(one.pairs), *sizes]


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def main() -> None:
    """Read both files and write the page."""
    parser = argparse.ArgumentParser(description="Write docs/fidelity.md.")
    parser.add_argument("measures", type=Path, help="what `chameleon validate all --json` wrote")
    parser.add_argument(
        "fits", type=Path, nargs="+", help="what `chameleon fit` wrote: fit.json, fit_vllm.json, fit_v0.json"
    )
    given = parser.parse_args()
    fits = [one for path in given.fits for one in json.loads(path.read_text(encoding="utf-8"))]
    write_text(PAGE, page(read_measures(given.measures), fits))
    sys.stderr.write(f"written to {PAGE}\n")


if __name__ == "__main__":
    main()
