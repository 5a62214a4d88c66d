"""Measurements as flat JSON lines: one row each, written at once, judged against the hardware's peaks."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

from sim.hardware import PEAK_TOLERANCE, load_hardware
from sim.names import did_you_mean

Kind = Literal[
    "probe",
    "load",
    "dense",
    "lm_head",
    "attention_prefill",
    "attention_decode",
    "attention_paged",
    "lora",
    "launch",
    "iteration",
    "service",
]
Clock = Literal["device", "host"]
Config = Mapping[str, Any]
SWEEP = "sweep.jsonl"  # the file in a measurement's folder that holds every row


@dataclass(frozen=True)
class Stamp:
    """What every row says about the machine and the run."""

    device: str
    driver: str
    torch: str
    date: str
    seed: int


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        kind: what was measured; it fixes the keys of `config`.
        config: the shape, and `split`: fit, test or extrapolation.
        unit: of the three quantiles; always seconds.
        p20: 20th percentile.
        p50: median.
        p80: 80th percentile.
        n: runs behind the quantiles; 0: the measurement failed, and `why` says how.
        clock: `device` (CUDA events) or `host` (wall time, with the launches).
        device: name of the device.
        driver: version of its driver.
        torch: version of torch.
        date: day, in UTC.
        seed: of the run.
        valid: whether a fit may use the row.
        why: the reason if not.
        note: what a reader should know beside.
        extra: further flat fields, such as `issue_s`, `compute_slowdown`, `gb_per_s` and `tflop_per_s`.
    """

    kind: Kind
    config: dict[str, Any]
    p20: float
    p50: float
    p80: float
    n: int
    clock: Clock
    device: str
    driver: str
    torch: str
    date: str
    seed: int
    unit: str = "s"
    valid: bool = True
    why: str = ""
    note: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Return what makes two rows measurements of the same thing."""
        return key_of(self.kind, self.config)

    def to_json(self) -> str:
        """Return the row as one line; `extra` is merged into it."""
        flat = asdict(self)
        extra = flat.pop("extra")
        return json.dumps({**flat, **extra}, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Return the row of a line.

        Raises:
            ValueError: if the line is not JSON, lacks a field, or holds a value of the wrong kind.
        """
        try:
            flat = json.loads(line)
        except json.JSONDecodeError as error:
            msg = f"not JSON: {error}"
            raise ValueError(msg) from None
        _require_fields(flat)
        names = {one.name for one in fields(cls)} - {"extra"}
        known = {name: value for name, value in flat.items() if name in names}
        return cls(**known, extra={name: value for name, value in flat.items() if name not in names})


REQUIRED: dict[str, type | tuple[type, ...]] = {
    "kind": str,
    "config": dict,
    "unit": str,
    "p20": (int, float),
    "p50": (int, float),
    "p80": (int, float),
    "n": int,
    "clock": str,
    "device": str,
    "driver": str,
    "torch": str,
    "date": str,
    "seed": int,
    "valid": bool,
}


def _require_fields(flat: object) -> None:
    if not isinstance(flat, dict):
        msg = f"a row must be an object, got {type(flat).__name__}"
        raise ValueError(msg)
    missing = [name for name in REQUIRED if name not in flat]
    if missing:
        msg = f"a row must have {', '.join(missing)}"
        raise ValueError(msg)
    for name, kind in REQUIRED.items():
        if not isinstance(flat[name], kind) or (isinstance(flat[name], bool) and kind is not bool):
            msg = f"{name} = {flat[name]!r} is of the wrong type"
            raise ValueError(msg)
    for name, allowed in (("kind", get_args(Kind)), ("clock", get_args(Clock))):
        if flat[name] not in allowed:
            msg = f"unknown {name} {flat[name]!r}{did_you_mean(flat[name], allowed)}"
            raise ValueError(msg)
    if not all(math.isfinite(flat[name]) and flat[name] >= 0 for name in ("p20", "p50", "p80")):
        msg = "p20, p50 and p80 must be finite and not negative"
        raise ValueError(msg)


def key_of(kind: str, config: Config) -> str:
    """Return a short stable name of a shape, whatever the order of its keys and whichever split it is in."""
    shape = {name: value for name, value in config.items() if name != "split"}
    text = json.dumps([kind, shape], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a sweep.

    Raises:
        ValueError: at the first line that is no row; the message begins with path:line.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(Row.from_json(line))
        except ValueError as error:
            msg = f"{path}:{number}: {error}"
            raise ValueError(msg) from None
    return rows


class Sheet:
    """A file of rows that grows as they are measured and knows what it has.

    Args:
        path: the file; a last line cut short by a kill is dropped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _drop_half_line(path)
        self._done = {row.key for row in self.rows() if row.n}
        self._failed = {row.key for row in self.rows() if not row.n}
        self._devices = {row.device for row in self.rows()}

    def rows(self) -> list[Row]:
        """Return what the file holds."""
        return read_rows(self.path) if self.path.exists() else []

    def has(self, kind: str, config: Config) -> bool:
        """Whether this shape was measured; a failed attempt does not count."""
        return key_of(kind, config) in self._done

    def has_failed(self, kind: str, config: Config) -> bool:
        """Whether an attempt at this shape failed."""
        return key_of(kind, config) in self._failed

    def append(self, row: Row) -> None:
        """Write a row so that it survives whatever comes next.

        Raises:
            ValueError: if the file holds rows of another device.
        """
        if self._devices - {row.device}:
            msg = f"{self.path} holds rows of {', '.join(sorted(self._devices))}; give another folder for {row.device}"
            raise ValueError(msg)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(row.to_json() + "\n")
        self._devices.add(row.device)
        (self._done if row.n else self._failed).add(row.key)

    def sha256(self) -> str:
        """Return the hash of the whole sweep, by which a fitted profile names it."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def _drop_half_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)


@dataclass(frozen=True)
class Peaks:
    """Datasheet rates per second; None where nobody told."""

    flops: float | None = None
    memory_bytes: float | None = None
    link_bytes: float | None = None

    @classmethod
    def of_device(cls, name: str) -> Peaks:
        """Return the peaks of the packaged profile for a device as its driver calls it; none if there is no such."""
        words = set(re.split(r"[^a-z0-9]+", name.lower()))
        for needed, profile in PROFILES:
            if needed <= words:
                hardware = load_hardware(profile)
                return cls(hardware.peak_flops, hardware.peak_hbm_bytes_per_s, hardware.peak_pcie_bytes_per_s)
        return cls()


PROFILES: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"a10g"}), "a10g"),
    (frozenset({"a40"}), "a40"),
    (frozenset({"a100", "80gb"}), "a100-80"),
    (frozenset({"h100"}), "h100"),
    (frozenset({"h200"}), "h200"),
)


@dataclass(frozen=True)
class Amount:
    """What a measurement moves and computes at the least, once per run."""

    flops: float = 0.0
    memory_bytes: float = 0.0
    link_bytes: float = 0.0


def implied(amount: Amount, seconds: float) -> dict[str, float]:
    """Return the rates that a time implies, as `gb_per_s` (memory or link) and `tflop_per_s`; none for no time."""
    if not seconds > 0:
        return {}
    moved = amount.memory_bytes or amount.link_bytes
    rates = {"gb_per_s": moved / seconds / 1e9, "tflop_per_s": amount.flops / seconds / 1e12}
    return {name: rate for name, rate in rates.items() if rate}


def too_fast(amount: Amount, seconds: float, peaks: Peaks) -> str:
    """Return why a time cannot be true: a rate above 1.05 times the datasheet's peak; empty if it can."""
    if not seconds > 0:
        return ""
    for what, done, peak in (
        ("FLOP/s", amount.flops, peaks.flops),
        ("memory bytes/s", amount.memory_bytes, peaks.memory_bytes),
        ("link bytes/s", amount.link_bytes, peaks.link_bytes),
    ):
        if peak and done / seconds > PEAK_TOLERANCE * peak:
            return f"{done / seconds:.4g} {what} is above {PEAK_TOLERANCE} times the peak of {peak:.4g}"
    return ""
