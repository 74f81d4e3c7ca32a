"""An admin with an independent client: finds who asks to be let into a chat, and lets them in.

usage: telethon_approves.py <PEM file with the server's public key> <port> <phone of an admin> <chat>

Needs telethon 1.45.0.
"""

import asyncio
import sys

from telethon import TelegramClient, functions, types
from telethon.crypto import rsa
from telethon.sessions import MemorySession

HOST = "127.0.0.1"
DC_ID = 2
LOGIN_CODE = "22222"
DEADLINE = 60


async def approve(port, phone, chat):
    session = MemorySession()
    session.set_dc(DC_ID, HOST, port)
    telegram = TelegramClient(
        session, 1, "hash", request_retries=1, connection_retries=1, auto_reconnect=False, flood_sleep_threshold=0
    )
    await telegram.connect()
    try:
        await telegram.send_code_request(phone)
        await telegram.sign_in(phone, LOGIN_CODE)
        peer = await telegram.get_input_entity(chat)
        waiting = await telegram(
            functions.messages.GetChatInviteImportersRequest(
                peer=peer, offset_date=None, offset_user=types.InputUserEmpty(), limit=10, requested=True
            )
        )
        if waiting.count != 1:
            sys.exit(f"{waiting.count} people wait, and not one")
        who = await telegram.get_input_entity(waiting.users[0])
        await telegram(functions.messages.HideChatJoinRequestRequest(peer=peer, user_id=who, approved=True))
    finally:
        await telegram.disconnect()
    print("all is well")


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="ascii") as pem:
        rsa.add_key(pem.read(), old=False)
    asyncio.run(asyncio.wait_for(approve(int(sys.argv[2]), sys.argv[3], sys.argv[4]), DEADLINE))


if __name__ == "__main__":
    main()
