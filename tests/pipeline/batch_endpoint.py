"""A provider on loopback with files and batches of OpenAI's shape, and the generator that asks it."""

import email
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from data_lake.keyed_cache import KeyedCache
from pipeline.config import LLMConfig, OpenAIConfig
from pipeline.llm.answers import worth_keeping
from pipeline.llm.cached_generator import CachedGenerator
from pipeline.llm.openai_batch import OpenAIBatch
from tests.pipeline.stub_endpoint import completion


class BatchEndpoint(ThreadingHTTPServer):
    """Answers each prompt of a batch with one item, its `answer`, in reverse order, or as a test says.

    A batch goes through `statuses`, one each time it is asked for, and stays at the last. `unanswered` are prompts that
    have no line in the output, `errors` those whose line stands in the error file: (status, body) or a code.
    `calls` are the requests received, as (method, path); `uploaded` the lines of each file, `keys` the keys sent.
    `refusals` are (status, body) that answer the next requests of a (method, path) instead; `silent` ones break off.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses, self.unanswered, self.errors, self.refusals = ["in_progress", "completed"], set(), {}, {}
        self.calls, self.keys, self.uploaded, self.batches, self.answers = [], [], {}, {}, {}
        self.answer, self.finish, self.problem, self.silent = str, "stop", None, set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def sent(self):
        """How many files were uploaded, and how many batches started."""
        return self.calls.count(("POST", "files")), self.calls.count(("POST", "batches"))

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, *_):
        """A client that was killed is no news."""

    def upload(self, lines):
        name = f"file-{len(self.uploaded)}"
        self.uploaded[name] = lines
        return {"id": name, "object": "file", "purpose": "batch"}

    def start(self, asked):
        name = f"batch_{len(self.batches)}"
        batch = {"id": name, "object": "batch", "status": "validating", **asked}
        self.batches[name] = batch | {"left": list(self.statuses)}
        return batch

    def look(self, name):
        batch = self.batches[name]
        left = batch["left"]
        status = left.pop(0) if len(left) > 1 else left[0]
        found = {key: value for key, value in batch.items() if key != "left"} | {"status": status}
        if status == "failed":
            return found | {"errors": self.problem}
        return found | {"output_file_id": f"{name}-output", "error_file_id": f"{name}-error" if self.errors else None}

    def content(self, file):
        name, kind = file.rsplit("-", 1)
        lines = []
        for asked in reversed(self.uploaded[self.batches[name]["input_file_id"]]):
            prompt = asked["body"]["messages"][-1]["content"]
            error = self.errors.get(prompt)
            if prompt in self.unanswered or (error is None) != (kind == "output"):
                continue
            line = {"id": "x", "custom_id": asked["custom_id"], "response": None, "error": None}
            if isinstance(error, str):
                line["error"] = {"code": error, "message": f"{error} of {prompt}"}
            else:
                said = completion(json.dumps({"items": [self.answer(prompt)]}), self.finish)
                status, body = error or (200, json.loads(said))
                line["response"] = {"status_code": status, "request_id": "r", "body": body}
            lines.append(json.dumps(line))
        return "".join(f"{line}\n" for line in lines).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body, path = self.rfile.read(int(self.headers["Content-Length"])), self._path()
        if self._refused("POST", path):
            return
        if path == "files":
            head = f"Content-Type: {self.headers['Content-Type']}\n\n".encode()
            parts = {
                part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
                for part in email.message_from_bytes(head + body).get_payload()
            }
            assert parts["purpose"] == b"batch"
            self._say(200, self.server.upload([json.loads(line) for line in parts["file"].splitlines()]))
        else:
            self._say(200, self.server.start(json.loads(body)))

    def do_GET(self):
        path = self._path()
        if self._refused("GET", path):
            return
        kind, name = path.split("/")[:2]
        if kind == "batches" and name in self.server.batches:
            self._say(200, self.server.look(name))
        elif kind == "files" and name.rsplit("-", 1)[0] in self.server.batches:
            self._say(200, self.server.content(name))
        else:
            self._say(404, {"error": {"message": f"no {path}"}})

    def _path(self):
        return self.path.removeprefix("/v1/")

    def _refused(self, method, path):
        self.server.calls.append((method, path))
        self.server.keys.append(self.headers.get("Authorization"))
        if (method, path) in self.server.silent:
            self.close_connection = True
            return True
        refusals = self.server.refusals.get((method, path), [])
        if refusals:
            self._say(*refusals.pop(0))
            return True
        return False

    def _say(self, status, said):
        text = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        """Be quiet."""


def batch(url, folder, ask_again=False, **settings):
    """Return the generator `openai` with batches, that keeps replies and batches in a folder."""
    generator = OpenAIBatch(LLMConfig(model="m"), OpenAIConfig(base_url=url, batch=True, **settings))
    generator.remember_in(KeyedCache(Path(folder) / "batches"))
    return CachedGenerator(generator, KeyedCache(Path(folder) / "replies"), ask_again, worth_keeping)
