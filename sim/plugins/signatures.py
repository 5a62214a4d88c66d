"""Whether a class's hooks can be called as its seam calls them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

ABSENT = object()
NAMED = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}


def misfits(cls: type, base: type) -> Iterator[str]:
    """Yield what is wrong with hooks of a class that are not those of its base, each as a part of a sentence.

    Args:
        cls: a policy's class, which need not derive from the base.
        base: the seam's.
    """
    for name, asked in inspect.getmembers(base, inspect.isfunction):
        own = inspect.getattr_static(cls, name, ABSENT)
        if name.startswith("_") or own is ABSENT or own is inspect.getattr_static(base, name):
            continue
        hook, wanted = getattr(cls, name), inspect.signature(asked)
        if not callable(hook) or inspect.iscoroutinefunction(hook):
            yield f"has {name} = {hook!r}, which should be a method: {name}{_told(wanted)}"
        elif (found := _called(hook, own)) is not None and not _fits(found, _without_first(wanted)):
            yield f"has {name}{_told(_read(hook))}, which should be {name}{_told(wanted)}"


def _called(hook: Callable[..., Any], own: object) -> inspect.Signature | None:
    """Return what a hook takes when an instance is asked; None if nobody can say."""
    signature = _read(hook)
    if signature is None or isinstance(own, staticmethod | classmethod):
        return signature
    return _without_first(signature) if inspect.isfunction(own) else None


def _fits(found: inspect.Signature, wanted: inspect.Signature) -> bool:
    positional = [one.name for one in wanted.parameters.values() if one.kind in NAMED]
    try:
        found.bind(*positional, **{name: None for name in wanted.parameters if name not in positional})
    except TypeError:
        return False
    names = [one.name for one in found.parameters.values() if one.kind in NAMED]
    return sorted(names) != sorted(positional) or names == positional  # the same names in another order are a mistake


def _read(hook: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(hook)
    except (TypeError, ValueError):  # written in C, or disguised as something else
        return None


def _without_first(signature: inspect.Signature) -> inspect.Signature:
    """Return a method's signature without `self`, unless that is in its *args."""
    first, *rest = signature.parameters.values() or (None,)
    return signature.replace(parameters=rest) if first is not None and first.kind in NAMED else signature


def _told(signature: inspect.Signature | None) -> str:
    """Return a signature as it would be written without annotations."""
    if signature is None:
        return "(...)"
    plain = [one.replace(annotation=one.empty) for one in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=signature.empty))
