"""A string session that Wireroom handed out, in the hands of the library it was handed out for.

usage: telethon_exported.py <PEM file with the server's public key> <port> <username>

Reads the string session from standard input: it is a secret, and a program's arguments are none. Needs telethon 1.45.0.
"""

import asyncio
import sys

from telethon import TelegramClient
from telethon.crypto import rsa
from telethon.sessions import StringSession

DEADLINE = 30


async def check(port, username):
    session = StringSession(sys.stdin.readline().strip())
    if (session.server_address, session.port) != ("127.0.0.1", port):
        sys.exit(f"FAILED: it leads to {session.server_address}:{session.port}")
    telegram = TelegramClient(
        session, 1, "hash", request_retries=1, connection_retries=1, auto_reconnect=False, flood_sleep_threshold=0
    )
    await telegram.connect()
    try:
        me = await telegram.get_me()
    finally:
        await telegram.disconnect()
    if me is None or me.username != username:
        sys.exit("FAILED: it is not that account's")
    print("all is well")


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="ascii") as pem:
        rsa.add_key(pem.read(), old=False)
    asyncio.run(asyncio.wait_for(check(int(sys.argv[2]), sys.argv[3]), DEADLINE))


if __name__ == "__main__":
    main()
