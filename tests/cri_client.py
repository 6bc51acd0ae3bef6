"""A CRI client as a small program: requests as lines of JSON on its standard input, an answer for each on its standard output.

    python cri_client.py /run/containerd/containerd.sock
    < {"id": 1, "call": "Status", "request": {"verbose": true}, "timeout_s": 10}
    > {"id": 1, "response": {"status": {...}}}        or {"id": 1, "error": "UNAVAILABLE: ..."}

Requests run at the same time; answers come in the order of the requests. Fields are named as in CRI's api.proto (k8s.io/cri-api,
v1). This is a program of its own because a process that has started gRPC must not fork, which tests do all the time, and because it
can then live on the lab's host whose socket it speaks to.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import grpc
from cri_api.v1 import api_pb2
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass

MOST_AT_ONCE = 32
MOST_BYTES = 16 << 20
"""Of an answer, as for a kubelet."""
METHODS = {method.name: method for service in api_pb2.DESCRIPTOR.services_by_name.values() for method in service.methods}
"""Of RuntimeService and ImageService, which share no name."""


def call(channel: grpc.Channel, name: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """One call; of one that streams, what comes until it is over or time is up, as `responses`. Raises grpc.RpcError."""
    method = METHODS[name]
    ask, answer = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    path = f"/{method.containing_service.full_name}/{name}"
    if method.server_streaming:
        return {"responses": [render(each) for each in stream(channel, path, ask, answer, timeout_s)]}
    rpc = channel.unary_unary(path, request_serializer=ask.SerializeToString, response_deserializer=answer.FromString)
    response = rpc(ParseDict(request, ask()), timeout=timeout_s, wait_for_ready=True)
    return render(response)


def stream(channel: grpc.Channel, path: str, ask: Any, answer: Any, timeout_s: float) -> Iterator[Any]:
    """What a call without arguments brings until time is up."""
    rpc = channel.unary_stream(path, request_serializer=ask.SerializeToString, response_deserializer=answer.FromString)
    try:
        yield from rpc(ask(), timeout=timeout_s, wait_for_ready=True)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            raise


def render(response: Any) -> dict[str, Any]:
    return MessageToDict(response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def answer(channel: grpc.Channel, line: str) -> dict[str, Any]:
    """The answer to one line."""
    asked = json.loads(line)
    try:
        return {"id": asked["id"], "response": call(channel, asked["call"], asked["request"], asked["timeout_s"])}
    except grpc.RpcError as error:
        return {"id": asked["id"], "error": f"{error.code().name}: {error.details()}"}


def tell(answers: SimpleQueue[Future[dict[str, Any]] | None]) -> None:
    while said := answers.get():
        print(json.dumps(said.result()), flush=True)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, which still need us to clean up; we end with our input
    answers: SimpleQueue[Future[dict[str, Any]] | None] = SimpleQueue()
    options = [("grpc.max_receive_message_length", MOST_BYTES)]
    with grpc.insecure_channel(f"unix:{sys.argv[1]}", options) as channel, ThreadPoolExecutor(MOST_AT_ONCE) as threads:
        threads.submit(tell, answers)
        try:
            for line in sys.stdin:
                answers.put(threads.submit(answer, channel, line))
        finally:
            answers.put(None)


if __name__ == "__main__":
    main()
