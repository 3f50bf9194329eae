"""The pages a browser sees: a chat, and the documentation of the API. Nothing comes from elsewhere.

Each page is one file. Its policy names the hashes of its own style and script, so the browser
runs nothing else, whatever text a model writes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response

router = APIRouter(include_in_schema=False)
SHIELD = (
    "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
)


def policy(html: str) -> str:
    """The Content-Security-Policy under which `html` may run its own inline style and script."""

    def sources(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digests = [hashlib.sha256(text.encode()).digest() for text in found]
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    return (
        SHIELD
        + f"style-src {sources('style')}; script-src {sources('script')}; frame-ancestors 'none'"
    )


def _page(name: str) -> tuple[str, dict[str, str]]:
    html = (resources.files("kgpt.serving") / "page" / name).read_text(encoding="utf-8")
    return html, {"Content-Security-Policy": policy(html)}


CHAT, CHAT_HEADERS = _page("chat.html")
DOCS, DOCS_HEADERS = _page("docs.html")


@router.get("/")
async def chat_page() -> Response:
    return HTMLResponse(CHAT, headers=CHAT_HEADERS)


@router.get("/docs")
async def docs_page() -> Response:
    return HTMLResponse(DOCS, headers=DOCS_HEADERS)
