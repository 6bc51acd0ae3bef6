"""Which of several images suits a machine, and platforms as text ("linux/arm/v7"): containerd's rules; must not know registries."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from runtime.errors import InvalidParameter
from runtime.images.image import Descriptor, Platform

_PART = re.compile(r"[A-Za-z0-9_.-]+")
_SYNONYMS = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv6l": ("arm", "v6"),
}
_USUAL_VARIANT = {"arm": "v7", "arm64": "v8", "amd64": "v1"}
"""What an architecture without a variant means; written out for arm alone."""
_ARCHITECTURES = frozenset(
    {"386", "amd64", "arm", "arm64", "loong64", "mips64", "mips64le", "ppc64", "ppc64le", "riscv64", "s390x", "wasm"}
)
_SYSTEMS = frozenset({"linux", "windows", "darwin", "freebsd"})


def host_platform() -> Platform:
    """The machine's own."""
    return _normal("linux", os.uname().machine, "")


def parse_platform(text: str) -> Platform:
    """ "os/architecture[/variant]", or one of os and architecture; "": the machine's own. Raises InvalidParameter."""
    if not text:
        return host_platform()
    parts = text.lower().split("/")
    if len(parts) > 3 or not all(_PART.fullmatch(part) for part in parts):
        raise InvalidParameter(f"{text[:100]!r} is an invalid platform, expected os/architecture[/variant]")
    if len(parts) > 1:
        return _normal(parts[0], parts[1], parts[2] if len(parts) == 3 else "")
    if parts[0] in _SYSTEMS:
        return _normal(parts[0], host_platform().architecture, "")
    if (found := _normal("linux", parts[0], "")).architecture in _ARCHITECTURES:
        return found
    raise InvalidParameter(f'"{text[:100]}": unknown operating system or architecture: invalid argument')


def render_platform(platform: Platform) -> str:
    """As text: "linux/arm/v7"."""
    return "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)


def _normal(system: str, architecture: str, variant: str) -> Platform:
    architecture, implied = _SYNONYMS.get(architecture, (architecture, ""))
    variant = variant or implied
    if variant and not variant.startswith("v"):
        variant = f"v{variant}"
    if architecture == "arm":
        return Platform(architecture, system, variant or _USUAL_VARIANT["arm"])
    return Platform(architecture, system, "" if variant == _USUAL_VARIANT.get(architecture) else variant)


def suits(platform: Platform, wanted: Platform) -> bool:
    """Whether an image of that platform runs where `wanted` does."""
    return _normal(platform.os, platform.architecture, platform.variant) in _acceptable(wanted)


def choose(manifests: Iterable[Descriptor], wanted: Platform) -> Descriptor | None:
    """The best of an index for that platform; None: none suits. Attestations, whose platform is unknown/unknown, never do."""
    found: dict[Platform, Descriptor] = {}
    for descriptor in manifests:
        if descriptor.platform is not None:
            own = descriptor.platform
            found.setdefault(_normal(own.os, own.architecture, own.variant), descriptor)
    return next((found[platform] for platform in _acceptable(wanted) if platform in found), None)


def _acceptable(wanted: Platform) -> tuple[Platform, ...]:
    """Platforms whose programs run on the wanted one, best first."""
    wanted = _normal(wanted.os, wanted.architecture, wanted.variant)
    variants = _lower_variants(wanted)
    below: tuple[Platform, ...] = ()
    if wanted.architecture == "amd64":
        below = (Platform("386", wanted.os),)
    elif wanted.architecture == "arm64":
        below = _acceptable(Platform("arm", wanted.os, "v8"))
    return tuple(_normal(wanted.os, wanted.architecture, variant) for variant in variants) + below


def _lower_variants(wanted: Platform) -> tuple[str, ...]:
    usual = _USUAL_VARIANT.get(wanted.architecture)
    variant = wanted.variant or usual or ""
    if usual is None or not variant[1:].isdecimal():
        return (wanted.variant,)
    lowest = 5 if wanted.architecture == "arm" else int(usual[1:])
    return tuple(f"v{number}" for number in range(min(int(variant[1:]), 99), lowest - 1, -1)) or (wanted.variant,)
