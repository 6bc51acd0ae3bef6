from __future__ import annotations

from runtime.containers.record import MountPoint
from runtime.containers.view import foreign_devices
from runtime.linux.mountinfo import Mounted

ROOT, DEV, SHM, VOLUME, BELOW, PROC = range(1, 7)


def mounted(device: int, target: str) -> Mounted:
    return Mounted(device, target, "any", frozenset())


def test_what_the_runtime_mounts_everywhere_is_foreign() -> None:
    found = foreign_devices(
        (
            mounted(ROOT, "/"),
            mounted(PROC, "/proc"),
            mounted(DEV, "/dev"),
            mounted(SHM, "/dev/shm"),  # noqa: S108 - the container's
            mounted(VOLUME, "/data"),
            mounted(BELOW, "/data/below"),
            mounted(ROOT, "/etc/hosts"),
        ),
        (MountPoint(type="volume", target="/data"),),
    )
    assert found == {PROC, DEV, SHM}


def test_a_mount_beside_one_that_was_asked_for_is_foreign() -> None:
    found = foreign_devices((mounted(ROOT, "/"), mounted(DEV, "/database")), (MountPoint(type="bind", target="/data"),))
    assert found == {DEV}
