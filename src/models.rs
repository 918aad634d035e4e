//! The models of this machine, for programs that look after them: what is there, fetching ahead, trying one out.
//!
//! ```
//! use datafusion_embed::{Access, models};
//!
//! let check = models::check("tests/fixtures/tiny-bert", &Access::default())?;
//! assert_eq!((check.architecture.as_str(), check.dim), ("bert", 32));
//! assert_eq!(check.precisions.len(), 3);
//! # Ok::<(), datafusion_embed::Error>(())
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::access::Access;
use crate::error::Result;
use crate::model::{self, Description, Found, Model, Pass, Place, Role, Scratch, Stored};
use crate::options::{Device, Precision};

/// A model that can be used without the network, or whose weights are in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KnownModel {
    /// What `embed.model` takes.
    pub name: String,
    /// `bundled`, `directory`, `hub` or `store`.
    pub source: String,
    /// Commit of the hub, or hash of the bundled weights; a directory has none.
    pub revision: Option<String>,
    /// Bytes of its files.
    pub bytes: u64,
    /// Device and precision of its weights in this process: `cpu f32`.
    pub loaded: Vec<String>,
}

/// The bundled model, the models in the hub's cache folder, and those that this process has loaded, by name.
pub fn known() -> Vec<KnownModel> {
    let mut found = BTreeMap::new();
    for Stored { name, kind, revision, bytes } in model::stored() {
        let (source, revision) = (kind.to_owned(), Some(revision));
        let known = KnownModel { name, source, revision, bytes, loaded: Vec::new() };
        found.insert((known.name.clone(), known.revision.clone()), known);
    }
    for (model, place) in model::loaded() {
        let description = &model.description;
        let known =
            found.entry((description.name.clone(), description.revision.clone())).or_insert_with(|| KnownModel {
                name: description.name.clone(),
                source: description.source.to_owned(),
                revision: description.revision.clone(),
                bytes: 0,
                loaded: Vec::new(),
            });
        known.loaded.push(format!("{} {}", place.device, place.precision));
    }
    found.into_values().collect()
}

/// Whether a name can be that of a model: an address, a bundled name, a directory that is there, or the form of a hub id. Nothing is
/// read and nobody is asked, so there may still be no such model.
///
/// # Errors
///
/// [`Error::Model`](crate::Error::Model) where it can be none, and [`Error::Setting`](crate::Error::Setting) where `access` does not
/// allow what it stands for.
pub fn check_name(name: &str, access: &Access) -> Result<()> {
    model::check_name(name, access)
}

/// Fetches everything of a model that is not here yet, so that it can be used without the network, and gives its commit.
///
/// # Errors
///
/// [`Error::Model`](crate::Error::Model) where the model is not found, cannot be fetched or does not run here; the files that came stay.
/// [`Error::Setting`](crate::Error::Setting) where it would have to come from where `access` does not allow it.
pub fn pull(name: &str, access: &Access) -> Result<Option<String>> {
    let model = model::find(name, access)?;
    model.fingerprint(access)?;
    Ok(model.description.revision.clone())
}

/// What [`check`] found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ModelCheck {
    /// What was asked for, without `@revision`.
    pub name: String,
    /// `bundled`, `directory` or `hub`.
    pub source: String,
    /// Commit of the hub, or hash of the bundled weights; a directory has none.
    pub revision: Option<String>,
    /// SHA-256 over configuration, tokenizer and weights, in hexadecimal.
    pub fingerprint: String,
    /// `model_type`, or `static`.
    pub architecture: String,
    /// The pooling modes, joined with ` + `.
    pub pooling: String,
    /// What the model's files leave open, and how it is taken then: a model without `modules.json` says nothing of its pooling.
    pub assumption: Option<String>,
    /// The modules after pooling, in their order.
    pub modules: Vec<String>,
    /// Length of a vector.
    pub dim: usize,
    /// Truncation length; `None` where the model has no limit.
    pub max_tokens: Option<usize>,
    /// The prompts of `embed`, `embed_query` and `embed_document`, where there are some.
    pub prompts: Vec<(String, String)>,
    /// Every precision, or why the model does not run in it.
    pub precisions: Vec<(Precision, Result<PrecisionCheck>)>,
}

/// How a model does in one precision, on the CPU.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct PrecisionCheck {
    /// Bytes of the weights in memory.
    pub bytes: usize,
    /// Time to load it.
    pub load: Duration,
    /// Speed of one core, texts of 10 to 100 tokens, tokenising not counted.
    pub tokens_per_second: f64,
    /// The least and the mean cosine to the vectors in f32.
    pub cosine: (f64, f64),
}

/// Loads a model in every precision and embeds a few texts.
///
/// # Errors
///
/// [`Error::Model`](crate::Error::Model) where the model is not found or does not run here at all,
/// [`Error::Setting`](crate::Error::Setting) where it would have to come from where `access` does not allow it.
pub fn check(name: &str, access: &Access) -> Result<ModelCheck> {
    let found = model::find(name, access)?;
    let description = &found.description;
    let fingerprint = found.fingerprint(access)?.to_string();
    let exact = found.load(access, place(Precision::F32), usize::MAX)?;
    let expected = vectors(&exact)?.0;
    let all = [Precision::F32, Precision::Bf16, Precision::Int8];
    let precisions = all.map(|precision| (precision, check_precision(&found, access, precision, &expected)));
    Ok(ModelCheck {
        name: description.name.clone(),
        source: description.source.to_owned(),
        revision: description.revision.clone(),
        fingerprint,
        architecture: description.architecture().to_owned(),
        pooling: description.pooling.to_string(),
        modules: description.steps.iter().map(ToString::to_string).collect(),
        dim: description.dim,
        max_tokens: description.limit(),
        assumption: description.assumption(),
        prompts: prompts(description),
        precisions: precisions.into(),
    })
}

/// What a check embeds, beside texts that join several of these.
const SENTENCES: [&str; 8] = [
    "The night train leaves the harbour at ten.",
    "How do I remove duplicate rows from a table?",
    "Saturn's rings are made mostly of water ice, with a little dust.",
    "El pan necesita otra hora antes de entrar en el horno.",
    "Die Rechnung wurde am 3. April 2021 bezahlt: 42,50 EUR.",
    "an index on the order date did not help, since every row matched",
    "彗星在任何人测量它的尾巴之前就消失了。",
    "A hash join builds a table from the smaller side and probes it with the larger one; \
     a merge join wants both sides sorted.",
];

/// How long a speed is measured at least.
const MEASURED: Duration = Duration::from_millis(300);

fn place(precision: Precision) -> Place {
    Place { device: Device::Cpu, precision }
}

fn check_precision(
    found: &Found,
    access: &Access,
    precision: Precision,
    expected: &[Vec<f32>],
) -> Result<PrecisionCheck> {
    let start = Instant::now();
    let loaded = found.load_alone(access, place(precision))?;
    let load = start.elapsed();
    let (vectors, tokens_per_second) = vectors(&loaded)?;
    let cosines: Vec<f64> = vectors.iter().zip(expected).map(|(a, b)| cosine(a, b)).collect();
    let least = cosines.iter().copied().fold(f64::INFINITY, f64::min);
    let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
    Ok(PrecisionCheck { bytes: loaded.size(), load, tokens_per_second, cosine: (least, mean) })
}

/// The vectors of the check's texts, and tokens per second.
fn vectors(model: &Model) -> Result<(Vec<Vec<f32>>, f64)> {
    let description = &model.description;
    let joined = (0..SENTENCES.len()).map(|i| [SENTENCES[i], SENTENCES[(i + 3) % 8], SENTENCES[(i + 5) % 8]].join(" "));
    let texts: Vec<String> = SENTENCES.iter().map(|&text| text.to_owned()).chain(joined).collect();
    let batch = model.batch_of(Role::Plain, &texts)?;
    let unpooled = model.unpooled(description.prompt(Role::Plain), description.max_tokens)?;
    let pass = Pass { unpooled, dimensions: description.dim, go_on: &|| true };
    let mut scratch = Scratch::default();
    let vectors = model.encode(&batch, &pass, &mut scratch)?;
    let (start, mut runs) = (Instant::now(), 0);
    while start.elapsed() < MEASURED {
        model.encode(&batch, &pass, &mut scratch)?;
        runs += 1;
    }
    let speed = (runs * batch.tokens()) as f64 / start.elapsed().as_secs_f64();
    Ok((vectors.chunks(description.dim).map(<[f32]>::to_vec).collect(), speed))
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    product(a, b) / (product(a, a) * product(b, b)).sqrt()
}

fn prompts(description: &Description) -> Vec<(String, String)> {
    let roles = [("embed", Role::Plain), ("embed_query", Role::Query), ("embed_document", Role::Document)];
    let prompts = roles.map(|(function, role)| (function.to_owned(), description.prompt(role).to_owned()));
    prompts.into_iter().filter(|(_, prompt)| !prompt.is_empty()).collect()
}
