"""What Docker has and this engine has not, each with an answer that says so and what to do instead."""

from __future__ import annotations

from runtime.docker_api.backend import Backend
from runtime.docker_api.exchange import Json, Request, Response
from runtime.errors import NotFound, NotSupported, Unavailable


async def no_swarm(engine: Backend, request: Request) -> Response:
    """Founding or joining a swarm; raises NotSupported."""
    raise NotSupported("this engine has no swarm: Kubernetes drives it through CRI")


async def swarm(engine: Backend, request: Request) -> Response:
    """Services, nodes, secrets and configs; raises Unavailable in Docker's words."""
    raise Unavailable(
        'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try '
        "again."
    )


async def buildkit(engine: Backend, request: Request) -> Response:
    """BuildKit's sessions; raises NotFound."""
    raise NotFound("this engine builds without BuildKit: set DOCKER_BUILDKIT=0 to build with buildx installed")


async def no_plugins(engine: Backend, request: Request) -> Response:
    """There are none."""
    return Json([])


async def plugin(engine: Backend, request: Request) -> Response:
    """One of them; raises NotFound: `docker inspect NAME` asks here, too."""
    raise NotFound(f'plugin "{request.arguments["name"]}" not found')


async def plugins(engine: Backend, request: Request) -> Response:
    """Plugins; raises NotSupported."""
    raise NotSupported("this engine has no plugins: networks are CNI's, volumes are of the driver local")


async def checkpoints(engine: Backend, request: Request) -> Response:
    """Checkpoints; raises NotSupported."""
    raise NotSupported("this engine makes no checkpoints")


async def attach_websocket(engine: Backend, request: Request) -> Response:
    """Attaching by WebSocket; raises NotSupported."""
    raise NotSupported("this engine attaches by POST /containers/NAME/attach alone")
