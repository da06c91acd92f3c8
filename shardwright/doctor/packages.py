"""The packages that the installation asks for, and the solvers among them."""

from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

from shardwright.base import install
from shardwright.planner.why import available_solvers

from .finding import Finding, Part

_PROJECT = "shardwright"
_LEFT_OUT = ("dev", "docs")
_PARTS: dict[str, Part] = {"": "planning", "run": "training"}


def packages() -> Iterator[Finding]:
    """Yield one finding for all packages that are there, of what always is needed and of each optional set, and one for each that is not.

    The sets are those of the installed project, but for those of its developers.
    """
    try:
        wanted = [Requirement(text) for text in metadata.requires(_PROJECT) or ()]
    except metadata.PackageNotFoundError:
        yield Finding("planning", "packages", "limited", f"{_PROJECT} is imported, not installed", install())
        return
    extras = metadata.metadata(_PROJECT).get_all("Provides-Extra") or []
    for extra in ("", *(name for name in extras if name not in _LEFT_OUT)):
        found = [package(one, extra) for one in wanted if _belongs_to(one, extra)]
        there = [f"{one.name} {one.found}" for one in found if one.state == "there"]
        if there:
            yield Finding(found[0].part, "packages", "there", ", ".join(there))
        yield from (one for one in found if one.state != "there")


def _belongs_to(wanted: Requirement, extra: str) -> bool:
    """Whether `extra` is what asks for a package; an empty one stands for what is always needed."""
    if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
        return not extra
    return bool(extra) and wanted.marker.evaluate({"extra": extra})


def package(wanted: Requirement, extra: str) -> Finding:
    """Look for one package in a version that the project allows; `extra` names the optional set that asks for it."""
    part = _PARTS.get(extra, "optional")
    try:
        version = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return Finding(part, wanted.name, "missing", "not installed", install(extra))
    if not wanted.specifier.contains(version, prereleases=True):
        return Finding(part, wanted.name, "limited", version, f"needs {wanted.specifier}: {install(extra)}")
    return Finding(part, wanted.name, "there", version)


def solvers() -> Finding:
    """The solvers of integer programs that can run."""
    found = available_solvers()
    if not found:
        advice = "plan --certify needs one: pip install highspy"
        return Finding("planning", "integer programs", "missing", "no solver", advice)
    return Finding("planning", "integer programs", "there", ", ".join(found))
