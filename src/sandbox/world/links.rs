//! The fixed hashes of the founded world's invite links (`https://t.me/+<hash>`).

/// Joins the private supergroup "Harbour board".
pub const PRIVATE_GROUP: &str = "SandboxHarbour01";
/// Asks to join the private supergroup "Lantern club", whose admins approve each request.
pub const APPROVAL_GROUP: &str = "SandboxLantern02";
/// A link to "Harbour board" whose time is over.
pub const EXPIRED: &str = "SandboxExpired03";
/// Asks to join the private broadcast channel "Harbour insiders".
pub const APPROVAL_CHANNEL: &str = "SandboxInsider04";
/// A link to "Harbour board" that its admin took back.
pub const REVOKED: &str = "SandboxRevoked05";

/// Each link of the founded world with what it leads to, for a list at start.
pub fn known_links() -> [(&'static str, &'static str); 5] {
    [
        (PRIVATE_GROUP, "the private supergroup \"Harbour board\""),
        (APPROVAL_GROUP, "a request to join \"Lantern club\""),
        (EXPIRED, "expired"),
        (APPROVAL_CHANNEL, "a request to join the channel \"Harbour insiders\""),
        (REVOKED, "revoked"),
    ]
}
