"""KV that is read beside a prefill, and arithmetic that reading the weights does not hide."""

from __future__ import annotations

from typing import Any

import pytest

from sim.costs import CostModel, EngineCosts
from sim.hardware import Hardware, load_hardware
from sim.models import load_model
from sim.parallel import ONE_GPU, Parallel
from sim.serving.shape import NO_LOAD
from sim.serving.ticks import to_seconds

A40 = load_hardware("a40")
MODEL = load_model("llama-7b")
KNEE = A40.dense.tile_tokens  # tokens of one tile, which stream the weights for longer than they compute


def card(unhidden_share: float = 0.0, mixed_kv_bytes_per_s: float | None = None) -> Hardware:
    """Return an A40 with these two coefficients."""
    tree: dict[str, Any] = A40.model_dump(mode="json", exclude_none=True)
    tree["dense"]["unhidden_share"] = unhidden_share
    if mixed_kv_bytes_per_s is not None:
        tree["attention"]["mixed_kv_bytes_per_s"] = mixed_kv_bytes_per_s
    return Hardware.model_validate(tree)


def costs(hardware: Hardware, parallel: Parallel = ONE_GPU) -> CostModel:
    return CostModel(hardware, MODEL, EngineCosts(), parallel=parallel)


def kv_token_s(model: CostModel) -> float:
    """Return the seconds that one more token of decode context takes beside a prefill."""
    ticks = [model.mixed(4, context, 1, 64, 64**2, NO_LOAD) for context in (11_000, 1_000)]
    return to_seconds(ticks[0] - ticks[1]) / 10_000


def test_decode_beside_a_prefill_reads_kv_at_the_mixed_rate() -> None:
    assert kv_token_s(costs(card(mixed_kv_bytes_per_s=2e11))) == pytest.approx(MODEL.kv_token_bytes / 2e11, rel=1e-4)


def test_decode_by_itself_and_prefill_by_itself_do_not_know_the_mixed_rate() -> None:
    plain, mixed = costs(card()), costs(card(mixed_kv_bytes_per_s=2e11))
    assert mixed.decode(4, 10_000, 0, 0, 0, 0) == plain.decode(4, 10_000, 0, 0, 0, 0)
    assert mixed.prefill(1, 64, 64**2, 0, 0, 0, 0) == plain.prefill(1, 64, 64**2, 0, 0, 0, 0)
    assert mixed.mixed(0, 0, 1, 64, 64**2, NO_LOAD) == plain.mixed(0, 0, 1, 64, 64**2, NO_LOAD)


def test_without_a_mixed_rate_kv_is_read_as_in_decode() -> None:
    same = card(mixed_kv_bytes_per_s=A40.attention.kv_bytes_per_s)
    assert costs(card()).mixed(4, 10_000, 1, 64, 64**2, NO_LOAD) == costs(same).mixed(4, 10_000, 1, 64, 64**2, NO_LOAD)
    assert kv_token_s(costs(card())) == pytest.approx(MODEL.kv_token_bytes / A40.attention.kv_bytes_per_s, rel=1e-4)


def test_several_gpus_read_mixed_kv_together() -> None:
    mixed = card(mixed_kv_bytes_per_s=2e11)
    assert Parallel(4).as_one(mixed).attention.mixed_kv_bytes_per_s == 8e11
    assert Parallel(4).as_one(card()).attention.mixed_kv_bytes_per_s is None
    assert kv_token_s(costs(mixed, Parallel(4))) == pytest.approx(kv_token_s(costs(mixed)) / 4, rel=1e-4)


def test_a_mixed_rate_above_the_memory_s_peak_is_refused() -> None:
    peak = A40.peak_hbm_bytes_per_s
    assert card(mixed_kv_bytes_per_s=1.04 * peak).attention.mixed_kv_bytes_per_s == pytest.approx(1.04 * peak)
    with pytest.raises(ValueError, match=r"attention\.mixed_kv_bytes_per_s = .* is above 1.05 times"):
        card(mixed_kv_bytes_per_s=1.06 * peak)


def test_below_the_knee_every_token_adds_its_unhidden_arithmetic() -> None:
    plain, part = costs(card()), costs(card(unhidden_share=0.4))
    one_token_s = 0.4 * 2 * MODEL.layers * sum(n * k for n, k in MODEL.gemms.values()) / A40.dense.flops_per_s
    for tokens in (1, 2, 50):
        assert part.dense_s(tokens) - plain.dense_s(tokens) == pytest.approx(tokens * one_token_s)


def test_above_the_knee_arithmetic_alone_counts() -> None:
    tokens = 16 * KNEE
    assert costs(card(unhidden_share=0.4)).dense_s(tokens) == costs(card()).dense_s(tokens)


def test_nothing_gets_cheaper_by_more_tokens_on_either_side_of_the_knee() -> None:
    for share in (0.0, 0.3, 1.0):
        model = costs(card(unhidden_share=share))
        seconds = [model.dense_s(tokens) for tokens in range(1, 4 * KNEE)]
        assert seconds == sorted(seconds), share


def test_the_lm_head_s_arithmetic_is_unhidden_alike() -> None:
    heads = [costs(card(unhidden_share=share)).explain_decode(8, 100, 0, 0, 0, 0)["lm_head"] for share in (0.0, 0.4)]
    assert heads[1] - heads[0] == pytest.approx(0.4 * 8 * 2 * MODEL.vocab * MODEL.hidden / A40.dense.flops_per_s)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_one_of_the_whole(share: float) -> None:
    with pytest.raises(ValueError, match="unhidden_share"):
        card(unhidden_share=share)


def test_decode_stays_exactly_affine_in_closed_form() -> None:
    model = costs(card(unhidden_share=0.3292, mixed_kv_bytes_per_s=3.794e11))
    first, growth, steps = model.decode(7, 1234, 0, 0, 0, 0)
    assert steps is None
    for step in (1, 10, 5000):
        assert model.decode(7, 1234 + 7 * step, 0, 0, 0, 0).first == first + step * growth
