"""etcd's v3 API (etcdserverpb) as messages and methods; must not know who is asked, nor how.

The messages are aetcd's generated modules, which need protobuf alone. aetcd itself is not imported: it would bring grpcio, which is
15 MiB and seven threads of a daemon that runs on every host.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from google.protobuf.message import DecodeError

from flanneld.etcd.call import RpcError, Status

_aetcd = find_spec("aetcd")
# Where submodules of this package are looked for: `rpc_pb2` below is aetcd's file under our name. Finding it runs nothing of aetcd.
__path__ = [f"{place}/rpc" for place in (_aetcd and _aetcd.submodule_search_locations) or ()]

from flanneld.etcd.rpc.kv_pb2 import Event  # noqa: E402  # not before there is a path
from flanneld.etcd.rpc.rpc_pb2 import (  # noqa: E402
    AuthenticateRequest,
    AuthenticateResponse,
    Compare,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseGrantResponse,
    LeaseKeepAliveRequest,
    LeaseKeepAliveResponse,
    LeaseRevokeRequest,
    LeaseRevokeResponse,
    LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
    PutRequest,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
    TxnResponse,
    WatchCreateRequest,
    WatchRequest,
    WatchResponse,
)

__all__ = [
    "AUTHENTICATE",
    "LEASE_GRANT",
    "LEASE_KEEP_ALIVE",
    "LEASE_REVOKE",
    "LEASE_TIME_TO_LIVE",
    "RANGE",
    "TXN",
    "WATCH",
    "AuthenticateRequest",
    "Compare",
    "DeleteRangeRequest",
    "Event",
    "LeaseGrantRequest",
    "LeaseKeepAliveRequest",
    "LeaseRevokeRequest",
    "LeaseTimeToLiveRequest",
    "Method",
    "PutRequest",
    "RangeRequest",
    "RequestOp",
    "TxnRequest",
    "WatchCreateRequest",
    "WatchRequest",
]


@dataclass(frozen=True, slots=True)
class Method:
    """What can be called, and as what its answers are to be read."""

    path: str
    answer: Any

    def read(self, data: bytes) -> Any:
        """An answer as a message; raises RpcError."""
        try:
            return self.answer.FromString(data)
        except DecodeError as error:
            raise RpcError(Status.INTERNAL, f"answers {self.path} with what is not a {self.answer.DESCRIPTOR.name}") from error


RANGE = Method("/etcdserverpb.KV/Range", RangeResponse)
TXN = Method("/etcdserverpb.KV/Txn", TxnResponse)
WATCH = Method("/etcdserverpb.Watch/Watch", WatchResponse)
LEASE_GRANT = Method("/etcdserverpb.Lease/LeaseGrant", LeaseGrantResponse)
LEASE_REVOKE = Method("/etcdserverpb.Lease/LeaseRevoke", LeaseRevokeResponse)
LEASE_KEEP_ALIVE = Method("/etcdserverpb.Lease/LeaseKeepAlive", LeaseKeepAliveResponse)
LEASE_TIME_TO_LIVE = Method("/etcdserverpb.Lease/LeaseTimeToLive", LeaseTimeToLiveResponse)
AUTHENTICATE = Method("/etcdserverpb.Auth/Authenticate", AuthenticateResponse)
