"""An endpoint on loopback that sends bytes as a test wants them, at whatever pace."""

import json
import socket
import threading

from tests.pipeline.stub_endpoint import completion

END = b"\r\n\r\n"


def whole(body, status="200 OK", headers=()):
    """Return an answer with a body."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + END + body


def good(prompt):
    """Return the answer with one item of the prompt's name."""
    return whole(completion(json.dumps({"items": [prompt]})))


def silent(send, over, prompt):
    """Say nothing."""
    over.wait()


def dripping(beginning):
    """Send a beginning, then a byte now and then for ever."""

    def say(send, over, prompt):
        send(beginning)
        while not over.wait(0.05):
            send(b" ")

    return say


def endless(beginning, chunk):
    """Send a beginning, then the same bytes for ever."""

    def say(send, over, prompt):
        send(beginning)
        while not over.is_set():
            send(chunk)

    return say


class RawEndpoint:
    """Answers the prompts that `script` does not name with an item; the others as its function says.

    Such a function gets what sends bytes, an event that is set at the end of the test, and the prompt. `asked` are the
    prompts in their order.
    """

    def __init__(self):
        self.script, self.asked, self._over = {}, [], threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self):
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection:
            try:
                while prompt := _prompt(connection):
                    self.asked.append(prompt)
                    say = self.script.get(prompt)
                    if say is None:
                        connection.sendall(good(prompt))
                        continue
                    say(connection.sendall, self._over, prompt)
                    return
            except OSError:
                return  # a client that stopped waiting is no news


def _prompt(connection):
    """Return the prompt of the next request, "file" where it is an upload; nothing where the client is gone."""
    received = b""
    while True:
        head, end, body = received.partition(END)
        if end:
            [length] = [
                int(line.split(b":")[1]) for line in head.splitlines() if line.lower().startswith(b"content-length")
            ]
            if len(body) >= length:
                return json.loads(body)["messages"][-1]["content"] if body.startswith(b"{") else "file"
        chunk = connection.recv(65536)
        if not chunk:
            return ""
        received += chunk
