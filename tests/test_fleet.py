"""Replicas behind a router: each is an engine of its own, and a request is served by exactly one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pandas.testing import assert_frame_equal

import sim
from policies.base import Batch, Replica, Request, Router, Scheduler
from policies.builtin import BUILTIN
from policies.eviction import LRU
from policies.routing import LeastLoaded, RoundRobin
from policies.scheduling import FCFS
from sim.build import Deployment, deploy, jobs
from sim.config import load_config
from sim.core import Core
from sim.experiments.run import execute, result_of
from sim.files.yamlfile import ConfigError
from sim.fleet import Fleet
from sim.serving.records import Records
from sim.serving.shape import StepCost
from sim.serving.steps import run_ticks
from sim.serving.ticks import TICKS_PER_S
from sim.trace import AdapterSpec, Trace

CROWDED = ("memory.kv_pool_tokens=6000", "adapters.memory=unified")
SPECS = (AdapterSpec("a", 8), AdapterSpec("b", 32), AdapterSpec("c", 128), None)
ROUTERS = list(BUILTIN["router"])


def requests(*rows: tuple[float, int, int, int]) -> Trace:
    """Return a trace of (arrival seconds, prompt, output, adapter's index)."""
    arrival_s, *columns = zip(*rows, strict=True)
    prompt, output, adapter = (np.array(column, dtype=np.int64) for column in columns)
    return Trace("by hand", np.array(arrival_s), prompt, output, SPECS, adapter)


THREE = requests((0.0, 100, 50, 0), (0.1, 200, 40, 1), (0.15, 300, 30, 2))


def deployed(
    trace: Trace,
    *changes: str,
    system: str = "slora",
    router: type[Router] | None = None,
    scheduler: type[Scheduler] | None = None,
    asks_every_step: bool = False,
) -> Deployment:
    loaded = load_config(system, ("replicas=2", "predictor.kind=oracle", *changes))
    classes = {"router": router, "scheduler": scheduler}
    update = {seam: {"kind": cls} for seam, cls in classes.items() if cls is not None}
    loaded = loaded._replace(config=loaded.config.model_copy(update=update))
    return deploy(loaded, trace, asks_every_step=asks_every_step)


def served(deployment: Deployment) -> Fleet:
    """Serve a deployment, the laws checked at every step boundary of every replica."""
    builds = [partial(deployment.core, replica=index) for index in range(len(deployment.policies))]
    fleet = Fleet(builds, deployment.router, boundary=Core.check)
    fleet.serve(jobs(deployment, fleet.palette))
    return fleet


def log(records: Records) -> dict[str, list[list[int]]]:
    """Return every table, requests without their numbers."""
    tables = {name: value for name, value in vars(records).items() if hasattr(value, "columns")}
    told = {name: [table[column].tolist() for column in table.columns] for name, table in tables.items()}
    told["requests"][0] = []
    return told


class Spy(Router):
    """Sends everything to the last replica, and remembers what it saw."""

    name = "spy"

    def __init__(self) -> None:
        self.seen: list[list[tuple[int, ...]]] = []
        self.adapters: list[list[bool]] = []
        self.generated: list[dict[int, int]] = []  # tokens by request
        self.asked_s: list[float] = []

    def choose(self, request: Request, replicas: Sequence[Replica], now: float) -> int:
        self.asked_s.append(now)
        self.seen.append([(len(one.running), len(one.waiting), one.free_tokens) for one in replicas])
        self.generated.append({each.id: each.generated_tokens for one in replicas for each in one.running})
        self.adapters.append([one.has_adapter(request.adapter) for one in replicas])
        return len(replicas) - 1


def spied(trace: Trace, *changes: str, router: type[Spy] = Spy, asks_every_step: bool = False) -> Spy:
    deployment = deployed(trace, *changes, router=router, asks_every_step=asks_every_step)
    served(deployment)
    assert isinstance(deployment.router, Spy)
    return deployment.router


def test_two_replicas_serve_three_requests_in_turn() -> None:
    one, other = served(deployed(THREE)).records
    assert one.requests["request"].tolist() == [2, 0]  # the third is the shorter one
    assert other.requests["request"].tolist() == [1]


def test_each_replica_does_what_it_would_do_alone() -> None:
    rows = [(0.07 * index, 40 + 90 * (index % 7), 20 + index % 60, index % 4) for index in range(60)]
    both = served(deployed(requests(*rows), *CROWDED))
    for turn, records in enumerate(both.records):
        deployment = deployed(requests(*rows[turn::2]), *CROWDED, "replicas=1")
        (alone,) = served(deployment).records
        assert log(records) == log(alone)


def test_a_fleet_of_one_is_an_engine_alone() -> None:
    rows = [(0.07 * index, 40 + 90 * (index % 7), 20 + index % 60, index % 4) for index in range(60)]
    (records,) = served(deployed(requests(*rows), *CROWDED, "replicas=1")).records
    (alone,) = sim.build.play(deployed(requests(*rows), *CROWDED, "replicas=1"))
    assert log(records) == log(alone)
    assert records.requests["request"].tolist() == alone.requests["request"].tolist()


@pytest.mark.parametrize("router", ROUTERS)
def test_every_request_is_served_exactly_once_under_every_router(router: str) -> None:
    rows = [(0.02 * index, 40 + 90 * (index % 7), 20 + index % 60, index % 4) for index in range(90)]
    trace = requests(*rows)
    fleet = served(deployed(trace, *CROWDED, f"router={router}", "replicas=3", system="chameleon"))
    counted = Counter(id_ for records in fleet.records for id_ in records.requests["request"].tolist())
    assert counted == Counter(range(90))
    assert all(core.is_empty for core in fleet.cores)


def test_one_replica_is_not_asked_about() -> None:
    deployment = deployed(THREE, "replicas=1", router=Spy)
    sim.build.play(deployment)
    assert isinstance(deployment.router, Spy)
    assert deployment.router.asked_s == []


def test_the_router_is_asked_at_each_arrival() -> None:
    assert spied(THREE).asked_s == [0.0, 0.1, 0.15]


def test_the_router_sees_what_runs_and_what_waits() -> None:
    # an iteration lasts 30 ms and more, so the request of 0.1 s is admitted by then, and that of 0.105 s waits
    trace = requests((0.0, 100, 50, 0), (0.1, 50, 40, 0), (0.105, 50, 30, 0), (0.105, 50, 30, 0))
    told = spied(trace, "admission.every_steps=1").seen
    assert [replicas[1][:2] for replicas in told] == [(0, 0), (1, 0), (1, 1), (1, 2)]
    assert {replicas[0][:2] for replicas in told} == {(0, 0)}


def test_the_router_sees_which_replica_has_an_adapter() -> None:
    trace = requests((0.0, 100, 50, 0), (0.5, 50, 40, 0), (0.6, 50, 40, 1), (0.7, 50, 40, 3))
    assert spied(trace).adapters == [[False, False], [False, True], [False, False], [True, True]]


def test_the_router_sees_free_tokens_shrink_with_every_step_that_has_begun() -> None:
    # nobody is admitted for 10 steps: the engine plans them at once, and the router must not see that
    trace = requests((0.0, 100, 50, 3), (0.3, 50, 40, 3), (0.36, 50, 40, 3))
    quick, slow = (spied(trace, asks_every_step=often).seen for often in (False, True))
    assert quick == slow
    assert quick[1][0][2] > quick[1][1][2] > quick[2][1][2]


class Apart(Spy):
    """Sends the first request to one replica and all others to the next."""

    def choose(self, request: Request, replicas: Sequence[Replica], now: float) -> int:
        super().choose(request, replicas, now)
        return min(request.id, 1)


def token_ticks(trace: Trace) -> list[int]:
    """Return when the one request of a trace gets each of its tokens."""
    (records,) = served(deployed(trace, "replicas=1")).records
    found = [int(records.requests["first_token"][0])]
    columns = [records.segments[name].tolist() for name in ("start", "first", "growth", "count")]
    for start, first, growth, count in zip(*columns, strict=True):
        found += [start + run_ticks(StepCost(first, growth, None), step) for step in range(1, count + 1)]
    return found


def test_the_router_sees_how_many_tokens_users_have_just_before_an_arrival() -> None:
    first = (0.0, 100, 30, 3)
    ticks = token_ticks(requests(first))
    stamps = [tick / TICKS_PER_S for end in ticks[:25] for tick in (end, end + 1)]  # at the end of a step: before it
    trace = requests(first, *((stamp, 10, 1, 3) for stamp in stamps))
    quick, slow = (spied(trace, router=Apart, asks_every_step=often).generated for often in (False, True))
    assert quick == slow
    assert [told[0] for told in quick[1:]] == [count + late for count in range(25) for late in (0, 1)]


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("system", ["slora", "chameleon"])
def test_skipping_decode_steps_changes_nothing_that_a_router_sees(system: str, router: str) -> None:
    changes = [*CROWDED, "replicas=3", f"router={router}"]
    drawn = {"preset": "paper", "rate_per_s": 20.0, "requests": 200}
    loaded = load_config(system, changes, {"workload": drawn, "seed": 3})
    quick, slow = (execute(loaded, asks_every_step=often).requests for often in (False, True))
    assert_frame_equal(quick, slow)
    assert quick["replica"].nunique() == 3


def test_results_tell_the_replica_of_each_request() -> None:
    result = sim.run("slora", trace=THREE, changes=["replicas=2"])
    assert result.requests["replica"].tolist() == [0, 1, 0]
    assert result.summary["requests"]["completed"] == 3


def test_results_of_an_adapter_add_up_over_replicas() -> None:
    trace = requests((0.0, 100, 50, 0), (0.1, 200, 40, 0))
    table = sim.run("slora", trace=trace, changes=["replicas=2"]).adapters.set_index("adapter_id")
    assert table.loc["a", "requests"] == 2
    assert table.loc["a", "loads"] == 2


def test_free_tokens_count_idle_adapters_as_gone() -> None:
    # the adapter of the first request stays when it is done, long before the second comes
    trace = requests((0.0, 100, 2, 0), (30.0, 50, 40, 3))
    (_, before), (_, after) = spied(trace, *CROWDED, "cache=lru").seen
    assert before[2] == after[2] == 6000


@pytest.mark.parametrize(
    "look",
    [
        lambda replica, request: replica.has_adapter(request.adapter),
        lambda replica, request: len(replica.running),
        lambda replica, request: 2 - len(replica.waiting),
        lambda replica, request: 2 - replica.free_tokens // 6000,
    ],
)
def test_a_single_look_brings_a_replica_up_to_date(look: Callable[[Replica, Request], int]) -> None:
    told = []

    class Peeper(RoundRobin):
        def choose(self, request: Request, replicas: Sequence[Replica], now: float) -> int:
            if request.id > 0:
                told.append(look(replicas[0], request))
            return 0

    # the second comes when the first still waits, the third when both run
    served(deployed(requests((0.0, 100, 50, 0), (0.0, 50, 40, 0), (0.8, 50, 40, 0)), *CROWDED, router=Peeper))
    assert told[1] > told[0]


def test_requests_that_a_replica_never_admits_are_an_error() -> None:
    class Never(FCFS):
        def fill(self, batch: Batch, waiting: Iterable[Request], now: float) -> None:
            pass

    with pytest.raises(RuntimeError, match="2 requests are left waiting"):
        served(deployed(THREE, scheduler=Never))


def test_timers_do_not_keep_a_fleet_alive() -> None:
    class Alarm(FCFS):
        def __init__(self) -> None:
            self.due = list(range(1000))

        def wakes_at_s(self) -> float | None:
            return self.due[0] if self.due else None

        def woken(self, now: float) -> None:
            self.due.pop(0)

    # they ring until the last arrival, wherever that is, and then while something is left to serve
    deployment = deployed(requests((0.0, 9, 9, 0), (0.1, 9, 9, 1), (50.0, 9, 9, 2)), scheduler=Alarm)
    served(deployment)
    left = [vars(policies.scheduler)["due"][0] for policies in deployment.policies]
    assert left == [51, 51]


def test_a_request_that_fits_nowhere_is_rejected_by_its_replica() -> None:
    trace = requests((0.0, 100, 50, 0), (0.1, 7000, 40, 1))
    table = sim.run("slora", trace=trace, changes=["replicas=2", *CROWDED]).requests
    assert table["status"].tolist() == ["ok", "rejected"]
    assert table["replica"].tolist() == [0, 1]


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    def written(folder: str) -> list[bytes]:
        changes = ["replicas=3", "router=affinity", *CROWDED]
        directory = sim.run("chameleon", "paper", rate=20.0, requests=200, seed=5, changes=changes).save(
            tmp_path / folder
        )
        return [(directory / file).read_bytes() for file in ("summary.json", "requests.parquet")]

    assert written("first") == written("second")


def test_more_replicas_shorten_the_wait() -> None:
    def p99(replicas: int) -> float:
        changes = [f"replicas={replicas}", "router=least-loaded", *CROWDED]
        result = sim.run("slora", "paper", rate=9.0, requests=200, seed=1, changes=changes)
        return float(result.summary["metrics"]["ttft_ms"]["p99"])

    assert p99(4) < p99(2) < p99(1)


def test_replicas_do_not_share_policies() -> None:
    deployment = deployed(THREE, "replicas=3")
    assert len({id(policy) for policies in deployment.policies for policy in policies}) == 9


def test_an_instance_of_a_policy_cannot_serve_two_replicas() -> None:
    loaded = load_config("slora", ("replicas=2",))
    config = loaded.config.model_copy(update={"cache": {"kind": LRU()}})
    with pytest.raises(ConfigError, match="cache: an instance cannot serve 2 replicas; give its class or name"):
        deploy(loaded._replace(config=config), THREE)


@pytest.mark.parametrize("index", [-1, 2])
def test_a_router_that_names_no_replica_is_an_error(index: int) -> None:
    class Lost(RoundRobin):
        def choose(self, request: Request, replicas: Sequence[Replica], now: float) -> int:
            return index

    with pytest.raises(RuntimeError, match=rf"router round-robin chose replica {index} of 2 for Request\(0"):
        served(deployed(THREE, router=Lost))


def test_a_wrong_router_is_told_with_its_key() -> None:
    with pytest.raises(ConfigError, match=r"router\.kind: no router is named 'affinty' - did you mean 'affinity'\?"):
        sim.run("slora", trace=THREE, changes=["router=affinty"])


def test_requests_seen_by_a_router_are_a_sequence() -> None:
    class Reader(LeastLoaded):
        def choose(self, request: Request, replicas: Sequence[Replica], now: float) -> int:
            running = replicas[0].running
            assert [running[index] for index in range(len(running))] == list(running)
            assert list(running[:1]) == list(running)[:1]
            return 0

    served(deployed(THREE, router=Reader))


def test_a_replay_on_one_gpu_refuses_several_replicas() -> None:
    build = pytest.importorskip("gpu_validate.engine.build", reason="needs torch")
    with pytest.raises(ValueError, match="replicas: one GPU serves one replica, got 2"):
        build.open_engine(deployed(THREE))


def test_results_can_be_made_of_several_replicas_records() -> None:
    deployment = deployed(THREE)
    result = result_of(deployment, *served(deployment).records)
    assert result.requests["replica"].tolist() == [0, 1, 0]
