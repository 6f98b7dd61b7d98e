"""The Gemini API's routes for permissions of tuned models, and for their owner (gemini-api.md §1, §2.6)."""

from collections.abc import Sequence
from typing import Annotated

from starlette.routing import Route

from kastor.api.gemini.tuned_models import OutputOnly
from kastor.api.google.methods import MethodRoutes
from kastor.api.http.endpoint import ApiRequest, ListSchema, Reply
from kastor.api.http.paging import page_position, page_size, position_token
from kastor.api.http.protojson import ProtoModel, enum_field, parse_message
from kastor.domain.errors import InvalidArgument
from kastor.domain.permission import Grant, GranteeType, Role
from kastor.services.sharing import NewGrant, SharingService

GRANTEE_TYPES = ("GRANTEE_TYPE_UNSPECIFIED", "USER", "GROUP", "EVERYONE")  # a value's number is its place
ROLES = ("ROLE_UNSPECIFIED", "OWNER", "WRITER", "READER")


class PermissionIn(ProtoModel):
    """Permission, as asked for."""

    name: OutputOnly = None
    grantee_type: Annotated[str, enum_field("grantee type", GRANTEE_TYPES)] | None = None
    email_address: str | None = None
    role: Annotated[str, enum_field("role", ROLES)] | None = None


class PermissionOut(ProtoModel):
    """Permission."""

    name: str
    grantee_type: str
    email_address: str | None
    role: str


class TransferIn(ProtoModel):
    """TransferOwnershipRequest."""

    name: OutputOnly = None
    email_address: str | None = None


LISTED = ListSchema("permissions", PermissionOut)


class PermissionRoutes:
    """Handlers of the permissions. Each one: read the message, call the service, write the message."""

    def __init__(self, service: SharingService) -> None:
        self._service = service

    def routes(self, methods: MethodRoutes) -> Sequence[Route]:
        """The routes of all of them."""
        route = methods.route
        return [
            route("tunedModels.transferOwnership", self.transfer_ownership, takes=TransferIn),
            route("tunedModels.permissions.create", self.create, takes=PermissionIn, gives=PermissionOut),
            route("tunedModels.permissions.list", self.list_permissions, gives=LISTED),
            route("tunedModels.permissions.get", self.get, gives=PermissionOut),
            route("tunedModels.permissions.patch", self.patch, takes=PermissionIn, gives=PermissionOut),
            route("tunedModels.permissions.delete", self.delete),
        ]

    def create(self, call: ApiRequest) -> Reply:
        """The method permissions.create."""
        body = parse_message(PermissionIn, call.body, root="permission")
        new = NewGrant(_grantee_type(body), body.email_address or "", _role(body))
        return permission_out(self._service.create(call.path["model"], new, call.principal)).json_value()

    def get(self, call: ApiRequest) -> Reply:
        """The method permissions.get."""
        model, permission = call.path["model"], call.path["permission"]
        return permission_out(self._service.permission(model, permission, call.principal)).json_value()

    def list_permissions(self, call: ApiRequest) -> Reply:
        """The method permissions.list."""
        model = call.path["model"]
        of = f"permissions of {model}"
        page = self._service.permissions(model, call.principal, limit=page_size(call), after=page_position(call, of=of))
        last = page.items[-1] if page.items else None
        listed: dict[str, object] = {}
        if page.items:
            listed["permissions"] = [permission_out(grant).json_value() for grant in page.items]
        if page.more and last is not None:
            listed["nextPageToken"] = position_token(last.created_at, last.id, of=of)
        return listed

    def patch(self, call: ApiRequest) -> Reply:
        """The method permissions.patch: only the role, whatever else the body repeats."""
        body = parse_message(PermissionIn, call.body, root="permission")
        _check_mask(call.query.get("update_mask"))
        model, permission = call.path["model"], call.path["permission"]
        return permission_out(self._service.change_role(model, permission, _role(body), call.principal)).json_value()

    def delete(self, call: ApiRequest) -> Reply:
        """The method permissions.delete."""
        self._service.delete(call.path["model"], call.path["permission"], call.principal)
        return {}

    def transfer_ownership(self, call: ApiRequest) -> Reply:
        """The method tunedModels.transferOwnership."""
        body = parse_message(TransferIn, call.body)
        if not body.email_address:
            raise InvalidArgument.of("emailAddress", "is missing; name the new owner")
        self._service.transfer(call.path["model"], body.email_address, call.principal)
        return {}


def permission_out(grant: Grant) -> PermissionOut:
    """The permission as a message; everybody has no address."""
    return PermissionOut(
        name=f"tunedModels/{grant.model_id}/permissions/{grant.id}",
        grantee_type=grant.grantee_type.value,
        email_address=grant.email or None,
        role=grant.role.value,
    )


def _grantee_type(body: PermissionIn) -> GranteeType:
    if body.grantee_type in (None, GRANTEE_TYPES[0]):  # not guessed: a forgotten address must not mean everyone
        raise InvalidArgument.of("granteeType", f"is missing; use {', '.join(GRANTEE_TYPES[1:])}")
    return GranteeType(body.grantee_type)


def _role(body: PermissionIn) -> Role:
    if body.role in (None, ROLES[0]):
        raise InvalidArgument.of("role", "is missing; use READER or WRITER")
    return Role(body.role)


def _check_mask(mask: str | None) -> None:
    paths = [path.strip() for path in (mask or "").split(",") if path.strip()]
    if not paths:
        raise InvalidArgument.of("updateMask", "is missing; use updateMask=role")
    for path in paths:
        if path != "role":
            raise InvalidArgument.of("updateMask", f"{path!r} cannot be changed; only role can")
