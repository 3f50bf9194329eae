"""A server with the part of the hub's HTTP API that an upload uses; it keeps what is committed."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeHub:
    """Serves until `close`.

    Attributes:
        status: answered instead, if not 200.
        repositories: what was asked for when each was created.
        commits: the files of each commit, by branch: text, or the SHA-256 of a large file.
        objects: large files by SHA-256.
    """

    def __init__(self):
        self.status = 200
        self.repositories: list[dict] = []
        self.branches: list[str] = []
        self.commits: list[tuple[str, dict]] = []
        self.objects: dict[str, bytes] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, path: str, body: bytes) -> dict:
        """What the hub answers to a POST."""
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            self.repositories.append(json.loads(body))
            return {"url": f"{self.url}/owner/name"}
        if path.endswith("/info/lfs/objects/batch"):
            return self._lfs(json.loads(body)["objects"])
        kind, branch = path.split("/")[5:7]
        if kind == "branch":
            self.branches.append(branch)
            return {}
        if kind == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            return {"files": [{"path": p, "uploadMode": mode(p), "shouldIgnore": False,
                               "oid": None} for p in files]}  # fmt: skip
        self.commits.append((branch, committed(body)))
        return {"commitUrl": f"{self.url}/owner/name/commit/{'a' * 40}", "commitOid": "a" * 40,
                "success": True}  # fmt: skip

    def _lfs(self, objects: list[dict]) -> dict:
        for entry in objects:
            href = f"{self.url}/objects/{entry['oid']}"
            entry["actions"] = {"upload": {"href": href, "header": {}}}
        return {"transfer": "basic", "objects": objects}


def mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


def committed(body: bytes) -> dict:
    """The files of a commit: lines of JSON, one an operation."""
    files = {}
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"]).decode()
        elif line["key"] == "lfsFile":
            files[value["path"]] = value["oid"]
    return files


def handler_of(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def body(self):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def reply(self, value):
            text = json.dumps(value).encode()
            self.send_response(hub.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_POST(self):
            body = self.body()
            self.reply(hub.answer(self.path, body) if hub.status == 200 else {"error": "no"})

        def do_PUT(self):
            hub.objects[self.path.rpartition("/")[2]] = self.body()
            self.reply({})

    return Handler
