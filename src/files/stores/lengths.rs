//! What web servers answer, in the way that object_store (0.13) can read: plain bytes, whose length is known beforehand.

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::error::DataFusionError;
use datafusion::object_store::client::{HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService};
use futures::{StreamExt, TryStreamExt};

use super::wire::{Heard, NOT_ALLOWED, note};
use crate::error::Error;

/// Bytes of a file that are kept in memory, where its server gives no parts of it or tells no length.
pub(super) const MOST_WHOLE: usize = 256 << 20;

/// A client that gives a file which comes without a length, or encoded, when it has all of it.
#[derive(Debug)]
pub(super) struct Lengths(pub(super) HttpClient);

#[async_trait]
impl HttpService for Lengths {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let is_head = request.method() == "HEAD";
        let path = request.uri().path().to_ascii_lowercase();
        let response = self.0.execute(request).await?;
        if !response.status().is_success() {
            return Ok(response);
        }
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let encoding = header("content-encoding").filter(|name| !name.eq_ignore_ascii_case("identity"));
        // Some servers say so of a file that is compressed itself.
        let is_itself =
            |name: &str| name.ends_with("gzip") && path.ends_with(".gz") || path.ends_with(&format!(".{name}"));
        let encoding = encoding.filter(|name| !is_itself(&name.to_ascii_lowercase()));
        // Some that make a file while it is asked for say in its head that it is empty.
        let length = header("content-length").filter(|length| !is_head || length != "0");
        let is_part = response.status().as_u16() == 206;
        let total = header("content-range").filter(|range| !range.ends_with("/*"));
        if encoding.is_none() && length.is_some() && (!is_part || total.is_some()) {
            return Ok(response);
        }
        if is_head || is_part {
            note(Heard { status: Some(NOT_ALLOWED), is_whole: is_part, ..Heard::default() });
            return refused(response);
        }
        whole(response, encoding).await
    }
}

/// An answer that says nothing, as an error that is not asked for again.
fn refused(response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let (mut parts, _) = response.into_parts();
    parts.status = NOT_ALLOWED.try_into().map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
    Ok(HttpResponse::from_parts(parts, Bytes::new().into()))
}

/// An answer with all its bytes, decoded, and their number.
async fn whole(response: HttpResponse, encoding: Option<String>) -> Result<HttpResponse, HttpError> {
    let (mut parts, body) = response.into_parts();
    let bytes = match encoding {
        None => collected(body.bytes_stream()).await?,
        Some(name) => {
            let compression = match name.to_ascii_lowercase().as_str() {
                "gzip" | "x-gzip" => FileCompressionType::GZIP,
                "zstd" => FileCompressionType::ZSTD,
                _ => {
                    return Err(given_up(format!(
                        "it comes encoded as {name:?}, which is not known here: download it first"
                    )));
                }
            };
            let encoded = body.bytes_stream().map_err(|error| DataFusionError::External(Box::new(error))).boxed();
            let plain = compression.convert_stream(encoded).map_err(|error| given_up(error.strip_backtrace()))?;
            collected(plain.map_err(|error| given_up(error.strip_backtrace()))).await?
        }
    };
    parts.headers.remove("content-encoding");
    parts.headers.insert("content-length", bytes.len().into());
    Ok(HttpResponse::from_parts(parts, bytes.into()))
}

async fn collected(
    mut pieces: impl futures::Stream<Item = Result<Bytes, HttpError>> + Unpin,
) -> Result<Bytes, HttpError> {
    let mut bytes = BytesMut::new();
    while let Some(piece) = pieces.next().await {
        bytes.extend_from_slice(&piece?);
        if bytes.len() > MOST_WHOLE {
            let most = MOST_WHOLE >> 20;
            return Err(given_up(format!(
                "its server tells no length, and it has more than {most} MiB: download it first"
            )));
        }
    }
    Ok(bytes.freeze())
}

/// An error that is not tried again, and what to tell of it.
fn given_up(why: String) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, Error::Read(why))
}
