"""Images, archives and build contexts made to reach the host, or to exhaust it: nothing of the host's is read, changed or filled.

What is tried elsewhere: layers in `test_runtime_evil_archives.py`, archives of images in `test_runtime_archives.py`, what
registries send in `test_runtime_registry.py`, tars for `docker cp` in `test_tar_files.py`.
"""

from __future__ import annotations

import gzip
import json
import socketserver
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from runtime.build import context
from runtime.images.limits import Limits
from runtime_attacks import Api, load_image, snapshot, until_empty
from runtime_docker import DockerWorld, docker_world
from runtime_evil_archives import archive, corpus, directory, file, hard_link, item, symlink
from runtime_images import Link, busybox_files, image_tar

pytestmark = pytest.mark.root
SECRET = "the host's"  # noqa: S105 - it is not one
MIB = 1 << 20


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerWorld]:
    with docker_world(tmp_path_factory.mktemp("d")) as world:
        world.ok("create", "--network", "none", "--name", "target", "busybox")
        yield world


@pytest.fixture
def world(engine: DockerWorld) -> Iterator[DockerWorld]:
    yield engine
    assert Api(engine.socket).is_well()
    until_empty(engine.engine.settings.layout.temporary)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the host's."""
    made = tmp_path / "outside"
    made.mkdir()
    (made / "secret").write_text(SECRET)
    return made


def far(path: Path) -> str:
    """The same from anywhere."""
    return "../" * 30 + str(path).lstrip("/")


def build(world: DockerWorld, dockerfile: str, *entries: tuple[tarfile.TarInfo, bytes], query: str = "") -> str:
    """What a build says, to its end; the context as it stands, whatever the docker command would have refused."""
    data = archive([item("Dockerfile", data=dockerfile.encode()), *entries])
    _, said = Api(world.socket).ask("POST", f"/build?t=built&rm=1&forcerm=1&networkmode=none{query}", data, "application/x-tar")
    return said.decode()


def shown(world: DockerWorld, path: str) -> str:
    """A file of the image that was built."""
    return world.ok("run", "--rm", "--network", "none", "built", "cat", path)


@pytest.mark.parametrize("verb", ["COPY", "ADD"])
@pytest.mark.parametrize(
    "source", ["link", "link/secret", "near/secret", "near/..", "link*", "near", "up/../secret", "../secret", "hard"]
)
def test_links_of_a_context_lead_to_nothing_of_the_host(world: DockerWorld, outside: Path, verb: str, source: str) -> None:
    links = [
        directory("d"),
        symlink("link", str(outside / "secret")),
        symlink("near", far(outside)),
        symlink("d/deep", "/proc/self/root"),
        symlink("up", "d/deep/../../.."),
    ]
    links += [] if source != "hard" else [hard_link("hard", f"link{far(outside)}/secret")]
    said = build(world, f"FROM busybox\n{verb} {source} /copied\nRUN cat /copied /copied/* || true", *links)
    assert SECRET not in said
    if "Successfully built" in said:
        assert SECRET not in world.ok("run", "--rm", "--network", "none", "built", "sh", "-c", "cat /copied /copied/* 2>&1 || true")
    assert (outside / "secret").read_text() == SECRET


@pytest.mark.parametrize(
    "path", ["link", "near/secret", "../../../../../../../../etc/passwd", "/etc/passwd", "fifo", "d", "zero", "loop"]
)
def test_no_file_but_the_contexts_is_its_dockerfile(world: DockerWorld, outside: Path, path: str) -> None:
    (outside / "secret").write_text(f"FROM busybox\nLABEL stolen={path}\n")
    links = [
        symlink("link", str(outside / "secret")),
        symlink("near", far(outside)),
        item("fifo", tarfile.FIFOTYPE),
        directory("d"),
        symlink("loop", "loop"),
        item("zero", tarfile.CHRTYPE, devmajor=1, devminor=5),
        symlink(".dockerignore", str(outside / "secret")),
    ]
    said = build(world, "FROM busybox", *links, query=f"&dockerfile={path}")
    assert "Successfully" not in said
    assert "stolen" not in said


def test_a_target_that_is_a_link_of_the_images_stays_inside(world: DockerWorld, outside: Path) -> None:
    links = {"out": Link(far(outside)), "file": Link(far(outside / "secret")), "proc": Link("/proc/self/root")}
    load_image(world, "linked", links, WorkingDir="/out")
    before = snapshot(outside)
    lines = ["FROM linked", "COPY x /out/", "ADD x /out/secret", "COPY x /file", "COPY x .", "WORKDIR /out/made", "COPY x /proc/x"]
    said = [build(world, "\n".join([lines[0], line]), file("x")) for line in lines[1:]]
    build(world, "FROM linked\nADD a.tar /out/", item("a.tar", data=archive([file("secret"), symlink("s", "/"), file("s/evil")])))
    build(world, "FROM linked\nVOLUME /out/v\nCOPY --chown=nobody x /out/v/")
    assert snapshot(outside) == before
    assert not Path("/evil").exists()
    assert any("Successfully built" in each for each in said)


def test_what_is_no_file_is_never_opened(world: DockerWorld) -> None:
    """A fifo would be waited for, a device read: here one that never ends."""
    strange = [
        item("fifo", tarfile.FIFOTYPE),
        item("zero", tarfile.CHRTYPE, devmajor=1, devminor=5),
        item("disk", tarfile.BLKTYPE, devmajor=7, devminor=0),
    ]
    began = time.monotonic()
    for verb in ("ADD", "COPY"):
        said = build(world, f"FROM busybox\n{verb} fifo zero disk /strange/", *strange)
        assert "Successfully built" in said
    assert time.monotonic() - began < 10
    seen = world.ok("run", "--rm", "--network", "none", "built", "sh", "-c", "head -c 1 /strange/disk; ls /strange")
    assert seen.split() == ["disk", "fifo", "zero"]


@pytest.mark.parametrize("name", sorted(corpus("/x")))
def test_an_evil_archive_is_added_to_an_image_or_to_nothing(world: DockerWorld, outside: Path, name: str) -> None:
    before = snapshot(outside)
    build(world, "FROM busybox\nADD evil.tar /in/", item("evil.tar", data=corpus(str(outside))[name]))
    assert snapshot(outside) == before


def test_bombs_end_at_their_limits(world: DockerWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = tarfile.TarInfo("zeros")
    zeros.size = 64 * MIB
    bomb = gzip.compress(zeros.tobuf() + bytes(64 * MIB) + bytes(1024))
    small = Limits(ratio=20, ratio_from=8 * MIB)
    monkeypatch.setattr("runtime.build.archives.LIMITS", small)
    assert "more than 20 times" in build(world, "FROM busybox\nADD bomb.tgz /in/", item("bomb.tgz", data=bomb))
    monkeypatch.setattr(context, "LIMITS", small)
    status, said = Api(world.socket).ask("POST", "/build", bomb, "application/x-tar")
    assert (status, b"more than 20 times" in said) == (400, True)


def test_a_dockerfile_without_end_is_refused_before_long(world: DockerWorld) -> None:
    many = {
        "lines": "FROM busybox\n" + "ENV A=1\n" * 400_000,
        "bytes": "FROM busybox\nRUN " + "x" * 5_000_000,
        "continued": "FROM busybox\nRUN true \\\n" + "\\\n" * 1_500_000,
        "nested": "FROM busybox\nENV A=" + "${A:-" * 20_000 + "}" * 20_000,
        "quotes": "FROM busybox\nLABEL " + "a='" * 300_000,
        "documents": "FROM busybox\nCOPY " + "<<A " * 100_000 + "/x\n" + "A\n" * 100_000,
        "stages": "FROM busybox\n" * 300_000,
        "triggers": "FROM busybox\nONBUILD " * 100_000,
        "nothing": "\0" * 100_000,
    }
    for name, text in many.items():
        began = time.monotonic()
        said = build(world, text)
        assert "Successfully" not in said or name in ("continued", "quotes", "documents"), name
        assert time.monotonic() - began < 15, name


def test_patterns_that_would_take_for_ever_take_a_moment(world: DockerWorld) -> None:
    deep = "a/" * 40 + "a" * 200
    patterns = "**/" * 30 + "z\n" + "*a" * 60 + "z\n" + "**a" * 30 + "z\n"
    began = time.monotonic()
    said = build(
        world, f"FROM busybox\nCOPY {'**/' * 20}{'*a' * 30}b /in/\n", item(".dockerignore", data=patterns.encode()), file(deep)
    )
    assert "no source files were specified" in said
    assert time.monotonic() - began < 10


def test_a_context_deeper_than_any_program_recurses_is_taken_or_refused(world: DockerWorld) -> None:
    said = build(world, "FROM busybox\nCOPY d /in\n", *(directory("d" + "/d" * depth) for depth in range(1500)))
    assert "error" in said or "Successfully built" in said


def test_a_server_sends_no_build_to_a_file_of_the_hosts(world: DockerWorld, outside: Path) -> None:
    class Redirecting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"file://{outside}/secret")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = world.host.call(socketserver.TCPServer, ("127.0.0.1", 0), Redirecting)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        for url in (
            f"http://127.0.0.1:{server.server_address[1]}/x",
            "http://127.0.0.1:1/..",
            "http://127.0.0.1:1/%00",
            "http:///x",
        ):
            assert "failed" in build(world, f"FROM busybox\nADD {url} /x") + "failed" * (".." in url)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("name", sorted(corpus("/x")))
def test_an_evil_archive_is_an_image_or_none(world: DockerWorld, outside: Path, name: str) -> None:
    """`docker import`, `docker load` and `docker cp` of the same."""
    before = snapshot(outside)
    tar = corpus(str(outside))[name]
    asked = (
        ("POST", "/images/create?fromSrc=-&repo=imported"),
        ("POST", "/images/load"),
        ("PUT", "/containers/target/archive?path=/tmp"),
    )
    for method, target in asked:
        assert Api(world.socket).ask(method, target, tar, "application/x-tar")[0] < 500
    assert snapshot(outside) == before


@pytest.mark.parametrize(
    "config",
    [
        {"Config": "../../../../etc/passwd", "Layers": []},
        {"Config": "config.json", "Layers": ["/etc/passwd"]},
        {"Config": "config.json", "Layers": ["link"]},
        {"Config": "config.json", "RepoTags": ["../../x:latest"], "Layers": []},
        {"Config": "config.json", "RepoTags": ["a\nb:latest"], "Layers": []},
        {"Config": "config.json", "RepoTags": ["x" * 100_000 + ":a"], "Layers": []},
    ],
)
def test_a_manifest_names_nothing_but_the_archives_files(world: DockerWorld, config: dict[str, object]) -> None:
    before = world.ok("images", "-aq")
    described = json.dumps({"rootfs": {"type": "layers", "diff_ids": []}}).encode()
    members = [
        item("config.json", data=described),
        symlink("link", "/etc/passwd"),
        item("manifest.json", data=json.dumps([config]).encode()),
    ]
    world.refused("load", data=archive(members))
    assert world.ok("images", "-aq") == before


@pytest.mark.parametrize(
    "config",
    [
        {"WorkingDir": "../../etc"},
        {"User": "root\nx"},
        {"User": "99999999999"},
        {"Env": ["A=\0"]},
        {"Env": ["=x"]},
        {"Volumes": {"../../etc": {}}},
        {"Volumes": {"/": {}}},
        {"Volumes": {"/proc": {}}},
        {"Entrypoint": ["a\0b"]},
        {"StopSignal": "SIGNOTHING"},
        {"Healthcheck": {"Test": ["EVIL", "x"]}},
        {"Cmd": "sh"},
    ],
)
def test_an_images_settings_are_checked_as_a_clients_are(world: DockerWorld, config: dict[str, object]) -> None:
    load = world.docker("load", data=_image(config))
    if load.code == 0:
        assert world.docker("run", "--rm", "--network", "none", "settings", "true").code in (125, 126, 127)
        world.ok("rmi", "-f", "settings")


def _image(config: dict[str, object]) -> bytes:
    return image_tar([busybox_files()], ["settings:latest"], config=config)


def test_a_container_with_strange_files_is_exported_committed_and_compared(world: DockerWorld, outside: Path) -> None:
    strange = (
        f"mknod /c c 1 5; mkfifo /f; ln -s {far(outside)}/secret /s; ln -s / /d; mkdir -m 0 /z; ln /s /h; touch '/a\nb' '/.wh.x'"
    )
    world.ok("run", "--network", "none", "--name", "strange", "busybox", "sh", "-c", strange)
    assert SECRET not in world.ok("diff", "strange")
    exported = world.docker("export", "strange").stdout
    assert SECRET not in exported
    world.ok("commit", "strange", "committed")
    assert SECRET not in world.docker("run", "--rm", "--network", "none", "committed", "cat", "/s").stdout
    world.ok("rm", "-f", "strange")
