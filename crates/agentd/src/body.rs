//! Bodies, bounded in bytes and time before anything looks at them.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use carapace_core::agentd::ErrorName;
use http_body_util::{BodyExt, LengthLimitError, Limited};

/// Reads a whole body of at most `limit` bytes.
pub(crate) async fn read(body: Body, limit: usize, within: Duration) -> Result<Bytes, ErrorName> {
    let collected = tokio::time::timeout(within, Limited::new(body, limit).collect()).await;
    match collected {
        Err(_) => Err(ErrorName::RequestTimeout),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ErrorName::BodyTooLarge),
        Ok(Err(_)) => Err(ErrorName::MalformedRequest),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
    }
}
