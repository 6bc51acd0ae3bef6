"""A small asyncio client of etcd's v3 API: only the verbs that our stores need; must not know what the keys mean.

grpc and aetcd are imported here and nowhere else. Of aetcd only the generated messages and stubs are used: its client has no TLS,
no second endpoint, and a watch that does not survive a lost connection.
"""

from __future__ import annotations

import os

# Read when grpc is imported: its core would print each failed handshake on stderr, beside our log.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from flanneld.etcd.client import Change, Compacted, EtcdClient, KeyValue, Listing, Watch
from flanneld.etcd.cluster import EtcdLeaseGone
from flanneld.etcd.endpoint import EtcdError, EtcdRefused, EtcdUnavailable, TlsFiles

__all__ = [
    "Change",
    "Compacted",
    "EtcdClient",
    "EtcdError",
    "EtcdLeaseGone",
    "EtcdRefused",
    "EtcdUnavailable",
    "KeyValue",
    "Listing",
    "TlsFiles",
    "Watch",
]
