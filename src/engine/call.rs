//! One call of `embed` or a sister: what of it decides a vector, and what the machine that runs it decides.

use std::sync::Arc;

use crate::access::Access;
use crate::cache::{Cache, Space, SpaceKey, VectorLimits};
use crate::error::{Error, Result};
use crate::model::{self, Description, Fingerprint, Found, Model, Place, Role};
use crate::options::{Device, EmbedOptions, Precision};

/// Everything that decides a vector beside its text (I1), as it can be written down in a plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Call {
    /// As `embed.model`.
    pub(crate) model: String,
    /// Which prompt goes before each text.
    pub(crate) role: Role,
    /// Instead of the role's.
    pub(crate) prompt: Option<String>,
    pub(crate) precision: Precision,
    /// As `embed.max_tokens`.
    pub(crate) max_tokens: usize,
    pub(crate) truncate: bool,
    /// As `embed.dimensions`.
    pub(crate) dimensions: usize,
}

impl Call {
    /// A call under these settings, with the model that its second argument names.
    pub(crate) fn new(options: &EmbedOptions, role: Role, model: Option<&str>) -> Self {
        Self {
            model: model.unwrap_or(&options.model).to_owned(),
            role,
            prompt: None,
            precision: options.precision,
            max_tokens: options.max_tokens,
            truncate: options.truncate,
            dimensions: options.dimensions,
        }
    }

    /// The settings that [`Call::new`] makes this call of.
    #[cfg(feature = "cluster")]
    pub(crate) fn options(&self) -> EmbedOptions {
        EmbedOptions::default()
            .model(&self.model)
            .precision(self.precision)
            .max_tokens(self.max_tokens)
            .truncate(self.truncate)
            .dimensions(self.dimensions)
    }

    /// What goes before each text.
    pub(super) fn prompt<'a>(&'a self, description: &'a Description) -> &'a str {
        self.prompt.as_deref().unwrap_or_else(|| description.prompt(self.role))
    }

    /// Length of a vector: the model's, or `embed.dimensions` of it.
    pub(crate) fn dimensions(&self, description: &Description) -> Result<usize> {
        match self.dimensions {
            0 => Ok(description.dim),
            wanted if wanted <= description.dim => Ok(wanted),
            got => {
                let (limit, name) = (description.dim, &description.name);
                let message = format!("embed.dimensions: {got} is more than the {limit} of model \"{name}\"");
                Err(Error::Limit { setting: "embed.dimensions", got, limit, message })
            }
        }
    }

    /// Truncation length: the model's, or `embed.max_tokens` where the model has that many positions.
    pub(crate) fn limit(&self, description: &Description) -> Result<usize> {
        let positions = description.architecture.positions;
        match self.max_tokens {
            0 => Ok(description.max_tokens),
            wanted if wanted <= positions => Ok(wanted),
            got => {
                let (limit, name) = (positions, &description.name);
                let message = format!("embed.max_tokens: {got} is more than the {limit} positions of model \"{name}\"");
                Err(Error::Limit { setting: "embed.max_tokens", got, limit, message })
            }
        }
    }
}

/// What decides where and how a call runs, and no bit of its vectors: the settings of the machine that runs it.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(super) options: EmbedOptions,
    /// What the session may do to come by models, and whom it tells; `options.offline` is in it.
    pub(super) access: Access,
    target_partitions: usize,
}

impl Machine {
    /// Settings, under what the host lets the session do.
    pub(super) fn new(options: EmbedOptions, target_partitions: usize, access: Access) -> Self {
        Self { options, access, target_partitions }
    }

    /// A model by its name, as its files are now.
    pub(crate) fn find(&self, model: &str) -> Result<Arc<Found>> {
        model::find(model, &self.access)
    }

    /// The fingerprint of a model's files.
    pub(super) fn fingerprint<'a>(&self, model: &'a Found) -> Result<&'a Fingerprint> {
        model.fingerprint(&self.access)
    }

    /// Most bytes of vectors that a query remembers.
    pub(crate) fn memory(&self) -> usize {
        self.options.memory
    }

    pub(super) fn place(&self, call: &Call) -> Place {
        Place { device: model::resolved(self.options.device), precision: call.precision }
    }

    /// Model batches in flight.
    pub(super) fn concurrency(&self, place: Place) -> usize {
        match self.options.concurrency {
            0 if place.device == Device::Cpu => self.target_partitions,
            // One batch is prepared while the other runs.
            0 => 2,
            wanted => wanted,
        }
    }

    pub(super) fn load(&self, call: &Call, model: &Found) -> Result<Arc<Model>> {
        model.load(&self.access, self.place(call), self.options.model_memory)
    }

    /// Where the vectors of a call are kept, if they are.
    pub(super) fn space(
        &self,
        call: &Call,
        model: &Found,
        dimensions: usize,
        max_tokens: usize,
    ) -> Result<Option<Arc<Space>>> {
        let EmbedOptions { cache, cache_size, .. } = &self.options;
        if cache.is_empty() {
            return Ok(None);
        }
        let (place, description) = (self.place(call), &model.description);
        let limits = VectorLimits { max_tokens, dimensions, truncate: call.truncate };
        let (fingerprint, prompt) = (self.fingerprint(model)?, call.prompt(description));
        let key = SpaceKey::new(&description.name, fingerprint, place, &model::kernel_path()?, prompt, limits);
        Ok(Some(Cache::open(cache)?.space(key, *cache_size as u64)))
    }
}
