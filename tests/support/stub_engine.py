"""A fake `python -m kastor.engine`: same arguments and protocol, no model. The base's id selects its behaviour."""

import argparse
import os
import socketserver
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from kastor.domain.errors import InvalidArgument
from kastor.domain.generation import Chunk, FinishReason
from kastor.runtime.parent_death import watch_parent
from kastor.serving import engine_protocol


class Handler(BaseHTTPRequestHandler):
    """Answers every prompt with its own words, one a chunk."""

    protocol_version = "HTTP/1.0"  # an answer ends with its connection
    base = ""
    told = Path()

    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()
        if self.path == engine_protocol.COUNT:
            self.wfile.write(
                engine_protocol.encode_count(len(engine_protocol.decode_prompt(body)[0].contents[-1].text.split()))
            )
            return
        words = [word for word in engine_protocol.decode_request(body).prompt.contents[-1].text.split(" ") if word]
        if self.base == "refuses":
            self.wfile.write(engine_protocol.encode_error(InvalidArgument.of("contents", "too long")))
            return
        for number, word in enumerate(words, start=1):
            last = number == len(words)
            if self.base == "dies-midway" and last:
                sys.stderr.write("Out of ideas.\n")
                sys.stderr.flush()
                os._exit(3)
            self._say(Chunk(word, 1, number, FinishReason.STOP if last else None))

    def _say(self, chunk: Chunk) -> None:
        try:
            self.wfile.write(engine_protocol.encode_event(chunk))
            time.sleep(0.02)
        except BrokenPipeError:
            self.told.write_text("cancelled")
            raise

    def address_string(self) -> str:
        return "unix"  # the socket has no peer address to name

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """One thread a connection."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base")
    parser.add_argument("--socket")
    parser.add_argument("--parent-fd", type=int)
    given = parser.parse_args()
    watch_parent(given.parent_fd, lambda: os._exit(0))
    if given.base == "broken":
        sys.stderr.write('{"event": "a log line"}\nThe base does not fit; use a smaller one.\n{"event": "another"}\n')
        sys.exit(1)
    if given.base == "slow":
        time.sleep(30)
    Handler.base, Handler.told = given.base, Path(os.environ["STUB_TOLD"])
    Server(given.socket, Handler).serve_forever()


if __name__ == "__main__":
    main()
