"""Adapters in PEFT's files: what can be represented is read exactly, what cannot is refused with file and key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402
from torch import dtype as DType  # noqa: E402, N812

from gpu_validate.engine.peft import PeftError, read_adapter, write_adapter  # noqa: E402
from gpu_validate.engine.tensorfile import read_tensors, write_tensors  # noqa: E402
from gpu_validate.lora.layout import Layout, Place  # noqa: E402
from tests.engine_world import (  # noqa: E402
    MODEL,
    dense_logits,
    job_of,
    prompt_of,
    said,
    store_of,
    worker_of,
)

LAYOUT = Layout.of(MODEL, ("q", "k", "v", "o"))
RANK = 4


def flat(seed: int = 0) -> Tensor:
    drawn: Tensor = torch.randn(LAYOUT.elements(RANK), generator=torch.Generator().manual_seed(seed))
    return drawn


def written(folder: Path, extra: Mapping[str, object] | None = None, layout: Layout = LAYOUT) -> Path:
    weights = torch.ones(layout.elements(RANK))
    write_adapter(folder, layout, weights, rank=RANK, alpha=8.0, extra=extra)
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_adapter_survives_its_files(tmp_path: Path, dtype: DType) -> None:
    write_adapter(tmp_path, LAYOUT, flat(), rank=RANK, alpha=8.0, dtype=dtype)
    read = read_adapter(tmp_path, LAYOUT, torch.float32)
    assert (read.rank, read.scale) == (RANK, 2.0)
    assert torch.equal(read.flat, flat().to(dtype).float())


def test_files_in_float32_are_cast_to_the_serving_type(tmp_path: Path) -> None:
    write_adapter(tmp_path, LAYOUT, flat(), rank=RANK, alpha=4)
    assert torch.equal(read_adapter(tmp_path, LAYOUT, torch.bfloat16).flat, flat().bfloat16())


def test_rank_stabilised_scaling_divides_by_the_root(tmp_path: Path) -> None:
    assert read_adapter(written(tmp_path, {"use_rslora": True}), LAYOUT, torch.float32).scale == 4.0


def values(view: Tensor) -> set[float]:
    return set(view.flatten().tolist())


def test_patterns_that_agree_on_one_rank_are_read(tmp_path: Path) -> None:
    extra = {"r": 64, "rank_pattern": {".*_proj": RANK}, "lora_alpha": 12}
    assert read_adapter(written(tmp_path, extra), LAYOUT, torch.float32).scale == 3.0


def test_a_module_s_own_alpha_goes_into_its_b(tmp_path: Path) -> None:
    read = read_adapter(written(tmp_path, {"alpha_pattern": {"layers.1.self_attn.v_proj": 24}}), LAYOUT, torch.float32)
    views = LAYOUT.views(read.flat, RANK)
    assert read.scale == 2.0
    assert values(views[Place(1, "v", "B")]) == {3.0}
    assert values(views[Place(1, "v", "A")]) == {1.0}
    assert values(views[Place(0, "v", "B")]) == {1.0}


def test_modules_that_an_adapter_lacks_stay_zero(tmp_path: Path) -> None:
    written(tmp_path, layout=Layout.of(MODEL, ("q", "v")))
    views = LAYOUT.views(read_adapter(tmp_path, LAYOUT, torch.float32).flat, RANK)
    assert {place.module for place, view in views.items() if view.any()} == {"q", "v"}


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ({"peft_type": "IA3"}, r"adapter_config.json: peft_type is 'IA3'; only LORA"),
        ({"use_dora": True}, r"use_dora is True; only False or None can be represented"),
        ({"bias": "all"}, r"bias is 'all'; only 'none' or None"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save is \['lm_head'\]"),
        ({"rank_pattern": {"q_proj": 2}}, r"rank_pattern is \{'q_proj': 2\}; only one rank for all adapted modules"),
        ({"alpha_pattern": {"(": 2}}, r"alpha_pattern is \{'\(': 2\}; only regular expressions"),
        ({"r": 0}, r"r is 0; only a positive integer"),
        ({"r": 2}, r"k_proj.lora_A.weight has shape \(4, 48\), the model and rank 2 need \(2, 48\)"),
        ({"lora_alpha": None}, r"lora_alpha is None; only a number"),
    ],
)
def test_what_cannot_be_represented_is_refused(tmp_path: Path, extra: Mapping[str, object], told: str) -> None:
    with pytest.raises(PeftError, match=told):
        read_adapter(written(tmp_path, extra), LAYOUT, torch.float32)


def test_tensors_without_a_place_are_refused(tmp_path: Path) -> None:
    written(tmp_path, layout=Layout.of(MODEL, ("q", "gate")))
    with pytest.raises(PeftError, match=r"safetensors: base_model.*gate_proj.* has no place in 3 layers of q, k, v, o"):
        read_adapter(tmp_path, LAYOUT, torch.float32)
    tensors = read_tensors(written(tmp_path) / "adapter_model.safetensors")
    del tensors["base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight"]
    write_tensors(tmp_path / "adapter_model.safetensors", tensors)
    with pytest.raises(PeftError, match=r"layers.1.self_attn.k_proj.lora_A.weight stands without its other half"):
        read_adapter(tmp_path, LAYOUT, torch.float32)
    write_tensors(tmp_path / "adapter_model.safetensors", {})
    with pytest.raises(PeftError, match="holds no LoRA matrices"):
        read_adapter(tmp_path, LAYOUT, torch.float32)


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(PeftError, match=r"adapter_config.json"):
        read_adapter(tmp_path, LAYOUT, torch.float32)
    written(tmp_path)
    for content in (b"", b"12345678{", (3).to_bytes(8, "little") + b"[1]"):
        (tmp_path / "adapter_model.safetensors").write_bytes(content)
        with pytest.raises(PeftError, match=r"adapter_model.safetensors: not a safetensors file"):
            read_adapter(tmp_path, LAYOUT, torch.float32)
    header = json.dumps({"x": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"8 bytes.")
    with pytest.raises(PeftError, match=r"x: cannot be read as one of F32, F16, BF16"):
        read_adapter(tmp_path, LAYOUT, torch.float32)


def test_the_safetensors_package_reads_our_files_and_we_read_its(tmp_path: Path) -> None:
    theirs = pytest.importorskip("safetensors.torch", reason="the safetensors package is not installed")
    tensors = {"a": torch.randn(3, 5), "b.c": torch.arange(4).to(torch.bfloat16)}
    write_tensors(tmp_path / "ours", tensors)
    theirs.save_file(tensors, str(tmp_path / "theirs"))
    for read in (theirs.load_file(str(tmp_path / "ours")), read_tensors(tmp_path / "theirs")):
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_a_real_adapter_in_the_engine_says_what_its_merged_weights_say(tmp_path: Path) -> None:
    worker = worker_of(modules=("q", "k", "v", "o"))
    store = worker.adapters.store
    write_adapter(tmp_path, LAYOUT, flat(1) * 0.1, rank=RANK, alpha=20)
    store.put(2, read_adapter(tmp_path, LAYOUT, torch.float32))
    job = job_of(worker, 1, 11, 2)
    assert job.slot is not None
    worker.adapters.copy_in(job.slot)
    worker.prefill([job, job_of(worker, 2, 6, 4)])
    emitted = said(worker)[1]
    assert store.scales[2] == 5.0
    assert dense_logits(worker, prompt_of(job), 2)[-1].argmax() == emitted[0]


def test_a_real_adapter_must_have_the_rank_of_its_place(tmp_path: Path) -> None:
    read = read_adapter(written(tmp_path), LAYOUT, torch.float32)
    with pytest.raises(ValueError, match="adapter 1 has rank 1, shared memory False; got 4"):
        store_of().put(1, read)


@pytest.mark.skipif(find_spec("peft") is None, reason="the peft package is not installed")
def test_peft_takes_our_configuration(tmp_path: Path) -> None:
    import peft  # noqa: PLC0415 - not a dependency

    config = peft.LoraConfig.from_pretrained(str(written(tmp_path)))
    assert (config.r, config.lora_alpha) == (RANK, 8.0)
