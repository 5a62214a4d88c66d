import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import sim
from sim.files.yamlfile import ConfigError
from sim.models import ALL_MODULES, DEFAULT_MODULES, Model, load_model, model_names

MIB = 1 << 20
RANKS = (8, 16, 32, 64, 128)

# Public parameter counts of the checkpoints.
PARAMETERS = {
    "llama-7b": 6_738_415_616,
    "llama-2-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-2-13b": 13_015_864_320,
    "llama-30b": 32_528_943_616,
    "llama-2-70b": 68_976_648_192,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "qwen-2.5-7b": 7_615_487_488,  # less the biases of q, k and v, which are not modelled
    "qwen-2.5-14b": 14_770_033_664 - 48 * (5120 + 2 * 1024),  # likewise
    "qwen-3-8b": 8_190_735_360 - 36 * 2 * 128,  # less the norms of q and k, which are not modelled
    "qwen-3-32b": 32_762_123_264 - 64 * 2 * 128,  # likewise
    "mistral-7b": 7_241_732_096,
}

KV_KIB = {
    "llama-7b": 512,
    "llama-2-7b": 512,
    "llama-13b": 800,
    "llama-2-13b": 800,
    "llama-30b": 1560,
    "llama-2-70b": 320,
    "llama-3.1-8b": 128,
    "llama-3.2-1b": 32,
    "llama-3.2-3b": 112,
    "qwen-2.5-7b": 56,
    "qwen-2.5-14b": 192,
    "qwen-3-8b": 144,
    "qwen-3-32b": 256,
    "mistral-7b": 128,
}

# MiB of PEFT's adapters on the meta device for the five ranks, to the digits given, and their number of tensors.
PEFT = [
    ("llama-7b", DEFAULT_MODULES, (16, 32, 64, 128, 256), 256),
    ("llama-7b", ALL_MODULES, (38.1, 76.2, 152.5, 305, 610), 448),
    ("llama-2-7b", DEFAULT_MODULES, (16, 32, 64, 128, 256), 256),
    ("llama-2-13b", DEFAULT_MODULES, (25, 50, 100, 200, 400), 320),
    ("llama-2-13b", ALL_MODULES, (59.7, 119.4, 238.8, 477.5, 955), 560),
    ("llama-30b", DEFAULT_MODULES, (48.8, 97.5, 195, 390, 780), 480),
    ("llama-30b", ALL_MODULES, (116.2, 232.5, 465, 930, 1860), 840),
    ("llama-2-70b", DEFAULT_MODULES, (62.5, 125, 250, 500, 1000), 640),
    ("llama-2-70b", ALL_MODULES, (197.5, 395, 790, 1580, 3160), 1120),
    ("llama-3.1-8b", DEFAULT_MODULES, (13, 26, 52, 104, 208), 256),
    ("llama-3.1-8b", ALL_MODULES, (40, 80, 160, 320, 640), 448),
    ("mistral-7b", DEFAULT_MODULES, (13, 26, 52, 104, 208), 256),
    ("mistral-7b", ALL_MODULES, (40, 80, 160, 320, 640), 448),
    ("qwen-2.5-7b", DEFAULT_MODULES, (9.6, 19.2, 38.5, 77, 154), 224),
    ("qwen-2.5-7b", ALL_MODULES, (38.5, 77, 154, 308, 616), 392),
    ("qwen-2.5-14b", DEFAULT_MODULES, (24, None, None, None, 384), 384),
    ("qwen-2.5-14b", ALL_MODULES, (65.6, None, None, None, 1050), 672),
    ("qwen-3-8b", DEFAULT_MODULES, (14.6, 29.2, 58.5, 117, 234), 288),
    ("qwen-3-8b", ALL_MODULES, (41.6, 83.2, 166.5, 333, 666), 504),
    ("qwen-3-32b", DEFAULT_MODULES, (38, None, None, None, 608), 512),
    ("qwen-3-32b", ALL_MODULES, (128, None, None, None, 2048), 896),
    ("llama-3.2-1b", DEFAULT_MODULES, (3.2, None, None, None, 52), 128),
    ("llama-3.2-1b", ALL_MODULES, (10.8, None, None, None, 172), 224),
    ("llama-3.2-3b", DEFAULT_MODULES, (8.8, None, None, None, 140), 224),
    ("llama-3.2-3b", ALL_MODULES, (23.2, None, None, None, 371), 392),
]


def test_every_packaged_model_has_its_public_parameter_count() -> None:
    assert {name: load_model(name).parameters for name in model_names()} == PARAMETERS


def test_weights_take_two_bytes_a_parameter() -> None:
    assert load_model("llama-7b").weight_bytes == 13_476_831_232


def test_kv_of_one_token_has_the_published_size() -> None:
    assert {name: load_model(name).kv_token_bytes for name in model_names()} == {
        name: kib * 1024 for name, kib in KV_KIB.items()
    }


@pytest.mark.parametrize(("name", "modules", "mebibytes", "tensors"), PEFT)
def test_adapters_are_as_large_as_peft_makes_them(
    name: str, modules: Sequence[str], mebibytes: Sequence[float | None], tensors: int
) -> None:
    model = load_model(name)
    for rank, expected in zip(RANKS, mebibytes, strict=True):
        if expected is not None:
            assert model.adapter_bytes(rank, modules) / MIB == pytest.approx(expected, rel=0.003, abs=0.051)
    assert model.tensors(modules) == tensors


def test_adapters_target_the_attention_projections_by_default() -> None:
    assert load_model("llama-7b").adapter_bytes(32) == 64 * MIB


def test_the_matrices_of_a_layer_add_up_to_the_parameters() -> None:
    model = load_model("llama-3.1-8b")
    layer = sum(n * k for n, k in model.gemms.values()) + 2 * model.hidden
    assert 32 * layer + model.hidden + 2 * 128256 * 4096 == model.parameters
    assert model.gemms["qkv"] == (6144, 4096)


def test_tied_embeddings_are_counted_once() -> None:
    tied = load_model("llama-3.2-1b")
    untied = tied.model_copy(update={"tied_embeddings": False})
    assert untied.parameters - tied.parameters == tied.vocab * tied.hidden


def test_peft_names_of_modules_are_understood() -> None:
    model = load_model("llama-7b")
    assert model.adapter_bytes(8, ["q_proj", "v_proj"]) == model.adapter_bytes(8, ["q", "v"]) == 8 * MIB


def test_an_unknown_model_names_the_known_ones_and_the_closest() -> None:
    with pytest.raises(
        ValueError, match=r"unknown model 'lama-7b': expected one of .*llama-30b.*did you mean 'llama-7b'"
    ):
        load_model("lama-7b")


def test_an_unknown_module_names_the_known_ones_and_the_closest() -> None:
    with pytest.raises(ValueError, match=r"unknown module 'gates': expected one of q, k, .*did you mean 'gate'"):
        load_model("llama-7b").adapter_bytes(8, ["q", "gates"])


def test_a_module_named_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="each module may be named once, got q, q"):
        load_model("llama-7b").tensors(["q", "q_proj"])


def test_a_negative_rank_is_an_error() -> None:
    with pytest.raises(ValueError, match="rank must not be negative, got -8"):
        load_model("llama-7b").adapter_bytes(-8)


def test_a_model_rejects_dimensions_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="layers"):
        Model.model_validate({**load_model("llama-7b").model_dump(), "layers": 0})


DIMENSIONS = {"layers": 2, "hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 128, "vocab": 256}


def model_file(folder: Path, **changes: object) -> Path:
    tree = {"name": "mine", **DIMENSIONS, "context_window": 256, **changes}
    path = folder / "m.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in tree.items()))
    return path


def test_a_model_can_be_a_file_of_ones_own(tmp_path: Path) -> None:
    path = model_file(tmp_path)
    model = load_model(path)
    assert model == load_model(str(path))
    assert (model.name, model.ffn, model.context_window, model.dtype_bytes) == ("mine", 128, 256, 2)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"layers": 0}, r"m\.yaml:2:1: layers: .*greater than 0"),
        ({"hiden": 5}, r"m\.yaml:10:1: hiden: .*did you mean 'hidden'"),
        ({"kv_heads": 3}, r"m\.yaml:1:1: kv_heads is 3; a divisor of heads, 4, is allowed"),
        ({"layers": "many"}, r"m\.yaml:2:1: layers: "),
    ],
)
def test_what_is_wrong_in_a_models_file_is_told_with_its_place(
    changes: dict[str, object], what: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=what):
        load_model(model_file(tmp_path, **changes))


def test_a_models_file_that_is_not_there_is_told() -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml"):
        load_model("absent.yaml")


def test_a_run_serves_a_model_of_ones_own(tmp_path: Path) -> None:
    result = sim.run("slora", "paper", requests=20, model=str(model_file(tmp_path)))
    assert result.summary["requests"]["completed"] == 20


def test_costs_load_neither_pandas_nor_scipy_nor_torch() -> None:
    code = "import json, sys, sim.costs; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)
    assert "sim.hardware" in loaded
    assert not {"pandas", "scipy", "torch"} & set(loaded)
