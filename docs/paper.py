"""Simulate every number that Chameleon (arXiv 2411.17741) prints, and write docs/paper.md with a verdict on each.

    python docs/paper.py

Finished runs are kept in runs/paper/, so that it goes on where it was stopped; runs of another version of the source
are made again, unless --any-version is given, and the page then says so. Words stand in docs/paper_template.md, reasons
for misses in docs/paper_reasons.yaml.
"""  # noqa: INP001 - a script beside the page that it writes, no package

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from paper_claims import ALL, ALONE, REGIONS, SWITCHES, TIGHT, early_rows
from paper_claims_late import HOLES, QUEUED, late_rows
from paper_figures import draw
from paper_rows import Row, Scenario, Value, verdicts_of
from paper_runs import Cell, Runs, complete
from paper_verdicts import REPRODUCED, SILENT, UNJUDGED, UNSIMULATED, VERDICTS, WITHIN_AXIS, Rising, bounds, judge

from sim.files.textfile import write_text
from sim.files.yamltext import parse
from sim.statistics import mean_interval

HERE = Path(__file__).resolve().parent
TEMPLATE, REASONS = HERE / "paper_template.md", HERE / "paper_reasons.yaml"
QUICK = ("Sizes", "Fig. 2", "Fig. 5", "Fig. 8")  # sections of a page that only shows that it can be made
QUICK_REQUESTS, QUICK_SEEDS = 40, 2
FITTED = "fitted to it"
HEADLINE = ("Fig. 11", "Fig. 13", "Headline")
STUDIES = ("Headline", "Quotas")  # one printed number under many assumptions: not counted again
Reasons = dict[str, dict[str, dict[str, str]]]  # figure, how the quantity begins, scenario ("": any other): clause


def all_rows() -> list[Row]:
    """Return every row of the page."""
    return [*early_rows(), *late_rows()]


def cells_of(rows: Iterable[Row]) -> list[Cell]:
    """Return every run of the rows, each once."""
    return list(dict.fromkeys(cell for row in rows for cell in row.cells()))


def quickened(row: Row) -> Row:
    """Return the row with tiny runs."""

    def tiny(cell: Cell) -> Cell:
        return cell._replace(requests=min(cell.requests, QUICK_REQUESTS), seeds=min(cell.seeds, QUICK_SEEDS))

    def smaller(value: Value) -> Value:
        return value._replace(of=tiny(value.of), against=None if value.against is None else tiny(value.against))

    return row._replace(values=tuple(smaller(one) if isinstance(one, Value) else one for one in row.values))


# --- one row ---


def verdict_of(row: Row, runs: Runs) -> str:
    """Return the verdict on a row."""
    return judge(row.expect, [value.series(runs) for value in row.values])


def simulated(row: Row, runs: Runs) -> str:
    """Return means and the interval, with a dagger where a queue was not stable."""
    digits, _, unit = row.shown.partition(" ")
    series = [value.series(runs) for value in row.values]
    text = ", ".join(f"{mean_interval(one).estimate:.{digits}f}" for one in series)
    if not isinstance(row.expect, Rising) and len(set(series[0])) > 1:
        low, high = bounds(mean_interval(series[0]))
        text += f" [{low:.{digits}f}, {high:.{digits}f}]"
    dagger = " †" if verdicts_of(row.cells(), runs) - {"stable"} else ""
    return f"{text} {unit}".strip() + dagger


def reason(row: Row, reasons: Reasons) -> str:
    """Return why a row may be missed in its scenario; empty where nothing is said."""
    for begin, by_scenario in reasons.get(row.figure, {}).items():
        if row.what.startswith(begin):
            return by_scenario.get(row.scenario, by_scenario.get("", ""))
    return ""


def verdict_and_why(row: Row, runs: Runs, reasons: Reasons) -> str:
    """Return the verdict, and for a miss its reason."""
    verdict = verdict_of(row, runs)
    why = "" if verdict in {SILENT, WITHIN_AXIS} else reason(row, reasons)
    told = f"**{verdict}**" if verdict == REPRODUCED else ": ".join(filter(None, (verdict, why)))
    return f"{told} ({FITTED})" if row.seen else told


def _size(row: Row) -> str:
    return "; ".join(dict.fromkeys(f"{cell.requests:,} x {cell.seeds}" for cell in row.cells())) or "none"


# --- tables ---


def table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *body))


def section(figure: str, rows: Sequence[Row], runs: Runs, numbers: dict[Cell, str], reasons: Reasons) -> str:
    """Return the table of one figure."""
    body = []
    for row in rows:
        refers = " ".join(numbers[cell] for cell in row.cells())
        told = verdict_and_why(row, runs, reasons)
        body.append((row.what, row.printed, row.scenario, simulated(row, runs), told, _size(row), refers))
    holes = [one for one in HOLES if one.figure == figure]
    body += [(one.what, one.printed, "", "", f"{UNSIMULATED}: {one.why}", "", "") for one in holes]
    header = ("quantity", "printed", "scenario", "simulated", "verdict", "requests x seeds", "runs")
    return table(header, body) if body else "(no row was run)"


def counts(rows: Sequence[Row], runs: Runs) -> str:
    """Return how many verdicts of each kind a figure has, by scenario."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for row in rows:
        verdict = FITTED if row.seen else verdict_of(row, runs)
        if verdict not in UNJUDGED and row.figure not in STUDIES:
            found.setdefault((row.figure, row.scenario), Counter())[verdict] += 1
    for hole in HOLES:
        found.setdefault((hole.figure, ""), Counter())[UNSIMULATED] += 1
    columns = (*VERDICTS, FITTED)
    body = [(*where, *(str(count[name] or "") for name in columns)) for where, count in found.items()]
    total: Counter[str] = sum(found.values(), Counter())
    return table(("figure", "scenario", *columns), [*body, ("all", "", *(str(total[name]) for name in columns))])


def side_by_side(rows: Sequence[Row], runs: Runs) -> str:
    """Return the headline's numbers with a column for each of the four scenarios."""
    names = [scenario.name for scenario in ALL]
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        if row.figure in HEADLINE:
            found.setdefault((row.what, row.printed), {})[row.scenario] = row
    body = [
        (*told, *(f"{simulated(own[name], runs)}{_mark(own[name], runs)}" for name in names))
        for told, own in found.items()
        if set(names) <= set(own)
    ]
    return table(("quantity", "printed", *names), body)


def _mark(row: Row, runs: Runs) -> str:
    verdict = verdict_of(row, runs)
    return "" if verdict in UNJUDGED else f" ({verdict})"


def scenarios() -> str:
    """Return the table of named assumptions."""
    known: list[Scenario] = [*ALL, *REGIONS, QUEUED, TIGHT, ALONE, *SWITCHES]
    body = []
    for one in known:
        others = "" if one.baseline is None else f"; S-LoRA only {_sets(one.baseline)}"
        body.append((f"`{one.name}`", one.meaning, (_sets(one.changes) or "none, or in the command") + others))
    return table(("scenario", "meaning", "changes"), body)


def _sets(changes: Sequence[str]) -> str:
    return " ".join(f"`--set {change}`" for change in changes)


# --- the page ---


def page(rows: Sequence[Row], runs: Runs, template: str, reasons: Reasons) -> str:
    """Return the page: the template with `<!-- mark -->` lines and `{{figure | quantity | scenario}}` filled in."""
    numbers = {cell: f"R{place}" for place, cell in enumerate(cells_of(rows), 1)}
    versions = len({one["version"] for one in runs.values()})
    parts = {
        "versions": "" if versions == 1 else f"The runs were made by {versions} versions of the source.\n",
        "scenarios": scenarios(),
        "counts": counts(rows, runs),
        "side by side": side_by_side(rows, runs),
        "runs": "\n".join(f"{cell.command}  # {number}" for cell, number in numbers.items()),
    }
    for figure in re.findall(r"^<!-- (\S.*) -->$", template, flags=re.MULTILINE):
        own = [row for row in rows if row.figure == figure]
        parts.setdefault(figure, section(figure, own, runs, numbers, reasons))
    text = re.sub(r"^<!-- (.*) -->$", lambda found: parts[found[1]], template, flags=re.MULTILINE)
    told = {(row.figure, row.what, row.scenario): row for row in rows}

    def number(found: re.Match[str]) -> str:
        figure, what, scenario = (part.strip() for part in found[1].split("|"))
        row = told.get((figure, what, scenario))
        return "(not run)" if row is None else simulated(row, runs)

    text = re.sub(r"\{\{([^}]*)\}\}", number, text)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def read_reasons() -> Reasons:
    """Return why printed numbers are missed."""
    reasons: Reasons = parse(REASONS.read_text(encoding="utf-8"), REASONS.name).tree
    return reasons


def main() -> None:
    """Run what is missing and write the page and its pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=-1, help="processes; -1: one for each core")
    parser.add_argument("--store", type=Path, default=HERE.parent / "runs" / "paper" / "runs.jsonl")
    parser.add_argument("--out", type=Path, default=HERE / "paper.md", help="page; pictures go into figures/ beside it")
    parser.add_argument("--any-version", action="store_true", help="also take kept runs of other source versions")
    parser.add_argument("--quick", action="store_true", help="a few rows from tiny runs, without pictures: a test")
    given = parser.parse_args()
    rows = [quickened(row) for row in all_rows() if row.figure in QUICK] if given.quick else all_rows()
    try:
        runs = complete(cells_of(rows), given.store, given.jobs, any_version=given.any_version)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from the runs that are finished")
    if not given.quick:
        draw(given.out.parent / "figures", runs)
    write_text(given.out, page(rows, runs, TEMPLATE.read_text(encoding="utf-8"), read_reasons()))
    sys.stderr.write(f"written to {given.out}\n")


if __name__ == "__main__":
    main()
