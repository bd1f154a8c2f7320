"""A name server that knows no name, as `python names.py ADDRESS`. Docker asks it for whatever is no service's name; who
gets no answer at all waits for 20 s, and gRPC asks for more than the address."""

import socket
import sys


def question(asked: bytes) -> bytes:
    """The first one: labels up to the empty one, type and class. What follows it (EDNS) is left out."""
    end = asked.index(b"\0", 12)
    return asked[12 : end + 5]


with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind((sys.argv[1], 53))
    while True:
        asked, sender = server.recvfrom(4096)
        # RFC 1035, 4.1.1: the question's id, an answer, recursion available, "no such name", one question and no more.
        if len(asked) > 12:
            server.sendto(asked[:2] + b"\x81\x83" + b"\0\1\0\0\0\0\0\0" + question(asked), sender)
