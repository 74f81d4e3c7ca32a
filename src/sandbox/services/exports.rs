//! An authorisation taken along to another data centre, as clients do for files that lie there: exported where the account lives,
//! imported once with a key of the other.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use grammers_tl_types as tl;

use super::auth;
use crate::sandbox::{
    call::{Answer, Call, RpcError, UserId},
    clock, random,
    server::Server,
};

/// Seconds for which an export can be imported.
const LIFETIME: i32 = 60;
/// How many are kept; all go when there are more.
const MOST: usize = 10_000;

/// Authorisations that were exported, by their bytes.
#[derive(Default)]
pub(in crate::sandbox) struct Exports(Mutex<HashMap<Vec<u8>, Export>>);

struct Export {
    account: UserId,
    to: i32,
    made_at: i32,
}

impl Exports {
    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Export>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(in crate::sandbox) fn export_authorization(
    server: &Server,
    call: &mut Call<'_>,
    request: tl::functions::auth::ExportAuthorization,
) -> Answer<tl::enums::auth::ExportedAuthorization> {
    let account = call.caller.signed_in()?;
    if request.dc_id == call.caller.dc || !server.dcs.contains_key(&request.dc_id) {
        return Err(RpcError::new(400, "DC_ID_INVALID"));
    }
    let mut exports = server.exports.lock();
    if exports.len() >= MOST {
        exports.clear();
    }
    let bytes = random::bytes::<64>().to_vec();
    let export = Export {
        account,
        to: request.dc_id,
        made_at: clock::unix_seconds(),
    };
    exports.insert(bytes.clone(), export);
    Ok(tl::types::auth::ExportedAuthorization { id: account, bytes }.into())
}

pub(in crate::sandbox) fn import_authorization(
    server: &Server,
    call: &mut Call<'_>,
    request: tl::functions::auth::ImportAuthorization,
) -> Answer<tl::enums::auth::Authorization> {
    let export = server.exports.lock().remove(&request.bytes);
    let fits = |export: &Export| {
        let age = clock::unix_seconds() - export.made_at;
        export.account == request.id && export.to == call.caller.dc && age < LIFETIME
    };
    let export = export
        .filter(fits)
        .ok_or_else(|| RpcError::new(400, "AUTH_BYTES_INVALID"))?;
    // Without the password: where it was exported it had been given.
    Ok(auth::signed_in(server, call, export.account))
}
