"""What udp's data path in the kernel leaves when its daemon is killed: programs on the uplink, and devices named after it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from flanneld.backends.udp.ebpf.kernel_path import remove_leftovers
from flanneld.linux.links import links
from flanneld.linux.netlink import Netlink
from tartan.leftovers import Leftover

DEVICE = re.compile(r"flgro([0-9a-f]+)[abv]")


def programs(nl: Netlink) -> Iterator[Leftover]:
    """One for each uplink."""
    names = {link.index: link.name for link in links(nl)}
    found = {int(match[1], 16) for name in names.values() if (match := DEVICE.fullmatch(name))}
    for uplink in sorted(found):
        what = f"programs of the udp data path on {names.get(uplink, f'link {uplink}, which is gone')}, and its devices"
        yield Leftover(what, partial(remove_leftovers, nl, uplink))
