use std::{collections::BTreeMap, net::SocketAddrV4, path::PathBuf, time::Duration};

use super::{ConfigError, Secret, Source, source::invalid};

/// How Telegram is reached, and as which application.
#[derive(Debug, Clone)]
pub struct TelegramConfig {
    /// `TELEGRAM_API_ID`: from my.telegram.org; not needed against a sandbox.
    pub api_id: Option<i32>,
    /// `TELEGRAM_API_HASH`: from my.telegram.org.
    pub api_hash: Option<Secret>,
    /// A server other than Telegram's: both variables or neither.
    pub server: Option<ServerConfig>,
    /// `WIREROOM_TELEGRAM_CALL_SECONDS`: the deadline of one call, 30 by default.
    pub call_deadline: Duration,
    /// `WIREROOM_TELEGRAM_WAIT_IN_PLACE_SECONDS`: floods up to this long are waited out in place, 3 by default.
    pub wait_in_place: Duration,
    /// `WIREROOM_TELEGRAM_RANDOM_ID_SECONDS`: how long Telegram is trusted to remember a `random_id`, 300 by default.
    pub random_id_memory: Duration,
    /// `WIREROOM_TELEGRAM_PROBE_SECONDS`: a connection on which nothing came for so long is probed, and hung up on when no answer
    /// comes within 20 s, or the deadline of a call. Pings are answered each minute, so 65 by default.
    pub probe_after: Duration,
    /// `WIREROOM_TELEGRAM_SILENCE_SECONDS`: a session that got no update for so long asks whether it missed any, 900 by default.
    pub silence: Duration,
}

/// An MTProto server with its own RSA key: the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// `WIREROOM_TELEGRAM_SERVER`: IPv4 address and port.
    pub address: SocketAddrV4,
    /// `WIREROOM_TELEGRAM_SERVER_DCS`: where its other data centres are, by number. Those that are not named are all at
    /// `address`.
    pub other_dcs: BTreeMap<i32, SocketAddrV4>,
    /// `WIREROOM_TELEGRAM_SERVER_KEY`: path of the server's public key, PEM.
    pub key_file: PathBuf,
}

impl ServerConfig {
    /// Where a data centre of it is.
    pub fn address_of(&self, dc: i32) -> SocketAddrV4 {
        self.other_dcs.get(&dc).copied().unwrap_or(self.address)
    }
}

impl TelegramConfig {
    /// How long the answer to a probe may take. With what is configured by default, a connection that died silently is found
    /// within 90 s.
    pub const PROBE_DEADLINE: Duration = Duration::from_secs(20);

    pub fn read(source: &mut Source) -> Result<Self, ConfigError> {
        let api_id = match source.text("TELEGRAM_API_ID") {
            None => None,
            Some(text) => Some(text.parse::<i32>().ok().filter(|id| *id > 0).ok_or_else(|| {
                invalid(
                    "TELEGRAM_API_ID",
                    "must be a positive number, as my.telegram.org shows it",
                )
            })?),
        };
        let api_hash = source.text("TELEGRAM_API_HASH");
        if api_hash
            .as_ref()
            .is_some_and(|hash| hash.len() != 32 || !hash.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err(invalid(
                "TELEGRAM_API_HASH",
                "must be 32 hexadecimal digits, as my.telegram.org shows them",
            ));
        }
        Ok(Self {
            api_id,
            api_hash: api_hash.map(Secret::new),
            server: read_server(source)?,
            call_deadline: source.seconds("WIREROOM_TELEGRAM_CALL_SECONDS", 30.0, 0.1, 600.0)?,
            wait_in_place: source.seconds("WIREROOM_TELEGRAM_WAIT_IN_PLACE_SECONDS", 3.0, 0.0, 60.0)?,
            random_id_memory: source.seconds("WIREROOM_TELEGRAM_RANDOM_ID_SECONDS", 300.0, 0.0, 86_400.0)?,
            probe_after: source.seconds("WIREROOM_TELEGRAM_PROBE_SECONDS", 65.0, 0.1, 3600.0)?,
            silence: source.seconds("WIREROOM_TELEGRAM_SILENCE_SECONDS", 900.0, 0.1, 86_400.0)?,
        })
    }
}

fn read_server(source: &mut Source) -> Result<Option<ServerConfig>, ConfigError> {
    let address = source.text("WIREROOM_TELEGRAM_SERVER");
    let key_file = source.text("WIREROOM_TELEGRAM_SERVER_KEY");
    let other_dcs = read_dcs(source.text("WIREROOM_TELEGRAM_SERVER_DCS").as_deref())?;
    if address.is_none() && !other_dcs.is_empty() {
        return Err(ConfigError::Missing {
            variable: "WIREROOM_TELEGRAM_SERVER",
            needed_for: "the address of the server whose other data centres WIREROOM_TELEGRAM_SERVER_DCS names",
        });
    }
    match (address, key_file) {
        (None, None) => Ok(None),
        (Some(address), Some(key_file)) => Ok(Some(ServerConfig {
            address: address.parse().map_err(|_| {
                invalid(
                    "WIREROOM_TELEGRAM_SERVER",
                    "must be an IPv4 address and a port, 127.0.0.1:4430",
                )
            })?,
            other_dcs,
            key_file: key_file.into(),
        })),
        (Some(_), None) => Err(ConfigError::Missing {
            variable: "WIREROOM_TELEGRAM_SERVER_KEY",
            needed_for: "the public RSA key (PEM file) of the server that WIREROOM_TELEGRAM_SERVER names",
        }),
        (None, Some(_)) => Err(ConfigError::Missing {
            variable: "WIREROOM_TELEGRAM_SERVER",
            needed_for: "the address of the server whose key WIREROOM_TELEGRAM_SERVER_KEY names",
        }),
    }
}

/// Reads `4=127.0.0.1:4434,5=127.0.0.1:4435`.
fn read_dcs(text: Option<&str>) -> Result<BTreeMap<i32, SocketAddrV4>, ConfigError> {
    let entries = text.unwrap_or_default().split(',').map(str::trim);
    entries
        .filter(|entry| !entry.is_empty())
        .map(|entry| {
            let (dc, address) = entry.split_once('=')?;
            let dc = dc.trim().parse::<i32>().ok().filter(|dc| *dc > 0)?;
            Some((dc, address.trim().parse().ok()?))
        })
        .collect::<Option<_>>()
        .ok_or_else(|| {
            invalid(
                "WIREROOM_TELEGRAM_SERVER_DCS",
                "must be numbers with an IPv4 address and a port each, 4=127.0.0.1:4434,5=127.0.0.1:4435",
            )
        })
}
