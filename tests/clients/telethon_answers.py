"""Somebody with an independent client finds a message of a person's in their dialogue, and answers it.

usage: telethon_answers.py <PEM file with the server's public key> <port> <phone> <whom> <what the message says> <the answer>

Needs telethon 1.45.0.
"""

import asyncio
import sys

from telethon import TelegramClient
from telethon.crypto import rsa
from telethon.sessions import MemorySession

HOST = "127.0.0.1"
DC_ID = 2
LOGIN_CODE = "22222"
DEADLINE = 60


async def signed_in(port, phone):
    session = MemorySession()
    session.set_dc(DC_ID, HOST, port)
    telegram = TelegramClient(
        session, 1, "hash", request_retries=1, connection_retries=1, auto_reconnect=False, flood_sleep_threshold=0
    )
    await telegram.connect()
    await telegram.send_code_request(phone)
    await telegram.sign_in(phone, LOGIN_CODE)
    return telegram


async def answer(port, phone, whom, said, words):
    telegram = await signed_in(port, phone)
    try:
        peer = await telegram.get_input_entity(whom)
        messages = await telegram.get_messages(peer, limit=10)
        found = [message for message in messages if said in message.message]
        if len(found) != 1:
            sys.exit(f"{len(found)} messages say so, and not one")
        await found[0].reply(words)
    finally:
        await telegram.disconnect()
    print("all is well")


def main():
    if len(sys.argv) != 7:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="ascii") as pem:
        rsa.add_key(pem.read(), old=False)
    asyncio.run(asyncio.wait_for(answer(int(sys.argv[2]), *sys.argv[3:7]), DEADLINE))


if __name__ == "__main__":
    main()
