"""The order of a sweep: whatever part of it there is time for can be fitted."""

from __future__ import annotations

from collections import Counter

import pytest

from gpu_validate.engine_laws import launch_law, lora_law
from gpu_validate.iterations import iteration_shapes
from gpu_validate.laws import attention_law, dense_law, link_law, paged_law
from gpu_validate.order import in_turn
from gpu_validate.shapes import KERNELS, Shape, kernel_shapes, load_shapes
from sim.hardware import load_hardware
from sim.models import load_model

MODEL, HARDWARE = load_model("llama-7b"), load_hardware("h100")


def kernels() -> list[Shape]:
    return kernel_shapes(MODEL, 0)


def copies() -> list[Shape]:
    return load_shapes([MODEL], 0, lambda _mode, _model: 1, pinned=True)


@pytest.mark.parametrize("shapes", [kernels(), copies()], ids=["kernels", "copies"])
def test_no_shape_is_lost_or_doubled(shapes: list[Shape]) -> None:
    assert sorted(shape.id for shape in in_turn(shapes)) == sorted(shape.id for shape in shapes)


def test_a_third_of_a_sweep_has_enough_of_everything_that_the_checked_engine_needs() -> None:
    ordered = in_turn(kernels())
    first = ordered[: len(ordered) // 3]
    fitted = Counter(str(shape.kind) for shape in first if shape.split == "fit")
    base = (dense_law(HARDWARE), attention_law(HARDWARE), paged_law(HARDWARE))
    laws = (*base, launch_law("eager"), lora_law("segmented", HARDWARE, 1e14))
    for kind, least in ((kind, least) for law in laws for kind, least in law.needs.items()):
        assert fitted[kind] >= least * (2 if kind == "launch" else 1), kind
    assert {shape.kind for shape in first if shape.split == "test"} == {shape.kind for shape in ordered}
    assert {shape.config["graph"] for shape in first if shape.kind == "launch"} == {True, False}


def test_kernels_that_no_check_uses_come_last() -> None:
    seen = [shape.config["kernel"] for shape in in_turn(kernels()) if shape.kind == "lora"]
    assert seen == sorted(seen, key=KERNELS.index)


def test_half_of_the_copies_have_every_mode_of_loading_and_enough_for_the_link() -> None:
    ordered = in_turn(copies())
    first = ordered[: len(ordered) // 2]
    assert {shape.config["mode"] for shape in first} == {shape.config["mode"] for shape in ordered}
    assert {shape.config["beside"] for shape in first} == {"idle", "decode", "prefill"}
    plain = [one for one in first if one.config["beside"] == "idle" and one.config["mode"].startswith(("flat", "per"))]
    assert sum(shape.split == "fit" for shape in plain) >= link_law(HARDWARE).needs["load"]


def test_prefills_and_decodes_take_turns() -> None:
    shapes = in_turn(iteration_shapes("llama-7b", "segmented", 0, graph=True))
    first = Counter((shape.config["phase"], shape.split) for shape in shapes[:14])
    assert min(first["decode", "fit"], first["prefill", "fit"]) >= 3  # of six that a fit needs
    assert min(first["decode", "test"], first["prefill", "test"]) >= 1


def test_a_family_begins_with_its_ends_and_its_middle() -> None:
    family = [Shape("dense", {"tokens": tokens, "split": "fit"}) for tokens in range(1, 10)]
    assert [shape.config["tokens"] for shape in in_turn(family)[:3]] == [9, 1, 5]


def test_what_is_fitted_and_what_tests_it_take_turns() -> None:
    splits = ["fit"] * 4 + ["test"] + ["fit"] * 4
    shapes = [Shape("dense", {"tokens": tokens, "split": split}) for tokens, split in enumerate(splits)]
    assert [shape.split for shape in in_turn(shapes)[:3]] == ["fit", "test", "fit"]
