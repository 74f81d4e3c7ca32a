"""How kurigram, which knows Telegram's own servers and keys alone, is sent to a sandbox."""

import base64
import sys
from hashlib import sha1

from pyrogram.connection import Connection
from pyrogram.crypto import rsa

HOST = "127.0.0.1"
# Seconds for a whole check.
DEADLINE = 90


class Failed(Exception):
    """Something was not as it should be."""


def expect(holds, what):
    """Says what was checked, or fails."""
    if not holds:
        raise Failed(what)
    print("ok:", what, flush=True)


def arguments(count, usage):
    """Trusts the key of the first argument, and answers with the port that is the second."""
    if len(sys.argv) != count:
        sys.exit(usage)
    with open(sys.argv[1], encoding="ascii") as pem:
        trust(pem.read())
    return int(sys.argv[2])


def trust(pem):
    """Adds a server's public key (RSAPublicKey: two integers) by its fingerprint."""
    der = base64.b64decode("".join(line for line in pem.splitlines() if not line.startswith("-")))
    (m, e), rest = integers(contents(der)[0])
    if rest:
        raise Failed("more than two integers in the key")
    serialized = string(to_bytes(m)) + string(to_bytes(e))
    fingerprint = int.from_bytes(sha1(serialized).digest()[-8:], "little", signed=True)
    rsa.server_public_keys[fingerprint] = rsa.PublicKey(m=m, e=e)


def contents(der):
    """What is in the first value of some DER, and what comes after it."""
    length, at = der[1], 2
    if length & 0x80:
        at = 2 + (length & 0x7F)
        length = int.from_bytes(der[2:at], "big")
    return der[at : at + length], der[at + length :]


def integers(der):
    first, rest = contents(der)
    second, rest = contents(rest)
    return (int.from_bytes(first, "big"), int.from_bytes(second, "big")), rest


def to_bytes(number):
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def string(data):
    """TL's bytes."""
    head = bytes([len(data)]) if len(data) < 254 else b"\xfe" + len(data).to_bytes(3, "little")
    return head + data + bytes(-(len(head) + len(data)) % 4)


def options(port):
    """What a client is made with to reach the sandbox, whatever data centre it means."""

    class ToSandbox(Connection):
        def __init__(self, *args, **kwargs):
            kwargs["server_address"], kwargs["port"] = HOST, port
            super().__init__(*args, **kwargs)

    return {
        "connection_factory": ToSandbox,
        "sleep_threshold": 0,
        "fetch_stories": False,
        "fetch_topics": False,
        "fetch_stickers": False,
        "hide_password": True,
    }
