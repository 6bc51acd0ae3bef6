from __future__ import annotations

import errno
from pathlib import Path

import pytest

from flanneld.kernel import KernelError
from flanneld.linux import tun


def test_a_machine_without_the_tun_driver_is_an_error_naming_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tun, "_CLONE_DEVICE", str(tmp_path / "tun"))
    with pytest.raises(KernelError, match=f"{tmp_path}/tun: no such file or directory, expected the tun driver there") as caught:
        tun.open_tun("flannel%d")
    assert caught.value.errno == errno.ENOENT
