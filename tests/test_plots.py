"""Pictures: what is drawn, and that the file is whole, small and the same each time."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D

from sim.experiments.sweep import Row
from sim.plots import COLOURS, p99_over_time, save, ttft_heat_map, ttft_parts, ttft_vs_load
from sim.statistics import Interval

CHAMELEON, SLORA = COLOURS[1], COLOURS[0]


def row(system: str, rate: float, p99_s: float, **given: Any) -> Row:
    p99 = Interval(1e3 * p99_s, 900 * p99_s, 1100 * p99_s, 5)
    values: dict[str, Any] = {"p50_ms": Interval(300.0, 290.0, 310.0, 5), "p99_ms": p99, "verdicts": {"stable": 5}}
    return Row(
        system=system,
        rate_per_s=rate,
        seeds=(0, 1, 2, 3, 4),
        offered=500,
        completed=500,
        slo_s=5.0,
        p99_cut=None,
        attainment=None,
        hit_rate=None,
        **{**values, **given},
    )


CURVES = [row("slora", 6, 1.0), row("chameleon", 6, 0.9), row("slora", 9, 4.0), row("chameleon", 9, 1.1)]


def axes_of(figure: Figure) -> Axes:
    (axes,) = figure.axes
    return axes


def ys(line: Line2D) -> list[float]:
    return [float(value) for value in np.asarray(line.get_ydata(), dtype=np.float64)]


def heights(axes: Axes, colour: str, style: str) -> list[float]:
    drawn = (ys(line) for line in axes.lines if line.get_color() == colour and line.get_linestyle() == style)
    return [height for line in drawn if len(line) > 1 for height in line]


def edges(band: Collection) -> set[float]:
    (path,) = band.get_paths()
    return {round(float(height), 3) for height in np.asarray(path.vertices)[:, 1]}


def parts_table() -> pd.DataFrame:
    parts = {"queue": [10.0, 500.0], "adapter_wait": [0.0, 0.0], "prefill": [90.0, 100.0]}
    return pd.DataFrame(
        {**parts, "preempt": [0.0, 0.0], "overhead": [1.0, 0.0], "n": [100, 1]}, index=["all", "slowest 1 %"]
    )


def test_p99_is_solid_and_p50_dashed_in_the_systems_colour() -> None:
    axes = axes_of(ttft_vs_load(CURVES, slo_s=None))
    assert heights(axes, SLORA, "-") == [1.0, 4.0]
    assert heights(axes, SLORA, "--") == [0.3, 0.3]
    assert heights(axes, CHAMELEON, "-") == [0.9, 1.1]


def test_bands_are_the_intervals() -> None:
    axes = axes_of(ttft_vs_load(CURVES[::2], slo_s=None))
    assert edges(axes.collections[-1]) == {0.9, 1.1, 3.6, 4.4}


def test_one_seed_draws_a_band_of_no_width() -> None:
    bare = row("slora", 6, 1.0, p99_ms=Interval(1000.0, None, None, 1))
    assert edges(axes_of(ttft_vs_load([bare], slo_s=None)).collections[-1]) == {1.0}


def test_only_points_of_an_unstable_queue_are_open() -> None:
    curve = [row("slora", 6, 1.0), row("slora", 9, 4.0, verdicts={"stable": 4, "overloaded": 1})]
    points = [line for line in axes_of(ttft_vs_load(curve, slo_s=None)).lines if line.get_marker() == "o"]
    faces = {float(point.get_xdata()[0]): point.get_markerfacecolor() for point in points}  # type: ignore[index, arg-type]
    assert faces == {6.0: SLORA, 9.0: "white"}


def test_the_objective_is_drawn_where_there_is_one() -> None:
    def level(slo_s: float | None) -> bool:
        lines = axes_of(ttft_vs_load(CURVES, slo_s=slo_s)).lines
        return any(ys(line) == [5.0, 5.0] for line in lines)

    assert level(5.0)
    assert not level(None)


def test_the_axis_is_logarithmic_only_where_values_are_far_apart() -> None:
    assert axes_of(ttft_vs_load(CURVES, slo_s=5.0)).get_yscale() == "linear"
    assert axes_of(ttft_vs_load([*CURVES, row("slora", 12, 90.0)], slo_s=5.0)).get_yscale() == "log"


def test_axes_bear_units_and_each_system_its_name() -> None:
    axes = axes_of(ttft_vs_load(CURVES, slo_s=5.0, title="Title"))
    assert axes.get_xlabel() == "load (requests/s)"
    assert axes.get_ylabel() == "time to first token (s)"
    assert {text.get_text() for text in axes.texts} == {"slora", "chameleon"}
    assert axes.get_title(loc="left") == "Title"


def test_names_do_not_overlap_where_curves_meet() -> None:
    axes = axes_of(ttft_vs_load([row(name, 9, 1.0) for name in ("a", "b", "c")], slo_s=5.0))
    shifts = sorted(text.xyann[1] for text in axes.texts)  # type: ignore[attr-defined]
    assert all(upper - lower >= 12 for lower, upper in pairwise(shifts))


def test_a_point_without_a_completed_request_is_left_out() -> None:
    axes = axes_of(ttft_vs_load([*CURVES, row("slora", 12, 1.0, p50_ms=None, p99_ms=None)], slo_s=None))
    assert heights(axes, SLORA, "-") == [1.0, 4.0]


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ValueError, match="none of 1 rows"):
        ttft_vs_load([row("slora", 12, 1.0, p50_ms=None, p99_ms=None)], slo_s=None)


def test_bars_are_stacked_to_the_whole_wait() -> None:
    axes = axes_of(ttft_parts(parts_table()))
    ends = {round(bar.get_y() + bar.get_height() / 2): bar.get_x() + bar.get_width() for bar in axes.patches}  # type: ignore[attr-defined]
    assert ends == {0: 101.0, 1: 600.0}
    assert [text.get_text() for text in axes.texts] == ["101 ms", "600 ms"]


def test_bars_name_their_group_and_its_size() -> None:
    labels = [label.get_text() for label in axes_of(ttft_parts(parts_table())).get_yticklabels()]
    assert labels == ["all  (n = 100)", "slowest 1 %  (n = 1)"]


def test_groups_of_several_runs_are_named_by_both_levels() -> None:
    both = pd.concat({"slora": parts_table(), "chameleon": parts_table()})
    labels = [label.get_text() for label in axes_of(ttft_parts(both)).get_yticklabels()]
    assert labels[2] == "chameleon, all  (n = 100)"


def test_a_part_that_nobody_waited_for_has_no_bar() -> None:
    (legend,) = ttft_parts(parts_table()).legends
    assert [text.get_text() for text in legend.get_texts()] == ["queue", "overhead", "prefill"]


def test_windows_are_drawn_as_steps() -> None:
    curve = pd.DataFrame({"t_s": [0.0, 50.0], "p99_ttft_s": [1.0, 2.0]})
    (line,) = axes_of(p99_over_time({"slora": curve}, slo_s=None)).lines
    assert line.get_drawstyle() == "steps-post"
    assert ys(line) == [1.0, 2.0]


def test_the_same_picture_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg", "a.png", "b.png"):
        save(ttft_vs_load(CURVES, slo_s=5.0), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert "dc:date" not in (tmp_path / "a.svg").read_text()


def test_a_picture_has_a_white_ground_whatever_the_page_is(tmp_path: Path) -> None:
    save(ttft_vs_load(CURVES, slo_s=5.0), tmp_path / "a.png")
    corner = imread(tmp_path / "a.png")[0, 0]
    assert list(corner) == [1.0, 1.0, 1.0, 1.0]


def test_a_failed_save_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = ttft_vs_load(CURVES, slo_s=5.0)
    (tmp_path / "a.svg").write_text("old")

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        save(figure, tmp_path / "a.svg")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.svg", "old")]


def test_a_picture_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.svg, \.png, \.pdf, got 'a\.bmp'"):
        save(ttft_vs_load(CURVES, slo_s=None), tmp_path / "a.bmp")


def test_drawing_touches_neither_pyplot_nor_global_options(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, matplotlib as mpl, pandas as pd; from sim.plots import p99_over_time, save\n"
        "table = pd.DataFrame({'t_s': [0.0, 1.0], 'p99_ttft_s': [1.0, 2.0]})\n"
        "save(p99_over_time({'slora': table}, slo_s=5.0), pathlib.Path(sys.argv[1]))\n"
        "print('matplotlib.pyplot' in sys.modules, mpl.rcParams['svg.hashsalt'])"
    )
    argv = [sys.executable, "-c", code, str(tmp_path / "a.svg")]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "False None\n"


def test_the_figure_of_the_readme_is_small() -> None:
    figure = Path(__file__).resolve().parents[1] / "docs" / "figures" / "ttft_vs_load.svg"
    assert figure.stat().st_size < 100_000


MAP = [
    row(system, rate, p99_s * factor, settings=(("workload.adapters", n),))
    for system, factor in (("slora", 2.0), ("chameleon", 1.0))
    for rate, n, p99_s in ((6, "10", 1.0), (6, "50", 2.0), (9, "10", 3.0), (9, "50", 40.0))
]


def numbers(axes: Axes) -> dict[tuple[float, float], str]:
    return {text.get_position(): text.get_text() for text in axes.texts}


def test_a_heat_map_has_a_panel_per_system_and_a_number_per_cell() -> None:
    slora, chameleon, *_ = ttft_heat_map(MAP).axes
    assert (slora.get_title(), chameleon.get_title()) == ("slora", "chameleon")
    assert numbers(chameleon) == {(0, 0): "1", (0, 1): "2", (1, 0): "3", (1, 1): "40"}
    assert (chameleon.get_xlabel(), slora.get_ylabel()) == ("load (requests/s)", "workload.adapters")
    assert [label.get_text() for label in chameleon.get_xticklabels()] == ["6", "9"]


def test_a_load_that_follows_from_another_axis_is_no_axis_of_a_heat_map() -> None:
    cells = [
        row("slora", rate, 1.0, settings=(("workload.preset", preset), ("cache.kind", kind)))
        for rate, preset in ((9, "paper"), (1, "azure-conv"))
        for kind in ("lru", "lfu")
    ]
    panel, *_ = ttft_heat_map(cells).axes
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("workload.preset", "cache.kind")
    independent = [row("slora", 9 - one.rate_per_s, 1.0, settings=one.settings) for one in cells]
    with pytest.raises(ValueError, match="two axes of several values, got load"):
        ttft_heat_map([*cells, *independent])


def test_colours_of_a_heat_map_follow_the_numbers_and_are_the_same_in_all_panels() -> None:
    slora, chameleon, *_ = ttft_heat_map(MAP).axes
    grids = [np.asarray(panel.images[0].get_array(), dtype=np.float64) for panel in (slora, chameleon)]
    assert grids[1].tolist() == [[1.0, 3.0], [2.0, 40.0]]
    assert slora.images[0].get_clim() == chameleon.images[0].get_clim() == (1.0, 80.0)


def test_a_heat_map_stars_what_was_not_stable_and_leaves_out_what_failed() -> None:
    cells = [
        *MAP[4:6],
        row("chameleon", 9, 3.0, settings=(("workload.adapters", "10"),), verdicts={"overloaded": 5}),
        row("chameleon", 9, 9.0, settings=(("workload.adapters", "50"),), p99_ms=None),
    ]
    axes = ttft_heat_map(cells).axes[0]
    assert numbers(axes) == {(0, 0): "1", (0, 1): "2", (1, 0): "3*"}


def test_a_heat_map_of_equal_numbers_can_be_drawn() -> None:
    cells = [row("slora", rate, 1.0, settings=(("workload.adapters", n),)) for rate in (6, 9) for n in ("10", "50")]
    assert set(numbers(ttft_heat_map(cells).axes[0]).values()) == {"1"}


@pytest.mark.parametrize("rows", [MAP[:1], CURVES[:2]])
def test_a_heat_map_needs_two_axes(rows: list[Row]) -> None:
    with pytest.raises(ValueError, match="needs two axes"):
        ttft_heat_map(rows)
