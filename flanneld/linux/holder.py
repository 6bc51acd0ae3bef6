"""A process that keeps descriptors open from one run of flanneld to the next; must not know what they are, nor import what is ours.

    python3 -I -S holder.py LISTENER

LISTENER is the number of a listening SOCK_SEQPACKET unix socket. Who connects, one at a time and only our own user, is first sent
all that is kept: a message b"KEY" with the descriptor (SCM_RIGHTS) for each, then a NUL. After that it may say b"+KEY" with a
descriptor, to be kept in the place of what has that key, and b"-KEY", to be let go; when that is done, it is sent a NUL. What is
kept outlives the connection by HOLD_S, then this process ends; with nothing to keep it ends at once.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time

HOLD_S = 30.0
"""Enough for an upgrade; and a flanneld that is stopped for good does not leave a device behind for long."""
MOST_BYTES, MOST_DESCRIPTORS = 256, 1
DONE = b"\0"
UCRED = struct.Struct("=iII")
"""struct ucred: pid, uid, gid; a uid without a name here is 2^32 - 1."""


def main() -> None:
    """Serve one client after the other until none of our user has come for HOLD_S."""
    if os.fork():
        return  # who started us waits for this, and need not wait for more
    kept: dict[bytes, int] = {}
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        os.chdir("/")
        until = time.monotonic() + HOLD_S
        while (left := until - time.monotonic()) > 0:
            listener.settimeout(left)
            try:
                client, _ = listener.accept()
            except TimeoutError:
                return
            with client:
                if peer_uid(client) != os.geteuid():
                    continue  # a stranger, who must not make us stay either
                if not serve(client, kept):
                    return
            until = time.monotonic() + HOLD_S


def peer_uid(peer: socket.socket) -> int:
    """Whose process is at the other end: who connected, or who began to listen."""
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size)
    return int(UCRED.unpack(credentials)[1])


def serve(client: socket.socket, kept: dict[bytes, int]) -> bool:
    """One client until it hangs up; false when it has left nothing to be kept."""
    try:
        for key, descriptor in kept.items():
            socket.send_fds(client, [key], [descriptor])
        client.send(DONE)
        while True:
            message, descriptors, _, _ = socket.recv_fds(client, MOST_BYTES, MOST_DESCRIPTORS)
            if not message:
                break
            replaced = kept.pop(message[1:], None)
            if replaced is not None:
                os.close(replaced)
            if message[:1] == b"+" and descriptors:
                kept[message[1:]] = descriptors[0]
            client.send(DONE)
    except OSError:
        pass  # it has gone in the middle of a word
    return bool(kept)


if __name__ == "__main__":
    main()
