"""Where the matrices of an adapter lie."""

from __future__ import annotations

import pytest

from gpu_validate.lora.layout import Layout, Place
from sim.models import ALL_MODULES, DEFAULT_MODULES, load_model, model_names

torch = pytest.importorskip("torch")

TINY = Layout(2, [("q", 3, 4), ("v", 3, 2)])  # per unit of rank: A 3 + 3, B 4 + 2 elements a layer


def test_a_layer_holds_all_a_then_all_b() -> None:
    places = [TINY.a_offset(1, 0, "q"), TINY.a_offset(1, 0, "v"), TINY.b_offset(1, 0, "q"), TINY.b_offset(1, 0, "v")]
    assert places == [0, 3, 6, 10]
    assert [TINY.a_offset(1, 1, "q"), TINY.b_offset(1, 1, "v"), TINY.elements(1)] == [12, 22, 24]


def test_every_offset_is_proportional_to_the_rank() -> None:
    assert TINY.b_offset(5, 1, "v") == 5 * TINY.b_units(1, "v") == 5 * 22
    assert TINY.a_offset(5, 1, "v") == 5 * TINY.a_units(1, "v") == 5 * 15
    assert TINY.elements(5) == 5 * 24
    assert TINY.elements(0) == 0


def test_views_follow_each_other_and_cover_the_adapter_once() -> None:
    flat = torch.arange(TINY.elements(5))
    views = TINY.views(flat, 5)
    assert torch.equal(torch.cat([view.flatten() for view in views.values()]), flat)
    assert [place for place in views if place.layer == 0] == [
        Place(0, "q", "A"),
        Place(0, "v", "A"),
        Place(0, "q", "B"),
        Place(0, "v", "B"),
    ]


def test_a_is_rank_by_in_and_b_out_by_rank() -> None:
    views = TINY.views(torch.arange(TINY.elements(5)), 5)
    assert views[Place(1, "q", "A")].shape == (5, 3)
    assert views[Place(1, "q", "B")].shape == (4, 5)
    assert views[Place(1, "q", "B")][1, 0] == TINY.b_offset(5, 1, "q") + 5


def test_views_share_the_adapters_memory() -> None:
    flat = torch.zeros(TINY.elements(2))
    TINY.views(flat, 2)[Place(1, "v", "B")].fill_(1)
    assert torch.equal(flat.nonzero().flatten(), torch.arange(44, 48))


def test_a_matrix_is_found_from_the_adapters_base_in_an_arena() -> None:
    arena = torch.arange(10 + TINY.elements(2))
    views = TINY.views(arena[10:], 2)
    assert torch.equal(TINY.a(arena, 10, 2, 1, "v"), views[Place(1, "v", "A")])
    assert torch.equal(TINY.b(arena, 10, 2, 1, "v"), views[Place(1, "v", "B")])


@pytest.mark.parametrize("modules", [DEFAULT_MODULES, ALL_MODULES, ("q_proj", "v_proj")])
@pytest.mark.parametrize("name", model_names())
def test_a_models_adapter_has_as_many_elements_as_peft_gives_it(name: str, modules: tuple[str, ...]) -> None:
    model = load_model(name)
    layout = Layout.of(model, modules)
    for rank in (1, 8, 128):
        assert layout.elements(rank) * model.dtype_bytes == model.adapter_bytes(rank, modules)


def test_grouped_queries_have_narrow_keys_and_values() -> None:
    layout = Layout.of(load_model("llama-3.1-8b"), ALL_MODULES)
    shapes = {module.name: (module.in_features, module.out_features) for module in layout.modules}
    assert shapes == {
        "q": (4096, 4096),
        "k": (4096, 1024),
        "v": (4096, 1024),
        "o": (4096, 4096),
        "gate": (4096, 14336),
        "up": (4096, 14336),
        "down": (14336, 4096),
    }


@pytest.mark.parametrize(
    ("layers", "modules", "match"),
    [
        (0, [("q", 3, 4)], "got 0 layers"),
        (1, [], "0 modules"),
        (1, [("q", 0, 4)], "must be positive"),
        (1, [("q", 3, 4), ("q", 3, 4)], "named once, got q, q"),
    ],
)
def test_a_layout_that_makes_no_sense_is_refused(layers: int, modules: list[tuple[str, int, int]], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Layout(layers, modules)


def test_an_unknown_module_is_refused_with_the_closest_one() -> None:
    with pytest.raises(ValueError, match="unknown module 'gat' - did you mean 'gate'"):
        Layout(1, [("gate", 3, 4)]).a_offset(8, 0, "gat")
    with pytest.raises(ValueError, match="unknown module"):
        Layout.of(load_model("llama-7b"), ["gat"])


@pytest.mark.parametrize("layer", [-1, 2])
def test_a_layer_beyond_the_last_is_refused(layer: int) -> None:
    with pytest.raises(ValueError, match=rf"0\.\.1, got {layer}"):
        TINY.b_offset(8, layer, "q")


def test_an_adapter_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rank 2 has 48 elements, got shape \(47,\)"):
        TINY.views(torch.zeros(47), 2)
