import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sim.hardware import Hardware, hardware_names, load_hardware
from sim.models import load_model


def changed(change: Callable[[dict[str, Any]], object]) -> Hardware:
    """Build the A40 profile after a change to its fields."""
    data = load_hardware("a40").model_dump()
    change(data)
    return Hardware.model_validate(data)


COMPARED = ("a100-80", "a10g", "a40", "h100", "h100-64", "h200", "rtx-4090")
UNSEEN = ("a100-40", "a6000", "l40s", "rtx-3090")  # nothing that they say has been compared with a run


def test_the_packaged_profiles_are_the_promised_ones() -> None:
    assert set(hardware_names()) == {*COMPARED, *UNSEEN}


@pytest.mark.parametrize("name", hardware_names())
def test_a_packaged_profile_loads_under_its_own_name(name: str) -> None:
    assert load_hardware(name).name == name


@pytest.mark.parametrize("name", ["a40", "a100-80", "h100"])
def test_a_fitted_profile_names_its_data_its_licence_and_its_range(name: str) -> None:
    dense = load_hardware(name).dense
    assert dense.origin == "fitted"
    assert "microsoft/vidur (MIT)" in dense.source
    assert dense.valid_tokens == (1, 4096)


def test_a_datasheet_profile_says_that_it_is_a_prior() -> None:
    assert load_hardware("h200").origins["dense"] == "prior"


@pytest.mark.parametrize("name", UNSEEN)
def test_a_card_that_was_never_compared_is_a_prior_throughout(name: str) -> None:
    card = load_hardware(name)
    assert set(card.origins.values()) == {"prior"}
    assert "no run of this card has been compared" in card.dense.source


@pytest.mark.parametrize(("name", "mib"), [("a100-40", 40960), ("a6000", 49140), ("l40s", 46068), ("rtx-3090", 24576)])
def test_the_memory_of_a_card_is_what_its_driver_reports(name: str, mib: int) -> None:
    assert load_hardware(name).memory_bytes == mib * 2**20


def test_a_profile_that_was_fitted_to_runs_says_whose_and_how_many() -> None:
    card = load_hardware("a10g")
    assert set(card.origins.values()) == {"fitted"}
    assert "14 of S-LoRA's published runs on an A10G (S-LoRA/S-LoRA @ c1ddf48, Apache-2.0)" in card.dense.source


@pytest.mark.parametrize("name", hardware_names())
def test_no_packaged_rate_is_above_its_peak(name: str) -> None:
    card = load_hardware(name)
    assert max(card.dense.flops_per_s, card.attention.prefill_flops_per_s) <= card.peak_flops
    read = (card.dense.weight_bytes_per_s, card.attention.kv_bytes_per_s, card.lora.weight_bytes_per_s)
    assert max(read) <= card.peak_hbm_bytes_per_s
    assert card.link.h2d_bytes_per_s <= card.peak_pcie_bytes_per_s


def test_an_a40_leaves_about_59_thousand_kv_tokens_beside_llama_7b() -> None:
    model = load_model("llama-7b")
    assert load_hardware("a40").pool_bytes(model) // model.kv_token_bytes == 59_171


def test_a_model_that_does_not_fit_is_an_error_with_all_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"llama-2-70b does not fit a40: 137953296384 bytes.*3500000000.*48000000000"):
        load_hardware("a40").pool_bytes(load_model("llama-2-70b"))


@pytest.mark.parametrize(
    ("group", "field", "peak"),
    [
        ("dense", "flops_per_s", "peak_flops"),
        ("attention", "prefill_flops_per_s", "peak_flops"),
        ("dense", "weight_bytes_per_s", "peak_hbm_bytes_per_s"),
        ("attention", "kv_bytes_per_s", "peak_hbm_bytes_per_s"),
        ("lora", "weight_bytes_per_s", "peak_hbm_bytes_per_s"),
        ("link", "h2d_bytes_per_s", "peak_pcie_bytes_per_s"),
    ],
)
def test_a_rate_may_exceed_the_hardwares_peak_by_five_percent_and_no_more(group: str, field: str, peak: str) -> None:
    def times(factor: float) -> Callable[[dict[str, Any]], object]:
        return lambda data: data[group].update({field: factor * data[peak]})

    assert getattr(getattr(changed(times(1.04)), group), field) > getattr(load_hardware("a40"), peak)
    with pytest.raises(ValueError, match=rf"{group}\.{field} = .* is above 1.05 times the hardware's peak of"):
        changed(times(1.06))


def test_a_fitted_group_must_state_its_held_out_error() -> None:
    with pytest.raises(ValueError, match="held_out_mape is required where the origin is 'fitted'"):
        changed(lambda data: data["dense"].pop("held_out_mape"))


def test_a_measured_profile_must_say_where_and_when() -> None:
    with pytest.raises(ValueError, match=r"measured_on .* is required"):
        changed(lambda data: data["link"].update(origin="measured"))
    measured_on = {"device": "NVIDIA A40", "versions": {"torch": "2.11"}, "date": "2026-01-31"}
    hardware = changed(lambda data: (data["link"].update(origin="measured"), data.update(measured_on=measured_on)))
    assert hardware.origins["link"] == "measured"


def test_an_iteration_outside_the_valid_range_is_warned_about() -> None:
    hardware = load_hardware("a40")
    assert hardware.warnings(4096) == []
    assert hardware.warnings(4097) == ["outside its range: a40: dense is fitted for 1 to 4096 tokens, used at 4097"]


def test_an_unknown_name_lists_the_packaged_ones_and_the_closest() -> None:
    with pytest.raises(
        ValueError, match=r"unknown hardware 'rtx4090': expected one of a100-40, .*did you mean 'rtx-4090'"
    ):
        load_hardware("rtx4090")


def test_a_profile_is_read_from_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(load_hardware("h100").model_dump_json(), encoding="utf-8")
    assert load_hardware(path) == load_hardware(str(path)) == load_hardware("h100")


def test_a_float_may_be_written_without_a_dot_or_a_sign(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = json.dumps(load_hardware("a40").model_dump(mode="json")).replace(": 1e-05", ": 3e-5")
    path.write_text(text, encoding="utf-8")
    assert load_hardware(path).link.h2d_latency_s == 3e-5


def test_a_wrong_field_is_an_error_that_says_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = load_hardware("a40").model_dump_json(indent=1).replace('"copy_issue_s"', '"copy_isue_s"')
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.yaml:\d+:\d+: link\.copy_isue_s: .*did you mean 'copy_issue_s'"):
        load_hardware(path)


def test_a_path_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_hardware(tmp_path / "none.yaml")
