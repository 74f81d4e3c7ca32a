"""Reads the members of a chat with Telethon, for `wireroom bench scan --telethon`.

usage: telethon.py <PEM file with the server's public key> <port>

Reads a JSON object from standard input: the "phone" of an account, and the "database" to store in. Signs in with a new key and
writes "ready". Then each line is a "read" or a "store" and the name of a chat; it answers with a JSON object: how many
"people" there were, and how many "micros" it took. Ends when standard input closes.

"store" is the least that such scripts do: an upsert of each person, a page of 200 to a transaction, in one table. There is no
checkpoint, so that it begins anew when it dies; nothing is kept of earlier readings; nobody looks whether another process
uses the account. Needs telethon 1.45.0 and asyncpg.
"""

import asyncio
import json
import sys
import time

import asyncpg
from telethon import TelegramClient
from telethon.crypto import rsa
from telethon.sessions import MemorySession

HOST = "127.0.0.1"
DC_ID = 2
LOGIN_CODE = "22222"
PAGE = 200

TABLE = """CREATE TABLE IF NOT EXISTS telethon_members (
    chat text, id bigint, username text, first_name text, last_name text, is_bot boolean, seen_at timestamptz,
    PRIMARY KEY (chat, id))"""
UPSERT = """INSERT INTO telethon_members VALUES ($1, $2, $3, $4, $5, $6, now())
    ON CONFLICT (chat, id) DO UPDATE SET username = excluded.username, first_name = excluded.first_name,
        last_name = excluded.last_name, is_bot = excluded.is_bot, seen_at = excluded.seen_at"""


async def sign_in(port, phone):
    session = MemorySession()
    session.set_dc(DC_ID, HOST, port)
    telegram = TelegramClient(session, 1, "hash")
    await telegram.connect()
    await telegram.send_code_request(phone)
    await telegram.sign_in(phone, LOGIN_CODE)
    return telegram


async def read(telegram, chat):
    people = 0
    async for _ in telegram.iter_participants(chat):
        people += 1
    return people


async def store(telegram, database, chat):
    people, page = 0, []
    async for user in telegram.iter_participants(chat):
        people += 1
        page.append((chat, user.id, user.username, user.first_name, user.last_name, bool(user.bot)))
        if len(page) == PAGE:
            await database.executemany(UPSERT, page)
            page = []
    if page:
        await database.executemany(UPSERT, page)
    return people


async def serve(port):
    loop = asyncio.get_running_loop()

    async def line():
        return await loop.run_in_executor(None, sys.stdin.readline)

    wanted = json.loads(await line())
    database = await asyncpg.connect(wanted["database"])
    await database.execute(TABLE)
    telegram = await sign_in(port, wanted["phone"])
    print("ready", flush=True)
    while words := (await line()).split():
        begun = time.monotonic_ns()
        if words[0] == "store":
            people = await store(telegram, database, words[1])
        else:
            people = await read(telegram, words[1])
        micros = (time.monotonic_ns() - begun) // 1000
        print(json.dumps({"people": people, "micros": micros}), flush=True)
    await telegram.disconnect()
    await database.close()


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="ascii") as pem:
        rsa.add_key(pem.read(), old=False)
    asyncio.run(serve(int(sys.argv[2])))


main()
