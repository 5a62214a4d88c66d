"""A report is one file that needs nothing else, says what was run and how far to believe it, and is written whole."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

import sim
from sim.cli import report as cli
from sim.cli.mistakes import Commands
from sim.experiments.comparison import Side, read_sides
from sim.plots import COLOURS
from sim.report.data import Arm, arms_of
from sim.report.page import report, write_report
from sim.report.plots import POINTS, Scales, by_rank, exceedance, over_time, tails, thinned
from sim.report.tables import differences, headline, sentence
from sim.report.warnings import warnings_of
from sim.results.rundir import read_run

POOL = "memory.kv_pool_tokens=6000"
REQUESTS = 250
P99_ROW = re.compile(r"<tr><td>(P99 [A-Z0-9]+) \(ms\)</td>(.*?)</tr>")


def save(directory: Path, system: str, seed: int = 0, *changes: str, rate: float = 9.0, n: int = REQUESTS) -> Path:
    return sim.run(system, "paper", rate=rate, requests=n, seed=seed, changes=(POOL, *changes)).save(directory)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    for system in ("slora", "chameleon"):
        for seed in (0, 1):
            save(folder / system / f"seed-{seed}", system, seed)
    return folder


@lru_cache
def of(*directories: Path) -> str:
    return report(arms_of(read_sides(directories)))


def changed(source: Path, target: Path, file: str = "summary.json", **values: Any) -> Path:
    """Copy a run and change top-level values of one of its files."""
    copytree(source, target)
    content = json.loads((target / file).read_text(encoding="utf-8"))
    (target / file).write_text(json.dumps(content | values), encoding="utf-8")
    return target


class Seen(HTMLParser):
    """Notes elements, ids, what is loaded from elsewhere, and whether tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.outside: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.left_open = self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = {name: value or "" for name, value in attrs}
        self.ids += [named["id"]] if "id" in named else []
        links = [named.get(name, "") for name in ("src", "href", "xlink:href", "data", "action")]
        self.outside += [link for link in links if link and not link.startswith("#")]
        if tag not in {"meta", "br"}:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_a_report_needs_nothing_from_elsewhere(store: Path) -> None:
    text = of(store / "slora", store / "chameleon")
    seen = Seen(text)
    assert seen.outside == []
    assert not {"script", "link", "img", "iframe", "object", "embed", "image"} & set(seen.tags)
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []
    assert seen.left_open == []


def test_no_id_stands_twice_in_a_report_with_several_figures(store: Path) -> None:
    seen = Seen(of(store / "slora", store / "chameleon"))
    assert seen.tags.count("svg") == 6
    assert len(set(seen.ids)) == len(seen.ids) > 0


def test_a_report_has_a_section_for_every_question(store: Path) -> None:
    text = of(store / "slora", store / "chameleon")
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "Results",
        "Time to first token",
        "Where the time goes",
        "P99 over time",
        "Small and large requests",
        "By rank",
        "Memory and link over time",
        "Adapters",
        "What was run",
        "What the words mean",
    ]


def test_seeds_of_a_report_ascend_and_its_first_is_shown_over_time(store: Path) -> None:
    (side,) = read_sides([store / "slora"])
    arm = Arm(Side("turned", {seed: side.runs[seed] for seed in (1, 0)}))
    assert (arm.seeds, arm.first.summary["seed"]) == ([0, 1], 0)


def test_n_stands_beside_every_p99_of_the_headline(store: Path) -> None:
    rows = P99_ROW.findall(headline(arms_of(read_sides([store / "slora", store / "chameleon"]))))
    assert {label for label, _ in rows} == {"P99 TTFT", "P99 TPOT", "P99 ITL", "P99 E2EL"}
    for _, cells in rows:
        assert cells.count("n = 2 × ") == 2


def test_seeds_that_not_all_have_count_in_no_number_of_the_headline(store: Path) -> None:
    whole = headline(arms_of(read_sides([store / "slora", store / "chameleon" / "seed-1"])))
    part = headline(arms_of(read_sides([store / "slora" / "seed-1", store / "chameleon" / "seed-1"])))
    assert whole == part


def test_of_more_than_two_runs_the_change_stands_under_the_value(store: Path, tmp_path: Path) -> None:
    third = tmp_path / "third"
    for seed in (0, 1):
        changed(store / "slora" / f"seed-{seed}", third / f"seed-{seed}", system="third")
    text = headline(arms_of(read_sides([store / "slora", store / "chameleon", third])))
    (row,) = re.findall(r"<tr><td>P50 TTFT \(ms\)</td>(.*?)</tr>", text)
    first, second, same = re.findall(r"<td>(.*?)</td>", row)
    assert "<small>" not in first
    assert re.search(r"<small>[+-][\d.]+ % \[", second)
    assert same == f"{first}<br><small>0.0 % [0.0 %, 0.0 %]</small>"


def test_the_p99_of_one_run_has_the_interval_of_its_order_statistics(store: Path) -> None:
    path = store / "slora" / "seed-0"
    rows = dict(P99_ROW.findall(headline(arms_of(read_sides([path])))))
    assert f"n = {REQUESTS}; too few for an interval" in rows["P99 TTFT"]


def test_the_change_against_the_first_run_is_told_in_words(store: Path) -> None:
    told = sentence(arms_of(read_sides([store / "slora", store / "chameleon"])))
    assert re.match(r"P99 TTFT of chameleon is [\d.]+ % lower than that of slora \(change ", told)
    assert "over 2 paired seeds" in told


def test_one_seed_says_nothing_about_chance_and_the_report_says_so(store: Path) -> None:
    told = sentence(arms_of(read_sides([store / "slora" / "seed-0", store / "chameleon" / "seed-0"])))
    assert "one paired seed, which says nothing about chance" in told


def test_the_keys_in_which_configurations_differ_are_listed_and_no_others(store: Path) -> None:
    text = str(differences(arms_of(read_sides([store / "slora", store / "chameleon"]))))
    assert "<td>cache.kind</td><td>drop-after-use</td><td>chameleon</td>" in text
    assert "memory.kv_pool_tokens" not in text
    assert "<td>seed</td>" not in text


def test_the_same_runs_give_the_same_report(store: Path) -> None:
    runs = store / "slora", store / "chameleon"
    assert report(arms_of(read_sides(runs))) == of(*runs)


def test_names_are_text_and_not_markup(store: Path, tmp_path: Path) -> None:
    path = changed(store / "slora" / "seed-0", tmp_path / "odd", system="<b>mine</b>")
    seen = Seen(of(path))
    assert "b" not in seen.tags
    assert "<b>mine</b>" in seen.words


def test_a_report_stands_in_the_run_it_is_about_and_the_run_stays_a_run(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    copytree(store / "slora" / "seed-0", run)
    before = sorted(path.name for path in run.iterdir())
    assert write_report([run]) == run / "report.html"
    assert sorted(path.name for path in run.iterdir()) == sorted([*before, "report.html"])
    assert read_run(run).summary["system"] == "slora"
    save(run, "slora")  # a run may take its place


def test_a_report_that_fails_leaves_the_last_one(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")

    def fails(self: Path, *arguments: object, **options: object) -> int:
        msg = "disk full"
        raise OSError(msg)

    monkeypatch.setattr(Path, "write_text", fails)
    with pytest.raises(OSError, match="disk full"):
        write_report([store / "slora" / "seed-0"], target)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_runs_of_an_earlier_version_are_reported_without_classes(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "old"
    copytree(store / "slora" / "seed-0", path)
    summary = json.loads((path / "summary.json").read_text())
    for key in ("by_class", "by_size", "starvation", "slowdown"):
        del summary[key]
    (path / "summary.json").write_text(json.dumps(summary))
    assert "Small and large requests" not in of(path)


@pytest.mark.parametrize("name", ["report.pdf", "report"])
def test_a_report_s_name_ends_in_html(store: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: a report's name ends in \.html"):
        write_report([store / "slora"], tmp_path / name)


def test_a_run_without_a_first_token_has_nothing_to_report(tmp_path: Path) -> None:
    path = save(tmp_path / "none", "slora", 0, "memory.kv_pool_tokens=2", n=3)
    with pytest.raises(ValueError, match=r"none: no request got a first token"):
        write_report([path])


# --- warnings ---


def warnings(*directories: Path) -> str:
    return "\n".join(warnings_of(arms_of(read_sides(directories))))


def test_calm_runs_of_many_requests_need_no_warning(store: Path) -> None:
    assert warnings(store / "chameleon") == ""


def test_an_unstable_queue_is_called_that_with_its_numbers(tmp_path: Path) -> None:
    told = warnings(save(tmp_path / "one", "slora", rate=60.0))
    assert re.match(
        r"slora: the queue is \w+; a P99 from it depends on how long the run was\. .* requests waited", told
    )


def test_rejected_requests_are_counted(tmp_path: Path) -> None:
    told = warnings(save(tmp_path / "one", "slora", 0, "memory.kv_pool_tokens=600"))
    assert re.search(
        r"slora: \d+ of 250 requests were rejected; the first: .+ exceed the memory.*\. No percentile holds them", told
    )


def test_idle_settings_and_costs_outside_their_range_are_told(store: Path, tmp_path: Path) -> None:
    source = store / "slora" / "seed-0"
    costs = {"origins": {"dense": "measured on a CPU"}, "warnings": ["dense: beyond 4096 tokens"]}
    told = warnings(changed(source, tmp_path / "one", idle_settings=["router has no effect"], costs=costs))
    assert "slora: router has no effect." in told
    assert "slora: of the cost coefficients, dense: beyond 4096 tokens" in told
    assert "a40 was measured on a CPU" in told


def test_a_few_requests_have_no_tail(tmp_path: Path) -> None:
    assert "of 20 requests the P99 is no more than the maximum" in warnings(save(tmp_path / "one", "slora", n=20))


def test_runs_that_share_no_seed_are_shown_side_by_side_without_a_change(store: Path) -> None:
    runs = store / "slora" / "seed-0", store / "chameleon" / "seed-1"
    assert "The runs share no seed" in warnings(*runs)
    rows = re.findall(r"<tr>(<td>.*?)</tr>", headline(arms_of(read_sides(runs))))
    assert len(rows) > 10
    assert {row.rpartition("<td>")[2] for row in rows[:-1]} == {"-</td>"}
    assert sentence(arms_of(read_sides(runs))) == ""


def test_runs_of_other_workloads_or_code_are_not_called_alike(store: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other", "chameleon", rate=3.0)
    assert "differ in more than the system" in warnings(store / "slora" / "seed-0", other)
    older = changed(store / "chameleon" / "seed-0", tmp_path / "older", "env.json", source_sha256="0")
    assert "different versions" in warnings(store / "slora" / "seed-0", older)


def test_seeds_that_not_all_have_are_named(store: Path) -> None:
    assert "leaves out seeds that not all have: 1" in warnings(store / "slora", store / "chameleon" / "seed-0")


# --- figures ---


def test_the_exceedance_of_a_sample_is_its_ordered_values_and_their_ranks() -> None:
    values, share = exceedance(np.array([3.0, 1.0, 2.0, 5.0]))
    assert values.tolist() == [5.0, 3.0, 2.0, 1.0]
    assert share.tolist() == [0.25, 0.5, 0.75, 1.0]


def test_a_large_sample_is_thinned_but_never_in_its_tail() -> None:
    sample = np.arange(100_000.0)
    values, share = exceedance(sample)
    assert len(values) <= POINTS
    assert values[:20].tolist() == sample[::-1][:20].tolist()
    assert (values[-1], share[-1]) == (0.0, 1.0)


def test_the_distribution_is_drawn_on_a_logarithm_where_a_linear_axis_would_hide_a_run() -> None:
    slow, fast = np.linspace(50.0, 100.0, 50), np.linspace(0.1, 1.0, 50)
    assert tails({"slow": slow, "fast": fast}, slo_s=None).axes[0].get_xscale() == "log"
    assert tails({"slow": slow, "slower": 2 * slow}, slo_s=None).axes[0].get_xscale() == "linear"


@pytest.mark.parametrize(("slowest", "scale"), [(15.0, "linear"), (25.0, "log")])
def test_an_axis_is_logarithmic_where_small_values_would_vanish(slowest: float, scale: str) -> None:
    table = pd.DataFrame({"adapter_rank": [8, 16], "ttft_s": [1.0, slowest]})
    (axes,) = by_rank({"one": table}).axes
    low, high = axes.get_ylim()
    assert axes.get_yscale() == scale
    assert low < 1 < slowest < high


def test_a_tail_is_dotted_where_fewer_than_ten_requests_lie_beyond() -> None:
    figure = tails({"one": np.arange(1.0, 101.0)}, slo_s=None)
    _, right = figure.axes
    solid, dotted = (line for line in right.lines if line.get_color() == COLOURS[0])
    assert min(np.asarray(solid.get_ydata(), dtype=float)) == 0.1
    assert max(np.asarray(dotted.get_ydata(), dtype=float)) < 0.1
    assert right.get_yscale() == "log"


def test_every_rank_has_its_p50_and_p99_and_its_n() -> None:
    table = pd.DataFrame({"adapter_rank": [8] * 3 + [64] * 2, "ttft_s": [1.0, 2.0, 3.0, 5.0, 7.0]})
    (axes,) = by_rank({"one": table}).axes
    p50, p99 = (np.asarray(line.get_ydata(), dtype=float).tolist() for line in axes.lines)
    assert (p50, p99) == ([2.0, 6.0], [pytest.approx(2.98), pytest.approx(6.98)])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["rank 8\nn = 3", "rank 64\nn = 2"]


def series(rows: int, waiting: float = 1.0) -> pd.DataFrame:
    columns = dict.fromkeys(("kv_bytes", "adapter_bytes_inuse", "adapter_bytes_idle"), 1e9)
    columns |= {"running": 2.0, "waiting": waiting, "pcie_busy": 0.5}
    return pd.DataFrame({"t_s": 2.0 * np.arange(1, rows + 1), **columns})


def test_a_long_time_series_is_drawn_as_means_of_equal_stretches() -> None:
    table, step_s = thinned(series(1000))
    assert (len(table), step_s) == (334, 6.0)
    assert table["t_s"].iloc[0] == 4.0
    whole, step_s = thinned(series(10))
    assert (len(whole), step_s) == (10, 2.0)


def test_runs_are_drawn_on_the_same_scales() -> None:
    tables = [series(5), series(9, waiting=40.0)]
    scales = Scales(tables)
    limits = [[axes.get_ylim() for axes in over_time(one, scales).axes] for one in tables]
    assert limits[0] == limits[1]
    assert limits[0][2][1] > 40


# --- command ---


def command(*arguments: str | Path) -> tuple[int, str]:
    app = typer.Typer(cls=Commands)
    app.command("report")(cli.report)
    app.command("timeline")(cli.timeline)
    said = CliRunner().invoke(app, [str(one) for one in arguments])
    return said.exit_code, said.stdout or said.stderr


def test_the_command_writes_the_report_and_says_where(store: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "both.html"
    code, said = command("report", store / "slora", store / "chameleon", "--out", target)
    assert (code, said) == (0, f"written to {target}\n")
    assert "<title>chameleon against slora - chameleon-sim</title>" in target.read_text(encoding="utf-8")


def test_the_command_tells_what_is_no_run(tmp_path: Path) -> None:
    code, said = command("report", tmp_path)
    assert code == 2
    assert said.startswith(f"error: {tmp_path} holds no finished run")


def test_the_command_writes_a_timeline_beside_a_finished_run(tmp_path: Path) -> None:
    run = save(tmp_path / "run", "slora", n=10)
    code, said = command("timeline", run)
    assert (code, said) == (0, f"written to {run / 'timeline.json.gz'}; open it at https://ui.perfetto.dev\n")
    assert (run / "timeline.json.gz").exists()
