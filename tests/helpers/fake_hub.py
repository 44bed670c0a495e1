"""A hub on this machine: a folder served over the loopback, spoken to by the real hub client.

``FOLDER/owner/name/REVISION/...`` are the files of a branch or of a commit; of an account the token decides.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_me"  # may do anything


class FakeHub:
    """What the folder holds, and how the hub answers of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.private, self.gated = folder, set(), set()
        self.commits = 0
        self.asked: list[str] = []
        self.address = ""

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """Return what a branch or commit holds."""
        top = self.folder / repo / revision
        return {p.relative_to(top).as_posix(): p.read_bytes() for p in sorted(top.rglob("*")) if p.is_file()}

    def text(self, repo: str, file: str, revision: str = "main") -> str:
        """Return a file as text."""
        return self.files(repo, revision)[file].decode()

    def put(self, repo: str, files: dict[str, bytes], revision: str = "main") -> str:
        """Commit files to a branch; gives the commit."""
        self.commits += 1
        oid = hashlib.sha1(str(self.commits).encode()).hexdigest()
        branch = self.folder / repo / revision
        for name, content in files.items():
            (branch / name).parent.mkdir(parents=True, exist_ok=True)
            (branch / name).write_bytes(content)
        branch.mkdir(parents=True, exist_ok=True)
        shutil.copytree(branch, branch.parent / oid)
        (branch.parent / f"{revision}.oid").write_text(oid)
        return oid

    def oid(self, repo: str, revision: str) -> str:
        """Return the commit of a branch, or the commit itself."""
        head = self.folder / repo / f"{revision}.oid"
        return head.read_text() if head.is_file() else revision

    # -- answers: status, headers, body ----------------------------------------------------------------------
    def get(self, path: list[str], token: str) -> tuple[int, dict[str, str], bytes]:
        """Answer GET and HEAD: a list of files, or a file."""
        tree = path[:2] == ["api", "models"]
        repo, rest = "/".join(path[2:4] if tree else path[:2]), path[4:] if tree else path[2:]
        if not (self.folder / repo).is_dir() or (repo in self.private and token != TOKEN):
            return 401, {"X-Error-Code": "RepoNotFound"}, b""  # a private one is not told from a missing one
        if not tree and repo in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        revision = rest[1] if rest else "main"
        if not (self.folder / repo / revision).is_dir():
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if rest[:1] in ([], ["revision"]):
            return _json({"id": repo, "sha": self.oid(repo, revision)})
        files = self.files(repo, revision)
        if tree:
            return _json([{"type": "file", "path": k, "size": len(v), "oid": _sha(v)} for k, v in files.items()])
        name = "/".join(rest[2:])
        commit = {"X-Repo-Commit": self.oid(repo, revision)}
        if name not in files:
            return 404, {"X-Error-Code": "EntryNotFound", **commit}, b""
        return 200, {"ETag": f'"{_sha(files[name])}"', **commit}, files[name]

    def post(self, path: list[str], body: bytes, token: str) -> tuple[int, dict[str, str], bytes]:
        """Answer POST: make a repository or branch, ask what is uploaded how, commit."""
        if path == ["api", "validate-yaml"]:
            return _json({"errors": [], "warnings": []})
        if token != TOKEN:
            return 401, {"X-Error-Message": "Invalid username or password."}, b""
        if path == ["api", "repos", "create"]:
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] != "me":
                return 403, {"X-Error-Message": "You don't have the rights"}, b""
            if asked.get("private") or asked.get("visibility") == "private":
                self.private.add(repo)
            there = (self.folder / repo).is_dir()
            if not there:
                self.put(repo, {".gitattributes": b""})
            return _json({"url": f"{self.address}/{repo}"}, 409 if there else 200)
        repo, (verb, revision) = "/".join(path[2:4]), path[4:6]
        if verb == "branch":
            shutil.copytree(self.folder / repo / "main", self.folder / repo / revision, dirs_exist_ok=True)
            return _json({})
        if verb == "preupload":
            asked = json.loads(body)["files"]
            said = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None} for f in asked]
            return _json({"files": said})
        lines = [json.loads(line) for line in body.splitlines()]
        files = {x["value"]["path"]: base64.b64decode(x["value"]["content"]) for x in lines if x["key"] == "file"}
        oid = self.put(repo, files, revision)
        return _json({"commitOid": oid, "commitUrl": f"{self.address}/{repo}/commit/{oid}", "success": True})


@contextmanager
def serving(hub: FakeHub):
    """Serve a hub; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, answer) -> None:
            status, headers, body = answer
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _asked(self) -> tuple[list[str], str]:
            path = urlsplit(self.path).path
            hub.asked.append(f"{self.command} {path}")
            token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
            return [unquote(part) for part in path.strip("/").split("/")], token

        def do_GET(self) -> None:
            self._answer(hub.get(*self._asked()))

        do_HEAD = do_GET

        def do_POST(self) -> None:
            path, token = self._asked()
            self._answer(hub.post(path, self.rfile.read(int(self.headers["Content-Length"] or 0)), token))

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub.address
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def use(hub: FakeHub, address: str, monkeypatch, cache: Path, token: str | None = TOKEN) -> None:
    """Point the hub client of this process at a hub, with an account and an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    monkeypatch.setenv("HF_TOKEN", token or "")


def _json(value, status: int = 200) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _sha(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
