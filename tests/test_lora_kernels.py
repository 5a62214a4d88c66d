"""Every backend against the float64 reference, on the CPU and, where there is one, on a GPU."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gpu_validate.lora import backends  # noqa: E402 - torch may be missing
from gpu_validate.lora.backends import available, backend  # noqa: E402
from gpu_validate.lora.layout import Layout  # noqa: E402
from gpu_validate.lora.plan import make_plan  # noqa: E402
from tests.lora_world import EVEN, LAYOUT, MIXED, RANKS, SITES, TOLERANCE, make_world  # noqa: E402

ON_CPU = ("reference", "torch_loop", "grouped")
NAMES = (*ON_CPU, "segmented", "bgmv")
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=lambda dtype: str(dtype).removeprefix("torch."))
BACKENDS = pytest.mark.parametrize("name", ON_CPU)


def usable(name: str) -> backends.Backend:
    reason = available()[name]
    if reason is not None:
        pytest.skip(f"{name}: {reason}")
    return backend(name)


def test_the_reference_gives_the_formula_by_hand() -> None:
    layout = Layout(1, [("q", 2, 3)])
    arena = torch.tensor([9.0, 1, 2, 10, 20, 30])  # one element that is not ours, A = [[1, 2]], B = [[10], [20], [30]]
    plan = make_plan([None, 0], [1], [1], [0.5], device="cpu")
    y = torch.ones(2, 3)
    backend("reference").apply(y, torch.tensor([[1.0, 1], [3, 4]]), arena, layout, 0, "q", plan)
    assert y.tolist() == [[1, 1, 1], [56, 111, 166]]  # 0.5 * (3 + 8) = 5.5 times B


@BACKENDS
@DTYPES
@pytest.mark.parametrize(("layer", "module"), [site for site in SITES if site[1] != "odd"])
def test_a_backend_agrees_with_the_reference(name: str, dtype: Any, layer: int, module: str) -> None:
    world = make_world(MIXED, dtype, layer=layer, module=module)
    assert world.error(usable(name)) <= TOLERANCE[dtype]


@BACKENDS
@pytest.mark.parametrize("step", [1, 8])
def test_neither_alignment_nor_the_tokens_order_matters(name: str, step: int) -> None:
    world = make_world(EVEN, torch.float32, step=step)
    assert world.error(usable(name)) <= TOLERANCE[torch.float32]


@BACKENDS
@pytest.mark.parametrize("step", [1, 8])
def test_adapters_of_one_rank_may_lie_side_by_side(name: str, step: int) -> None:
    world = make_world([3, 0, 2, None, 1, 1, 0], torch.float32, ranks=(16, 16, 16, 16), step=step)
    assert world.error(usable(name)) <= TOLERANCE[torch.float32]


@BACKENDS
def test_adapters_may_lie_in_any_order(name: str) -> None:
    tokens, scales = (2, 0, None, 1, 1, 0), (0.5, 0.75, 1.0)
    world, kind = make_world(tokens, torch.float32, ranks=(16, 16, 16)), usable(name)
    bases = [group.base for group in world.plan.groups]
    renamed = [None if adapter is None else 2 - adapter for adapter in tokens]
    plan = make_plan(renamed, [16] * 3, bases[::-1], scales[::-1], device="cpu")
    torch.testing.assert_close(world.apply(kind, plan=plan), world.apply(kind))


@BACKENDS
def test_one_token_alone(name: str) -> None:
    assert make_world([5], torch.float32).error(usable(name)) <= TOLERANCE[torch.float32]


@BACKENDS
@pytest.mark.parametrize("tokens", [(), (None,), (6, 6, None)], ids=["empty", "base model", "rank 0"])
def test_a_batch_without_work_changes_nothing(name: str, tokens: tuple[int | None, ...]) -> None:
    world = make_world(tokens, torch.float32)
    assert torch.equal(world.apply(usable(name)), world.y)


@BACKENDS
def test_padded_tables_change_nothing(name: str) -> None:
    world = make_world(MIXED, torch.float32)
    kind = usable(name)
    padded = world.plan.padded(world.plan.tiles + 5, max_rank=256)
    assert torch.equal(world.apply(kind, plan=padded), world.apply(kind))


@pytest.mark.parametrize("name", ["torch_loop"])
def test_features_need_not_be_multiples_of_8(name: str) -> None:
    assert make_world(MIXED, torch.float32, module="odd", step=1).error(usable(name)) <= TOLERANCE[torch.float32]


def test_torchs_grouped_product_refuses_odd_features() -> None:
    kind = usable("grouped")
    with pytest.raises(RuntimeError, match=r"multiples of 8, got .*in_features=37"):
        make_world(MIXED, torch.float32, module="odd").apply(kind)


@BACKENDS
def test_operands_that_do_not_fit_are_refused(name: str) -> None:
    world, kind = make_world(MIXED, torch.float32), usable(name)
    good = (world.y, world.x, world.arena)
    for y, x, arena, match in [
        (world.y[1:], *good[1:], "got .*34, 144"),
        (world.y, world.x[:, 1:], world.arena, "got .*35, 71"),
        (world.y.double(), *good[1:], "one dtype, got torch.float32, torch.float64"),
        (world.y.T.contiguous().T, *good[1:], "columns must be contiguous"),
        (*good[:2], world.arena.to("meta"), "one device, .* arena meta"),
    ]:
        with pytest.raises(ValueError, match=match):
            kind.apply(y, x, arena, LAYOUT, 0, "q", world.plan)


def test_an_unknown_backend_is_refused_with_the_closest_one() -> None:
    with pytest.raises(ValueError, match="unknown LoRA backend 'segment' - did you mean 'segmented'"):
        backend("segment")


def test_every_backend_is_usable_or_says_why_not() -> None:
    found = available()
    assert tuple(found) == NAMES
    assert found["reference"] is None
    assert found["torch_loop"] is None
    for name in NAMES:
        reason = found[name]
        if reason is None:
            assert backend(name).name == name
        else:
            with pytest.raises(RuntimeError, match="cannot be used here: "):
                backend(name)


def test_a_torch_without_grouped_products_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.nn.functional, "grouped_mm", raising=False)
    with pytest.raises(RuntimeError, match=r"'grouped' cannot be used here: torch .* has no"):
        backend("grouped")
    monkeypatch.setattr(torch.nn.functional, "grouped_mm", lambda a, b: a @ b, raising=False)
    assert "has no" in str(available()["grouped"])


def test_the_names_of_backends_are_known_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; sys.modules['triton'] = None; import gpu_validate.lora.backends"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def gpu() -> str:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return "cuda"


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("module", ["q", "k", "o"])
@DTYPES
def test_a_backend_agrees_with_the_reference_on_a_gpu(gpu: str, name: str, module: str, dtype: Any) -> None:
    if name == "grouped" and dtype != torch.bfloat16:
        pytest.skip("torch's grouped product takes bfloat16 alone on CUDA")
    for tokens in (MIXED, EVEN):
        world = make_world(tokens, dtype, module=module, device=gpu)
        assert world.error(usable(name)) <= TOLERANCE[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "module"), [("torch_loop", "odd"), ("grouped", "q"), ("segmented", "odd"), ("bgmv", "odd")]
)
def test_odd_features_and_bases_on_a_gpu(gpu: str, name: str, module: str) -> None:
    world = make_world(MIXED, torch.bfloat16, module=module, step=1, device=gpu)
    assert world.error(usable(name)) <= TOLERANCE[torch.bfloat16]


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_the_widths_of_a_7b_model_on_a_gpu(gpu: str, name: str) -> None:
    layout = Layout(1, [("q", 4096, 4096), ("down", 11008, 4096)])
    for module in ("q", "down"):
        world = make_world(EVEN * 8, torch.bfloat16, layer=0, module=module, layout=layout, device=gpu, tile=32)
        assert world.error(usable(name)) <= TOLERANCE[torch.bfloat16]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["segmented", "bgmv"])
def test_a_captured_graph_does_the_work_of_the_tables_it_holds(gpu: str, name: str) -> None:
    kind = usable(name)
    assert kind.capturable
    world = make_world(range(len(RANKS)), torch.bfloat16, device=gpu)
    held = world.plan.padded(16)
    out = world.y.clone()
    arguments = (out, world.x, world.arena, LAYOUT, world.layer, world.module, held)
    kind.apply(*arguments)  # compiles, which a capture must not
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kind.apply(*arguments)
    scales = [0.5 + adapter / 4 for adapter in range(len(RANKS))]
    bases = {group.adapter: group.base for group in world.plan.groups}
    for tokens in ([None, 3, 3, 0, 5, None, 2, 4, 8], [None] * 9, [7, *[4] * 8]):
        table = [bases.get(adapter, 0) for adapter in range(len(RANKS))]
        plan = make_plan(tokens, RANKS, table, scales, device="cpu").padded(16)
        held.copy_from(plan)
        out.copy_(world.y)
        graph.replay()
        wanted = world.y.clone()
        on_device = make_plan(tokens, RANKS, table, scales, device=gpu)
        backend("reference").apply(wanted, *arguments[1:-1], on_device)
        torch.testing.assert_close(out, wanted, rtol=1.6e-2, atol=5e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_may_lie_beyond_32_bits_on_a_gpu(gpu: str, name: str) -> None:
    beyond = 2**31 + 64
    if torch.cuda.mem_get_info()[0] < 3 * beyond:
        pytest.skip("needs 6 GB of free GPU memory")
    kind, world = usable(name), make_world([0, None, 1, 0], torch.bfloat16, device=gpu)
    arena = torch.empty(beyond + len(world.arena), dtype=torch.bfloat16, device=gpu)
    arena[beyond:] = world.arena
    bases = [beyond + group.base for group in sorted(world.plan.groups, key=lambda group: group.adapter)]
    far = make_plan([0, None, 1, 0], RANKS[:2], bases, [0.5, 0.75], device=gpu)
    near, world.arena = world.apply(kind), arena
    assert torch.equal(world.apply(kind, plan=far), near)
