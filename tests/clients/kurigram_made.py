"""A string session as somebody's script has it: made by kurigram itself, signed in, and left.

usage: kurigram_made.py <PEM file with the server's public key> <port> <phone> <file to write it to>

Needs kurigram 2.2.26.
"""

import asyncio
import sys

from pyrogram import Client

from kurigram_sandbox import DEADLINE, arguments, options

LOGIN_CODE = "22222"


async def make(port, phone, path):
    telegram = Client("made", api_id=1, api_hash="hash", in_memory=True, no_updates=True, **options(port))
    await telegram.connect()
    try:
        sent = await telegram.send_phone_number_code(phone)
        await telegram.sign_in(phone, sent.phone_code_hash, LOGIN_CODE)
        text = await telegram.export_session_string()
    finally:
        await telegram.disconnect()
    with open(path, "w", encoding="ascii") as file:
        file.write(text + "\n")
    print("all is well")


if __name__ == "__main__":
    asyncio.run(asyncio.wait_for(make(arguments(5, __doc__), sys.argv[3], sys.argv[4]), DEADLINE))
