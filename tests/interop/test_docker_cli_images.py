"""Images by the docker command: built, pulled from and pushed to a registry, saved and loaded, listed and removed."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime_cli import Docker, host_spawn, remove_images, served_on
from runtime_nets import EngineHost, engine_host
from runtime_registry import PASSWORD, USER, Registry, htpasswd, registry

pytestmark = pytest.mark.root
RUN = "run --rm --network none"
STAGES = """\
ARG BASE=busybox
FROM ${BASE} AS one
ARG V=1
ENV A=x B=${V}y
LABEL first=1 second="2 3"
WORKDIR /w
COPY --chown=5:6 f.txt sub/ ./
ADD a.tar /unpacked/
RUN echo $A $B $V > out && mkdir d && id -u > d/uid
USER nobody
VOLUME /vol
EXPOSE 80 53/udp
SHELL ["/bin/sh", "-ec"]
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s --retries=2 CMD true
ONBUILD RUN echo onbuild > /tmp/onbuild
CMD cat out
FROM busybox
COPY --from=one /w/out /out
ENTRYPOINT ["cat"]
CMD ["/out"]
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Docker, str]]:
    """A docker command and the address of a registry that wants a password, both on one host."""
    directory = tmp_path_factory.mktemp("registry")
    with engine_host() as host, registry_on(host, directory) as hub, served_on(host_spawn(host)) as served:
        served.docker(f"login -u {USER} --password-stdin {hub.address}", stdin=PASSWORD.encode())
        yield served.docker, hub.address


@contextmanager
def registry_on(host: EngineHost, directory: Path) -> Iterator[Registry]:
    """A registry for one user on that host's loopback."""
    running = registry(directory, htpasswd(directory))
    found = host.call(running.__enter__)
    try:
        yield found
    finally:
        host.call(running.__exit__, None, None, None)


@pytest.fixture
def docker(machine: tuple[Docker, str]) -> Iterator[Docker]:
    docker = machine[0]
    yield docker
    if ids := docker("ps -aq").split():
        docker("rm -fv", *ids)
    remove_images(docker)


@pytest.fixture
def hub(machine: tuple[Docker, str]) -> str:
    return machine[1]


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "f.txt").write_text("f\n")
    (tmp_path / "sub/g.txt").write_text("g\n")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("inside"), io.BytesIO())
    (tmp_path / "Dockerfile").write_text(STAGES)
    return tmp_path


def test_a_build_of_stages_says_its_steps_and_the_next_finds_them(docker: Docker, context: Path) -> None:
    said = docker(f"build -t two {context}")
    assert re.search(
        r"Step 21/21 : CMD \[\"/out\"\]\n ---> \w{12}\nSuccessfully built \w{12}\nSuccessfully tagged two:latest", said
    )
    assert docker(f"{RUN} two") == "x 1y 1"
    again = docker(f"build -t two {context}")
    assert again.count("Using cache") == 18, "all but two FROM and the ARG before"
    (context / "f.txt").write_text("changed\n")
    assert 0 < docker(f"build -t two {context}").count("Using cache") < 18
    assert docker(f"build --no-cache -q {context}").startswith("sha256:")


def test_a_target_ends_the_build_with_arguments_and_labels(docker: Docker, context: Path) -> None:
    docker(f"build --target one -t one --build-arg V=2 --label x=y {context}")
    found = json.loads(docker("inspect -f", "{{json .Config}}", "one"))
    assert found["Labels"] == {"first": "1", "second": "2 3", "x": "y"}
    assert found["Env"] == ["PATH=/bin", "A=x", "B=2y"]
    assert (found["User"], found["WorkingDir"], found["StopSignal"]) == ("nobody", "/w", "SIGINT")
    assert set(found["ExposedPorts"]) == {"80/tcp", "53/udp"}
    assert docker(f"{RUN} one") == "x 2y 2"
    assert docker(f"{RUN} one sh -c", "cat f.txt g.txt d/uid; stat -c %u:%g f.txt; ls /unpacked").split() == [
        *"fg0",
        "5:6",
        "inside",
    ]
    docker("build -t heir -", stdin=b"FROM one\nUSER root\n")
    assert docker(f"{RUN} -u root heir cat /tmp/onbuild") == "onbuild"
    shown = docker("history --no-trunc --format {{.CreatedBy}} one")
    assert "|1 V=2 /bin/sh -c echo $A $B $V > out && mkdir d && id -u > d/uid" in shown


@pytest.mark.parametrize(
    ("dockerfile", "code", "why"),
    [
        ("FROM busybox\nRUN exit 3\n", 3, "The command '/bin/sh -c exit 3' returned a non-zero code: 3"),
        ("FROM busybox\nFLY away\n", 1, "dockerfile parse error line 2: unknown instruction: FLY"),
        ("FROM busybox\nCOPY nope /\n", 1, "COPY failed: file not found in build context or excluded by .dockerignore: stat nope"),
        ("FROM busybox\nCOPY ../etc/passwd /\n", 1, "COPY failed: "),
        ("FROM busybox\nCOPY f.txt sub /x\n", 1, "the destination must be a directory and end with a /"),
        ('FROM busybox\nRUN ["nope"]\n', 1, 'exec: "nope": executable file not found in $PATH'),
        ("RUN true\n", 1, "o build stage in current context"),
        ("FROM busybox AS a\nFROM a AS b\nCOPY --from=c /x /\n", 1, "c"),
        ("\n", 1, "cannot be empty"),
        ("FROM busybox\nRUN --mount=type=cache,target=/x true\n", 1, "requires BuildKit"),
    ],
)
def test_a_build_that_cannot_be_says_why(docker: Docker, context: Path, dockerfile: str, code: int, why: str) -> None:
    (context / "Dockerfile").write_text(dockerfile)
    assert why in docker.refused(f"build --pull=false {context}", code=code)
    assert docker("ps -q") == ""


def test_a_build_obeys_its_flags_and_dockerignore(docker: Docker, context: Path) -> None:
    (context / ".dockerignore").write_text("sub\n!sub/g.txt\nf.txt\n")
    dockerfile = "FROM busybox\nCOPY . /c\nRUN ls -R /c > /list; cat /etc/hosts > /h; ulimit -n > /n; ls /sys/class/net > /net\n"
    (context / "other").write_text(dockerfile)
    flags = "--network none --add-host q:192.0.2.1 --ulimit nofile=50:60 -m 64m --shm-size 1m --force-rm"
    docker(f"build -t flags -f {context}/other {flags} --iidfile {context}/id {context}")
    assert (context / "id").read_text() == docker("image inspect -f {{.Id}} flags")
    assert "f.txt" not in docker(f"{RUN} flags cat /list")
    assert "g.txt" in docker(f"{RUN} flags cat /list")
    assert docker(f"{RUN} flags sh -c", "grep -c 192.0.2.1 /h; cat /n; cat /net") == "1\n50\nlo"


def test_push_and_pull_by_tag_and_digest(docker: Docker, hub: str, context: Path) -> None:
    docker(f"build -q -t {hub}/team/two:1 {context}")
    pushed = docker(f"push {hub}/team/two:1")
    (digest,) = re.findall(r"1: digest: (sha256:\w{64}) size: \d+", pushed)
    assert docker("images --digests --format {{.Digest}}", f"{hub}/team/two") == digest
    docker(f"rmi {hub}/team/two:1")
    said = docker(f"pull {hub}/team/two:1")
    assert said.endswith(f"Digest: {digest}\nStatus: Downloaded newer image for {hub}/team/two:1\n{hub}/team/two:1")
    assert f"Status: Image is up to date for {hub}/team/two:1" in docker(f"pull {hub}/team/two:1")
    docker(f"rmi {hub}/team/two:1")
    assert docker(f"{RUN} {hub}/team/two@{digest}") == "x 1y 1"
    docker(f"tag {hub}/team/two@{digest} {hub}/team/two:2")
    assert "Layer already exists" in docker(f"push -a {hub}/team/two")
    assert "RepoDigests" in docker(f"inspect {hub}/team/two:2")


def test_run_pulls_what_is_missing_and_says_so(docker: Docker, hub: str) -> None:
    docker(f"tag busybox {hub}/box:1")
    docker(f"push -q {hub}/box:1")
    docker(f"rmi {hub}/box:1")
    said = docker.said(f"{RUN} {hub}/box:1 echo hi")
    assert (said.code, said.out) == (0, "hi\n")
    assert said.err.startswith(f"Unable to find image '{hub}/box:1' locally\n1: Pulling from box\n")
    assert docker(f"{RUN} --pull always -q {hub}/box:1 echo hi") == "hi"
    assert "manifest unknown" in docker.refused(f"pull {hub}/box:nope")
    assert "was found but its platform" in docker.refused(f"create --pull never --platform linux/arm64 {hub}/box:1")


def test_who_is_not_logged_in_gets_nothing(docker: Docker, hub: str) -> None:
    docker(f"logout {hub}")
    login = f"login -u {USER} --password-stdin {hub}"
    try:
        docker(f"tag busybox {hub}/box:2")
        assert "no basic auth credentials" in docker.refused(f"push {hub}/box:2")
        assert "401 Unauthorized" in docker.refused(login, stdin=b"wrong")
    finally:
        assert docker(login, stdin=PASSWORD.encode()).endswith("Login Succeeded")


def test_save_and_load_keep_tags_and_layers(docker: Docker, context: Path) -> None:
    docker(f"build -q -t two {context}")
    docker("tag two two:again")
    identity = docker("image inspect -f {{.Id}} two")
    docker(f"save -o {context}/two.tar two two:again busybox")
    with tarfile.open(context / "two.tar") as archive:
        assert {"manifest.json", "index.json", "oci-layout"} < set(archive.getnames())
    docker("rmi two two:again")
    assert docker(f"load -i {context}/two.tar").split("\n")[-1].startswith("Loaded image: ")
    assert docker("image inspect -f {{.Id}} two:again") == identity
    assert docker(f"{RUN} two") == "x 1y 1"
    assert "No such image: nope" in docker.refused(f"save -o {context}/x nope")
    assert "Error response from daemon" in docker.refused("load", stdin=b"no archive at all" * 64)


def test_import_makes_an_image_with_changes(docker: Docker, tmp_path: Path) -> None:
    docker("create --name web busybox")
    docker(f"export -o {tmp_path}/web.tar web")
    docker("import -m why -c", 'CMD ["echo", "$A"]', "-c", "ENV A=1", f"{tmp_path}/web.tar", "flat:1")
    assert docker("history --format {{.Comment}} flat:1") == "why"
    assert docker(f"{RUN} flat:1") == "$A"


def test_images_are_listed_by_filters(docker: Docker) -> None:
    docker("build -q -t labelled -", stdin=b"FROM busybox\nLABEL tier=front\n")
    docker("tag busybox localhost:5000/team/box:1")
    form = "--format {{.Repository}}:{{.Tag}}"
    assert docker(f"images -f label=tier=front {form}") == "labelled:latest"
    assert docker(f"images -f reference=*/*/box {form}") == "localhost:5000/team/box:1"
    assert docker(f"images -f before=labelled {form} busybox") == "busybox:latest"
    assert docker(f"images -f since=busybox {form}") == "labelled:latest"
    assert docker("images -q busybox") == docker("images -q localhost:5000/team/box")
    docker("build -q -t labelled -", stdin=b"FROM busybox\nLABEL tier=back\n")
    assert docker(f"images -f dangling=true {form}") == "<none>:<none>"
    assert docker("image prune -f").startswith("Deleted Images:\ndeleted: sha256:")
    assert docker(f"images -f dangling=true {form}") == ""
    assert "invalid filter" in docker.refused("images -f colour=red")


def test_images_are_removed_by_dockers_rules(docker: Docker) -> None:
    docker("build -q -t mine -", stdin=b"FROM busybox\nRUN touch /x\n")
    docker("tag mine yours")
    identity = docker("images -q mine")
    assert "image is referenced in multiple repositories" in docker.refused(f"rmi {identity}")
    docker("run --name web --network none mine true")
    assert docker("rmi yours") == "Untagged: yours:latest"
    assert "must force" in docker.refused("rmi mine")
    assert docker("rmi -f mine").startswith("Untagged: mine:latest")
    docker("rm web")
    assert docker.refused("rmi nope") == "Error response from daemon: No such image: nope:latest"
    assert "repository name (library/BAD) must be lowercase" in docker.refused("tag busybox BAD")


def test_a_committed_container_is_an_image_with_history(docker: Docker) -> None:
    docker("run --name web --network none busybox sh -c", "echo made > /made")
    docker("commit -m why -a ann -c", 'CMD ["cat", "/made"]', "-c", "ENV A=1", "web", "mine:1")
    assert docker(f"{RUN} mine:1") == "made"
    form = "{{.CreatedBy}}|{{.Comment}}"
    assert docker("history --no-trunc --format", form, "mine:1").split("\n")[0] == "sh -c echo made > /made|why"
    assert docker("inspect -f", "{{.Author}} {{.Config.Cmd}} {{.Config.Env}}", "mine:1") == "ann [cat /made] [PATH=/bin A=1]"
