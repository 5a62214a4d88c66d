"""Per-request logs of real servers and clients as one table: seconds from the first arrival, failed requests left out.

Which tool writes what: `gpu_validate.log_formats`. No unit is guessed; every request that is left out is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu_validate.log_cells import Entry, LogError
from gpu_validate.log_formats import FORMATS, recognise
from sim.trace import AdapterSpec, Trace

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Log", "LogError", "read_log"]


@dataclass(frozen=True, eq=False)
class Log:
    """What a server did, one row per request that it completed, in order of arrival.

    Attributes:
        name: of the file.
        format: a key of `gpu_validate.log_formats.FORMATS`.
        requests: `request_id` (from 0, in order of arrival), `source_id`, `arrival_s` (0 for the first; NaN where the
            tool does not record it), `prompt_tokens`, `output_tokens`, `adapter_id` (None: base model),
            `adapter_rank` (0: not known), `ttft_s`, `tpot_s` (NaN for a single token), `e2el_s`.
        notes: what was left out or is not known, as (what, requests).
    """

    name: str
    format: str
    requests: pd.DataFrame
    notes: tuple[tuple[str, int], ...] = field(default=())

    @property
    def clock(self) -> str:
        """Return whose clock its times are of, `client` or `engine`."""
        return FORMATS[self.format].clock

    @property
    def has_arrivals(self) -> bool:
        """Whether requests can be replayed when they came."""
        return bool(self.requests["arrival_s"].notna().all())

    def trace(self, ranks: Mapping[str, int] | int | None = None) -> Trace:
        """Return the workload of the log with its real arrivals, lengths and adapters.

        Args:
            ranks: ranks of adapters that the log names without a rank, by name or one for all.

        Raises:
            ValueError: if arrivals or a rank are not known.
        """
        if not self.has_arrivals:
            msg = f"{self.name}: {self.format} files do not record arrivals, so there is nothing to replay; give a run"
            raise ValueError(msg)
        table = self.requests
        names = [None if name is None else str(name) for name in table["adapter_id"].tolist()]
        known = dict(zip(names, table["adapter_rank"].tolist(), strict=True))
        palette = sorted(dict.fromkeys(names), key=lambda name: (name is None, name or ""))  # as drawn ones are
        specs = [None if name is None else AdapterSpec(name, self._rank(name, known, ranks)) for name in palette]
        return Trace(
            name=self.name,
            arrival_s=table["arrival_s"].to_numpy(dtype=np.float64),
            prompt_tokens=table["prompt_tokens"].to_numpy(dtype=np.int64),
            output_tokens=table["output_tokens"].to_numpy(dtype=np.int64),
            palette=tuple(specs),
            adapter=np.array([palette.index(name) for name in names], dtype=np.int64),
            notes=self.notes,
        )

    def _rank(self, name: str, known: Mapping[str | None, int], ranks: Mapping[str, int] | int | None) -> int:
        given = ranks if isinstance(ranks, int) else (ranks or {}).get(name)
        rank = known[name] or given
        if rank is None or rank < 1:
            msg = f"{self.name}: the rank of adapter {name!r} is not in the log; give it, at least 1"
            raise ValueError(msg)
        return int(rank)


def read_log(
    path: Path,
    format: str | None = None,  # noqa: A002 - the field's own word
    *,
    adapters: Sequence[str] = (),
) -> Log:
    """Read a log and leave out what failed.

    Args:
        path: the file.
        format: a key of `gpu_validate.log_formats.FORMATS`; None recognises it by its keys.
        adapters: names that a client dealt to its requests in turn (`vllm bench serve --lora-assignment round-robin`),
            for logs that do not say which request used which.

    Raises:
        LogError: as `path:line: what was wrong`, if the file is not such a log or nothing in it succeeded.
        ValueError: if the format is unknown.
    """
    kind = recognise(path) if format is None else format
    if kind not in FORMATS:
        msg = f"unknown log format {kind!r}; one of {', '.join(FORMATS)} is allowed"
        raise ValueError(msg)
    named = FORMATS[kind].parse(path)
    entries = [entry.using(adapters[at % len(adapters)]) for at, entry in enumerate(named)] if adapters else named
    done = [entry for entry in entries if not entry.failure]
    if not done:
        raise LogError(path, 1, f"none of {len(entries)} requests succeeded" if entries else "it holds no request")
    dealt = sum(not one.adapter for one in named if not one.failure) if adapters else 0
    notes = (*_notes(entries), *((("dealt adapters in turn", dealt),) if dealt else ()))
    _check(path, done)
    return Log(path.name, kind, _table(done), notes)


def _notes(entries: Sequence[Entry]) -> tuple[tuple[str, int], ...]:
    failed = sum(bool(entry.failure) for entry in entries)
    unknown = sum(entry.arrival_s is None for entry in entries)
    notes = [("failed requests left out", failed), ("requests without an arrival", unknown)]
    return tuple((what, count) for what, count in notes if count)


def _check(path: Path, entries: Sequence[Entry]) -> None:
    for entry in entries:
        if entry.prompt_tokens < 1 or entry.output_tokens < 1:
            tokens = f"{entry.prompt_tokens} input and {entry.output_tokens} output tokens"
            raise LogError(path, entry.line, f"a completed request has {tokens}; at least 1 of each is allowed")
        if not 0 < entry.ttft_s <= entry.e2el_s:
            times = f"first token after {entry.ttft_s:g} s and last after {entry.e2el_s:g} s"
            raise LogError(path, entry.line, f"{times}; 0 < first <= last is allowed")


def _table(entries: Sequence[Entry]) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415 - takes seconds to import

    arrival_s = np.array([np.nan if one.arrival_s is None else one.arrival_s for one in entries])
    order = np.argsort(arrival_s, kind="stable")
    output = np.array([one.output_tokens for one in entries], dtype=np.int64)
    ttft_s, e2el_s = (np.array([getattr(one, name) for one in entries]) for name in ("ttft_s", "e2el_s"))
    columns: dict[str, Any] = {
        "source_id": np.array([one.name for one in entries], dtype=object),
        "arrival_s": arrival_s - (np.nanmin(arrival_s) if not np.isnan(arrival_s).all() else 0.0),
        "prompt_tokens": np.array([one.prompt_tokens for one in entries], dtype=np.int64),
        "output_tokens": output,
        "adapter_id": np.array([one.adapter for one in entries], dtype=object),
        "adapter_rank": np.array([one.rank for one in entries], dtype=np.int64),
        "ttft_s": ttft_s,
        "tpot_s": np.where(output > 1, (e2el_s - ttft_s) / np.maximum(output - 1, 1), np.nan),
        "e2el_s": e2el_s,
    }
    sorted_columns = {name: pd.Series(values[order], dtype=values.dtype) for name, values in columns.items()}
    return pd.DataFrame({"request_id": np.arange(len(entries), dtype=np.int64), **sorted_columns})
