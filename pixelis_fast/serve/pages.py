"""The trace viewer's page, its files, its JSON and its pictures; health, models, metrics."""

from __future__ import annotations

from importlib.resources import files

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pixelis_fast.serve.errors import ApiError
from pixelis_fast.serve.service import Service
from pixelis_fast.trace_record import TraceRecord

VIEWER = files("pixelis_fast.serve") / "viewer"
VIEWER_FILES = {"viewer.css": "text/css", "viewer.js": "text/javascript"}
PRIVATE = {
    # The page runs its own files and nothing else, and nobody keeps a copy.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


async def models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [_model(request)]})


async def model(request: Request) -> Response:
    asked, row = request.path_params["name"], _model(request)
    if asked != row["id"]:
        raise ApiError(
            f"model: expected {row['id']}, got {asked}", status=404, code="model_not_found"
        )
    return JSONResponse(row)


async def health(request: Request) -> Response:
    """503 once the loop has ended or the server is told to stop."""
    service = _service(request)
    is_well = service.loop.is_running and not service.admission.is_draining
    status = "ok" if is_well else "stopping" if service.loop.is_running else "broken"
    row = {"status": status, "degraded": list(service.agent.degraded)}
    return JSONResponse(row, status_code=200 if is_well else 503)


async def metrics(request: Request) -> Response:
    return Response(_service(request).metrics_text(), media_type=CONTENT_TYPE_LATEST)


async def trace_page(request: Request) -> Response:
    """The same page for every trace; it asks for the trace itself."""
    _record(request)
    return Response((VIEWER / "index.html").read_bytes(), media_type="text/html", headers=PRIVATE)


async def trace_json(request: Request) -> Response:
    return Response(_record(request).page, media_type="application/json", headers=PRIVATE)


async def trace_picture(request: Request) -> Response:
    service, trace_id = _service(request), request.path_params["trace_id"]
    number = request.path_params["number"]
    picture = await service.in_media_thread(lambda: service.traces.picture(trace_id, number))
    if picture is None:
        raise ApiError("picture: expected one of a kept trace, got none", status=404)
    return Response(picture, media_type="image/jpeg", headers=PRIVATE)


async def viewer_file(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in VIEWER_FILES:
        raise ApiError(f"viewer: expected one of {', '.join(VIEWER_FILES)}", status=404)
    content = (VIEWER / name).read_bytes()
    return Response(content, media_type=VIEWER_FILES[name], headers=PRIVATE)


def _service(request: Request) -> Service:
    return request.app.state.service


def _record(request: Request) -> TraceRecord:
    record = _service(request).traces.get(request.path_params["trace_id"])
    if record is None:
        raise ApiError("trace: expected the id of a kept trace, got another", status=404)
    return record


def _model(request: Request) -> dict[str, object]:
    service = _service(request)
    return {
        "id": service.name,
        "object": "model",
        "created": request.app.state.started_s,
        "owned_by": "pixelis-fast",
        "max_model_len": service.max_positions,
    }
