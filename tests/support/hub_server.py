"""A server on this machine that speaks the protocol of the Hugging Face hub."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from file_server import serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_token_of_the_test"


class HubServer(ThreadingHTTPServer):
    """Repositories with files.

    Attributes:
        files: The content of each file, by repository and name.
        private: Repositories that need the token.
        etags: ETag of a file by its content, if it is not the SHA-256.
        requests: Method and path of each request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.private, self.etags, self.requests = {}, set(), {}, []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        pass  # a client may hang up

    def add(self, repo, folder, private=False):
        """Adds a repository with the files of a folder."""
        self.files[repo] = {file.name: file.read_bytes() for file in folder.iterdir()}
        if private:
            self.private.add(repo)


def running_hub():
    """Context manager: a `HubServer` that answers until the end of the block."""
    return serving(HubServer())


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self._file()

    def do_GET(self):
        if "/resolve/" in self.path:
            return self._file()
        self.server.requests.append(f"{self.command} {self.path}")
        match = re.fullmatch(r"/api/models/([^/]+/[^/?]+)(?:/revision/.+)?", self.path)
        if match is None or not self._allowed(match[1]):
            return self._error(404, "RepoNotFound")
        names = self.server.files[match[1]]
        siblings = [{"rfilename": name} for name in names]
        self._json({"id": match[1], "sha": COMMIT, "siblings": siblings})

    def do_POST(self):
        self.server.requests.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._error(401, None)
        if self.path == "/api/repos/create":
            content = json.loads(body)
            repo = f"{content['organization']}/{content['name']}"
            self.server.files.setdefault(repo, {})
            if content.get("visibility") == "private":
                self.server.private.add(repo)
            return self._json({"url": f"{self.server.url}/{repo}", "name": repo})
        if self.path == "/api/validate-yaml":
            return self._json({"warnings": [], "errors": []})
        match = re.fullmatch(
            r"/api/models/([^/]+/[^/]+)/(preupload|commit)/.+", self.path
        )
        if match is None:
            return self._error(404, "RepoNotFound")
        if match[2] == "preupload":
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            return self._json({"files": [{"path": path, **modes} for path in paths]})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                file = line["value"]
                content = base64.b64decode(file["content"])
                self.server.files[match[1]][file["path"]] = content
        url = f"{self.server.url}/{match[1]}/commit/{COMMIT}"
        self._json({"commitUrl": url, "commitOid": COMMIT, "success": True})

    def _allowed(self, repo) -> bool:
        token = self.headers.get("Authorization")
        is_open = repo not in self.server.private or token == f"Bearer {TOKEN}"
        return repo in self.server.files and is_open

    def _file(self):
        self.server.requests.append(f"{self.command} {self.path}")
        repo, _, rest = self.path.removeprefix("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if not self._allowed(repo):
            return self._error(401, "RepoNotFound")
        if revision not in ("main", "v1", COMMIT):
            return self._error(404, "RevisionNotFound")
        content = self.server.files[repo].get(name)
        if content is None:
            return self._error(404, "EntryNotFound")
        self.send_response(200)
        digest = hashlib.sha256(content).hexdigest()
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{self.server.etags.get(name, digest)}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _json(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _error(self, status, code):
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()
