"""Own kernels for paged KV and rotary positions without a GPU: in Triton's interpreter, and compiled for real cards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton is not installed (it comes with torch for CUDA)")

from gpu_validate.engine import attention  # noqa: E402
from gpu_validate.engine.attention import Packed, TokenAttention, gathered_attention, rows_and_mask  # noqa: E402
from gpu_validate.engine.paged import can_launch, splits_for  # noqa: E402
from gpu_validate.engine.rotary import Rotation, turned  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SHARED_BYTES = {"86": 99 * 1024, "90": 227 * 1024}  # of one block, by compute capability


def worker(folder: Path, *arguments: str, interpret: bool) -> dict[str, Any]:
    """Run `tests/engine_triton_worker.py` and return what it found."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(folder)} | ({"TRITON_INTERPRET": "1"} if interpret else {})
    command = [sys.executable, "-m", "tests.engine_triton_worker", *arguments]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if "Cannot find ptxas" in run.stderr:
        pytest.skip("this Triton comes without ptxas")
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def test_the_kernels_agree_with_torch(tmp_path: Path) -> None:
    errors = worker(tmp_path, "interpret", interpret=True)
    assert len(errors) == 5
    assert all(error < 1e-5 for error in errors.values()), errors


def test_the_kernels_compile_for_real_cards(tmp_path: Path) -> None:
    found = worker(tmp_path, "compile", *SHARED_BYTES, interpret=False)
    for cc, kernels in found.items():
        assert list(kernels) == ["attend", "join", "turn"]
        assert all(kernel["cubin_bytes"] > 0 for kernel in kernels.values())
        assert all(kernel["shared_bytes"] <= SHARED_BYTES[cc] for kernel in kernels.values())
        assert kernels["attend"]["tensor_cores"]


@pytest.mark.parametrize(("requests", "kv_heads", "splits"), [(1, 8, 16), (8, 32, 16), (64, 32, 2), (256, 32, 1)])
def test_few_requests_are_cut_into_more_parts(requests: int, kv_heads: int, splits: int) -> None:
    assert splits_for(requests, kv_heads) == splits


def test_without_a_gpu_kv_is_gathered() -> None:
    q, cache = torch.randn(2, 4, 16), torch.randn(2, 48, 2, 16)
    tables, lengths = torch.tensor([[1], [2]]), torch.tensor([3, 16])
    assert not can_launch(q)
    wanted = gathered_attention(q, cache, *rows_and_mask(tables, lengths))
    assert torch.equal(TokenAttention(tables, lengths)(q, cache), wanted)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("heads", "kv_heads"), [(32, 32), (32, 8)])
def test_paged_attention_agrees_on_the_gpu(heads: int, kv_heads: int) -> None:
    cuda = {"device": "cuda", "dtype": torch.bfloat16}
    q, cache = torch.randn(3, heads, 128, **cuda), torch.randn(2, 1600, kv_heads, 128, **cuda)
    tables = (torch.randperm(99, device="cuda")[:96] + 1).view(3, 32)
    lengths = torch.tensor([1, 300, 512], device="cuda")
    assert can_launch(q)
    wanted = gathered_attention(q.float(), cache.float(), *rows_and_mask(tables, lengths))
    found = TokenAttention(tables, lengths)(q, cache).float()
    assert torch.allclose(found, wanted, rtol=2e-2, atol=2e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("heads", "kv_heads"), [(32, 32), (32, 8)])
def test_positions_are_turned_alike_on_the_gpu(heads: int, kv_heads: int) -> None:
    tokens, cuda = 300, {"device": "cuda", "dtype": torch.bfloat16}
    tables = torch.randn(2, 512, 64, **cuda)
    positions, rows = (torch.randperm(500, device="cuda")[:tokens] for _ in range(2))
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * 128, **cuda)
    exact, found = (
        torch.zeros(2, 512, kv_heads, 128, dtype=kind, device="cuda") for kind in (torch.float32, qkv.dtype)
    )
    q, k, v = qkv.float().view(tokens, -1, 128).split([heads, kv_heads, kv_heads], dim=1)
    turn = [table.float()[positions].unsqueeze(1) for table in tables]
    wanted = (turned(q, *turn), turned(k, *turn), v)
    exact[0][rows], exact[1][rows] = wanted[1:]
    for one, other in zip(wanted, Rotation(tables[0], tables[1], positions, rows)(qkv, found, heads), strict=True):
        assert torch.allclose(one, other.float(), rtol=1e-2, atol=2e-2)
    assert torch.allclose(exact, found.float(), rtol=1e-2, atol=2e-2)


def test_a_varlen_kernel_that_knows_no_groups_is_given_every_head(monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("torch.nn.attention.varlen")
    windows: list[tuple[int, int]] = []

    def varlen_attn(q: Any, k: Any, v: Any, starts: Any, ends: Any, m: int, n: int, *, window_size: Any) -> Any:
        assert starts.dtype == ends.dtype == torch.int32
        windows.append(window_size)
        return k

    monkeypatch.setattr(module, "varlen_attn", varlen_attn)
    monkeypatch.setattr(attention, "varlen_kernel", attention.varlen_kernel.__wrapped__)
    causal = attention.varlen_kernel()
    q, k, packed = torch.randn(5, 4, 16), torch.randn(5, 2, 16), Packed(torch.tensor([0, 2, 5]).int(), (2, 3))
    assert causal is not None
    assert causal(q, q, q, packed, packed) is q
    assert torch.equal(causal(q, k, k, packed, packed), k[:, [0, 0, 1, 1]])
    assert windows == [(-1, 0)] * 2
