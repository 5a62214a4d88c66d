"""What `chameleon gpu` does: run a list of shapes within a budget, write each row at once, and say what came of it.

Importing this needs no torch; a command that does says so in one sentence where it is missing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from gpu_validate.order import in_turn
from gpu_validate.rows import SWEEP, Peaks, Row, Sheet, Stamp
from gpu_validate.runner import DeviceLostError, Measure, Tally, run_shapes
from gpu_validate.shapes import TINY, Shape, find_model, kernel_shapes, load_shapes
from sim.files.textfile import write_text

if TYPE_CHECKING:
    import torch

FACTS = "device.json"
NO_TORCH = "this command needs torch: pip install -e '.[gpu]' in a checkout"
OWN_KERNELS = {"cuda": ("segmented",), "cpu": ("torch_loop",)}  # of the engine that a check runs


class Part(NamedTuple):
    """One part of `calibrate`: its command, its share of the time that is left, and whether other kernels can wait."""

    name: str
    share: float
    is_own: bool = True


# What one part leaves over goes to the next ones; what a check needs comes first.
PARTS = (
    Part("probe", 0.08),
    Part("load", 0.25),
    Part("kernels", 0.5),
    Part("iterations", 0.9),
    Part("kernels", 0.55, is_own=False),
    Part("iterations", 1.0, is_own=False),
)


@dataclass(frozen=True)
class Options:
    """What the commands have in common.

    Attributes:
        device: `cuda` or `cpu`.
        out: folder of the rows; None: nothing is written.
        seed: of shapes and data.
        budget_s: seconds for all of it.
        models: base models whose shapes are measured.
        peaks: the device's; what is None comes from the packaged profile for it, if there is one.
        kernels: LoRA kernels that are measured; none: all that can run here.
    """

    device: str = "cuda"
    out: Path | None = None
    seed: int = 0
    budget_s: float = 120.0
    models: tuple[str, ...] = ()
    peaks: Peaks = field(default_factory=Peaks)
    kernels: tuple[str, ...] = ()

    def wants(self, kernel: str) -> bool:
        """Whether a LoRA kernel is to be measured."""
        return not self.kernels or kernel in self.kernels

    @property
    def tiny(self) -> bool:
        """Whether this only tries the harness."""
        return self.device == "cpu"

    @property
    def sweep(self) -> Path | None:
        """Return the file of the rows."""
        return None if self.out is None else self.out / SWEEP


@dataclass
class Bench:
    """A device that is ready to be measured.

    Attributes:
        options: of the command.
        device: as torch knows it.
        facts: what is known of it.
        stamp: for the rows.
        peaks: for judging them.
        sheet: where they go.
    """

    options: Options
    device: torch.device
    facts: dict[str, Any]
    stamp: Stamp
    peaks: Peaks
    sheet: Sheet | None

    def run(self, what: str, shapes: Sequence[Shape], measure: Measure) -> Tally:
        """Measure shapes within the command's budget."""
        return run_shapes(
            what,
            shapes,
            measure,
            sheet=self.sheet,
            stamp=self.stamp,
            peaks=self.peaks,
            budget_s=self.options.budget_s,
        )


def bench(options: Options) -> Bench:
    """Find the device and open the folder.

    Raises:
        ValueError: if torch or the device is not here, or the folder holds rows that cannot be read.
    """
    if find_spec("torch") is None:
        raise ValueError(NO_TORCH)
    from gpu_validate.probe import facts, find_device, stamp_of  # noqa: PLC0415 - needs torch

    device = find_device(options.device)
    found = facts(device)
    pairs = zip(astuple(options.peaks), astuple(Peaks.of_device(found["device"])), strict=True)
    peaks = Peaks(*(known if given is None else given for given, known in pairs))
    sheet = None if options.sweep is None else Sheet(options.sweep)
    if options.out is not None:
        write_text(options.out / FACTS, json.dumps(found, indent=1) + "\n")
    return Bench(options, device, found, stamp_of(found, options.seed), peaks, sheet)


def require(device: str) -> None:
    """Raise ValueError, in one sentence, if torch or the device is not here."""
    if find_spec("torch") is None:
        raise ValueError(NO_TORCH)
    from gpu_validate.probe import find_device  # noqa: PLC0415 - needs torch

    find_device(device)


def main_probe(options: Options) -> Tally:
    """Say what device this is and measure its ceilings.

    Raises:
        ValueError: as `bench`.
    """
    ready = bench(options)
    from gpu_validate import probe  # noqa: PLC0415 - needs torch

    size = probe.TINY if options.tiny else probe.Size()
    _say(f"{name}: {value}" for name, value in ready.facts.items())
    if ready.peaks == Peaks():
        _say(["no datasheet peaks are known for this device; give --peaks"])
    tally = ready.run("probe", probe.ceilings(size), probe.Probe(ready.device))
    _say(_ceiling(row) for row in tally.rows)
    return told(tally)


def main_load(options: Options) -> Tally:
    """Measure copies from host to device.

    Raises:
        ValueError: as `bench`; or if a model is unknown.
    """
    models = [find_model(name) for name in _models(options, "llama-7b", "llama-3.1-8b")]
    ready = bench(options)
    from gpu_validate.transfers import Arenas, Loader, ops_of  # noqa: PLC0415 - needs torch

    can_pin = ready.device.type == "cuda"
    shapes = in_turn(load_shapes(models, options.seed, ops_of, pinned=can_pin, tiny=options.tiny))
    # A large arena takes seconds to pin and fill, and a resumed sweep may need none.
    missing = [shape for shape in shapes if ready.sheet is None or not ready.sheet.has(shape.kind, shape.config)]
    arenas = Arenas.for_shapes(missing, options.seed, can_pin=can_pin)
    return told(ready.run("load", shapes, Loader(arenas, ready.device, tiny=options.tiny)))


def main_kernels(options: Options) -> Tally:
    """Measure the base model's parts and the LoRA kernels.

    Raises:
        ValueError: as `bench`; or if a model is unknown.
    """
    models = [find_model(name) for name in _models(options, "llama-7b")]
    ready = bench(options)
    from gpu_validate.layers import Layers, floats  # noqa: PLC0415 - needs torch
    from gpu_validate.lora_sweep import LoraSweep, kernels_here, kernels_missing  # noqa: PLC0415

    _say(f"LoRA kernel {kernel} is not measured: {reason}" for kernel, reason in kernels_missing().items())
    layers = Layers(ready.device, options.seed)
    loras = LoraSweep(layers, ready.device)
    draw = partial(kernel_shapes, dtype=str(floats(ready.device)).removeprefix("torch."), tiny=options.tiny)
    wanted = tuple(filter(options.wants, kernels_here()))
    shapes = in_turn(shape for model in models for shape in draw(model, options.seed, wanted))
    return told(
        ready.run("kernels", shapes, lambda shape, left: (loras if shape.kind == "lora" else layers)(shape, left))
    )


def main_calibrate(options: Options, base: str | None = None) -> Path:
    """Measure everything within the budget, then fit; return the profile.

    Raises:
        ValueError: as `bench`; or if too little was measured to fit a profile.
        DeviceLostError: after the fit, if the device became unusable for this process.
    """
    lost = _measure_all(options)
    profile = main_fit(options, base)
    if lost is not None:
        raise lost
    return profile


def _measure_all(options: Options) -> DeviceLostError | None:
    """Run all parts within the budget; return the error that ended them early, if one did."""
    from gpu_validate.iterations import main_iterations  # noqa: PLC0415 - it imports this module late, too

    begin = perf_counter()
    mains = {"probe": main_probe, "load": main_load, "kernels": main_kernels, "iterations": main_iterations}
    for part in PARTS:
        left = options.budget_s - (perf_counter() - begin)
        if left <= 0:
            _say([f"{part.name}: dropped, the budget is spent"])
            continue
        kernels = OWN_KERNELS[options.device] if part.is_own else ()
        try:
            mains[part.name](replace(options, budget_s=left * part.share, kernels=kernels))
        except DeviceLostError as error:
            _say([f"{part.name}: ended: {error}"])
            return error
        except RuntimeError as error:  # out of memory, for one: what the other parts measured is worth a fit
            _say([f"{part.name}: failed: {str(error).partition(chr(10))[0]}"])
    return None


def main_fit(options: Options, base: str | None = None) -> Path:
    """Fit the rows of a folder; return the profile.

    Raises:
        ValueError: if there are no rows, or they do not suffice.
    """
    from gpu_validate.fit import REPORT, fit_text, run_fit  # noqa: PLC0415 - scipy is slow to import

    if options.out is None or options.sweep is None or not options.sweep.exists():
        msg = f"there is no {SWEEP} in {options.out}; `chameleon gpu load` and `kernels` write it"
        raise ValueError(msg)
    profile = run_fit(options.sweep, options.out, base)
    report = profile.with_name(REPORT)
    if report.exists():
        _say(fit_text(json.loads(report.read_text(encoding="utf-8"))).splitlines())
    _say([f"fitted: {profile}; use it with --hardware {profile}"])
    return profile


def _models(options: Options, *defaults: str) -> tuple[str, ...]:
    return options.models or ((TINY.name,) if options.tiny else defaults)


def told(tally: Tally) -> Tally:
    """Say what came of a list of shapes, and return it."""
    _say(tally.lines())
    return tally


def _ceiling(row: Row) -> str:
    rates = [f"{row.extra[name]:.4g} {unit}" for name, unit in UNITS.items() if name in row.extra]
    return f"{row.config['ceiling']}: {', '.join(rates)}" + ("" if row.valid else f" (invalid: {row.why})")


UNITS = {"gb_per_s": "GB/s", "tflop_per_s": "TFLOP/s"}


def _say(lines: Iterable[str]) -> None:
    """Write to standard output what a command found."""
    for line in lines:
        sys.stdout.write(f"{line}\n")
