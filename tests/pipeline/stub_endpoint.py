"""An endpoint on loopback that says whatever a test wants, and who asks it."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from data_lake.keyed_cache import KeyedCache
from pipeline.config import LLMConfig, OpenAIConfig
from pipeline.llm.answers import worth_keeping
from pipeline.llm.cached_generator import CachedGenerator
from pipeline.llm.generator import ItemsQuestion, Request
from pipeline.llm.openai import OpenAI
from pipeline.llm.prompts import items_schema


class StubEndpoint(ThreadingHTTPServer):
    """Answers each prompt after `delay` seconds with one item of that name, or as `script` says: status, headers, body.

    `asked` are the prompts, `answered` the times at which they were answered.
    """

    daemon_threads = True

    def __init__(self, delay=0.0):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.delay, self.script, self.asked, self.answered = delay, {}, [], {}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, *_):
        """A client that stopped waiting is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        self.server.asked.append(prompt)
        time.sleep(self.server.delay)
        status, headers, said = self.server.script.get(prompt, (200, {}, completion(json.dumps({"items": [prompt]}))))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(said)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(said)
        self.server.answered[prompt] = time.monotonic()

    def log_message(self, *_):
        """Be quiet."""


def completion(content, finish="stop", usage=None):
    """Return the body of a chat completion."""
    choice = {"message": {"content": content}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": usage or {"prompt_tokens": 7}}).encode()


def ask(*prompts):
    """Return a request per prompt, in a schema of one item."""
    question = ItemsQuestion("u", "food", "kitchen", (), (), 1)
    return [Request(question, ({"role": "user", "content": prompt},), items_schema(1, 20), 10) for prompt in prompts]


def openai(url, folder, **settings):
    """Return the generator `openai` that keeps its replies in a folder."""
    generator = OpenAI(LLMConfig(model="m"), OpenAIConfig(base_url=url, **settings))
    return CachedGenerator(generator, KeyedCache(Path(folder)), worth_keeping=worth_keeping)
