"""What images are called, and for which machines they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import InvalidParameter
from runtime.images.image import Descriptor, Platform
from runtime.images.platforms import choose, parse_platform, render_platform, suits
from runtime.images.reference import Reference, check_digest, parse_reference

SOME = f"sha256:{'a1' * 32}"


@pytest.mark.parametrize(
    ("text", "familiar", "canonical"),
    [
        ("busybox", "busybox", "docker.io/library/busybox"),
        ("busybox:1.36", "busybox:1.36", "docker.io/library/busybox:1.36"),
        ("index.docker.io/busybox", "busybox", "docker.io/library/busybox"),
        ("docker.io/library/a/b", "library/a/b", "docker.io/library/a/b"),
        ("docker.io/a.b/c", "docker.io/a.b/c", "docker.io/a.b/c"),
        ("ann/app", "ann/app", "docker.io/ann/app"),
        ("localhost/app", "localhost/app", "localhost/app"),
        ("localhost:5000/a/b:c", "localhost:5000/a/b:c", "localhost:5000/a/b:c"),
        ("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a"),
        ("Host/a", "Host/a", "Host/a"),
        (f"busybox@{SOME}", f"busybox@{SOME}", f"docker.io/library/busybox@{SOME}"),
        (f"x.y/a:b@{SOME}", f"x.y/a:b@{SOME}", f"x.y/a:b@{SOME}"),
    ],
)
def test_a_name_is_kept_canonical_and_shown_familiar(text: str, familiar: str, canonical: str) -> None:
    found = parse_reference(text)
    assert (found.familiar, found.canonical) == (familiar, canonical)
    assert parse_reference(found.familiar) == parse_reference(found.canonical) == found


@pytest.mark.parametrize(
    "text", ["", ":", "a:", "a@", "-a", "a//b", "/a", "a/", "../a", "a:../b", "a:b\n", "a\0", "a b", "a@sha256:12", "a.b:c/d"]
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid reference format"):
        parse_reference(text)


def test_refusals_are_dockers_own_words() -> None:
    with pytest.raises(InvalidParameter, match=r"invalid reference format: repository name \(library/BusyBox\) must be lowercase"):
        parse_reference("BusyBox")
    with pytest.raises(InvalidParameter, match="cannot specify 64-byte hexadecimal strings"):
        parse_reference("ab" * 32)
    with pytest.raises(InvalidParameter, match="must not be more than 255 characters"):
        parse_reference("a/" * 200 + "a")


@given(st.text(max_size=80))
def test_any_text_is_a_name_or_refused_and_no_name_climbs(text: str) -> None:
    try:
        found = parse_reference(text)
    except InvalidParameter:
        return
    assert ".." not in found.path.split("/")
    assert parse_reference(found.familiar) == found


def test_a_default_tag_is_for_names_that_say_nothing() -> None:
    assert parse_reference("a").with_default_tag().familiar == "a:latest"
    assert parse_reference("a:b").with_default_tag().tag == "b"
    assert parse_reference(f"a@{SOME}").with_default_tag().tag == ""


def test_a_tag_and_a_digest_are_checked_before_they_become_part_of_a_name() -> None:
    reference = Reference("docker.io", "library/a")
    assert reference.with_digest(SOME).familiar == f"a@{SOME}"
    with pytest.raises(InvalidParameter):
        reference.with_tag("../x")
    for digest in ("", "sha256:", SOME.upper(), f"{SOME}\n", SOME.replace("sha256", "md5")):
        with pytest.raises(InvalidParameter):
            check_digest(digest)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("linux/x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("armhf", "linux/arm/v7"),
        ("linux/amd64/v3", "linux/amd64/v3"),
    ],
)
def test_platforms_have_many_names(text: str, found: str) -> None:
    assert render_platform(parse_platform(text)) == found


@pytest.mark.parametrize("text", ["/", "a/b/c/d", "linux/", "nonsense", "linux/amd 64"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_platform(text)


def _index(*platforms: str) -> list[Descriptor]:
    def platform(text: str) -> Platform:
        system, architecture, *variant = text.split("/")
        return Platform(architecture, system, *variant)

    return [Descriptor(digest=text, size=1, platform=platform(text)) for text in platforms]


@pytest.mark.parametrize(
    ("wanted", "there", "chosen"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64", "linux/amd64/v3"], "linux/amd64"),
        ("linux/amd64", ["unknown/unknown", "linux/386"], "linux/386"),
        ("linux/amd64/v4", ["linux/amd64", "linux/amd64/v2"], "linux/amd64/v2"),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm64/v8"], "linux/arm/v6"),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], "linux/arm64/v8"),
        ("linux/arm/v6", ["linux/arm/v7"], ""),
        ("linux/amd64", ["windows/amd64", "unknown/unknown"], ""),
    ],
)
def test_the_best_of_an_index_is_what_the_machine_runs(wanted: str, there: list[str], chosen: str) -> None:
    found = choose(_index(*there), parse_platform(wanted))
    assert (found.digest if found else "") == chosen


def test_an_image_alone_suits_or_does_not() -> None:
    assert suits(Platform("arm", "linux", "v6"), parse_platform("linux/arm/v7"))
    assert not suits(Platform("arm64"), parse_platform("linux/amd64"))
