"""Holds accounts of a sandbox in one process, for `wireroom bench sessions --telethon`.

usage: telethon.py <PEM file with the server's public key> <port>

Writes "base" when nothing is connected yet, then reads a JSON list of phone numbers from standard input, logs each in with
a new key, writes "ready", and keeps them all connected until standard input closes. Needs telethon 1.45.0.
"""

import asyncio
import json
import sys

from telethon import TelegramClient
from telethon.crypto import rsa
from telethon.sessions import MemorySession

HOST = "127.0.0.1"
DC_ID = 2
LOGIN_CODE = "22222"
# Logins at a time.
AT_ONCE = 8


async def sign_in(port, phone):
    session = MemorySession()
    session.set_dc(DC_ID, HOST, port)
    telegram = TelegramClient(session, 1, "hash")
    await telegram.connect()
    await telegram.send_code_request(phone)
    await telegram.sign_in(phone, LOGIN_CODE)
    return telegram


async def hold(port):
    print("base", flush=True)
    loop = asyncio.get_running_loop()
    phones = json.loads(await loop.run_in_executor(None, sys.stdin.readline))
    turns = asyncio.Semaphore(AT_ONCE)

    async def in_turn(phone):
        async with turns:
            return await sign_in(port, phone)

    held = await asyncio.gather(*(in_turn(phone) for phone in phones))
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    await asyncio.gather(*(telegram.disconnect() for telegram in held))


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="ascii") as pem:
        rsa.add_key(pem.read(), old=False)
    asyncio.run(hold(int(sys.argv[2])))


main()
