"""Sessions as somebody's script has them: made by Telethon itself, signed in, and left.

usage: telethon_made.py <PEM file with the server's public key> <port> <phone> <session file to make>

Needs telethon 1.45.0.
"""

import asyncio
import sys

from telethon import TelegramClient
from telethon.crypto import rsa

HOST = "127.0.0.1"
DC_ID = 2
LOGIN_CODE = "22222"
GROUP = "harbour_market"
DEADLINE = 30


async def make(port, phone, path):
    telegram = TelegramClient(
        path, 1, "hash", request_retries=1, connection_retries=1, auto_reconnect=False, flood_sleep_threshold=0
    )
    telegram.session.set_dc(DC_ID, HOST, port)
    await telegram.connect()
    try:
        await telegram.send_code_request(phone)
        await telegram.sign_in(phone, LOGIN_CODE)
        # The file of a script that has worked knows more than its key.
        await telegram.get_entity(GROUP)
        await telegram.get_dialogs()
    finally:
        await telegram.disconnect()
    print("all is well")


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="ascii") as pem:
        rsa.add_key(pem.read(), old=False)
    asyncio.run(asyncio.wait_for(make(int(sys.argv[2]), sys.argv[3], sys.argv[4]), DEADLINE))


if __name__ == "__main__":
    main()
