//! Texts in other encodings than UTF-8: a store that gives files decoded.

use std::fmt::{self, Display, Formatter};

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::error::DataFusionError;
use datafusion::object_store::path::Path;
use datafusion::object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use encoding_rs::{CoderResult, Decoder, Encoding};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use std::sync::Arc;

/// The files of a store, decompressed, and as UTF-8. They are read as a whole, and nothing is written.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) compression: FileCompressionType,
    pub(super) encoding: &'static Encoding,
}

impl Display for Decoded {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // As its files are named.
        self.store.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Decoded {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.range.is_some() {
            return Err(refused("a part of a file"));
        }
        let is_head = options.head;
        let found = self.store.get_opts(location, options).await?;
        if is_head {
            return Ok(found);
        }
        let (meta, range, attributes) = (found.meta.clone(), found.range.clone(), found.attributes.clone());
        let bytes = found.into_stream().map_err(DataFusionError::from).boxed();
        let text = decoded(self.compression.convert_stream(bytes).map_err(other)?, self.encoding);
        Ok(GetResult { payload: GetResultPayload::Stream(text), meta, range, attributes })
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        Err(refused("put"))
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(refused("put"))
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        stream::once(async { Err(refused("delete")) }).boxed()
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(refused("copy"))
    }
}

fn refused(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.to_owned(), implementer: "Decoded".to_owned() }
}

fn other(error: DataFusionError) -> Error {
    Error::Generic { store: "Decoded", source: Box::new(error) }
}

/// The text of a stream of bytes, piece by piece; what is no character of the encoding becomes U+FFFD.
fn decoded(
    bytes: BoxStream<'static, std::result::Result<Bytes, DataFusionError>>,
    encoding: &'static Encoding,
) -> BoxStream<'static, Result<Bytes>> {
    let state = Some((bytes, encoding.new_decoder()));
    let pieces = stream::try_unfold(state, async |state| {
        let Some((mut bytes, mut decoder)) = state else { return Ok(None) };
        let piece = bytes.try_next().await.map_err(other)?;
        let text = decode(&mut decoder, piece.as_deref().unwrap_or_default(), piece.is_none());
        Ok(Some((Bytes::from(text), piece.map(|_| (bytes, decoder)))))
    });
    pieces.boxed()
}

fn decode(decoder: &mut Decoder, mut bytes: &[u8], is_last: bool) -> String {
    let mut text = String::with_capacity(decoder.max_utf8_buffer_length(bytes.len()).unwrap_or(bytes.len()));
    loop {
        let (result, read, _) = decoder.decode_to_string(bytes, &mut text, is_last);
        if result == CoderResult::InputEmpty {
            return text;
        }
        bytes = &bytes[read..];
        text.reserve(bytes.len().max(16) * 3);
    }
}
