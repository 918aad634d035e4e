//! Vectors of texts that a program has in its hands, without SQL.

use std::sync::Arc;

use datafusion::config::ConfigOptions;

use crate::access::Access;
use crate::engine::{Call, Counts, Machine, Planned, Session};
use crate::error::Result;
use crate::model::{Found, Role, resolved};
use crate::options::{Device, EmbedOptions};

/// A model and the settings that it runs with: the vectors are those of `embed` in a session with these settings, to the bit.
///
/// Calls from several threads share model batches, and those of sessions too.
///
/// ```
/// use datafusion_embed::{Access, EmbedOptions, Embedder};
///
/// let model = Embedder::new(EmbedOptions::default().model("tests/fixtures/tiny-bert"), Access::default())?;
/// let vectors = model.embed(&["a bicycle", "a tax form"], "")?;
/// assert_eq!(vectors.len(), 2 * model.dim());
/// # Ok::<(), datafusion_embed::Error>(())
/// ```
#[derive(Debug)]
pub struct Embedder {
    session: Session,
    options: EmbedOptions,
    machine: Machine,
    found: Arc<Found>,
    dim: usize,
}

impl Embedder {
    /// Finds the model of the settings and reads its small files, which may be fetched as `access` says; the weights are read with
    /// the first text.
    ///
    /// # Errors
    ///
    /// [`Error::Model`](crate::Error::Model) where the model is not found or does not run here, [`Error::Setting`](crate::Error::Setting)
    /// where it would have to come from where `access` does not allow it, [`Error::Limit`](crate::Error::Limit) for more dimensions or
    /// tokens than it has.
    pub fn new(options: EmbedOptions, access: Access) -> Result<Self> {
        let session = Session::default();
        session.set_access(access.with_own_model(&options.model));
        let mut config = ConfigOptions::new();
        config.extensions.insert(options.clone());
        let machine = session.machine(&config, &options);
        let call = Call::new(&options, Role::Plain, None);
        let found = session.find(&call, options.offline)?;
        let dim = call.dimensions(&found.description)?;
        call.limit(&found.description)?;
        Ok(Self { session, options, machine, found, dim })
    }

    /// The vectors of texts, `[texts, dim]` row by row, with a prompt before each of them: see [`prompts`](Self::prompts). Equal texts
    /// go through the model once.
    ///
    /// # Errors
    ///
    /// [`Error::Text`](crate::Error::Text) and [`Error::Limit`](crate::Error::Limit) for a text that cannot be embedded under the
    /// settings, [`Error::Model`](crate::Error::Model) where the weights cannot be read, or the model's files have changed,
    /// [`Error::Cancelled`](crate::Error::Cancelled) after [`cancel`](Self::cancel).
    pub fn embed(&self, texts: &[impl AsRef<str>], prompt: &str) -> Result<Vec<f32>> {
        let call = Call { prompt: Some(prompt.to_owned()), ..Call::new(&self.options, Role::Plain, None) };
        let planned = Planned { dimensions: self.dim, identity: None };
        let rows: Vec<_> = texts.iter().map(|text| Some(text.as_ref())).collect();
        self.session.embed(&call, &planned, &self.machine, &rows)
    }

    /// Tokens of each text before it is cut, special tokens counted.
    ///
    /// # Errors
    ///
    /// Those of [`embed`](Self::embed).
    pub fn count_tokens(&self, texts: &[impl AsRef<str>]) -> Result<Vec<usize>> {
        let call = Call::new(&self.options, Role::Plain, None);
        let rows: Vec<_> = texts.iter().map(|text| Some(text.as_ref())).collect();
        let counts = self.session.count_tokens(&call, None, &self.machine, &rows)?;
        Ok(counts.into_iter().map(|count| count.unwrap_or_default() as usize).collect())
    }

    /// Length of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Tokens after which a text is cut by the model itself; `None` where it has no limit.
    pub fn max_tokens(&self) -> Option<usize> {
        self.found.description.limit()
    }

    /// Where the model is computed; of [`Device::Auto`] the device that it means here.
    pub fn device(&self) -> Device {
        resolved(self.options.device)
    }

    /// The prompts that the model knows, by name.
    pub fn prompts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.found.description.prompts()
    }

    /// The name of the prompt that goes before a text where nobody names one.
    pub fn default_prompt(&self) -> Option<&str> {
        self.found.description.default_prompt()
    }

    /// Makes the calls that run return [`Error::Cancelled`](crate::Error::Cancelled) soon.
    pub fn cancel(&self) {
        self.session.cancel();
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        self.session.counts()
    }
}
