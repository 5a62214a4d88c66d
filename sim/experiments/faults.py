"""Whose fault it is that a run fails: a policy from outside is told by name, with its own lines of code."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from sim.config import Loaded
from sim.files.yamlfile import ConfigError, Problem
from sim.names import SEAMS
from sim.plugins.named import class_of
from sim.plugins.provenance import is_users, own_files

# What a wrong answer makes of our own code; anything else it raises is a mistake in the workload or the hardware.
LED_TO = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class PolicyError(ValueError):
    """A policy from outside failed, or the engine did on an answer of one; the text says where and what to do."""

    problems: tuple[Problem, ...] = ()  # none to be located: the text tells all


class Stranger(NamedTuple):
    """A policy that is none of ours.

    Attributes:
        seam: scheduler, cache, prefetch, predictor or router.
        name: how the configuration names it, or its class.
        files: source files of its class and of those it derives from, ours left out.
        is_named: whether a command line could name it.
    """

    seam: str
    name: str
    files: frozenset[Path]
    is_named: bool

    def __str__(self) -> str:
        return f"{self.seam} {self.name}"


@contextmanager
def told_of_code(loaded: Loaded) -> Iterator[None]:
    """Turn an error that the code of a policy from outside raises into one that tells of it.

    Raises:
        PolicyError: in place of such an error, which is its cause.
    """
    try:
        yield
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # a hook that leaves by sys.exit would take the command along
        found = strangers(loaded)
        if not found or not (frames := _own_frames(error, found)):
            raise
        raise PolicyError(_failed(error, frames, found)) from error


@contextmanager
def told_of_answers(loaded: Loaded) -> Iterator[None]:
    """Do as `told_of_code`, and take an error in our own code for what an answer from outside has led to.

    Raises:
        PolicyError: in place of such an error, which is its cause.
    """
    with told_of_code(loaded):
        try:
            yield
        except LED_TO as error:
            found = strangers(loaded)
            if not found or _own_frames(error, found):
                raise
            raise PolicyError(_led_to(error, found)) from error


def strangers(loaded: Loaded) -> list[Stranger]:
    """Return the policies of a configuration that are none of ours."""
    found = []
    for seam in SEAMS:
        kind = getattr(loaded.config, seam)["kind"]
        cls = class_of(kind, seam, marks=loaded.marks)
        if files := own_files(cls):
            name = kind if isinstance(kind, str) else cls.__qualname__
            found.append(Stranger(seam, name, files, isinstance(kind, str)))
    return found


def _own_frames(error: BaseException, found: list[Stranger]) -> list[traceback.FrameSummary]:
    """Return the deepest stretch of an error's traceback in files of strangers, outermost first."""
    files = frozenset[Path]().union(*(one.files for one in found))
    frames: list[traceback.FrameSummary] = []
    cause: BaseException | None = error
    while cause is not None:  # SimPy raises a copy of what was raised inside it
        own = [frame for frame in traceback.extract_tb(cause.__traceback__) if _is_strange(frame.filename, files)]
        frames, cause = own or frames, cause.__cause__
    return frames


def _is_strange(filename: str, files: frozenset[Path]) -> bool:
    if filename.startswith("<"):
        return False
    path = Path(filename).resolve()
    return path in files or is_users(path)


def _failed(error: BaseException, frames: list[traceback.FrameSummary], found: list[Stranger]) -> str:
    path = {Path(frame.filename).resolve() for frame in frames}
    guilty = [one for one in found if one.files & path] or found
    where = "".join(f"\n  {frame.filename}:{frame.lineno}, in {frame.name}\n    {frame.line}" for frame in frames)
    return f"{_names(guilty)} failed: {_said(error)}{where}{_advice(guilty, 'fails')}"


def _led_to(error: BaseException, found: list[Stranger]) -> str:
    told = f"{_names(found)}: an answer has led the engine to {_said(error)}"
    if isinstance(error, RuntimeError):  # one of our own checks, in words that need no class of error
        is_named = str(error).startswith(SEAMS)
        told = "; ".join((f"{error}" if is_named else f"{_names(found)}: {error}", *_notes(error)))
    return f"{told}{_advice(found, 'gives it')}"


def _names(found: list[Stranger]) -> str:
    return " or ".join(map(str, found))


def _said(error: BaseException) -> str:
    raised = _undisguised(error)
    told = f"{type(raised).__name__}: {raised}" if str(raised) else type(raised).__name__
    return "; ".join((told, *_notes(error)))


def _undisguised(error: BaseException) -> BaseException:
    """Return the StopIteration of which Python has made another error, because it came out of a generator of ours."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    return causes[-1] if isinstance(causes[-1], StopIteration) else error


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))


def _advice(found: list[Stranger], does: str) -> str:
    commands = [f"`chameleon policies check {one}`" for one in found if one.is_named]
    if not commands:
        return ""
    verb = "looks" if len(commands) == 1 else "look"
    return f"\n{' and '.join(commands)} {verb} for the smallest world in which it {does}"
