"""Reads and writes the safetensors format, as far as adapters need it: floats, on the host. No other package needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LENGTH_BYTES = 8  # the file begins with the length of its header, little-endian


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file by name.

    Raises:
        ValueError: naming the file and the tensor that cannot be read.
    """
    data = path.read_bytes()
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    try:
        header = dict(json.loads(data[_LENGTH_BYTES:end]))
    except (ValueError, TypeError) as error:
        msg = f"{path}: not a safetensors file ({error})"
        raise ValueError(msg) from None
    header.pop("__metadata__", None)
    return {name: _tensor(f"{path}: {name}", entry, data[end:]) for name, entry in header.items()}


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors, in order of name.

    Raises:
        KeyError: if a tensor is of a type that `read_tensors` would not take.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    chunks: list[bytes] = []
    start = 0
    for name, tensor in sorted(tensors.items()):
        chunk = tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
        offsets = [start, start + len(chunk)]
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        chunks.append(chunk)
        start += len(chunk)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    path.write_bytes(len(text).to_bytes(_LENGTH_BYTES, "little") + text + b"".join(chunks))


def _tensor(where: str, entry: Any, data: bytes) -> torch.Tensor:
    try:
        start, end = entry["data_offsets"]
        return torch.frombuffer(bytearray(data[start:end]), dtype=_DTYPES[entry["dtype"]]).view(entry["shape"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        msg = f"{where}: cannot be read as one of {', '.join(_DTYPES)}: {error}"
        raise ValueError(msg) from None
