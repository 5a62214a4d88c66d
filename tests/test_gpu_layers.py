"""The base model's parts and LoRA kernels: each shape runs, and what runs is what the shape says."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gpu_validate import layers as parts  # noqa: E402 - after the skip
from gpu_validate.layers import Layers, busy, floats, rotation  # noqa: E402
from gpu_validate.lora_sweep import LoraSweep, kernels_here, kernels_missing, token_adapters  # noqa: E402
from gpu_validate.shapes import KERNELS, TINY, Shape, kernel_shapes  # noqa: E402
from gpu_validate.timing import Timing  # noqa: E402

CPU = torch.device("cpu")
SHAPES = kernel_shapes(TINY, 0, KERNELS, tiny=True)
BASE = [shape for shape in SHAPES if shape.kind != "lora"]
LORA = [shape for shape in SHAPES if shape.kind == "lora"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def one_of_each(shapes: list[Shape], *names: str) -> list[Shape]:
    return list({(shape.kind, *(shape.config.get(name) for name in names)): shape for shape in shapes}.values())


@pytest.mark.parametrize("shape", one_of_each(BASE, "graph"), ids=lambda shape: f"{shape.kind}-{shape.id}")
def test_every_kind_of_shape_is_measured(shape: Shape) -> None:
    measured = Layers(CPU, 0)(shape, 0.001)
    assert measured.timing.n >= 20
    assert measured.timing.clock == "host"


def test_a_shape_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="lora is not a part of the base model"):
        Layers(CPU, 0)(LORA[0], 0.001)


def test_a_dense_shape_has_the_weights_that_its_config_says() -> None:
    shape = next(shape for shape in BASE if shape.kind == "dense")
    work, repeats = Layers(CPU, 0)._dense(shape.config)
    x, weights = work.args  # type: ignore[attr-defined]
    assert x.shape == (shape.config["tokens"], TINY.hidden)
    assert len(weights) == repeats
    assert [tuple(weight.shape) for weight in weights[0]] == list(TINY.gemms.values())
    assert getattr(work(), "shape", None) == x.shape


def test_the_sum_of_the_layers_stays_finite() -> None:
    work, _ = Layers(CPU, 0)._dense(BASE[0].config)
    assert bool(torch.isfinite(torch.as_tensor(work())).all())


def test_a_time_is_that_of_one_of_the_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "measure", lambda _work, **_options: Timing(1.0, 2.0, 4.0, 20, "device"))
    assert Layers(CPU, 0).replayed(int, 4, 0.001).timing.p50_s == 0.5
    launched = Layers(CPU, 0).launched(int, 4, 0.001).timing
    assert (launched.p80_s, launched.note) == (1.0, "launches included")


def test_what_no_graph_can_hold_is_timed_with_its_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_work: object, **_options: object) -> None:
        msg = "operation not permitted when stream is capturing\nand more"
        raise RuntimeError(msg)

    monkeypatch.setattr(parts, "captured", refuse)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: None)
    note = Layers(CPU, 0).replayed(int, 1, 0.001).timing.note
    assert note.endswith("not captured, launches included: operation not permitted when stream is capturing")


@pytest.mark.parametrize(("chunk", "cached"), [(1, 3), (2, 1), (3, 5), (4, 0)])
def test_a_chunk_sees_what_is_cached_and_itself_up_to_each_token(chunk: int, cached: int) -> None:
    config = {"heads": 4, "kv_heads": 2, "head_dim": 4, "chunk": chunk, "cached": cached}
    work, _ = Layers(CPU, 0)._prefill(config)
    q, k, v, *_ = work.args  # type: ignore[attr-defined]
    k, v = (part.repeat_interleave(2, dim=1) for part in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(4)
    seen = torch.tensor([[key <= cached + query for key in range(cached + chunk)] for query in range(chunk)])
    weights = scores.masked_fill(~seen, -math.inf).softmax(-1)
    assert torch.allclose(torch.as_tensor(work()), torch.einsum("hqk,khd->qhd", weights, v), atol=1e-5)


def test_paged_attention_is_that_of_every_request_over_its_own_scattered_blocks() -> None:
    config = {"heads": 4, "kv_heads": 2, "head_dim": 16, "requests": 3, "context_tokens": 3 * 37}
    layers = Layers(CPU, 0)
    work, repeats = layers._paged(config)
    cells = inspect.getclosurevars(work).nonlocals
    q, tables, caches = cells["q"], cells["tables"], cells["caches"]
    assert len(caches) == repeats
    assert sorted(tables.flatten().tolist()) == list(range(1, 1 + 3 * 3))
    assert tables.flatten().tolist() != sorted(tables.flatten().tolist())
    rows = (tables[1][:, None] * 16 + torch.arange(16)).flatten()[:37]
    k, v = (part[rows].repeat_interleave(2, 1).transpose(0, 1) for part in caches[0])
    scores = (k @ q[1][:, :, None]).squeeze(2) / math.sqrt(16)
    expected = (scores.softmax(1)[:, None, :] @ v).squeeze(1)
    assert torch.allclose(work()[0][1], expected, atol=1e-5)  # type: ignore[index]


def test_distinct_weights_outgrow_the_cache_fourfold_but_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "l2_bytes", lambda _device: 50)
    assert rotation(30, CPU) == 7
    assert rotation(1000, CPU) == 1
    assert rotation(1, CPU, most=16) == 16


def test_a_cpu_computes_in_float32() -> None:
    assert floats(CPU) == torch.float32


@pytest.mark.parametrize("like", ["decode", "prefill"])
def test_work_beside_copies_runs_on_a_cpu(like: str) -> None:
    busy(like, CPU, tiny=True)()


def test_tokens_are_dealt_in_turn_and_in_prefill_lie_together() -> None:
    assert token_adapters("decode", 5, 2) == [0, 1, 0, 1, 0]
    assert token_adapters("prefill", 5, 2) == [0, 0, 0, 1, 1]


def test_every_kernel_is_here_or_says_why_not() -> None:
    assert {*kernels_here(), *kernels_missing()} == set(KERNELS)
    assert set(kernels_here()).isdisjoint(kernels_missing())
    assert all(kernels_missing().values())


@pytest.mark.parametrize("kernel", ["torch_loop", "grouped_mm"])
@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_lora_shapes_are_measured(kernel: str, phase: str) -> None:
    if kernel not in kernels_here():
        pytest.skip(kernels_missing()[kernel])
    sweep = LoraSweep(Layers(CPU, 0), CPU)
    chosen = [shape for shape in LORA if (shape.config["kernel"], shape.config["phase"]) == (kernel, phase)]
    for shape in chosen[:2]:
        assert sweep(shape, 0.001).timing.n >= 20


def test_lora_work_applies_every_adapter_of_the_mix_once_per_set(monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Any] = []

    class Spy:
        capturable = False

        def apply(self, *operands: Any) -> None:
            plans.append(operands[-1])

    monkeypatch.setattr("gpu_validate.lora_sweep.backend", lambda _name: Spy())
    config = next(
        shape.config for shape in LORA if shape.config["distinct"] == 2 and shape.config["phase"] == "prefill"
    )
    run, repeats, _ = LoraSweep(Layers(CPU, 0), CPU).work(config)
    run()
    assert len(plans) == repeats > 1
    assert all(sorted(group.rank for group in plan.groups) == sorted(config["ranks"]) for plan in plans)
    bases = [group.base for plan in plans for group in plan.groups]
    assert len(set(bases)) == len(bases)
    assert plans[0].tokens == config["tokens"]


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("shape", one_of_each(BASE, "graph", "cached"), ids=lambda shape: f"{shape.kind}-{shape.id}")
def test_every_kind_of_shape_is_measured_on_a_gpu(shape: Shape) -> None:
    timing = Layers(torch.device("cuda"), 0)(shape, 0.01).timing
    assert timing.clock == ("host" if shape.kind == "launch" else "device")
    assert "not captured" not in timing.note


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("shape", one_of_each(LORA, "kernel", "phase"), ids=lambda shape: f"{shape.kind}-{shape.id}")
def test_lora_shapes_are_measured_on_a_gpu(shape: Shape) -> None:
    if shape.config["kernel"] not in kernels_here():
        pytest.skip(kernels_missing()[shape.config["kernel"]])
    device = torch.device("cuda")
    assert LoraSweep(Layers(device, 0), device)(shape, 0.01).timing.n >= 20
