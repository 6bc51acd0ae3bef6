"""Volumes, binds and files by the docker command: what lasts, what is shared, what is copied in and out."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from runtime_cli import Docker

pytestmark = pytest.mark.root
RUN = "run --rm --network none"


def test_a_volume_outlives_its_containers_and_is_shared(docker: Docker) -> None:
    docker(f"{RUN} -v data:/data busybox sh -c", "echo hi > /data/f")
    docker("run -d --name one --network none -v data:/here busybox sleep 1000")
    look = "cat /here/f; touch /here/g 2>&1 | grep -o Read-only"
    assert docker(f"{RUN} --volumes-from one:ro busybox sh -c", look) == "hi\nRead-only"
    assert docker(f"{RUN} --mount type=volume,src=data,dst=/here,readonly busybox sh -c", look) == "hi\nRead-only"
    assert "volume is in use" in docker.refused("volume rm data")
    assert Path(docker("volume inspect -f {{.Mountpoint}} data"), "f").read_text() == "hi\n"


def test_a_new_volume_begins_with_what_the_image_has_there(docker: Docker) -> None:
    dockerfile = b"FROM busybox\nRUN mkdir -m 700 /data && echo made > /data/f && chown -R 5:6 /data\nVOLUME /data\n"
    docker("build -q -t filled -", stdin=dockerfile)
    look = "cat /data/f; stat -c '%u:%g %a' /data"
    assert docker(f"{RUN} -v data:/data filled sh -c", look) == "made\n5:6 700"
    assert docker(f"{RUN} -v empty:/data:nocopy filled ls /data") == ""
    docker("run --name web --network none filled true")
    assert len(docker("volume ls -q").split()) == 3
    docker("rm -v web")
    assert docker("volume ls -q").split() == ["data", "empty"]


def test_anonymous_volumes_go_with_rm_and_named_ones_stay(docker: Docker) -> None:
    docker(f"{RUN} -v /scratch -v kept:/kept busybox touch /scratch/x /kept/y")
    assert docker("volume ls -q") == "kept"
    docker("run -d --name web --network none -v /scratch busybox sleep 1000")
    docker("rm -f web")
    assert len(docker("volume ls -qf dangling=true").split()) == 2
    assert docker("volume prune -f").startswith("Deleted Volumes:")
    assert docker("volume ls -q") == "kept"
    assert "kept" in docker("volume prune -af")


def test_binds_are_the_hosts_own_files(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("host\n")
    assert docker(f"{RUN} -v {tmp_path}/f:/f:ro -v {tmp_path}/new/dir:/made busybox sh -c", "cat /f; echo in > /made/g") == "host"
    assert (tmp_path / "new/dir/g").read_text() == "in\n"
    assert docker(f"{RUN} --mount type=bind,src={tmp_path},dst=/x,readonly busybox cat /x/f") == "host"
    assert "bind source path does not exist" in docker.refused(
        f"{RUN} --mount type=bind,src={tmp_path}/missing,dst=/x busybox true", code=125
    )


def test_tmpfs_volumes_and_mounts_have_their_options(docker: Docker) -> None:
    docker("volume create -o type=tmpfs -o device=tmpfs -o o=size=1m,uid=5 small")
    assert docker(f"{RUN} -v small:/x busybox sh -c", "df -k /x | grep -c ' 1024 .* /x'; stat -c %u /x") == "1\n5"
    options = "tmpfs-size=2m,tmpfs-mode=0700"
    look = "df -k /t | grep -c ' 2048 .* /t'; stat -c %a /t"
    assert docker(f"{RUN} --mount type=tmpfs,dst=/t,{options} busybox sh -c", look) == "1\n700"
    assert docker(f"{RUN} --tmpfs /t -u nobody busybox sh -c", "touch /t/mine; stat -c %a /t") == "1777"


def test_a_part_of_a_volume_is_mounted(docker: Docker) -> None:
    docker(f"{RUN} -v data:/data busybox sh -c", "mkdir -p /data/a/b; echo deep > /data/a/b/f")
    assert docker(f"{RUN} --mount type=volume,src=data,dst=/x,volume-subpath=a/b busybox cat /x/f") == "deep"
    assert "no such file or directory" in docker.refused(
        f"{RUN} --mount type=volume,src=data,dst=/x,volume-subpath=nope busybox true", code=127
    )


def test_volumes_are_created_labelled_listed_and_refused(docker: Docker) -> None:
    docker("volume create --label tier=front data")
    assert docker("volume create data") == "data"
    assert len(docker("volume create")) == 64
    assert docker("volume ls -qf label=tier=front") == "data"
    assert docker("volume ls -qf name=dat") == "data"
    assert "volume name is too short" in docker.refused("volume create x")
    assert "includes invalid characters for a local volume name" in docker.refused("volume create a/b")
    assert 'create x1: error looking up volume plugin nfs: plugin "nfs" not found' in docker.refused("volume create -d nfs x1")
    assert docker.refused("volume rm nope") == "Error response from daemon: get nope: no such volume"
    assert docker("volume rm -f nope") == "nope"


@pytest.mark.parametrize(("state", "line"), [("created", "create"), ("running", "run -d"), ("exited", "run")])
def test_files_are_copied_into_and_out_of_a_container_in_any_state(docker: Docker, tmp_path: Path, state: str, line: str) -> None:
    docker(f"{line} --name web --network none -v data:/data busybox sleep {'1000' if state == 'running' else '0'}")
    assert docker("inspect -f {{.State.Status}} web") == state
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/f").write_bytes(content := os.urandom(300_000))
    (tmp_path / "tree/sub/f").chmod(0o640)
    (tmp_path / "tree/link").symlink_to("sub/f")
    for where in ("/root", "/data"):
        docker(f"cp {tmp_path}/tree web:{where}")
        back = tmp_path / f"back{where.replace('/', '-')}"
        docker(f"cp web:{where}/tree {back}")
        assert (back / "sub/f").read_bytes() == content
        assert stat.S_IMODE((back / "sub/f").stat().st_mode) == 0o640
        assert os.readlink(back / "link") == "sub/f"


def test_one_copy_after_the_other_sees_what_the_last_has_done(docker: Docker, tmp_path: Path) -> None:
    docker("create --name web --network none busybox")
    for number in range(6):  # a client leaves as soon as it has all, while the engine still unmounts
        (tmp_path / "in").write_text(f"{number}\n")
        docker(f"cp {tmp_path}/in web:/root/f{number}")
        docker(f"cp web:/root {tmp_path}/out{number}")
        assert sorted(os.listdir(tmp_path / f"out{number}")) == [f"f{each}" for each in range(number + 1)]


def test_copying_follows_dockers_rules_about_names(docker: Docker, tmp_path: Path) -> None:
    docker("run -d --name web --network none busybox sleep 1000")
    (tmp_path / "f").write_text("f\n")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/g").write_text("g\n")
    docker(f"cp {tmp_path}/f web:/tmp/renamed")
    docker(f"cp {tmp_path}/d/. web:/tmp")
    docker(f"cp {tmp_path}/d web:/tmp/newdir")
    assert docker("exec web cat /tmp/renamed /tmp/g /tmp/newdir/g") == "f\ng\ng"
    assert "no such directory" in docker.refused(f"cp {tmp_path}/f web:/tmp/nope/")
    assert "cannot copy directory" in docker.refused(f"cp {tmp_path}/d web:/tmp/renamed")
    assert "Could not find the file /nope in container web" in docker.refused(f"cp web:/nope {tmp_path}")
    docker(f"cp -a {tmp_path}/f web:/tmp/owned")
    with tarfile.open(fileobj=io.BytesIO(docker.said("cp web:/tmp/g -").out.encode())) as archive:
        assert archive.getnames() == ["g"]


def test_a_link_in_a_container_leads_nowhere_outside(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    docker("run -d --name web --network none busybox sh -c", f"ln -s {tmp_path} /out; ln -s /etc/passwd /pw; exec sleep 1000")
    docker.until("exec web ls /", says="pw")
    assert "Could not find the file" in docker.refused(f"cp web:/out/secret {tmp_path}/stolen")
    docker(f"cp -L web:/pw {tmp_path}/passwd")
    assert (tmp_path / "passwd").read_text().startswith("root:x:0:0:root:/root:/bin/sh\nnobody")
    (tmp_path / "new").write_text("new")
    docker.said(f"cp {tmp_path}/new web:/out/new2")
    assert not (tmp_path / "new2").exists()


def test_diff_and_export_and_commit_show_what_was_changed_and_nothing_else(docker: Docker, tmp_path: Path) -> None:
    script = "echo x > /etc/new; rm /etc/group; mkdir /q; touch /q/w; echo >> /etc/passwd; touch /data/v /tmp/t"
    docker(f"run --name web --network none -v data:/data -v {tmp_path}:/host busybox sh -c", script)
    expected = "C /etc\nD /etc/group\nA /etc/new\nC /etc/passwd\nA /q\nA /q/w\nC /tmp\nA /tmp/t"
    assert sorted(docker("diff web").split("\n"), key=lambda line: line[2:]) == expected.split("\n")
    docker(f"export -o {tmp_path}/web.tar web")
    with tarfile.open(tmp_path / "web.tar") as archive:
        names = {name.strip("/") for name in archive.getnames()}
    assert {"etc/new", "q/w", "bin/busybox"} < names
    assert not {"etc/group", "data/v"} & names
    docker("commit web changed")
    assert docker(f"{RUN} changed sh -c", "ls /etc/group /data 2>&1; cat /etc/new").endswith("x")
