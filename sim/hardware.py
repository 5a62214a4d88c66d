"""Hardware profiles: datasheet peaks and effective rates, each group with its origin, source and valid range."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sim.files.yamlfile import validate
from sim.files.yamltext import parse
from sim.models import Model, unknown

Origin = Literal["prior", "derived", "fitted", "measured"]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PEAK_TOLERANCE = 1.05  # boost clocks and rounded datasheets; anything above is a wrong measurement
SUFFIXES = (".yaml", ".yml", ".json")
CPU_MADE = "measured on a CPU"


class Strict(BaseModel):
    """Unknown keys and wrong types are errors; instances do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Group(Strict):
    """Coefficients that were found together.

    Attributes:
        origin: `prior` (datasheet, rule of thumb), `derived` (arithmetic on published numbers), `fitted` (to public
            measurements) or `measured` (on this device).
        source: where the numbers come from, with the licence if data was used.
        valid_tokens: smallest and largest number of tokens of an iteration for which the numbers are supported.
    """

    origin: Origin
    source: Annotated[str, Field(min_length=1)]
    valid_tokens: Annotated[tuple[int, int], Field(strict=False)] | None = None


class Dense(Group):
    """Linear layers and the small kernels between them.

    Attributes:
        flops_per_s: effective rate of matrix products.
        weight_bytes_per_s: effective rate of streaming weights.
        tile_tokens: tokens are rounded up to whole tiles in matrix products (1: none).
        kernel_floor_s: fixed cost of one kernel.
        kernels_per_layer: kernels that pay it.
        elementwise_s_per_token: per token and layer at hidden size 4096; grows in proportion to the hidden size.
        unhidden_share: share of the arithmetic that streaming the weights does not hide.
        fit_mape: mean absolute relative error over the rows that were fitted.
        held_out_mape: the same over rows that the fit did not see.
    """

    flops_per_s: Rate
    weight_bytes_per_s: Rate
    tile_tokens: Annotated[int, Field(ge=1)] = 1
    kernel_floor_s: Seconds
    kernels_per_layer: Annotated[int, Field(ge=0)]
    elementwise_s_per_token: Seconds
    unhidden_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    fit_mape: Share | None = None
    held_out_mape: Share | None = None

    @model_validator(mode="after")
    def _states_its_error(self) -> Self:
        if self.origin in {"fitted", "measured"} and self.held_out_mape is None:
            msg = f"held_out_mape is required where the origin is {self.origin!r}"
            raise ValueError(msg)
        return self


class Attention(Group):
    """Attention kernels.

    Attributes:
        kv_bytes_per_s: effective rate of reading KV in decode.
        prefill_flops_per_s: effective rate of causal attention in prefill.
        floor_s: fixed cost per layer.
        sequence_s: cost per sequence and layer, beside its KV.
        mixed_kv_bytes_per_s: rate of reading KV in an iteration that also prefills; None: as in decode.
    """

    kv_bytes_per_s: Rate
    prefill_flops_per_s: Rate
    floor_s: Seconds
    sequence_s: Seconds
    mixed_kv_bytes_per_s: Rate | None = None


class Link(Group):
    """Copies from pinned host memory to the device.

    Attributes:
        h2d_bytes_per_s: effective bandwidth.
        h2d_latency_s: fixed part of one transfer.
        copy_issue_s: CPU time to issue one copy operation.
        copy_gap_s: what one copy operation takes on the link beyond its bytes.
        inline_bytes: the largest copy that waits for no other, since the driver sends it with its commands (seen on an
            H100, driver 580: 18,432 bytes never waited, 25,344 always did; 24 KiB, taken everywhere, is a guess).
    """

    h2d_bytes_per_s: Rate
    h2d_latency_s: Seconds
    copy_issue_s: Seconds
    copy_gap_s: Seconds = 0.0
    inline_bytes: Annotated[int, Field(ge=0)] = 24 << 10


class Lora(Group):
    """Rates at which LoRA kernels read adapters.

    Attributes:
        l2_bytes_per_s: effective rate at which each token re-reads its adapter (per-token kernels).
        weight_bytes_per_s: effective rate of the first read of an adapter from device memory.
    """

    l2_bytes_per_s: Rate
    weight_bytes_per_s: Rate


class Interconnect(Group):
    """What ties several of these GPUs together when they work as one.

    Attributes:
        all_reduce_bytes_per_s: rate of an all-reduce in one direction, per GPU (the bus bandwidth of nccl-tests).
        all_reduce_s: fixed time of one all-reduce.
    """

    all_reduce_bytes_per_s: Rate
    all_reduce_s: Seconds


class Host(Group):
    """The CPU that drives the GPU.

    Attributes:
        factor: on every host time of an engine (`costs.host_s` and the like), against the machine it was found on.
        api_factor: on the time that a request spends outside the engine (`costs.api_s`); None: as `factor`.
    """

    factor: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    api_factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class MeasuredOn(Strict):
    """What a measurement must say about itself."""

    device: str
    versions: dict[str, str]
    date: str


class Hardware(Strict):
    """One GPU and its link to the host.

    Attributes:
        name: name of the profile.
        memory_bytes: device memory.
        reserve_bytes: memory for activations, workspace and the CUDA context.
        peak_flops: datasheet dense 16-bit FLOP/s.
        peak_hbm_bytes_per_s: datasheet memory bandwidth.
        peak_pcie_bytes_per_s: datasheet bandwidth of the host link in one direction.
        dense: linear layers.
        attention: attention kernels.
        link: copies from the host.
        lora: adapter reads.
        host: the CPU; None: as fast as where each engine's host times were found.
        interconnect: between several of them; None: none but PCIe, see `sim.parallel`.
        measured_on: device, versions and date; required if any group is `measured`.
    """

    name: str
    memory_bytes: Annotated[int, Field(gt=0)]
    reserve_bytes: Annotated[int, Field(ge=0)] = 3_500_000_000
    peak_flops: Rate
    peak_hbm_bytes_per_s: Rate
    peak_pcie_bytes_per_s: Rate
    dense: Dense
    attention: Attention
    link: Link
    lora: Lora
    host: Host | None = None
    interconnect: Interconnect | None = None
    measured_on: MeasuredOn | None = None

    @model_validator(mode="after")
    def _stays_below_the_peaks(self) -> Self:
        for what, rate, peak in (
            ("dense.flops_per_s", self.dense.flops_per_s, self.peak_flops),
            ("attention.prefill_flops_per_s", self.attention.prefill_flops_per_s, self.peak_flops),
            ("dense.weight_bytes_per_s", self.dense.weight_bytes_per_s, self.peak_hbm_bytes_per_s),
            ("attention.kv_bytes_per_s", self.attention.kv_bytes_per_s, self.peak_hbm_bytes_per_s),
            ("attention.mixed_kv_bytes_per_s", self.attention.mixed_kv_bytes_per_s, self.peak_hbm_bytes_per_s),
            ("lora.weight_bytes_per_s", self.lora.weight_bytes_per_s, self.peak_hbm_bytes_per_s),
            ("link.h2d_bytes_per_s", self.link.h2d_bytes_per_s, self.peak_pcie_bytes_per_s),
        ):
            if rate is not None and rate > PEAK_TOLERANCE * peak:
                msg = f"{what} = {rate:.4g} is above {PEAK_TOLERANCE} times the hardware's peak of {peak:.4g}"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _says_where_it_was_measured(self) -> Self:
        if self.measured_on is None and "measured" in self.origins.values():
            msg = "measured_on (device, versions, date) is required where an origin is 'measured'"
            raise ValueError(msg)
        return self

    @property
    def origins(self) -> dict[str, Origin]:
        """Return the origin of each group of coefficients."""
        return {name: group.origin for name, group in self._groups().items()}

    @property
    def told_origins(self) -> dict[str, str]:
        """Return the origin of each group in words: what a CPU measured tries the harness and is no evidence."""
        is_from_cpu = self.measured_on is not None and self.measured_on.device.split(" ", 1)[0] == "cpu"
        return {
            name: CPU_MADE if is_from_cpu and origin == "measured" else origin for name, origin in self.origins.items()
        }

    def warnings(self, tokens: int) -> list[str]:
        """Return one sentence for each group that is not supported at this number of tokens in an iteration."""
        return [
            f"outside its range: {self.name}: {name} is {group.origin} for {group.valid_tokens[0]} to "
            f"{group.valid_tokens[1]} tokens, used at {tokens}"
            for name, group in self._groups().items()
            if group.valid_tokens and not group.valid_tokens[0] <= tokens <= group.valid_tokens[1]
        ]

    def pool_bytes(self, model: Model) -> int:
        """Return bytes left for KV and adapters beside the weights and the reserve.

        Raises:
            ValueError: if the model does not fit.
        """
        left = self.memory_bytes - model.weight_bytes - self.reserve_bytes
        if left <= 0:
            msg = (
                f"{model.name} does not fit {self.name}: {model.weight_bytes} bytes of weights and "
                f"{self.reserve_bytes} in reserve exceed {self.memory_bytes}"
            )
            raise ValueError(msg)
        return left

    def _groups(self) -> dict[str, Group]:
        groups: dict[str, Group] = {
            "dense": self.dense,
            "attention": self.attention,
            "link": self.link,
            "lora": self.lora,
        }
        return groups if self.host is None else {**groups, "host": self.host}


def hardware_names() -> list[str]:
    """Return the names of the packaged profiles."""
    return sorted(item.name.removesuffix(".yaml") for item in _folder().iterdir() if item.name.endswith(".yaml"))


def load_hardware(name_or_path: str | Path) -> Hardware:
    """Return a packaged profile by name, or one from a YAML or JSON file.

    Raises:
        ValueError: if the name is unknown; as a `ConfigError` with file, line and key if the content is wrong.
        FileNotFoundError: if the path does not exist.
    """
    source = _find(name_or_path)
    document = parse(source.read_text(encoding="utf-8"), str(source))
    return validate(Hardware, document.tree, document.marks)


def _folder() -> Traversable:
    return files("sim").joinpath("data", "hardware")


def _find(name_or_path: str | Path) -> Traversable | Path:
    if isinstance(name_or_path, Path) or name_or_path.endswith(SUFFIXES):
        return Path(name_or_path)
    names = hardware_names()
    if name_or_path not in names:
        raise ValueError(unknown("hardware", name_or_path, names))
    return _folder().joinpath(f"{name_or_path}.yaml")
