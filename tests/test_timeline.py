"""The timeline of a run: slices that never overlap on a track, counters at every change, and arrows that hit."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sim
from sim.experiments import again
from sim.experiments.again import add_timeline
from sim.results import timeline
from sim.results.result import Result, Run
from sim.results.rundir import read_run
from sim.results.timeline import timeline_events, write_timeline
from sim.results.timeline_tracks import Slice, Tracks, counters, event, slices_of_channels, slices_of_engine, waited_for
from sim.serving.records import NEVER, REQUEST_COLUMNS, Records
from sim.trace import AdapterSpec, Trace

US = 10**6  # ticks


def world(requests: int) -> Trace:
    """So many requests for one adapter, all at once."""
    tens = np.full(requests, 10)
    return Trace("few", np.zeros(requests), tens, tens, (AdapterSpec("mine", 8),), np.zeros(requests, dtype=np.int64))


def add(records: Records, request: int, **given: int) -> None:
    """Add a request to the records; an instant that is not given was not reached."""
    row = dict.fromkeys(REQUEST_COLUMNS, 0) | dict.fromkeys(timeline.PHASES, NEVER)
    row |= {"request": request, "first_segment": NEVER, "last_segment": NEVER} | given
    records.requests.add(row.values())


def run_of(records: Records) -> Run:
    n = len(records.requests)
    return Run(world(n), (records,), [64], np.full(n, 10), "fifo", "a40", "llama", 0)


def served(system: str = "slora", requests: int = 120, changes: tuple[str, ...] = ()) -> Result:
    return sim.run(system, "paper", rate=20, requests=requests, changes=("memory.kv_pool_tokens=3000", *changes))


def slices(events: list[dict[str, Any]]) -> dict[tuple[int, int], list[dict[str, Any]]]:
    found = defaultdict(list)
    for one in events:
        if one["ph"] == "X":
            found[one["pid"], one["tid"]].append(one)
    return found


def tracks_of(events: list[dict[str, Any]]) -> dict[str, int]:
    return {one["args"]["name"]: one["tid"] for one in events if one["name"] == "thread_name"}


def loaded(path: Path) -> dict[str, Any]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return dict(json.load(file))


FAIR = ("loading.sharing=fair", "admission.reserve=on_demand", "admission.shortage=swap")


@pytest.mark.parametrize(("system", "changes"), [("slora", ()), ("vllm", ()), ("chameleon", ()), ("slora", FAIR)])
def test_slices_of_a_track_never_overlap(system: str, changes: tuple[str, ...]) -> None:
    found = slices(list(timeline_events(served(system, changes=changes).run)))
    assert len(found) >= 2
    for track in found.values():
        spans = sorted((round(one["ts"] * 1e3), round((one["ts"] + one["dur"]) * 1e3)) for one in track)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_the_engine_s_slices_are_its_iterations_each_once() -> None:
    run = served("vllm").run
    events = list(timeline_events(run))
    engine = slices(events)[0, tracks_of(events)["engine"]]
    counted = {name: sum(one["name"] == name for one in engine) for name in ("prefill", "decode", "prefill and decode")}
    (records,) = run.records
    both = len(records.mixed)
    assert both > 0
    assert counted == {
        "prefill": len(records.prefills) - both,
        "decode": len(records.segments) - both,
        "prefill and decode": both,
    }
    busy_us = sum(one["dur"] for one in engine if one["name"] != "waits for adapters")
    iterations = Result(run).summary["iterations"]
    busy_s = iterations["prefill_s"] + iterations["decode_s"] - iterations["mixed_s"]
    assert busy_us == pytest.approx(busy_s * 1e6, rel=1e-6)


def test_every_kind_of_transfer_has_its_track() -> None:
    nothing = np.array([], dtype=np.int64)
    trace = Trace("none", np.array([]), nothing, nothing, (None, AdapterSpec("mine", 8)), nothing)
    records = Records()
    records.transfers.add((0, US, 3 * US, 1, 64, 0))
    records.transfers.add((0, 3 * US, 4 * US, 1, 64, 1))
    records.reads.add((0, 0, US, 1, 64))
    records.swaps.add((0, 5 * US, 6 * US, 7, 640, 0))
    records.swaps.add((0, 5 * US, 6 * US, 8, 640, 1))
    tracks = Tracks(0, "one")
    events = list(slices_of_channels(trace, records, tracks))
    names = {track: name for name, track in tracks_of(list(tracks.names())).items()}
    told = [(names[one["tid"]], one["name"], one["ts"], one["dur"], one["args"].get("kind")) for one in events]
    assert told == [
        ("link", "mine", 1.0, 2.0, "demand"),
        ("link", "mine", 3.0, 1.0, "prefetch"),
        ("link", "KV of request 7", 5.0, 1.0, None),
        ("disk", "mine", 0.0, 1.0, None),
        ("KV to the host", "KV of request 8", 5.0, 1.0, None),
    ]


def test_slices_at_the_same_time_go_to_further_tracks() -> None:
    tracks = Tracks(0, "one")
    spans = [(0, 2 * US), (US, 3 * US), (2 * US, 4 * US)]
    events = list(tracks.lay("link", [Slice(start, end, "copy", {}) for start, end in spans]))
    assert [one["tid"] for one in events] == [1, 2, 1]
    assert tracks_of(list(tracks.names())) == {"link": 1, "link 2": 2}


def test_a_transfer_tells_what_it_moved_and_how_long_it_queued() -> None:
    records = Records()
    records.transfers.add((US, 3 * US, 4 * US, 0, 64, 0))
    (one,) = slices_of_channels(world(1), records, Tracks(0, "one"))
    assert (one["args"]["bytes"], one["args"]["queued_us"]) == (64, 2.0)


def test_instants_are_rounded_to_nanoseconds() -> None:
    assert [event("i", "x", 0, ticks)["ts"] for ticks in (1_499, 1_500)] == [0.001, 0.002]


def test_an_arrow_comes_from_the_last_transfer_before_the_first_token_and_from_no_later_one() -> None:
    records = Records()
    add(records, 0, arrival=0, admitted=0, ready=4 * US, prefill_start=5 * US, first_token=6 * US, finish=9 * US)
    for start in (US, 3 * US, 7 * US):  # it was evicted twice and fetched again for others
        records.transfers.add((start, start, start + US, 0, 64, 0))
    tracks = Tracks(0, "one")
    list(slices_of_channels(world(1), records, tracks))
    arrows = {one["ph"]: one["ts"] for one in waited_for(world(1), records, tracks)}
    assert arrows == {"s": 3.0, "f": 5.0}


def test_a_counter_is_told_only_where_it_changes() -> None:
    records = Records()
    for ticks, resident in ((0, 64), (US, 64), (2 * US, 128)):
        records.memory.add((ticks, resident, 0, 1))
    told = [
        (one["ts"], one["args"]["value"]) for one in counters(world(0), records, 0) if one["name"] == "adapter bytes"
    ]
    assert told == [(0.0, 64), (2.0, 128)]


def test_a_rejected_request_neither_waits_nor_runs() -> None:
    records = Records()
    add(records, 0, status=1, arrival=0)
    records.rejections[0] = "too long"
    events = list(timeline_events(run_of(records)))
    assert [one for one in events if one["name"] in {"waiting", "running"} or one.get("cat") == "request"] == []


def test_a_request_that_did_not_finish_runs_on_in_the_counters_and_is_not_shown_by_itself() -> None:
    records = Records()
    add(records, 0, status=2, arrival=US, admitted=2 * US, ready=2 * US, prefill_start=2 * US, first_token=3 * US)
    events = list(timeline_events(run_of(records)))
    assert [one for one in events if one.get("cat") == "request"] == []
    running = [(one["ts"], one["args"]["value"]) for one in events if one["name"] == "running"]
    assert running == [(2.0, 1)]


def test_a_part_that_took_no_time_is_not_shown() -> None:
    records = Records()
    add(records, 0, arrival=0, admitted=0, ready=0, prefill_start=US, first_token=2 * US, finish=4 * US)
    shown = [one["name"] for one in timeline_events(run_of(records)) if one["ph"] == "b"]
    assert shown == ["request", "overhead", "prefill", "decode"]


def test_who_never_had_a_first_token_is_not_among_the_slowest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MOST_REQUESTS", 1)
    records = Records()
    add(records, 0, status=2, arrival=0)
    add(records, 1, arrival=0, admitted=0, ready=0, prefill_start=US, first_token=2 * US, finish=4 * US)
    shown = {one["id"] for one in timeline_events(run_of(records)) if one.get("cat") == "request"}
    assert shown == {1}


def test_a_timeline_that_cannot_be_written_whole_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_: Run) -> Iterator[str]:
        yield "{"
        raise OSError("disk full")

    monkeypatch.setattr(timeline, "_document", breaks)
    with pytest.raises(OSError, match="disk full"):
        write_timeline(run_of(Records()), tmp_path / "timeline.json.gz")
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_waits_for_a_load_is_shown_waiting() -> None:
    records = Records()
    records.stalls.add((2 * US, 3 * US))
    (one,) = slices_of_engine(records, Tracks(0, "one"))
    assert (one["name"], one["ts"], one["dur"]) == ("waits for adapters", 2.0, 3.0)


def test_counters_tell_what_the_time_series_tells() -> None:
    result = served()
    counted: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for one in timeline_events(result.run):
        if one["ph"] == "C":
            counted[one["name"]].append((one["ts"], one["args"]["value"]))
    table = result.timeseries
    columns = {"running": table["running"], "waiting": table["waiting"], "KV tokens": table["kv_tokens"]}
    columns["adapter bytes"] = table["adapter_bytes_inuse"] + table["adapter_bytes_idle"]
    columns["adapter bytes in use"] = table["adapter_bytes_inuse"]
    assert set(counted) == set(columns)
    assert table["waiting"].max() > 0
    for name, column in columns.items():
        if name != "KV tokens":  # it changes within a decode run too, and is told where such a run begins
            told = [[value for ts, value in counted[name] if ts <= t_s * 1e6][-1] for t_s in table["t_s"]]
            assert (name, told) == (name, column.tolist())


def test_a_request_is_shown_with_the_parts_of_its_time() -> None:
    result = served("chameleon")
    events = [one for one in timeline_events(result.run) if one.get("cat") == "request" and one["id"] == 5]
    opened = {one["name"]: one["ts"] for one in events if one["ph"] == "b"}
    closed = {one["name"]: one["ts"] for one in events if one["ph"] == "e"}
    row = result.requests.loc[5]
    assert opened.keys() == closed.keys()
    assert closed["prefill"] - opened["request"] == pytest.approx(row["ttft_s"] * 1e6, abs=0.01)
    assert closed["request"] - opened["request"] == pytest.approx(row["e2el_s"] * 1e6, abs=0.01)
    assert closed["queue"] - opened["queue"] == pytest.approx(row["queue_s"] * 1e6, abs=0.01)
    assert closed["request"] == closed["decode"]


def test_of_very_many_requests_the_slowest_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MOST_REQUESTS", 3)
    result = served()
    shown = {one["id"] for one in timeline_events(result.run) if one.get("cat") == "request"}
    assert shown == set(result.requests["ttft_s"].nlargest(3).index)


def test_arrows_lead_from_a_transfer_to_the_iteration_that_waited_for_it() -> None:
    result = served()
    events = list(timeline_events(result.run))
    begun = {(one["tid"], one["ts"]): one for one in events if one["ph"] == "X"}
    starts = {one["id"]: one for one in events if one["ph"] == "s"}
    ends = {one["id"]: one for one in events if one["ph"] == "f"}
    requests = result.requests
    waited = requests[requests["adapter_wait_s"] > 0]
    assert starts.keys() == ends.keys() == set(waited.index)
    for request, start in starts.items():
        assert begun[start["tid"], start["ts"]]["name"] == requests["adapter_id"][request]
        assert begun[ends[request]["tid"], ends[request]["ts"]]["name"] == "prefill"


def test_every_replica_is_a_process_of_its_own() -> None:
    events = list(timeline_events(served(changes=("replicas=2",)).run))
    assert [one["args"]["name"] for one in events if one["name"] == "process_name"] == ["replica 0", "replica 1"]
    assert {one["pid"] for one in events if one["ph"] == "X"} == {0, 1}


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.gz", "two.gz"):
        write_timeline(served(requests=20).run, tmp_path / name)
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.gz", "two.gz"]
    document = loaded(tmp_path / "one.gz")
    assert document["otherData"]["system"] == "slora"
    assert document["traceEvents"] == list(timeline_events(served(requests=20).run))


def test_a_run_is_saved_with_its_timeline_if_that_is_asked_for(tmp_path: Path) -> None:
    result = served(requests=20)
    result.save(tmp_path / "without")
    result.save(tmp_path / "with", timeline=True)
    assert not (tmp_path / "without" / "timeline.json.gz").exists()
    assert loaded(tmp_path / "with" / "timeline.json.gz")["traceEvents"]
    read_run(tmp_path / "with")


def test_a_finished_run_gets_the_timeline_that_it_could_have_been_saved_with(tmp_path: Path) -> None:
    result = served(requests=20)
    result.save(tmp_path / "with", timeline=True)
    result.save(tmp_path / "later")
    path = add_timeline(tmp_path / "later")
    assert path == tmp_path / "later" / "timeline.json.gz"
    assert path.read_bytes() == (tmp_path / "with" / "timeline.json.gz").read_bytes()


def test_a_run_that_its_configuration_does_not_give_again_gets_no_timeline(tmp_path: Path) -> None:
    result = served(requests=20)
    other = sim.run("slora", trace=result.run.trace.kept(result.run.trace.adapter >= 0), changes="seed=3")
    other.save(tmp_path / "one")
    with pytest.raises(ValueError, match=r"one: .* gives other requests: a trace or a policy was given"):
        add_timeline(tmp_path / "one")
    assert not (tmp_path / "one" / "timeline.json.gz").exists()


def test_a_run_of_another_version_of_the_simulator_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = served(requests=20)
    other = sim.run("slora", trace=result.run.trace.kept(result.run.trace.adapter >= 0), changes="seed=3")
    other.save(tmp_path / "one")
    monkeypatch.setattr(again, "source_sha256", lambda: "edited")
    with pytest.raises(ValueError, match="it was made by another version of the simulator"):
        add_timeline(tmp_path / "one")
