//! Texts -> tokens -> model batches -> encoder -> vectors.
//!
//! | file | what |
//! |---|---|
//! | `texts.rs` | rows -> distinct texts, and vectors back to rows |
//! | `batch.rs` | tokens -> model batches under a token budget |
//! | `pool.rs` | the process's workers; the only place that starts threads |
//! | `counters.rs` | what `embed_models()` shows |
//!
//! A call tokenises on its caller's thread and hands every full model batch to the pool at once, so that tokenising
//! overlaps with encoding and one caller keeps every worker busy.

mod batch;
mod counters;
mod pool;
mod texts;

pub(crate) use counters::ModelUse;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::model::{self, Description, Model, Place, Role};
use crate::options::EmbedOptions;
use batch::{Batch, Batcher};
use counters::{Counters, Registry};
use pool::{Lane, Pool};
use texts::Texts;

/// Most vectors of literals that one session remembers, see [`Session::embed_literal`]: a few MiB.
const REMEMBERED_LITERALS: usize = 4096;

/// What the embed functions of one SessionContext share.
#[derive(Debug, Default)]
pub(crate) struct Session {
    registry: Registry,
    lane: Arc<Lane>,
    /// Raised by [`Session::cancel`]: a call that began under an older number stops.
    generation: Arc<AtomicU64>,
    literals: Mutex<HashMap<LiteralKey, Vec<f32>>>,
}

/// What a literal's vector depends on (I1).
#[derive(Debug, PartialEq, Eq, Hash)]
struct LiteralKey {
    text: String,
    role: Role,
    options: EmbedOptions,
}

/// One call of `embed` or a sister: which model, which role, under which settings.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// The settings, `model` being the call's own.
    pub(crate) options: EmbedOptions,
    /// Which prompt goes before each text.
    pub(crate) role: Role,
    /// Model batches in flight.
    pub(crate) concurrency: usize,
}

impl Call {
    /// What the model's small files say.
    pub(crate) fn describe(&self) -> Result<Arc<Description>> {
        model::describe(&self.options.model, self.options.offline)
    }

    /// Length of a vector: the model's, or `embed.dimensions` of it.
    pub(crate) fn dimensions(&self, description: &Description) -> Result<usize> {
        match self.options.dimensions {
            0 => Ok(description.dim),
            wanted if wanted <= description.dim => Ok(wanted),
            wanted => Err(Error::Setting(format!(
                "embed.dimensions: {wanted} is more than the {} of model \"{}\"",
                description.dim, description.name
            ))),
        }
    }

    /// Truncation length: the model's, or `embed.max_tokens` where the model has that many positions.
    fn max_tokens(&self, description: &Description) -> Result<usize> {
        let positions = description.bert.max_position_embeddings;
        match self.options.max_tokens {
            0 => Ok(description.max_tokens),
            wanted if wanted <= positions => Ok(wanted),
            wanted => Err(Error::Setting(format!(
                "embed.max_tokens: {wanted} is more than the {positions} positions of model \"{}\"",
                description.name
            ))),
        }
    }

    fn place(&self) -> Place {
        Place { device: self.options.device.resolve(), precision: self.options.precision }
    }

    fn load(&self) -> Result<Arc<Model>> {
        model::load(&self.options.model, self.options.offline, self.place())
    }
}

impl Session {
    /// Vectors of a column of texts, `[rows, dimensions]`; the row of a NULL is zero.
    pub(crate) fn embed(&self, call: &Call, rows: &[Option<&str>]) -> Result<Vec<f32>> {
        let description = call.describe()?;
        let dimensions = call.dimensions(&description)?;
        let texts = Texts::new(rows);
        if texts.distinct.is_empty() {
            return Ok(vec![0.0; rows.len() * dimensions]);
        }
        let run = Run::start(self, call, dimensions)?;
        let vectors = run.embed(&texts, call.max_tokens(&description)?)?;
        run.counters.duplicates(texts.duplicates());
        Ok(texts.into_rows(vectors, dimensions))
    }

    /// The vector of a literal. Planning folds the same literal again and again, so the session remembers them.
    pub(crate) fn embed_literal(&self, call: &Call, text: &str) -> Result<Vec<f32>> {
        let key = LiteralKey { text: text.to_owned(), role: call.role, options: call.options.clone() };
        let remembered = || self.literals.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(vector) = remembered().get(&key) {
            return Ok(vector.clone());
        }
        let vector = self.embed(call, &[Some(text)])?;
        let mut literals = remembered();
        if literals.len() == REMEMBERED_LITERALS {
            // More than any query has: what planning needs again is remembered again.
            literals.clear();
        }
        literals.insert(key, vector.clone());
        Ok(vector)
    }

    /// Number of tokens of each text before truncation, special tokens counted, prompt not.
    pub(crate) fn count_tokens(&self, call: &Call, rows: &[Option<&str>]) -> Result<Vec<Option<i64>>> {
        if rows.iter().all(Option::is_none) {
            return Ok(vec![None; rows.len()]);
        }
        let model = call.load()?;
        let generation = self.generation.load(Ordering::Relaxed);
        let count = |text: &str| {
            if self.generation.load(Ordering::Relaxed) != generation {
                return Err(Error::Cancelled);
            }
            model.count_tokens(text).map(|tokens| tokens as i64)
        };
        rows.iter().map(|row| row.map(count).transpose()).collect()
    }

    /// Makes every running call return [`Error::Cancelled`] soon: workers look between the layers of a model.
    pub(crate) fn cancel(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// What was done so far with each model of this session.
    pub(crate) fn usage(&self) -> Vec<ModelUse> {
        self.registry.usage()
    }
}

/// One running call.
struct Run<'a> {
    session: &'a Session,
    call: &'a Call,
    model: Arc<Model>,
    dimensions: usize,
    counters: Arc<Counters>,
    stop: Arc<Stop>,
}

/// Why a run's batches should not go on.
struct Stop {
    /// The call has returned already, with an error.
    abandoned: AtomicBool,
    generation: Arc<AtomicU64>,
    started_at: u64,
}

impl Stop {
    fn go_on(&self) -> bool {
        !self.abandoned.load(Ordering::Relaxed) && self.generation.load(Ordering::Relaxed) == self.started_at
    }
}

/// A finished model batch: number of its first text, and its vectors or why there are none.
type Finished = (usize, Result<Vec<f32>>);

impl<'a> Run<'a> {
    fn start(session: &'a Session, call: &'a Call, dimensions: usize) -> Result<Self> {
        // Noted before the model is loaded, so that a cancel during the load counts.
        let stop = Arc::new(Stop {
            abandoned: AtomicBool::new(false),
            generation: Arc::clone(&session.generation),
            started_at: session.generation.load(Ordering::Relaxed),
        });
        let model = call.load()?;
        let least = model.special_tokens() + 1;
        if (1..least).contains(&call.options.max_tokens) {
            return Err(Error::Setting(format!(
                "embed.max_tokens: {} leaves no room for text beside the special tokens of model \"{}\"; at least {least}",
                call.options.max_tokens, model.description.name
            )));
        }
        let counters = session.registry.counters(&model.description, call.place());
        session.lane.set_limit(call.concurrency);
        Ok(Self { session, call, model, dimensions, counters, stop })
    }

    /// Vectors of the distinct texts, `[distinct, dimensions]`.
    fn embed(&self, texts: &Texts<'_>, max_tokens: usize) -> Result<Vec<f32>> {
        let result = self.try_embed(texts, max_tokens);
        if result.is_err() {
            self.stop.abandoned.store(true, Ordering::Relaxed);
        }
        result
    }

    fn try_embed(&self, texts: &Texts<'_>, max_tokens: usize) -> Result<Vec<f32>> {
        let prompt = self.model.description.prompt(self.call.role);
        let (sender, receiver) = mpsc::channel();
        let mut batcher = Batcher::new(self.call.options.batch_tokens, self.call.options.batch_size);
        for text in &texts.distinct {
            if !self.stop.go_on() {
                return Err(Error::Cancelled);
            }
            let tokens = self.model.tokenize(prompt, text, max_tokens)?;
            if tokens.full_length > max_tokens && !self.call.options.truncate {
                return Err(too_long(text, tokens.full_length, max_tokens));
            }
            if let Some(full) = batcher.push(&tokens.ids, tokens.full_length > max_tokens) {
                self.submit(full, &sender);
            }
        }
        if let Some(last) = batcher.finish() {
            self.submit(last, &sender);
        }
        // The last sender lives in the last batch, so a batch that is lost ends the loop and is noticed below.
        drop(sender);
        let mut vectors = vec![0.0; texts.distinct.len() * self.dimensions];
        let mut done = 0;
        for (first, batch) in receiver {
            let batch = batch?;
            vectors[first * self.dimensions..][..batch.len()].copy_from_slice(&batch);
            done += batch.len();
        }
        if done == vectors.len() {
            Ok(vectors)
        } else {
            Err(Error::Device("embed: a worker stopped in the middle of a model batch. This is a bug".to_owned()))
        }
    }

    /// Hands a model batch to the pool.
    fn submit(&self, batch: Batch, sender: &mpsc::Sender<Finished>) {
        let (model, counters, stop) = (Arc::clone(&self.model), Arc::clone(&self.counters), Arc::clone(&self.stop));
        let (sender, dimensions) = (sender.clone(), self.dimensions);
        Pool::global().submit(&self.session.lane, move |room| {
            let start = Instant::now();
            let vectors = if stop.go_on() {
                model.encode(&batch.ids, &batch.starts, dimensions, room, &|| stop.go_on())
            } else {
                Err(Error::Cancelled)
            };
            if vectors.is_ok() {
                counters.batch(batch.texts(), batch.truncated, batch.ids.len(), start.elapsed());
            }
            // The receiver is gone when the call has failed already; then nobody wants the vectors.
            let _ = sender.send((batch.first, vectors));
        });
    }
}

/// The error of `embed.truncate = false`, with enough of the text to find its row.
fn too_long(text: &str, length: usize, limit: usize) -> Error {
    let start: String = text.chars().take(40).collect();
    Error::Text(format!(
        "text of {length} tokens is longer than the limit of {limit} and embed.truncate is false; it begins {start:?} \
         (find such rows with embed_tokens(text) > {limit}, or SET embed.truncate = true)"
    ))
}
