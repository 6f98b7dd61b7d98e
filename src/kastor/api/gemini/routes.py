"""The Gemini API's routes for tuned models, their operations and base models, under every version alike.

Mirrors gemini-api.md §1. Generation is in `generate`, sharing in `permissions`; what messages hold, in `tuned_models`.
"""

from collections.abc import Mapping, Sequence

from starlette.routing import Route

from kastor.api.gemini.filters import model_filter, operation_filter
from kastor.api.gemini.tuned_models import (
    ModelOut,
    OperationOut,
    TunedModelIn,
    TunedModelOut,
    base_model,
    model_change,
    new_tuning,
    operation,
    tuned_model,
)
from kastor.api.google.methods import MethodRoutes
from kastor.api.google.model_names import tuned_model_name
from kastor.api.http.endpoint import ApiRequest, ListSchema, Reply
from kastor.api.http.paging import decode_page_token, encode_page_token, page_position, page_size, position_token
from kastor.api.http.protojson import ProtoModel, parse_message
from kastor.domain.errors import NotFound
from kastor.domain.model_filter import ModelFilter
from kastor.domain.request_limits import Limits
from kastor.services.generation import GenerationService
from kastor.services.tuning import TuningService
from kastor.services.views import Page, TunedModelView

LISTED_OPERATIONS = ListSchema("operations", OperationOut)
MODELS_PAGE_SIZE = 50


class Empty(ProtoModel):
    """google.protobuf.Empty."""


class GeminiRoutes:
    """Handlers of the dialect. Each one: read the message, call the service, write the message."""

    def __init__(self, service: TuningService, generation: GenerationService, limits: Limits) -> None:
        self._limits = limits
        self._service = service
        self._generation = generation

    def routes(self, methods: MethodRoutes) -> Sequence[Route]:
        """The routes of all of them."""
        route = methods.route
        return [
            route("tunedModels.create", self.create, takes=TunedModelIn, gives=OperationOut),
            route("tunedModels.list", self.list_models, gives=ListSchema("tunedModels", TunedModelOut)),
            route("tunedModels.cancel", self.cancel_model, takes=Empty),
            route("tunedModels.get", self.get, gives=TunedModelOut),
            route("tunedModels.patch", self.patch, takes=TunedModelIn, gives=TunedModelOut),
            route("tunedModels.delete", self.delete),
            route("tunedModels.operations.list", self.list_operations, gives=LISTED_OPERATIONS),
            route("tunedModels.operations.cancel", self.cancel_operation, takes=Empty),
            methods.polled("tunedModels.operations.get", self.get_operation, gives=OperationOut),
            route("tunedModels.operations.delete", self.delete_operation),
            route("operations.list", self.all_operations, gives=LISTED_OPERATIONS),
            route("models.list", self.list_bases, gives=ListSchema("models", ModelOut)),
            route("models.get", self.get_base, gives=ModelOut),
        ]

    def create(self, call: ApiRequest) -> Reply:
        """The method tunedModels.create."""
        body = parse_message(TunedModelIn, call.body, root="tuned_model")
        new = new_tuning(body, call.query.get("tuned_model_id") or None, self._limits)
        return operation(self._service.create(new, call.principal)).json_value()

    def get(self, call: ApiRequest) -> Reply:
        """The method tunedModels.get."""
        return tuned_model(self._service.model(call.path["model"], call.principal)).json_value()

    def list_models(self, call: ApiRequest) -> Reply:
        """The method tunedModels.list."""
        page, token = self._page(call, "tunedModels", model_filter(call.query.get("filter")))
        return _listed("tunedModels", [tuned_model(tuning) for tuning in page.items], token)

    def patch(self, call: ApiRequest) -> Reply:
        """The method tunedModels.patch."""
        body = parse_message(TunedModelIn, call.body, root="tuned_model", may_be_empty=True)
        change = model_change(body, call.query.get("update_mask") or None)
        changed = self._service.update_model(call.path["model"], change, call.principal, self._limits)
        return tuned_model(changed).json_value()

    def delete(self, call: ApiRequest) -> Reply:
        """The method tunedModels.delete."""
        self._service.delete_model(call.path["model"], call.principal)
        return {}

    def cancel_model(self, call: ApiRequest) -> Reply:
        """The method tunedModels.cancel, which google-genai calls."""
        parse_message(Empty, call.body, may_be_empty=True)
        self._service.cancel_model(call.path["model"], call.principal)
        return {}

    def get_operation(self, call: ApiRequest) -> Reply:
        """The method operations.get."""
        return operation(self._operation(call)).json_value()

    def list_operations(self, call: ApiRequest) -> Reply:
        """The method operations.list of one model: it has one, and no second page."""
        page_size(call)
        done = operation_filter(call.query.get("filter")).done
        only = self._service.model(call.path["model"], call.principal)
        wanted = not call.query.get("page_token") and done in (None, only.job.state.terminal)
        return _listed("operations", [operation(only)] if wanted else [], None)

    def all_operations(self, call: ApiRequest) -> Reply:
        """The method operations.list."""
        page, token = self._page(call, "operations", operation_filter(call.query.get("filter")))
        return _listed("operations", [operation(tuning) for tuning in page.items], token)

    def cancel_operation(self, call: ApiRequest) -> Reply:
        """The method operations.cancel."""
        parse_message(Empty, call.body, may_be_empty=True)
        self._service.cancel(self._operation(call).job.id, call.principal)
        return {}

    def delete_operation(self, call: ApiRequest) -> Reply:
        """The method operations.delete: the caller lost interest. It cancels nothing, and the model keeps its job."""
        self._operation(call)
        return {}

    def list_bases(self, call: ApiRequest) -> Reply:
        """The method models.list: bases, then aliases."""
        token, size, found = call.query.get("page_token"), page_size(call, default=MODELS_PAGE_SIZE), 0
        known = self._generation.base_models()
        if token:
            (last,) = decode_page_token(token, 1)
            found = next((i + 1 for i, (name, _) in enumerate(known) if name == last), len(known))
        page = known[found : found + size]
        more = encode_page_token(page[-1][0]) if found + size < len(known) else None
        return _listed("models", [base_model(name, base) for name, base in page], more)

    def get_base(self, call: ApiRequest) -> Reply:
        """The method models.get."""
        name = call.path["model"]
        return base_model(name, self._generation.base_model(name)).json_value()

    def _operation(self, call: ApiRequest) -> TunedModelView:
        model_id, job_id = call.path["model"], call.path["operation"]
        found = self._service.model_of_job(model_id, job_id, call.principal)
        if found is None:
            raise NotFound(f"Operation {tuned_model_name(model_id)}/operations/{job_id} does not exist.")
        return found

    def _page(self, call: ApiRequest, listed: str, where: ModelFilter) -> tuple[Page[TunedModelView], str | None]:
        """The page asked for, and the token of the next."""
        of = f"{listed} {call.query.get('filter', '')}"
        before = page_position(call, of=of)
        page = self._service.models(call.principal, limit=page_size(call), before=before, where=where)
        if not page.more:
            return page, None
        last = page.items[-1].model
        return page, position_token(last.created_at, last.id, of=of)


def _listed(field: str, items: Sequence[ProtoModel], token: str | None) -> Mapping[str, object]:
    """A page of a list; an empty one is `{}`."""
    found: dict[str, object] = {field: [item.json_value() for item in items]} if items else {}
    return found | {"nextPageToken": token} if token else found
