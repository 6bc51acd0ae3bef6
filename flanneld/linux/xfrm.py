"""IPsec policies of the host: whether there are any; must not know what for.

Source: linux/xfrm.h. Integers are in host order:

    xfrm_userpolicy_info  xfrm_selector (56), xfrm_lifetime_cfg (64), xfrm_lifetime_cur (32), u32 priority, u32 index, u8 dir, ..
"""

from __future__ import annotations

import errno
import struct

from flanneld.kernel import KernelError
from flanneld.linux.message import Message
from flanneld.linux.netlink import Netlink

NETLINK_XFRM = 6
XFRM_MSG_GETPOLICY = 0x15
POLICY_ID = bytes(64)
"""struct xfrm_userpolicy_id: of all."""
INDEX = struct.Struct("=156xI")
XFRM_POLICY_IN, XFRM_POLICY_OUT = 0, 1
"""The direction stands in the index's lowest three bits. Those of single sockets are higher."""
NO_XFRM = (errno.EPROTONOSUPPORT, errno.EINVAL)


def has_policies() -> bool:
    """Whether IPsec looks at packets that the calling thread's namespace sends or receives. Raises KernelError."""
    try:
        netlink = Netlink(NETLINK_XFRM)
    except OSError as error:
        if error.errno in NO_XFRM:
            return False
        raise KernelError(error.errno or errno.EIO, "lookup of ipsec policies", str(error.strerror).lower()) from error
    with netlink:
        found = netlink.dump(Message(XFRM_MSG_GETPOLICY, POLICY_ID))
    return any(INDEX.unpack_from(each.body)[0] & 7 in (XFRM_POLICY_IN, XFRM_POLICY_OUT) for each in found)
