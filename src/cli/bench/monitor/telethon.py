"""Stores the messages of chats with Telethon, for `wireroom bench monitor --telethon`.

usage: telethon.py <PEM file with the server's public key> <port>

Reads a JSON object from standard input: the "phones" of accounts, the "database" to store in, and for how many "messages" to
wait. Signs all in with new keys and writes "ready". When so many messages are stored, or none was for "patience" seconds, it
writes a JSON object: "arrivals", of each message when it was written (its text) and when its row was committed, in
microseconds since 1970. Ends when standard input closes.

It does the least that such scripts do: a handler that inserts the message, each in a transaction of its own. A message that
comes while it is not connected is not fetched afterwards, and one whose insert fails is lost; a second process that ran the
same would store everything twice; nobody is told of it. Needs telethon 1.45.0 and asyncpg.
"""

import asyncio
import json
import sys
import time

import asyncpg
from telethon import TelegramClient, events
from telethon.crypto import rsa
from telethon.sessions import MemorySession

HOST = "127.0.0.1"
DC_ID = 2
LOGIN_CODE = "22222"
CONNECTIONS = 10

TABLE = """CREATE TABLE telethon_messages (
    chat bigint, id bigint, sender bigint, sent_at timestamptz, text text, PRIMARY KEY (chat, id))"""
INSERT = "INSERT INTO telethon_messages VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING"


async def sign_in(port, phone):
    session = MemorySession()
    session.set_dc(DC_ID, HOST, port)
    telegram = TelegramClient(session, 1, "hash")
    await telegram.connect()
    await telegram.send_code_request(phone)
    await telegram.sign_in(phone, LOGIN_CODE)
    return telegram


async def listen(port):
    loop = asyncio.get_running_loop()
    wanted = json.loads(await loop.run_in_executor(None, sys.stdin.readline))
    database = await asyncpg.create_pool(wanted["database"], min_size=CONNECTIONS, max_size=CONNECTIONS)
    await database.execute(TABLE)
    arrivals = []

    async def keep(event):
        message = event.message
        await database.execute(INSERT, event.chat_id, message.id, event.sender_id, message.date, message.message)
        arrivals.append((int(message.message), time.time_ns() // 1000))

    held = []
    for phone in wanted["phones"]:
        telegram = await sign_in(port, phone)
        telegram.add_event_handler(keep, events.NewMessage())
        # As every script does that wants to hear of all its chats.
        await telegram.get_dialogs()
        held.append(telegram)
    print("ready", flush=True)
    seen, patience = 0, wanted["patience"]
    quiet_since = None
    while len(arrivals) < wanted["messages"]:
        await asyncio.sleep(0.1)
        now = time.monotonic()
        if len(arrivals) > seen or not arrivals:
            seen, quiet_since = len(arrivals), now
        elif now - quiet_since > patience:
            break
    print(json.dumps({"arrivals": arrivals}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    for telegram in held:
        await telegram.disconnect()
    await database.close()


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="ascii") as pem:
        rsa.add_key(pem.read(), old=False)
    asyncio.run(listen(int(sys.argv[2])))


main()
