"""A client that speaks a layer the sandbox has no types of is told so, by name.

usage: telethon_old_layer.py <PEM file with the server's public key> <port>

Needs telethon 1.45.0, which is made to say that it is older than it is.
"""

import asyncio
import sys

from telethon import TelegramClient, errors
from telethon.client import telegrambaseclient
from telethon.crypto import rsa
from telethon.sessions import MemorySession

OLDER = 228
DEADLINE = 30


async def check(port):
    session = MemorySession()
    session.set_dc(2, "127.0.0.1", port)
    telegrambaseclient.LAYER = OLDER
    telegram = TelegramClient(session, 1, "hash", request_retries=1, connection_retries=1, auto_reconnect=False)
    try:
        await telegram.connect()
    except errors.ConnectionLayerInvalidError as error:
        print("all is well:", error)
    else:
        print("FAILED: it is served")
    finally:
        await telegram.disconnect()


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="ascii") as pem:
        rsa.add_key(pem.read(), old=False)
    asyncio.run(asyncio.wait_for(check(int(sys.argv[2])), DEADLINE))


if __name__ == "__main__":
    main()
