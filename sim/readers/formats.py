"""The kinds of trace files that hold one request per row: column names, units, and what tells one from another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sim.readers.cells import BoolArray, Problems, TimeArray, durations, instants, whole_stamps
from sim.readers.prepare import Prepare, delays_and_texts, delays_placed, texts_counted, without_chains

TimeParser = Callable[[Sequence[str], Sequence[int], str, Problems], tuple[TimeArray, BoolArray]]
Kind = Literal["CSV", "JSON lines"]


@dataclass(frozen=True)
class Format:
    """One kind of file: the names of its columns and the unit of its stamps.

    Attributes:
        kinds: what the rows may be written as.
        time: the column of stamps; None where there are none.
        per_s: stamp units in one second, after `times` has parsed them.
        adapter: the column of adapter ids; None where none is used unless it is named.
        also: other names that its columns go by.
        told_by: groups of columns; one group must be there before the format is recognised without being named, and
            without any group it never is.
        not_with: columns of another format that has the same names in another unit.
        rebase: whether the first stamp becomes second 0.
        prepare: what is done to the objects of a JSON file before their columns are looked for.
    """

    name: str
    kinds: tuple[Kind, ...]
    time: str | None
    prompt: str
    output: str
    per_s: float = 1
    times: TimeParser = durations
    adapter: str | None = None
    optional: tuple[str, ...] = ()
    also: Mapping[str, str] = field(default_factory=dict)
    told_by: tuple[tuple[str, ...], ...] = ()
    not_with: tuple[str, ...] = ()
    rebase: bool = True
    prepare: Prepare | None = None

    @property
    def needed(self) -> tuple[str, ...]:
        """Names of the columns without which nothing can be read."""
        lengths = (self.prompt, self.output)
        return lengths if self.time is None else (self.time, *lengths)

    @property
    def used(self) -> tuple[str, ...]:
        """Names of all columns that are made use of, needed or not."""
        return self.needed + (() if self.adapter is None else (self.adapter,)) + self.optional

    def named(self, column: str) -> str:
        """Return our name of a column (lower case)."""
        return self.also.get(column, column)

    def fits(self, columns: Sequence[str], kind: Kind) -> bool:
        """Whether a file with these columns is recognised as of this format."""
        found = {self.named(column) for column in columns}
        is_told = any(set(group) <= found for group in self.told_by)
        return kind in self.kinds and is_told and found.isdisjoint(self.not_with)


_LENGTHS = ("timestamp", "input_length", "output_length")
_AZURE = ("timestamp", "contexttokens", "generatedtokens")
_VIDUR = ("arrived_at", "num_prefill_tokens", "num_decode_tokens")
_BURSTGPT = ("timestamp", "request tokens", "response tokens")
_SPLITWISE = ("arrival_timestamp", "prompt_size", "token_size")
_CANONICAL = ("arrival_s", "input_tokens", "output_tokens")
_SLORA = ("req_time", "input_len", "output_len")
_LLMSERVINGSIM = ("arrival_time_ns", "input_toks", "output_toks")

FORMATS = {
    each.name: each
    for each in (
        Format(
            "canonical",
            ("CSV",),
            *_CANONICAL,
            adapter="adapter_id",
            optional=("request_id", "rank"),
            told_by=(_CANONICAL,),
            rebase=False,
        ),
        Format("azure", ("CSV",), *_AZURE, per_s=1e9, times=instants, told_by=(_AZURE,)),
        Format("vidur", ("CSV",), *_VIDUR, told_by=(_VIDUR,)),
        Format(
            "mooncake",
            ("JSON lines",),
            *_LENGTHS,
            per_s=1000,
            told_by=((*_LENGTHS, "hash_ids"),),
            not_with=("chat_id",),  # Bailian: seconds
            prepare=delays_placed,
        ),
        Format("bailian", ("JSON lines",), *_LENGTHS, told_by=((*_LENGTHS, "chat_id"),)),
        Format("burstgpt", ("CSV",), *_BURSTGPT, told_by=(_BURSTGPT,)),
        Format("splitwise-sim", ("CSV",), *_SPLITWISE, told_by=(_SPLITWISE,)),
        Format(
            "slora",
            ("CSV", "JSON lines"),
            *_SLORA,
            adapter="adapter_id",
            optional=("req_id", "rank"),
            also={"adapter_dir": "adapter_id"},
            told_by=(_SLORA,),
        ),
        Format(
            "llmservingsim",
            ("JSON lines",),
            *_LLMSERVINGSIM,
            per_s=1e9,
            times=whole_stamps,
            told_by=(_LLMSERVINGSIM, ("arrival_time_ns", "sub_requests")),
            prepare=without_chains,
        ),
        # the names of Mooncake's columns in seconds, or in milliseconds without its mark: never recognised
        Format("guidellm", ("CSV", "JSON lines"), *_LENGTHS),
        Format("aiperf", ("JSON lines",), *_LENGTHS, per_s=1000, prepare=delays_and_texts),
        Format(
            "vllm",
            ("JSON lines",),
            None,
            "prompt_tokens",
            "output_tokens",
            told_by=(("prompt",), ("conversations",)),
            not_with=("timestamp",),
            prepare=texts_counted,
        ),
    )
}
