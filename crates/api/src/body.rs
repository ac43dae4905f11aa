//! Bodies read from the socket with a bound.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use skald_model::{Error, Kind};

use crate::push::budget::Charge;

/// Reads a body of at most `limit` bytes. Nothing beyond the limit is kept, and a body that announces more is refused
/// before it is read.
///
/// # Errors
/// `TooLarge` in Loki's words with the setting's name, `InvalidArgument` when the connection breaks off.
pub async fn read(headers: &HeaderMap, body: Body, limit: usize, setting: &str) -> Result<Bytes, Error> {
    read_charged(headers, body, limit, setting, None).await
}

/// The same; what comes in is held against `charge` before more is read.
///
/// # Errors
/// Those of [`read`], and `LimitExceeded` when the budget is used up.
pub(crate) async fn read_charged(
    headers: &HeaderMap,
    mut body: Body,
    limit: usize,
    setting: &str,
    mut charge: Option<&mut Charge>,
) -> Result<Bytes, Error> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse::<u64>().ok())
        .unwrap_or(0);
    if announced > limit as u64 {
        return Err(too_large(announced, limit, setting));
    }
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Error::invalid(format!("failed to read the request body: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let size = first.len().max(all.len()) + data.len();
        if size > limit {
            return Err(too_large(size as u64, limit, setting));
        }
        if let Some(charge) = &mut charge {
            charge.grow_to(size).await?;
        }
        if size == data.len() {
            // Most bodies of one frame end here, and were not copied.
            first = data;
            continue;
        }
        if all.is_empty() {
            all.reserve(size.max(announced as usize));
            all.extend_from_slice(&first);
        }
        all.extend_from_slice(&data);
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// The refusal of `size` bytes where `limit` are allowed.
pub fn too_large(size: u64, limit: usize, setting: &str) -> Error {
    let text = format!("received message larger than max ({size} vs {limit}), see the setting {setting}");
    Error::new(Kind::TooLarge, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    async fn check(frames: &[&'static str], announced: Option<&str>, limit: usize) -> Result<Bytes, Kind> {
        let mut headers = HeaderMap::new();
        if let Some(n) = announced {
            headers.insert(header::CONTENT_LENGTH, n.parse().unwrap());
        }
        let frames: Vec<_> =
            frames.iter().map(|f| Ok::<_, std::io::Error>(Bytes::from_static(f.as_bytes()))).collect();
        read(&headers, Body::from_stream(stream::iter(frames)), limit, "x").await.map_err(|e| e.kind)
    }

    #[tokio::test]
    async fn frames_are_joined_up_to_the_limit() {
        assert_eq!(check(&[], None, 4).await, Ok(Bytes::new()));
        assert_eq!(check(&["ab"], None, 4).await, Ok(Bytes::from("ab")));
        assert_eq!(check(&["ab", "", "cd"], Some("4"), 4).await, Ok(Bytes::from("abcd")));
        assert_eq!(check(&["ab", "cde"], None, 4).await, Err(Kind::TooLarge));
        assert_eq!(check(&["ab"], Some("5"), 4).await, Err(Kind::TooLarge));
        assert_eq!(check(&["", "ab", "cd"], Some("x"), 4).await, Ok(Bytes::from("abcd")));
    }
}
