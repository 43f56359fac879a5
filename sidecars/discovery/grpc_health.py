"""One call of gRPC's health service, `grpc.health.v1.Health/Check`, over HTTP/2 without TLS.

The two messages are one field each, so they are written and read here: the request is the name of a service (field 1, a
text), the answer its status (field 1, a number; 1 is SERVING). Source: the health checking protocol of gRPC.
"""

from __future__ import annotations

from typing import Final

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import trio

PATH: Final = "/grpc.health.v1.Health/Check"
STATUS: Final = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
_ANSWER_LIMIT: Final = 16_384
_CHUNK: Final = 16_384


async def ask(stream: trio.abc.Stream, service: str) -> str:
    """Why the service does not serve, "" if it does. Raises what the stream raises, ValueError for no gRPC."""
    http = h2.connection.H2Connection(h2.config.H2Configuration())
    http.initiate_connection()
    number = http.get_next_available_stream_id()
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", PATH),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("user-agent", "pannier-discovery"),
    ]
    http.send_headers(number, headers)
    http.send_data(number, _framed(_request(service)), end_stream=True)
    answer = b""
    try:
        while True:
            await stream.send_all(http.data_to_send())
            data = await stream.receive_some(_CHUNK)
            if not data:
                return "left without an answer"
            for event in http.receive_data(bytes(data)):
                match event:
                    case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                        status = dict(event.headers or ()).get(b"grpc-status", b"0")
                        if status != b"0":
                            return f"answered with gRPC status {status.decode(errors='replace')[:16]}"
                    case h2.events.DataReceived():
                        answer += event.data or b""
                        if len(answer) > _ANSWER_LIMIT:
                            raise ValueError("the answer is too long")
                    case h2.events.StreamEnded():
                        return _verdict(answer)
                    case h2.events.StreamReset() | h2.events.ConnectionTerminated():
                        return "left without an answer"
    except h2.exceptions.ProtocolError as error:
        raise ValueError(f"no HTTP/2: {error}") from error


def _request(service: str) -> bytes:
    name = service.encode()
    return b"\x0a" + _varint(len(name)) + name if name else b""


def _framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _verdict(answer: bytes) -> str:
    """Of a framed answer. A field that is left out is 0."""
    message = answer[5:]
    if len(answer) < 5 or len(message) != int.from_bytes(answer[1:5], "big") or (message and message[0] != 0x08):
        raise ValueError("no answer of a health service")
    number = message[1] if len(message) > 1 else 0
    return "" if number == 1 else f"its status is {STATUS[number] if number < len(STATUS) else number}"
