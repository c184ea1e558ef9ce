"""The local API of one device: OpenAI's endpoints, the device's own, and the page.

    session = Session(home)
    app = create_app(session)          # any ASGI server; `penchant serve` runs it on loopback

Nothing is loaded from elsewhere: FastAPI's documentation pages, which fetch scripts from the network, are off; the
document itself is at `/openapi.json`, behind the token like all else.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, Depends, FastAPI, Response
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPBearer

from edge_runtime.api.device_routes import device_router
from edge_runtime.api.device_schemas import ErrorResponse, Health
from edge_runtime.api.errors import NotFoundError, add_error_handlers
from edge_runtime.api.guard import Guard
from edge_runtime.api.openai_routes import openai_router
from edge_runtime.api.openai_schemas import ChatChunk
from edge_runtime.api.person_routes import person_router
from edge_runtime.api.session import Session

PAGE: Final = Path(__file__).parent / "page"
_CONTENT_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": ErrorResponse, "description": "The request cannot be carried out as it is."},
    401: {"model": ErrorResponse, "description": "The owner's token is missing or wrong."},
    403: {"model": ErrorResponse, "description": "A foreign host or origin, or a wrong passphrase."},
    404: {"model": ErrorResponse, "description": "There is no such record or model."},
    408: {"model": ErrorResponse, "description": "The request did not arrive in time."},
    413: {"model": ErrorResponse, "description": "The request is too large."},
    423: {"model": ErrorResponse, "description": "The device is locked."},
    429: {
        "model": ErrorResponse,
        "description": "Too many requests; `Retry-After` says when to come back, in seconds.",
    },
    431: {"model": ErrorResponse, "description": "The headers are too large."},
    503: {"model": ErrorResponse, "description": "The device's file is in use, or the server is stopping."},
}


def create_app(session: Session) -> FastAPI:
    """The ASGI app that serves `session`; the caller opens and closes the session."""
    app = FastAPI(
        title="Penchant",
        version=version("penchant"),
        description="A language model that knows its owner, on the owner's device. Loopback only.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=_ERRORS,
    )
    # The guard checks the token; the dependency makes the document say so.
    bearer = HTTPBearer(auto_error=False, description="The owner's token; `penchant serve` shows it.")
    for router in (openai_router(session), device_router(session), person_router(session)):
        app.include_router(router, dependencies=[Depends(bearer)])
    app.include_router(_open_router())
    app.add_middleware(Guard, accepts=session.accepts, limits=session.limits)
    add_error_handlers(app)
    app.openapi = partial(_document, app)  # type: ignore[method-assign]
    return app


def _open_router() -> APIRouter:
    """What needs no token: the health check, and the files of the page at `/` and `/page/*`. They are read once, so
    no other file can be named."""
    files = {
        path.name: (path.read_bytes(), _CONTENT_TYPES[path.suffix])
        for path in (PAGE.iterdir() if PAGE.is_dir() else ())
        if path.suffix in _CONTENT_TYPES
    }
    router = APIRouter()

    @router.get("/api/health", tags=["device"], response_model=Health)
    async def health() -> Any:
        """Whether the server runs. Needs no token and says nothing else."""
        return Health()

    @router.get("/page/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name not in files:
            raise NotFoundError("There is no such page.")
        content, kind = files[name]
        return Response(content, media_type=kind)

    @router.get("/", include_in_schema=False)
    async def index() -> Response:
        return await file("index.html")

    return router


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document. FastAPI adds a 422 of its own shape to every route; here a wrong body is a 400."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        # what the events of a stream hold; no route returns it by itself
        chunk = ChatChunk.model_json_schema(ref_template="#/components/schemas/{model}")
        document["components"]["schemas"] |= chunk.pop("$defs") | {"ChatChunk": chunk}
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        app.openapi_schema = document
    return app.openapi_schema
