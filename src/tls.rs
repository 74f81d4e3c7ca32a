//! The process's one source of TLS cryptography. The HTTP client that `dev --download-postgres` brings asks for it even
//! where it speaks plain HTTP, and ends in a panic without.

/// Installs it; call it before the first HTTP client is made. A second call changes nothing.
pub fn install() {
    // An error says that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
