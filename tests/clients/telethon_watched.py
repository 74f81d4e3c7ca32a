"""Somebody with an independent client comes into a chat, writes, corrects, takes back and goes.

usage: telethon_watched.py <PEM file with the server's public key> <port> <phone> <chat>

Needs telethon 1.45.0.
"""

import asyncio
import sys

from telethon import TelegramClient, functions
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


async def visit(port, phone, chat):
    telegram = await signed_in(port, phone)
    try:
        peer = await telegram.get_input_entity(chat)
        await telegram(functions.channels.JoinChannelRequest(channel=peer))
        sent = [await telegram.send_message(peer, f"From Telethon, {number}") for number in range(3)]
        await telegram.edit_message(peer, sent[1].id, "From Telethon, corrected")
        await telegram.delete_messages(peer, [sent[2].id])
        await telegram(functions.channels.LeaveChannelRequest(channel=peer))
    finally:
        await telegram.disconnect()
    print("all is well")


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="ascii") as pem:
        rsa.add_key(pem.read(), old=False)
    asyncio.run(asyncio.wait_for(visit(int(sys.argv[2]), sys.argv[3], sys.argv[4]), DEADLINE))


if __name__ == "__main__":
    main()
