"""An independent client looks at what Wireroom published: entities, answers, media and pins.

usage: telethon_publish.py <PEM file with the server's public key> <port>

Needs telethon 1.45.0. Exits with 0 when everything is as it should be, and otherwise says what is not.
"""

import asyncio
import sys
import traceback

from telethon import TelegramClient, functions, types
from telethon.crypto import rsa
from telethon.sessions import MemorySession

HOST = "127.0.0.1"
DC_ID = 2
LOGIN_CODE = "22222"
BOB = "+9996620002"
GROUP = "harbour_market"
DEADLINE = 60


class Failed(Exception):
    """Something was not as it should be."""


def expect(holds, what):
    """Says what was checked, or fails."""
    if not holds:
        raise Failed(what)
    print("ok:", what, flush=True)


async def check(port):
    session = MemorySession()
    session.set_dc(DC_ID, HOST, port)
    telegram = TelegramClient(session, 1, "hash", request_retries=1, connection_retries=1, auto_reconnect=False)
    await telegram.connect()
    await telegram.send_code_request(BOB)
    await telegram.sign_in(BOB, LOGIN_CODE)
    try:
        await telegram(functions.channels.JoinChannelRequest(GROUP))
        messages = await telegram.get_messages(GROUP, limit=10)
        by_text = {message.raw_text: message for message in messages if message.raw_text}

        text = by_text["Tide at six, \U0001f30a seven"]
        kinds = [(type(entity), text.raw_text.encode("utf-16-le")[2 * entity.offset : 2 * (entity.offset + entity.length)])
                 for entity in text.entities]
        kinds = [(kind, part.decode("utf-16-le")) for kind, part in kinds]
        expect(kinds == [(types.MessageEntityBold, "six"), (types.MessageEntityTextUrl, "seven")], f"entities: {kinds}")
        expect(text.entities[1].url == "https://example.com/tides", "the link leads where it should")
        expect(text.pinned, "the message is pinned")

        picture = by_text["The harbour"]
        expect(isinstance(picture.media, types.MessageMediaPhoto), "a picture is there")
        expect(picture.media.spoiler, "the picture is hidden")
        expect(picture.reply_to.reply_to_msg_id == text.id, "the picture answers the text")
    finally:
        await telegram.disconnect()


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="ascii") as pem:
        rsa.add_key(pem.read(), old=False)
    try:
        asyncio.run(asyncio.wait_for(check(int(sys.argv[2])), DEADLINE))
    except asyncio.TimeoutError:
        sys.exit(f"FAILED: the check did not end within {DEADLINE} s")
    except Failed as failure:
        sys.exit(f"FAILED: {failure}")
    except Exception as error:
        traceback.print_exc()
        sys.exit(f"FAILED: {type(error).__name__}: {error}")
    print("all is well")


if __name__ == "__main__":
    main()
