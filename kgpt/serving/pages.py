"""The two web pages: a chat, and the documentation of the API.

Each page is one file that loads nothing from elsewhere. Its Content-Security-Policy names the
hashes of its own style and script, so the browser runs nothing else, whatever text a model
generates.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response

router = APIRouter(include_in_schema=False)
BASE_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; "
)


def content_security_policy(html: str) -> str:
    """The policy under which `html` may run its own inline style and script, and nothing else."""

    def sources(tag: str) -> str:
        contents = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digests = [hashlib.sha256(text.encode()).digest() for text in contents]
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    return f"{BASE_POLICY}style-src {sources('style')}; script-src {sources('script')}"


def _load_page(name: str) -> tuple[str, dict[str, str]]:
    """The HTML of a page, and its headers."""
    html = (resources.files("kgpt.serving") / "page" / name).read_text(encoding="utf-8")
    return html, {"Content-Security-Policy": content_security_policy(html)}


CHAT, CHAT_HEADERS = _load_page("chat.html")
DOCS, DOCS_HEADERS = _load_page("docs.html")


@router.head("/")  # how Ollama's clients see whether there is a server
@router.get("/")
async def chat_page() -> Response:
    return HTMLResponse(CHAT, headers=CHAT_HEADERS)


@router.get("/docs")
async def docs_page() -> Response:
    return HTMLResponse(DOCS, headers=DOCS_HEADERS)
