"""The published sets: where their runs stand, and which of them a user asks for."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from sim.fidelity import requests, slora, slora_h100, vllm, vllm_micro
from sim.fidelity.cases import Case

VLLM_RUNS, VLLM_MICRO = "vllm_lora_h100_runs.csv", "vllm_lora_h100_microbench.csv"


class Asked(NamedTuple):
    """What is to be simulated.

    Attributes:
        what: slora, vllm, requests or all.
        data: folder of the published tables; None where `rows` is all that is needed.
        rows: a table or log in place of the published one.
        seeds: draws of workloads that are not known request by request.
        thorough: most rows instead of the smaller selection; both are documented in `sim.fidelity.vllm`.
    """

    what: str
    data: Path | None
    rows: Path | None = None
    seeds: int = 1
    thorough: bool = False


def cases_of(asked: Asked) -> list[Case]:
    """Return the runs to simulate.

    Raises:
        ConfigError: with one located line for everything that is wrong with a table.
        FileNotFoundError: if a table is missing.
        ValueError: if what is asked for contradicts itself.
    """
    if asked.rows is not None:
        return _of_rows(asked, asked.rows)
    if asked.data is None:
        msg = (
            "--data DIR is needed: the folder of the published tables (`chameleon data list` says where they are from)"
        )
        raise ValueError(msg)
    found: list[Case] = []
    if asked.what in {"slora", "all"}:
        found += [*slora.cases(asked.data / slora.FILE), *slora_h100.cases(asked.data / slora_h100.FILE)]
    if asked.what in {"vllm", "all"}:
        found += vllm.cases(asked.data / VLLM_RUNS, seeds=asked.seeds, thorough=asked.thorough)
        found += vllm_micro.micro_cases(asked.data / VLLM_MICRO)
    if asked.what in {"requests", "all"}:
        found += requests.cases(asked.data)
    return found


def _of_rows(asked: Asked, rows: Path) -> list[Case]:
    if asked.what == "all":
        msg = "--rows is a table of one kind: say slora, vllm or requests instead of all"
        raise ValueError(msg)
    if asked.what == "slora":
        return list(slora_h100.cases(rows) if "rate_per_lora" in _columns(rows) else slora.cases(rows))
    if asked.what == "vllm":
        if "itl_ms" in _columns(rows):
            return list(vllm_micro.micro_cases(rows))
        return list(vllm.every_case(rows, seeds=asked.seeds))
    return list(requests.cases(rows.parent, rows))


def _columns(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return next(csv.reader(file), [])
