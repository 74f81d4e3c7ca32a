"""A string session that Wireroom handed out, in the hands of the library it was handed out for.

usage: kurigram_exported.py <PEM file with the server's public key> <port> <username>

Reads the string session from standard input: it is a secret, and a program's arguments are none. Needs kurigram 2.2.26.
"""

import asyncio
import sys

from pyrogram import Client

from kurigram_sandbox import DEADLINE, arguments, options


async def check(port, username):
    text = sys.stdin.readline().strip()
    telegram = Client("exported", session_string=text, in_memory=True, no_updates=True, **options(port))
    if not await telegram.connect():
        sys.exit("FAILED: nobody is signed in with it")
    try:
        me = await telegram.get_me()
        known = await telegram.storage.user_id()
    finally:
        await telegram.disconnect()
    if me.username != username or me.id != known:
        sys.exit("FAILED: it is not that account's")
    print("all is well")


if __name__ == "__main__":
    asyncio.run(asyncio.wait_for(check(arguments(4, __doc__), sys.argv[3]), DEADLINE))
