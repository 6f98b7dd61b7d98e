"""A world's gRPC edge on a port of its own, and Google's generated clients on a channel to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.ai import generativelanguage_v1beta as glm
from prometheus_client import CollectorRegistry

from kastor.api.grpc.server import GrpcServer
from kastor.api.http.observability import Metrics
from kastor.security.grpc_settings import GrpcSettings
from support.api_world import World

HTTP_URL = "http://localhost:8080"


@dataclass(frozen=True)
class Callers:
    """A client of each service."""

    channel: grpc.Channel
    models: glm.ModelServiceClient
    generation: glm.GenerativeServiceClient
    sharing: glm.PermissionServiceClient
    files: glm.FileServiceClient

    def raw(self, method: str, request: bytes, **options: Any) -> bytes:
        """The answer's bytes to a request's bytes."""
        answer: bytes = self.channel.unary_unary(f"/{method}")(request, **options)
        return answer


def callers(channel: grpc.Channel) -> Callers:
    """Google's clients on this channel."""
    return Callers(
        channel,
        glm.ModelServiceClient(transport=_transport(glm.ModelServiceClient, channel)),
        glm.GenerativeServiceClient(transport=_transport(glm.GenerativeServiceClient, channel)),
        glm.PermissionServiceClient(transport=_transport(glm.PermissionServiceClient, channel)),
        glm.FileServiceClient(transport=_transport(glm.FileServiceClient, channel)),
    )


def _transport(client: Any, channel: grpc.Channel) -> Any:
    return client.get_transport_class("grpc")(channel=channel)


@contextmanager
def speaking(world: World, registry: CollectorRegistry | None = None, *, max_generating: int = 8) -> Iterator[Callers]:
    """The world over gRPC, in plain text on this machine, until the block ends."""
    door = GrpcSettings("127.0.0.1", 0, insecure=True)
    metrics = Metrics(registry or CollectorRegistry())
    server = GrpcServer(
        world.app.routes, world.app.endpoints, metrics, door, None, max_generating=max_generating, http_url=HTTP_URL
    )
    server.start()
    try:
        with grpc.insecure_channel(server.endpoint) as channel:
            yield callers(channel)
    finally:
        server.close()
