"""A trace written as our own CSV, whole or not at all, exact to the last bit."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

from sim.files.output import drafted
from sim.trace import AdapterSpec, Trace

ADAPTER_COLUMNS = ("adapter_id", "rank")
HEADER = ("request_id", "arrival_s", "input_tokens", "output_tokens", *ADAPTER_COLUMNS)


def write_canonical(trace: Trace, path: str | Path) -> None:
    """Write our own CSV, exact to the last bit, whole or not at all; a name ending in .gz is gzipped.

    A trace that lacks adapters is written without their columns, so that they are still drawn when it is read.

    Raises:
        ValueError: if the trace lacks stamps or lengths.
        OSError: if it cannot be written.
    """
    needed = sorted(trace.lacks - {"adapters"})
    if needed:
        msg = f"{trace.name} has no {' and no '.join(needed)} of its own; draw them (`make_trace`) before it is written"
        raise ValueError(msg)
    target = Path(path)
    with drafted(target) as draft, draft.open("wb") as raw:
        # no name and no time in the gzip header: the same trace gives the same bytes
        binary = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if target.suffix == ".gz" else raw
        with io.TextIOWrapper(binary, encoding="utf-8", newline="") as text:
            _write_rows(trace, text)


def _write_rows(trace: Trace, text: io.TextIOWrapper) -> None:
    writer = csv.writer(text, lineterminator="\n")
    names_adapters = "adapters" not in trace.lacks
    writer.writerow(HEADER if names_adapters else HEADER[: -len(ADAPTER_COLUMNS)])
    named = [_adapter_cells(spec) if names_adapters else () for spec in trace.palette]
    columns = (trace.arrival_s, trace.prompt_tokens, trace.output_tokens, trace.adapter)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    writer.writerows(
        (at, repr(time), prompt, output, *named[adapter]) for at, (time, prompt, output, adapter) in enumerate(rows)
    )


def _adapter_cells(spec: AdapterSpec | None) -> tuple[str, ...]:
    return ("", "") if spec is None else (spec.id, str(spec.rank))
