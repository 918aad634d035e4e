//! A model: texts to a NumPy array.

use std::sync::Arc;

use datafusion_embed::{Access, Device, EmbedOptions, Embedder, Precision};
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::of_embed;
use crate::waiting::{wait, wait_and_look};

/// A model and the settings that it runs with.
#[pyclass(frozen, module = "datafusion_embed._native")]
pub(crate) struct Model {
    inner: Arc<Embedder>,
}

#[pymethods]
impl Model {
    /// Finds a model and reads its small files.
    #[new]
    #[pyo3(signature = (name, *, arithmetic = "f32", device = "auto", max_tokens = 0, dimensions = 0, cache = "", offline = false, threads = 0))]
    #[expect(clippy::too_many_arguments, reason = "keywords of Python")]
    fn new(
        py: Python<'_>,
        name: &str,
        arithmetic: &str,
        device: &str,
        max_tokens: usize,
        dimensions: usize,
        cache: &str,
        offline: bool,
        threads: usize,
    ) -> PyResult<Self> {
        let precision: Precision = arithmetic.parse().map_err(|error| of_embed(&error))?;
        let device: Device = device.parse().map_err(|error| of_embed(&error))?;
        let options = EmbedOptions::default()
            .model(name)
            .precision(precision)
            .device(device)
            .max_tokens(max_tokens)
            .dimensions(dimensions)
            .cache(cache)
            .offline(offline)
            .concurrency(threads);
        let found = wait(py, || Embedder::new(options, Access::default()), || {})?;
        Ok(Self { inner: Arc::new(found.map_err(|error| of_embed(&error))?) })
    }

    /// The vectors of texts, `[texts, dim]`, in their order. `look` is called with the number of texts that are done.
    #[pyo3(signature = (texts, prompt = "", look = None))]
    fn embed<'py>(
        &self,
        py: Python<'py>,
        texts: Vec<String>,
        prompt: &str,
        look: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let before = self.inner.counts().rows();
        let look = |_: Python<'_>| match &look {
            Some(look) => look.call1((self.inner.counts().rows() - before,)).map(|_| ()),
            None => Ok(()),
        };
        let vectors = wait_and_look(py, || self.inner.embed(&texts, prompt), || self.inner.cancel(), look)?;
        let vectors = vectors.map_err(|error| of_embed(&error))?;
        PyArray1::from_vec(py, vectors).reshape([texts.len(), self.inner.dim()])
    }

    /// Tokens of each text before it is cut, special tokens counted.
    fn count_tokens(&self, py: Python<'_>, texts: Vec<String>) -> PyResult<Vec<usize>> {
        let counts = wait(py, || self.inner.count_tokens(&texts), || self.inner.cancel())?;
        counts.map_err(|error| of_embed(&error))
    }

    /// Length of a vector.
    #[getter]
    fn dim(&self) -> usize {
        self.inner.dim()
    }

    /// Tokens after which the model itself cuts a text, or None.
    #[getter]
    fn max_tokens(&self) -> Option<usize> {
        self.inner.max_tokens()
    }

    /// Where the model is computed.
    #[getter]
    fn device(&self) -> String {
        self.inner.device().to_string()
    }

    /// The prompts that the model knows, by name.
    #[getter]
    fn prompts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let prompts = PyDict::new(py);
        for (name, prompt) in self.inner.prompts() {
            prompts.set_item(name, prompt)?;
        }
        Ok(prompts)
    }

    /// The name of the prompt that goes before a text where nobody names one, or None.
    #[getter]
    fn default_prompt(&self) -> Option<&str> {
        self.inner.default_prompt()
    }
}
