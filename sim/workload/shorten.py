"""Requests made to fit: lengths scaled, long requests dropped, cut, or only counted. Every row touched is noted."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from sim.models import Model
from sim.trace import Trace

OverWindow = Literal["serve", "drop", "truncate"]


def _scaled(trace: Trace, scale: float) -> Trace:
    if scale == 1:
        return trace
    prompt, output = (np.rint(tokens / scale) for tokens in (trace.prompt_tokens, trace.output_tokens))
    clamped = ((prompt < 1) | (output < 1)).sum()
    shorter = replace(
        trace,
        prompt_tokens=np.maximum(prompt, 1).astype(np.int64),
        output_tokens=np.maximum(output, 1).astype(np.int64),
    )
    shorter = shorter.noted(f"lengths divided by {scale:g}", len(trace))
    return shorter.noted("rows with a length clamped to 1 after that", clamped)


def _dropped(trace: Trace, most: int, option: str, what: str) -> Trace:
    keep = trace.prompt_tokens + trace.output_tokens <= most
    if not keep.any():
        msg = f"{option} is {most}, and no request is that short"
        raise ValueError(msg)
    return trace.kept(keep).noted(f"{what} dropped", (~keep).sum())


def _truncated(trace: Trace, most: int, what: str) -> Trace:
    output = np.minimum(trace.output_tokens, most - 1)
    prompt = np.minimum(trace.prompt_tokens, most - output)
    over = (trace.prompt_tokens + trace.output_tokens > most).sum()
    return replace(trace, prompt_tokens=prompt, output_tokens=output).noted(what, over)


def fitted(trace: Trace, scale: float, drop_over_tokens: int | None, truncate_tokens: int | None) -> Trace:
    """Return the trace with lengths divided by `scale`, then long rows dropped, then the rest truncated, all noted.

    Raises:
        ValueError: if no row is left.
    """
    trace = _scaled(trace, scale)
    if drop_over_tokens is not None:
        trace = _dropped(trace, drop_over_tokens, "drop_over_tokens", f"rows over {drop_over_tokens} tokens")
    if truncate_tokens is not None:
        trace = _truncated(trace, truncate_tokens, f"rows truncated to {truncate_tokens} tokens")
    return trace


def between(trace: Trace, first_s: float, last_s: float, requests: int | None) -> Trace:
    """Return the rows that come between two instants, the second left out, with the first of them at 0; noted.

    Args:
        trace: with the file's own stamps.
        first_s: seconds after its first row, of those that the reader kept, from which rows are taken.
        last_s: the same until which they are.
        requests: how many of them at most; None: all.

    Raises:
        ValueError: if the file has no stamps, or no row is left.
    """
    if "arrivals" in trace.lacks:
        msg = f"between_s is [{first_s:g}, {last_s:g}], and {trace.name} has no stamps"
        raise ValueError(msg)
    after_s = trace.arrival_s - trace.arrival_s[0]
    keep = (after_s >= first_s) & (after_s < last_s)
    if not keep.any():
        told = f"its {len(trace)} rows come within {after_s[-1]:g} s"
        msg = f"between_s is [{first_s:g}, {last_s:g}], and no row of {trace.name} comes then: {told}"
        raise ValueError(msg)
    kept = trace.kept(keep).kept(slice(requests))
    moved = replace(kept, arrival_s=kept.arrival_s - kept.arrival_s[0])
    return moved.noted(f"rows outside of seconds {first_s:g} to {last_s:g} of the file left out", (~keep).sum())


def windowed(trace: Trace, model: Model, over_window: OverWindow = "serve") -> Trace:
    """Return the trace with requests longer than the model's context window served, dropped or cut, and noted.

    A real engine refuses such a request or cuts it; a trace without any is returned unchanged.

    Args:
        trace: with its final lengths.
        model: its window counts input and output tokens.
        over_window: serve: as they are; drop; truncate: input is cut, then output.

    Raises:
        ValueError: if no row is left.
    """
    most = model.context_window
    over = int((trace.prompt_tokens + trace.output_tokens > most).sum())
    if not over:
        return trace
    what = f"the context window of {model.name}, {most} tokens"
    if over_window == "drop":
        return _dropped(trace, most, f"the context window of {model.name}", f"rows over {what},")
    if over_window == "truncate":
        return _truncated(trace, most, f"rows truncated to {what}")
    return trace.noted(f"rows over {what}, served as they are", over)


def taken_as_given(trace: Trace, model: Model) -> Trace:
    """Return a trace that is simulated as it is, with requests over the model's context window counted in its notes.

    Raises:
        ValueError: if the trace lacks stamps or lengths, which nobody draws for it.
    """
    needed = sorted(trace.lacks - {"adapters"})
    if needed:
        msg = f"{trace.name} has no {' and no '.join(needed)} of its own; name its file in a workload, which draws them"
        raise ValueError(msg)
    return windowed(trace, model)
