//! Hashes of passwords and tokens.

use argon2::Argon2;
use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHashString, PasswordHasher as _, PasswordVerifier as _, SaltString};
use sha2::{Digest as _, Sha256};

/// Shortest token that is hashed: tokens are compared by a fast hash, so they must not be guessable.
pub const TOKEN_BYTES_MIN: usize = 32;

/// The hash of a password: argon2id with a salt of its own, slow on purpose.
#[derive(Clone, Debug)]
pub(super) struct PasswordHash(PasswordHashString);

/// The SHA-256 of a token. Tokens are random and long, so a fast hash is as good as a slow one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TokenHash([u8; 32]);

impl PasswordHash {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let hash = PasswordHashString::new(text).map_err(|e| e.to_string())?;
        match hash.algorithm() == argon2::ARGON2ID_IDENT {
            true => Ok(Self(hash)),
            false => Err(format!("it is {}, not argon2id", hash.algorithm())),
        }
    }

    /// As it stands in the file.
    pub(super) fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether `password` is the one; takes some ten milliseconds.
    pub(super) fn matches(&self, password: &str) -> bool {
        Argon2::default().verify_password(password.as_bytes(), &self.0.password_hash()).is_ok()
    }
}

impl TokenHash {
    pub(super) fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (i, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
        }
        Some(Self(hash))
    }
}

/// The hash of a password for the file of users.
///
/// # Errors
/// When the password is empty or no random salt can be had.
pub fn hash_password(password: &str) -> Result<String, String> {
    if password.is_empty() {
        return Err("the password is empty".into());
    }
    let salt = SaltString::generate(&mut OsRng);
    Argon2::default()
        .hash_password(password.as_bytes(), &salt)
        .map(|h| h.to_string())
        .map_err(|e| e.to_string())
}

/// The hash of a token for the file of users.
///
/// # Errors
/// When the token is so short that it might be guessed.
pub fn hash_token(token: &str) -> Result<String, String> {
    if token.len() < TOKEN_BYTES_MIN {
        return Err(format!(
            "the token has {} bytes; it needs at least {TOKEN_BYTES_MIN} random ones, for example of `openssl rand -hex 32`",
            token.len()
        ));
    }
    Ok(TokenHash::of(token).0.iter().map(|b| format!("{b:02x}")).collect())
}
