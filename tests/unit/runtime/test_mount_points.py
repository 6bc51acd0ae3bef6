import pytest

from runtime.config import Mount, TmpfsOptions
from runtime.containers.mount_points import parse_bind, parse_mount, parse_volumes_from
from runtime.containers.record import MountPoint
from runtime.errors import InvalidParameter


def test_a_path_is_bound_and_a_word_is_a_volume() -> None:
    bind = parse_bind("/srv//data/:/data/:ro,rslave", "local")
    assert bind == MountPoint(
        type="bind", source="/srv/data", target="/data", writable=False, mode="ro,rslave", propagation="rslave"
    )
    volume = parse_bind("store:/data:nocopy", "local")
    assert (volume.type, volume.name, volume.driver, volume.copy) == ("volume", "store", "local", False)
    assert parse_bind("/data", "local").name == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "invalid volume specification"),
        (":/a", "invalid volume specification"),
        ("/a:", "invalid volume specification"),
        ("/a:ro", "invalid volume specification"),
        ("/a:/b:ro:rw", "invalid volume specification"),
        ("/a:/b:quick", "invalid mode: quick"),
        ("/a:/b:ro,rw", "invalid mode: ro,rw"),
        ("/a:b", "mount path must be absolute"),
        ("/a:/..", "destination can't be '/'"),
        ("x:/b:shared", "propagation is for binds only"),
        ("/a:/b:nocopy", "nocopy is for volumes only"),
    ],
)
def test_binds_that_make_no_sense_are_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidParameter, match=why):
        parse_bind(text, "local")


@pytest.mark.parametrize(
    ("mount", "why"),
    [
        (Mount(type="floppy", target="/a"), "mount type unknown"),
        (Mount(type="bind", source="/a"), "field Target must not be empty"),
        (Mount(type="bind", target="/a"), "field Source must not be empty"),
        (Mount(type="bind", source="a", target="/a"), "mount path must be absolute"),
        (Mount(type="volume", target="a"), "mount path must be absolute"),
        (Mount(type="volume", target="/a/.."), "destination can't be '/'"),
        (Mount(type="tmpfs", source="x", target="/a"), "field Source must not be specified"),
    ],
)
def test_mounts_that_make_no_sense_are_refused(mount: Mount, why: str) -> None:
    with pytest.raises(InvalidParameter, match=f'^invalid mount config for type "{mount.type}": .*{why}'):
        parse_mount(mount)


def test_a_tmpfs_takes_its_size_and_mode_along() -> None:
    mount = Mount(type="tmpfs", target="/t", tmpfs_options=TmpfsOptions(size_bytes=4096, mode=0o1777, options=(("noexec",),)))
    assert parse_mount(mount).options == ("size=4096", "mode=1777", "noexec")


def test_volumes_from_takes_a_container_and_perhaps_a_mode() -> None:
    assert parse_volumes_from("web") == ("web", "")
    assert parse_volumes_from("web:ro") == ("web", "ro")
    with pytest.raises(InvalidParameter, match="invalid mode for volumes-from"):
        parse_volumes_from("web:nocopy")
