"""Hardware profiles as files that read like the packaged ones."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

from sim.files.textfile import write_text
from sim.hardware import Hardware

LONG = 10_000  # from here on numbers have an exponent
WIDTH = 100


def write_profile(profile: Hardware, folder: Path, command: str) -> Path:
    """Write a profile that `load_hardware` reads back unchanged, whole or not at all, and return its path.

    Args:
        profile: what to write.
        folder: where; the file has the profile's name.
        command: what made it, for the first line.
    """
    path = folder / f"{profile.name}.yaml"
    write_text(path, profile_text(profile, command))
    return path


def profile_text(profile: Hardware, command: str, note: str = "") -> str:
    """Return the text of a profile's file; long texts are folded, rates have an exponent.

    Args:
        profile: what to write.
        command: what made it.
        note: what else the first line says.
    """
    import yaml  # noqa: PLC0415 - only writing needs it

    class Dumper(yaml.SafeDumper):
        pass

    Dumper.add_representer(float, _float)
    Dumper.add_representer(str, _text)
    Dumper.add_representer(list, _list)
    tree: dict[str, Any] = profile.model_dump(mode="json", exclude_none=True)
    text = yaml.dump(tree, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=WIDTH)
    return f"# Written by `{command}`{note and f'; {note}'}.\n{text}"


def _float(dumper: Any, value: float) -> Any:
    text = repr(value)
    if "e" in text or abs(value) >= LONG:
        mantissa, exponent = f"{Decimal(text).normalize():e}".split("e")
        # YAML takes a number without a point and a sign for text.
        text = f"{mantissa if '.' in mantissa else f'{mantissa}.0'}e{int(exponent):+d}"
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


def _list(dumper: Any, values: list[Any]) -> Any:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)


def _text(dumper: Any, value: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=">" if len(value) > WIDTH - 20 else None)
