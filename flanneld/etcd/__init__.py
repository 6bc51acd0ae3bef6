"""A small asyncio client of etcd's v3 API: only the verbs that our stores need; must not know what the keys mean.

aetcd, protobuf and h2 are imported here and nowhere else. Of aetcd only the generated messages are used (`rpc`): its client has no
TLS, no second endpoint, and a watch that does not survive a lost connection. `call` and `connection` are the part of gRPC that etcd
needs.
"""

from __future__ import annotations

from flanneld.etcd.client import EtcdClient
from flanneld.etcd.cluster import EtcdLeaseGone
from flanneld.etcd.endpoint import EtcdError, EtcdRefused, EtcdUnavailable, TlsFiles
from flanneld.etcd.values import Change, Compacted, KeyValue, Listing
from flanneld.etcd.watch import Watch

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
