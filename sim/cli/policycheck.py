"""`chameleon policies check`: from the words of the command line to the suite in `sim.conformance.suite`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.conformance.suite import Finding


def find(words: Sequence[str], seam: str | None) -> tuple[str, str]:
    """Return the seam and the name that are meant.

    Args:
        words: NAME, or SEAM NAME.
        seam: the seam, if it was given as a flag.

    Raises:
        ValueError: if there is no such seam or policy, or a policy of that name in more than one seam.
    """
    from sim.names import SEAMS, did_you_mean  # noqa: PLC0415

    if len(words) > 2 or (len(words) == 2 and seam is not None):
        msg = f"one policy at a time: NAME, with --seam where it is in doubt; got {' '.join(words)}"
        raise ValueError(msg)
    *given, name = words
    seam = given[0] if given else seam
    if seam is None:
        return only_seam(name), name
    if seam not in SEAMS:
        msg = f"no seam is named {seam!r}{did_you_mean(seam, SEAMS)}"
        raise ValueError(msg)
    return seam, name


def keywords(seam: str, sets: Sequence[str]) -> dict[str, Any]:
    """Return what --set gives to a policy; `key=value` and `seam.key=value` are the same.

    Raises:
        ConfigError: if an assignment cannot be read.
    """
    from sim.files.yamlfile import set_values  # noqa: PLC0415 - pydantic is slow to import

    assignments = [one if one.startswith(f"{seam}.") else f"{seam}.{one}" for one in sets]
    given: dict[str, Any] = set_values({}, assignments).tree.get(seam, {})
    return given


def check(seam: str, name: str, sets: Sequence[str], *, worlds: int, seed: int) -> Iterator[tuple[str, bool]]:
    """Yield lines of text, each with whether the policy is in order as far as it says.

    Raises:
        ConfigError: if there is no such policy, or it cannot be built.
    """
    from sim.conformance.suite import findings, report  # noqa: PLC0415 - numpy and pydantic are slow to import

    found = findings(name, seam, worlds=worlds, seed=seed, **keywords(seam, sets))
    for one in found:
        yield "\n".join(report(one)), one.verdict != "broken"
    yield _summary(f"{seam} {name}", found, worlds, seed), True


def _summary(policy: str, found: Sequence[Finding], worlds: int, seed: int) -> str:
    played = max(one.worlds for one in found)
    where = f"{worlds} {'world' if worlds == 1 else 'worlds'} (seed {seed})"
    if played < worlds:
        where = f"{played} of {where}; in the others it would take as long"
    broken = sum(one.verdict == "broken" for one in found)
    if broken:
        return f"{policy} breaks {broken} of {len(found)} laws in {where}"
    return f"{policy} keeps all {len(found)} laws in {where}"


def only_seam(name: str) -> str:
    """Return the one seam that has a policy of this name, or that a class is made for.

    Raises:
        ValueError: if there is none, or more than one.
        ConfigError: if it names a class that cannot be imported.
    """
    from sim.files.yamlfile import ConfigError  # noqa: PLC0415
    from sim.names import did_you_mean  # noqa: PLC0415
    from sim.plugins.named import list_policies, seams_of  # noqa: PLC0415

    try:
        seams = seams_of(name)
    except ConfigError as error:
        raise ConfigError([problem.message for problem in error.problems]) from error.__cause__
    if len(seams) == 1:
        return seams[0]
    if seams:
        msg = f"{name} could be a {' or a '.join(seams)}; say which: --seam {seams[0]}"
    elif ":" in name:
        msg = f"{name} has no hook of any seam; docs/policies.md says what they are"
    else:
        msg = f"no policy is named {name!r}{did_you_mean(name, {one.name for one in list_policies()})}"
    raise ValueError(msg)
