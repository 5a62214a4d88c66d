"""Copies: whatever the mode, every byte of the adapter lies on the device afterwards. No test asks how long it took."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gpu_validate.shapes import MODES, TINY, Shape, load_shapes  # noqa: E402 - after the skip
from gpu_validate.transfers import WORD_BYTES, Arenas, Loader, copier_of, ops_of  # noqa: E402
from sim.models import Model, load_model  # noqa: E402

CPU = torch.device("cpu")
GROUPED = TINY.model_copy(update={"kv_heads": 1})
SHAPES = load_shapes([TINY], 0, ops_of, pinned=False, tiny=True)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def source_of(model: Model, rank: int) -> Any:
    words = model.adapter_bytes(rank) // WORD_BYTES
    return torch.randint(-(2**15), 2**15, (words,), dtype=torch.int16)


def loader() -> Loader:
    return Loader(Arenas.for_shapes(SHAPES, 0, can_pin=False), CPU, tiny=True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", [TINY, GROUPED], ids=["heads", "grouped"])
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_every_mode_moves_the_right_bytes(mode: str, model: Model, rank: int) -> None:
    source = source_of(model, rank)
    copier = copier_of(mode, source, CPU, model, rank)
    assert not torch.equal(copier.landed(), source)
    copier.run()
    assert torch.equal(copier.landed(), source)


@pytest.mark.parametrize("mode", MODES)
def test_a_second_run_moves_what_the_host_then_holds(mode: str) -> None:
    source = source_of(TINY, 4)
    copier = copier_of(mode, source, CPU, TINY, 4)
    copier.run()
    source += 1
    copier.run()
    assert torch.equal(copier.landed(), source)


def test_a_slot_of_vllm_is_zero_outside_the_adapters_corner() -> None:
    from gpu_validate.transfers import SLOT_RANK, VllmSlots  # noqa: PLC0415

    source = source_of(TINY, 4)
    copier = copier_of("vllm_slots", source, CPU, TINY, 4)
    assert isinstance(copier, VllmSlots)
    for slot, _, _ in copier._pairs:
        slot.fill_(7)
    copier.run()
    outside = [slot.count_nonzero() - corner.count_nonzero() for slot, corner, _ in copier._pairs]
    assert sum(map(int, outside)) == 0
    assert all(SLOT_RANK in slot.shape for slot, _, _ in copier._pairs)


@pytest.mark.parametrize(
    ("mode", "ops"),
    [("flat", 1), ("pageable", 1), ("per_layer", 32), ("per_tensor", 256), ("slora_double", 128), ("vllm_slots", 512)],
)
def test_operations_are_those_of_the_real_systems(mode: str, ops: int) -> None:
    assert ops_of(mode, load_model("llama-7b")) == ops


def test_an_unknown_mode_is_told_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown mode 'falt': expected one of flat"):
        ops_of("falt", TINY)
    with pytest.raises(ValueError, match="unknown mode 'falt'"):
        copier_of("falt", source_of(TINY, 1), CPU, TINY, 1)


def test_plain_bytes_can_only_be_moved_flat() -> None:
    with pytest.raises(ValueError, match="it needs a model"):
        copier_of("per_layer", source_of(TINY, 1), CPU, None, 0)


def test_adapters_that_are_moved_at_once_are_not_the_same_bytes() -> None:
    arenas = Arenas(4096, 2, 0, can_pin=False)
    one, two = arenas.sources({"mode": "flat", "bytes": 1024, "concurrent": 2})
    assert (len(one), len(two)) == (512, 512)
    assert one.data_ptr() != two.data_ptr()
    assert not torch.equal(one, two)


def test_adapters_in_a_row_share_the_bytes_of_their_row() -> None:
    arenas = Arenas(4096, 2, 0, can_pin=False)
    pieces = arenas.sources({"mode": "flat", "bytes": 4096, "concurrent": 1, "queued": 4})
    assert [len(piece) for piece in pieces] == [512] * 4


def test_large_arenas_are_filled_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_validate.transfers.RANDOM_WORDS", 100)
    arena = Arenas(2 * 250, 2, 0, can_pin=False).pinned
    assert torch.equal(arena[:50], arena[200:])
    assert int(arena[200:].count_nonzero()) > 40


def unlike(shapes: list[Shape]) -> list[Shape]:
    """Return one shape for each way of moving."""
    ways = {
        (s.config["mode"], s.config["concurrent"], s.config["beside"], s.config.get("queued", 1)): s for s in shapes
    }
    return list(ways.values())


@pytest.mark.parametrize("shape", unlike(SHAPES), ids=lambda shape: shape.id)
def test_every_shape_of_the_sweep_is_measured_and_moves_its_bytes(shape: Shape) -> None:
    load = loader()
    copiers = load.copiers(shape.config)
    for copier in copiers:
        copier.run()
    sources = load._arenas.sources(shape.config)
    assert all(torch.equal(copier.landed(), source) for copier, source in zip(copiers, sources, strict=True))
    moved = sum(source.numel() * WORD_BYTES for source in sources)
    assert moved == shape.config["bytes"] * shape.config["concurrent"]
    measured = load(shape, 0.001)
    assert measured.timing.n >= 20
    assert measured.extra["issue_s"] is not None


def test_beside_compute_a_cpu_claims_no_slowdown() -> None:
    shape = next(shape for shape in SHAPES if shape.config["beside"] == "decode")
    measured = loader()(shape, 0.001)
    assert measured.extra["compute_slowdown"] is None
    assert "no streams" in measured.timing.note


def test_the_sweep_has_every_mode_and_situation() -> None:
    ways = {(s.config["mode"], s.config["concurrent"], s.config["beside"]) for s in SHAPES}
    assert {mode for mode, _, _ in ways} == set(MODES)
    assert {at_once for _, at_once, _ in ways} == {1, 2, 4}
    assert {beside for _, _, beside in ways} == {"idle", "decode", "prefill"}


def test_the_sweep_goes_from_64_kib_to_1_gib() -> None:
    sizes = [shape.config["bytes"] for shape in load_shapes([load_model("llama-7b")], 0, ops_of, pinned=True)]
    assert (min(sizes), max(sizes)) == (2**16, 2**30)


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_moves_the_right_bytes_to_a_gpu(mode: str) -> None:
    source = source_of(TINY, 4)
    copier = copier_of(mode, source if mode == "pageable" else source.pin_memory(), torch.device("cuda"), TINY, 4)
    copier.run()
    assert torch.equal(copier.landed().cpu(), source)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("shape", unlike(SHAPES), ids=lambda shape: shape.id)
def test_every_shape_of_the_sweep_is_measured_on_a_gpu(shape: Shape) -> None:
    load = Loader(Arenas.for_shapes(SHAPES, 0, can_pin=True), torch.device("cuda"), tiny=True)
    measured = load(shape, 0.01)
    assert measured.timing.clock == "device"
    assert ("compute_slowdown" in measured.extra) == (shape.config["beside"] != "idle")
