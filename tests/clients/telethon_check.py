"""An independent client against the sandbox: logs in, joins, sends, lists participants, receives an update.

usage: telethon_check.py <PEM file with the server's public key> <port>

Needs telethon 1.45.0. Exits with 0 when everything went as it should, and otherwise says what did not.
"""

import asyncio
import sys
import traceback
import uuid

from telethon import TelegramClient, errors, events, functions
from telethon.crypto import rsa
from telethon.sessions import MemorySession

HOST = "127.0.0.1"
DC_ID = 2
LOGIN_CODE = "22222"
ALICE = "+9996620001"
BOB = "+9996620002"
# Has two-factor authentication.
CAROL = "+9996620003"
PASSWORD = "sandbox"
GROUP = "harbour_market"
GROUP_MEMBERS = 1_250
# Seconds for the whole check, and for one update to arrive.
DEADLINE = 90
UPDATE_DEADLINE = 10


class Failed(Exception):
    """Something was not as it should be."""


def expect(holds, what):
    """Says what was checked, or fails."""
    if not holds:
        raise Failed(what)
    print("ok:", what, flush=True)


def client(port):
    session = MemorySession()
    session.set_dc(DC_ID, HOST, port)
    return TelegramClient(
        session, 1, "hash", request_retries=1, connection_retries=1, auto_reconnect=False, flood_sleep_threshold=0
    )


async def sign_in(port, phone, password=None):
    """A client that is signed in, with a new auth key."""
    telegram = client(port)
    await telegram.connect()
    expect(not await telegram.is_user_authorized(), f"{phone} has a new key that nobody is signed in with")
    await telegram.send_code_request(phone)
    try:
        await telegram.sign_in(phone, LOGIN_CODE)
        expect(password is None, f"{phone} needs no password")
    except errors.SessionPasswordNeededError:
        expect(password is not None, f"{phone} needs a password")
        try:
            await telegram.sign_in(password="not " + password)
            raise Failed("a wrong password was taken")
        except errors.PasswordHashInvalidError:
            expect(True, "a wrong password is refused")
        await telegram.sign_in(password=password)
    me = await telegram.get_me()
    expect("+" + me.phone == phone, f"{phone} is signed in as {me.username}")
    return telegram, me


def next_message(telegram, text):
    """A future that is done when a message with this text comes in."""
    arrived = asyncio.get_running_loop().create_future()

    @telegram.on(events.NewMessage(pattern=text))
    async def _(event):
        if not arrived.done():
            arrived.set_result(event)

    return arrived


async def arrival(arrived, what):
    try:
        return await asyncio.wait_for(arrived, UPDATE_DEADLINE)
    except asyncio.TimeoutError:
        raise Failed(f"{what} did not arrive within {UPDATE_DEADLINE} s") from None


async def join(telegram, group):
    """Joins, also when an earlier check against the same sandbox has joined already."""
    try:
        await telegram(functions.channels.JoinChannelRequest(group))
    except errors.UserAlreadyParticipantError:
        pass


async def check_group(alice, bob, bob_user):
    for telegram in (alice, bob):
        await join(telegram, GROUP)
    full = await alice(functions.channels.GetFullChannelRequest(GROUP))
    expect(full.full_chat.participants_count >= GROUP_MEMBERS, f"{GROUP} has {full.full_chat.participants_count} members")

    participants = await alice.get_participants(GROUP)
    expect(len(participants) == full.full_chat.participants_count, f"all {len(participants)} members of {GROUP} are listed")
    expect(len({user.id for user in participants}) == len(participants), "nobody is listed twice")
    expect(bob_user.id in {user.id for user in participants}, "who joined is listed")
    found = await alice.get_participants(GROUP, search=bob_user.first_name)
    expect(bob_user.id in {user.id for user in found}, "members are found by name")

    text = f"group {uuid.uuid4()}"
    arrived = next_message(bob, text)
    sent = await alice.send_message(GROUP, text)
    event = await arrival(arrived, "the message to the group")
    expect(event.id == sent.id and event.raw_text == text, "a message to the group arrives")
    history = await bob.get_messages(GROUP, limit=1)
    expect([message.id for message in history] == [sent.id], "the message is the newest in the history")


async def check_private(alice, alice_user, bob, bob_user):
    text = f"private {uuid.uuid4()} " + "y" * 3_000
    arrived = next_message(bob, text)
    await alice.send_message(bob_user.username, text)
    event = await arrival(arrived, "the private message")
    expect(event.sender_id == alice_user.id, "a private message arrives, with its sender")
    reply = next_message(alice, "back")
    await bob.send_message(alice_user.username, "back")
    await arrival(reply, "the reply")
    dialogs = await bob.get_dialogs()
    expect(alice_user.id in {dialog.id for dialog in dialogs}, "the dialogs have the private chat")
    answers = await asyncio.gather(
        alice.get_me(), alice(functions.help.GetConfigRequest()), alice(functions.updates.GetStateRequest())
    )
    expect(answers[1].this_dc == DC_ID, "calls at the same time are answered")


async def check_refusals(alice):
    try:
        await alice(functions.channels.JoinChannelRequest("nobody_has_this_name"))
        raise Failed("an unknown name was joined")
    except (ValueError, errors.UsernameNotOccupiedError):
        expect(True, "an unknown name is refused")
    try:
        await alice(functions.account.GetAuthorizationsRequest())
        raise Failed("account.getAuthorizations was answered")
    except errors.RPCError as error:
        expect(error.message == "METHOD_NOT_IMPLEMENTED", "a method the sandbox does not have is refused by name")


async def check(port):
    carol, _ = await sign_in(port, CAROL, PASSWORD)
    await carol.log_out()
    (alice, alice_user), (bob, bob_user) = await sign_in(port, ALICE), await sign_in(port, BOB)
    try:
        await check_group(alice, bob, bob_user)
        await check_private(alice, alice_user, bob, bob_user)
        await check_refusals(alice)
    finally:
        await alice.disconnect()
        await bob.disconnect()


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
