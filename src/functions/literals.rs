//! Vectors of literals: there are none while a query is optimized, and when it runs they are there before anything asks.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::common::{ScalarValue, exec_err};
use datafusion::error::Result;
use parking_lot::Mutex;

use crate::engine::Call;
use crate::error::Error;

/// The vectors of the literals of a plan.
#[derive(Debug, Default)]
pub(crate) struct Literals(Mutex<Option<Vectors>>);

/// By call and text; or why there is none, for whoever asks for it: a branch that nobody takes may have one.
type Vectors = HashMap<(Call, String), std::result::Result<ScalarValue, Error>>;

impl Literals {
    /// Of a plan that comes from elsewhere: it is planned no more.
    #[cfg(feature = "cluster")]
    pub(super) fn read(vectors: Vec<(Call, String, ScalarValue)>) -> Self {
        let vectors = vectors.into_iter().map(|(call, text, vector)| ((call, text), Ok(vector)));
        Self(Mutex::new(Some(vectors.collect())))
    }

    /// The optimizer is done: whoever asks now, a scan that leaves files out or the plan that runs, gets an answer.
    pub(crate) fn begin(&self) {
        self.0.lock().get_or_insert_default();
    }

    pub(crate) fn set(&self, call: Call, text: String, vector: std::result::Result<ScalarValue, Error>) {
        self.0.lock().get_or_insert_default().insert((call, text), vector);
    }

    /// The vector of a literal, `None` where nobody has foreseen it.
    ///
    /// # Errors
    ///
    /// While the plan does not run: the optimizer then leaves the call as it is.
    fn get(&self, call: &Call, text: &str) -> Result<Option<ScalarValue>> {
        match &*self.0.lock() {
            Some(vectors) => Ok(vectors.get(&(call.clone(), text.to_owned())).cloned().transpose()?),
            None => exec_err!("the vector of {text:?} is computed when the query runs"),
        }
    }

    /// All that are there.
    #[cfg(feature = "cluster")]
    pub(super) fn all(&self) -> Vec<(Call, String, ScalarValue)> {
        let vectors = self.0.lock();
        let there = vectors.iter().flatten();
        let there = there.filter_map(|((call, text), vector)| Some((call.clone(), text.clone(), vector.clone().ok()?)));
        there.collect()
    }
}

/// Where a function over a literal has its vector from: out of a plan's [`Literals`], or computed where it stands. That makes no
/// other function of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Foreseen(pub(super) Option<Arc<Literals>>);

impl Foreseen {
    /// The vector of a literal, `None` where it has to be computed.
    pub(super) fn get(&self, call: &Call, text: &str) -> Result<Option<ScalarValue>> {
        self.0.as_ref().map_or(Ok(None), |literals| literals.get(call, text))
    }
}

impl PartialEq for Foreseen {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Foreseen {}

impl Hash for Foreseen {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}
