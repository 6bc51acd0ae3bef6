"""What `-v` and `--mount` ask for, as mount points: Docker's grammar and its refusals; must not know what volumes there are.

A mount point of a volume leaves its `source` open, and its `name` when it is anonymous.
"""

from __future__ import annotations

import posixpath

from runtime.config import Mount, TmpfsOptions
from runtime.containers.record import MountPoint
from runtime.errors import InvalidParameter

_ACCESS = frozenset({"ro", "rw", "rro"})
_LABELS = frozenset({"z", "Z"})
PROPAGATIONS = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})
_COPY = frozenset({"copy", "nocopy"})
_CONSISTENCY = frozenset({"consistent", "cached", "delegated", "default"})
_GROUPS = (_ACCESS, _LABELS, PROPAGATIONS, _COPY, _CONSISTENCY)


def parse_bind(text: str, driver: str) -> MountPoint:
    """One of HostConfig.Binds, "source:target[:options]" or a target alone; raises InvalidParameter."""
    fields = text.split(":")
    if not all(fields) or len(fields) > 3 or (len(fields) == 2 and _is_mode(fields[1])):
        raise InvalidParameter(f"invalid volume specification: '{text}'")
    source, target = (fields[0], fields[1]) if len(fields) > 1 else ("", fields[0])
    mode = fields[2] if len(fields) == 3 else ""
    if mode and not _is_mode(mode):
        raise InvalidParameter(f"invalid mode: {mode}")
    words = frozenset(mode.split(",")) if mode else frozenset()
    clean = _check_target(text, target, "bind" if source.startswith("/") else "volume")
    writable = not words & {"ro", "rro"}
    propagation = next(iter(words & PROPAGATIONS), "")
    if source.startswith("/"):
        if "nocopy" in words:
            raise InvalidParameter(f"invalid volume specification: '{text}': nocopy is for volumes only")
        path = posixpath.normpath(source)
        return MountPoint(
            type="bind", source=path, target=clean, writable=writable, mode=mode, propagation=propagation or "rprivate"
        )
    if propagation:
        raise InvalidParameter(f"invalid volume specification: '{text}': propagation is for binds only")
    copy = "nocopy" not in words
    return MountPoint(type="volume", name=source, target=clean, driver=driver, writable=writable, mode=mode or "z", copy=copy)


def _is_mode(text: str) -> bool:
    words = text.split(",")
    return all(any(word in group for group in _GROUPS) for word in words) and all(
        sum(word in group for word in words) <= 1 for group in _GROUPS
    )


def _check_target(whole: str, target: str, kind: str) -> str:
    wrong = f"invalid volume specification: '{whole}': invalid mount config for type \"{kind}\""
    if not target.startswith("/"):
        raise InvalidParameter(f"{wrong}: invalid mount path: '{target}' mount path must be absolute")
    clean = posixpath.normpath(target)
    if clean.strip("/") == "":
        raise InvalidParameter(f"{wrong}: invalid specification: destination can't be '/'")
    return "/" + clean.lstrip("/")


def parse_mount(mount: Mount) -> MountPoint:
    """One of HostConfig.Mounts; raises InvalidParameter."""
    makers = {"bind": _bind, "volume": _volume, "tmpfs": _tmpfs, "image": _image}
    if mount.type not in makers:
        raise InvalidParameter(f'invalid mount config for type "{mount.type}": mount type unknown')
    if not mount.target:
        raise _invalid(mount, "field Target must not be empty")
    if not mount.target.startswith("/"):
        raise _invalid(mount, f"invalid mount path: '{mount.target}' mount path must be absolute")
    target = "/" + posixpath.normpath(mount.target).lstrip("/")
    if target == "/":
        raise _invalid(mount, "invalid specification: destination can't be '/'")
    return makers[mount.type](mount, target)


def _invalid(mount: Mount, why: str) -> InvalidParameter:
    return InvalidParameter(f'invalid mount config for type "{mount.type}": {why}')


def _bind(mount: Mount, target: str) -> MountPoint:
    if not mount.source:
        raise _invalid(mount, "field Source must not be empty")
    if not mount.source.startswith("/"):
        raise _invalid(mount, f"invalid mount path: '{mount.source}' mount path must be absolute")
    if mount.volume_options is not None:
        raise _invalid(mount, "field VolumeOptions must not be specified")
    propagation = mount.bind_options.propagation if mount.bind_options else ""
    if propagation and propagation not in PROPAGATIONS:
        raise _invalid(mount, f"invalid propagation mode: {propagation}")
    source = posixpath.normpath(mount.source)
    return MountPoint(
        type="bind", source=source, target=target, writable=not mount.read_only, propagation=propagation or "rprivate"
    )


def _volume(mount: Mount, target: str) -> MountPoint:
    if mount.bind_options is not None:
        raise _invalid(mount, "field BindOptions must not be specified")
    options = mount.volume_options
    driver = options.driver_config.name if options and options.driver_config else ""
    copy = not (options and options.no_copy)
    return MountPoint(
        type="volume",
        name=mount.source,
        target=target,
        driver=driver or "local",
        writable=not mount.read_only,
        mode="z",
        copy=copy,
    )


def _tmpfs(mount: Mount, target: str) -> MountPoint:
    if mount.source:
        raise _invalid(mount, "field Source must not be specified")
    given = mount.tmpfs_options or TmpfsOptions()
    options = [
        *((f"size={given.size_bytes}",) if given.size_bytes else ()),
        *((f"mode={given.mode:o}",) if given.mode else ()),
        *("=".join(pair) for pair in given.options),
    ]
    return MountPoint(type="tmpfs", target=target, writable=not mount.read_only, options=tuple(options))


def _image(mount: Mount, target: str) -> MountPoint:
    if not mount.source:
        raise _invalid(mount, "field Source must not be empty")
    return MountPoint(type="image", name=mount.source, target=target, writable=False)


def parse_volumes_from(text: str) -> tuple[str, str]:
    """One of HostConfig.VolumesFrom, "container[:mode]": the container and "", "ro" or "rw"; raises InvalidParameter."""
    container, _, mode = text.partition(":")
    if not container:
        raise InvalidParameter(f"invalid volumes-from specification: '{text}'")
    words = mode.split(",") if mode else []
    if mode and (not _is_mode(mode) or "nocopy" in words or PROPAGATIONS.intersection(words)):
        raise InvalidParameter(f"invalid mode for volumes-from: {mode}")
    return container, next((word for word in words if word in ("ro", "rw")), "")
