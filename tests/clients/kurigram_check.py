"""An independent client against the sandbox: logs in, joins, sends, lists participants, receives an update.

usage: kurigram_check.py <PEM file with the server's public key> <port>

The script of telethon_check.py, with kurigram 2.2.26. Exits with 0 when everything went as it should, and otherwise says what did
not.
"""

import asyncio
import sys
import traceback
import uuid

from pyrogram import Client, errors, filters, handlers, raw

from kurigram_sandbox import DEADLINE, Failed, arguments, expect, options

LOGIN_CODE = "22222"
ALICE = "+9996620001"
BOB = "+9996620002"
# Has two-factor authentication.
CAROL = "+9996620003"
PASSWORD = "sandbox"
GROUP = "harbour_market"
GROUP_MEMBERS = 1_250
# Seconds for one update to arrive.
UPDATE_DEADLINE = 10


async def sign_in(port, name, phone, password=None):
    """A client that is signed in, with a new auth key, and hears updates."""
    telegram = Client(name, api_id=1, api_hash="hash", in_memory=True, **options(port))
    expect(not await telegram.connect(), f"{phone} has a new key that nobody is signed in with")
    sent = await telegram.send_phone_number_code(phone)
    try:
        await telegram.sign_in(phone, sent.phone_code_hash, LOGIN_CODE)
        expect(password is None, f"{phone} needs no password")
    except errors.SessionPasswordNeeded:
        expect(password is not None, f"{phone} needs a password")
        try:
            await telegram.check_password("not " + password)
            raise Failed("a wrong password was taken")
        except errors.PasswordHashInvalid:
            expect(True, "a wrong password is refused")
        await telegram.check_password(password)
    await telegram.invoke(raw.functions.updates.GetState())
    await telegram.initialize()
    telegram.me = await telegram.get_me()
    expect("+" + telegram.me.phone_number == phone, f"{phone} is signed in as {telegram.me.username}")
    return telegram


def next_message(telegram, text):
    """A future that is done when a message that begins with this text comes in."""
    arrived = asyncio.get_running_loop().create_future()

    async def heard(_, message):
        if not arrived.done():
            arrived.set_result(message)

    beginning = filters.create(lambda _, __, message: bool(message.text) and message.text.startswith(text))
    telegram.add_handler(handlers.MessageHandler(heard, filters.incoming & beginning))
    return arrived


async def arrival(arrived, what):
    try:
        return await asyncio.wait_for(arrived, UPDATE_DEADLINE)
    except asyncio.TimeoutError:
        raise Failed(f"{what} did not arrive within {UPDATE_DEADLINE} s") from None


async def check_group(alice, bob):
    for telegram in (alice, bob):
        try:
            await telegram.join_chat(GROUP)
        except errors.UserAlreadyParticipant:
            # An earlier check against the same sandbox has joined.
            pass
    peer = await alice.resolve_peer(GROUP)
    full = await alice.invoke(raw.functions.channels.GetFullChannel(channel=peer))
    count = full.full_chat.participants_count
    expect(count >= GROUP_MEMBERS, f"{GROUP} has {count} members")

    members = [member.user.id async for member in alice.get_chat_members(GROUP)]
    expect(len(members) == count, f"all {len(members)} members of {GROUP} are listed")
    expect(len(set(members)) == len(members), "nobody is listed twice")
    expect(bob.me.id in members, "who joined is listed")
    found = [member.user.id async for member in alice.get_chat_members(GROUP, query=bob.me.first_name)]
    expect(bob.me.id in found, "members are found by name")

    text = f"group {uuid.uuid4()}"
    arrived = next_message(bob, text)
    sent = await alice.send_message(GROUP, text)
    heard = await arrival(arrived, "the message to the group")
    expect(heard.id == sent.id and heard.text == text, "a message to the group arrives")
    history = [message.id async for message in bob.get_chat_history(GROUP, limit=1)]
    expect(history == [sent.id], "the message is the newest in the history")


async def check_private(alice, bob):
    beginning = f"private {uuid.uuid4()}"
    arrived = next_message(bob, beginning)
    await alice.send_message(bob.me.username, f"{beginning} " + "y" * 3_000)
    heard = await arrival(arrived, "the private message")
    expect(heard.from_user.id == alice.me.id, "a private message arrives, with its sender")
    reply = next_message(alice, "back")
    await bob.send_message(alice.me.username, "back")
    await arrival(reply, "the reply")
    dialogs = [dialog.chat.id async for dialog in bob.get_dialogs()]
    expect(alice.me.id in dialogs, "the dialogs have the private chat")
    answers = await asyncio.gather(
        alice.get_me(), alice.invoke(raw.functions.help.GetConfig()), alice.invoke(raw.functions.updates.GetState())
    )
    expect(answers[1].this_dc == 2, "calls at the same time are answered")


async def check_refusals(alice):
    try:
        await alice.join_chat("nobody_has_this_name")
        raise Failed("an unknown name was joined")
    except (errors.UsernameNotOccupied, errors.UsernameInvalid):
        expect(True, "an unknown name is refused")
    try:
        await alice.invoke(raw.functions.account.GetAuthorizations())
        raise Failed("account.getAuthorizations was answered")
    except errors.RPCError as error:
        expect("METHOD_NOT_IMPLEMENTED" in str(error), "a method the sandbox does not have is refused by name")


async def check(port):
    carol = await sign_in(port, "carol", CAROL, PASSWORD)
    await carol.log_out()
    alice = await sign_in(port, "alice", ALICE)
    bob = await sign_in(port, "bob", BOB)
    await check_group(alice, bob)
    await check_private(alice, bob)
    await check_refusals(alice)
    for telegram in (alice, bob):
        await telegram.terminate()
        await telegram.disconnect()


async def main():
    try:
        await asyncio.wait_for(check(arguments(3, __doc__)), DEADLINE)
    except asyncio.TimeoutError:
        sys.exit(f"FAILED: the check did not end within {DEADLINE} s")
    except Failed as failure:
        sys.exit(f"FAILED: {failure}")
    except Exception as error:
        traceback.print_exc()
        sys.exit(f"FAILED: {type(error).__name__}: {error}")
    print("all is well", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
