"""/docs: what a server answers to, for people; nothing is loaded from elsewhere, nothing is run."""

import base64
from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from jinja2 import ChainableUndefined, Environment
from markupsafe import Markup

HERE = Path(__file__).parent

api_router = APIRouter()


@api_router.get("/docs", include_in_schema=False)
def docs(request: Request) -> HTMLResponse:
    """The routes of /openapi.json as a page."""
    css = (HERE / "api.css").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=ChainableUndefined)
    page = environment.from_string((HERE / "api.html").read_text(encoding="utf-8"))
    content = page.render(api=request.app.openapi(), css=Markup(css))
    digest = base64.b64encode(sha256(css.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; frame-ancestors 'none'"
    return HTMLResponse(content, headers={"content-security-policy": policy})
