//! One person or chat in full. Its row holds it; the job's result says of a person nothing at all.

use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::{
    Incomplete, ScanArgs, ScanResult, ScanWhat,
    args::Subject,
    begin, finish,
    ports::{Count, Profile, Tally},
};
use crate::{
    JobContext, JobError, Outcome,
    ports::{Chat, ChatType},
    target,
};

/// What may be a phone number: digits with what is written between them.
static DIGITS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\+?\d[\d \u{a0}().\-]{5,}\d").expect("a valid pattern"));

/// Digits of a number with `+`, and of one without: years and prices have fewer.
const LEAST_DIGITS: (usize, usize) = (7, 9);

pub(super) async fn read(args: &ScanArgs, context: &JobContext) -> Result<ScanResult, Outcome> {
    let subject = args
        .subject()
        .map_err(|error| Outcome::Discard(JobError::permanent("args_invalid", error.to_string())))?;
    context.stop_if_cancelled()?;
    let found = match subject {
        Subject::Chat(reference) => target::resolve(context, &reference).await?,
        Subject::Person(id) => context.telegram.chat_by_id(id).await?,
    };
    let is_person = found.chat_type == ChatType::Private;
    // Whether somebody may be named in a row is the store's to say, when it stores the profile.
    begin(context, args, (!is_person).then_some(found.id)).await?;
    if is_person {
        of_person(context, &found).await
    } else {
        of_chat(context, found).await
    }
}

async fn of_person(context: &JobContext, found: &Chat) -> Result<ScanResult, Outcome> {
    let mut person = context.telegram.person_in_full(found).await?;
    person.about = person.about.as_deref().map(without_phones);
    person.bot_description = person.bot_description.as_deref().map(without_phones);
    let is_stored = context.store.save_profile(&Profile::Person(person)).await?;
    let tally = context.store.scan_tally().await?;
    Ok(ScanResult {
        what: ScanWhat::Profile,
        chat: None,
        counted: Some(1),
        listed: None,
        seen: tally.seen,
        new: tally.new,
        complete: is_stored,
        reason: (!is_stored).then_some(Incomplete::PersonErased),
        files: None,
    })
}

async fn of_chat(context: &JobContext, found: Chat) -> Result<ScanResult, Outcome> {
    let mut profile = context.telegram.chat_in_full(&found).await?;
    profile.about = profile.about.as_deref().map(without_phones);
    let chat = Chat {
        member_count: profile.member_count.or(found.member_count),
        ..found
    };
    context.store.save_chat(&chat).await?;
    context.store.save_profile(&Profile::Chat(profile)).await?;
    let tally: Tally = context.store.scan_tally().await?;
    let count = Count {
        chat_id: chat.id,
        what: ScanWhat::Profile,
        list: None,
        counted: chat.member_count,
        tally,
        reason: None,
    };
    finish(context, &chat, count, None).await
}

/// The text with what looks like a phone number taken out.
fn without_phones(text: &str) -> String {
    let masked = |found: &Captures<'_>| {
        // Those of every script, as the pattern has them.
        let digits = found[0].chars().filter(|c| c.is_numeric()).count();
        let least = if found[0].starts_with('+') {
            LEAST_DIGITS.0
        } else {
            LEAST_DIGITS.1
        };
        if digits >= least {
            "[number left out]".to_owned()
        } else {
            found[0].to_owned()
        }
    };
    DIGITS.replace_all(text, masked).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phone_numbers_are_left_out_of_texts() {
        for (text, kept) in [
            ("Call +999 66 12 345 67 now", "Call [number left out] now"),
            ("999661234567", "[number left out]"),
            ("(999) 661-234-567!", "([number left out]!"),
            ("Since 2019-2024, 1000 members", "Since 2019-2024, 1000 members"),
            ("+۹۹۹ ۶۶۱ ۲۳۴ ۵۶۷", "[number left out]"),
            ("No numbers", "No numbers"),
        ] {
            assert_eq!(without_phones(text), kept);
        }
    }
}
