//! A session: SQL to results.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use datafusion::common::{ParamValues, ScalarValue};
use datafusion::datasource::{MemTable, TableProvider};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{DataFrame, SessionContext};
use datafusion_embed::cluster::{Cluster, Protection};
use datafusion_embed::files::Stores;
use datafusion_embed::{Error, SessionOptions, create_logical_plan, sql_to_statement};
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyString};
use pyo3_arrow::input::AnyRecordBatch;

use crate::errors::{of_embed, of_query};
use crate::results::Results;
use crate::waiting::{check_process, rows, runtime, wait_for};

/// A session with files, stores and `embed`, as the program embedsql has it.
#[pyclass(frozen, module = "datafusion_embed._native")]
pub(crate) struct Connection {
    ctx: SessionContext,
    planning: Mutex<()>,
}

#[pymethods]
impl Connection {
    /// With settings by their names, such as `embed.model`; `token` and `certificates` are those of the cluster.
    #[new]
    #[pyo3(signature = (settings, *, cluster = None, token = None, certificates = None, memory_limit = None))]
    fn new(
        settings: HashMap<String, String>,
        cluster: Option<&str>,
        token: Option<&str>,
        certificates: Option<PathBuf>,
        memory_limit: Option<usize>,
    ) -> PyResult<Self> {
        check_process()?;
        let mut options = SessionOptions::default();
        for (key, value) in &settings {
            options.config.options_mut().set(key, value).map_err(|error| of_query(&error))?;
        }
        options.stores = Stores::all();
        options.memory_limit = memory_limit;
        if let Some(address) = cluster {
            let cluster = cluster_at(address, token, certificates.as_deref()).map_err(|error| of_embed(&error))?;
            options = options.on_cluster(cluster);
        }
        // Planning may wait for files, on the runtime's threads.
        let _inside = runtime()?.enter();
        let ctx = datafusion_embed::session(options).map_err(|error| of_query(&error))?;
        Ok(Self { ctx, planning: Mutex::new(()) })
    }

    /// Plans a statement. One that is no query runs now, a query when its rows are asked for. `tables` are tables of this statement
    /// alone, by name; `find` gives an object for a name that is no table here, or None; `look` is called with the rows that are embedded
    /// so far and how many there will be.
    #[pyo3(signature = (statement, parameters, tables, find, look = None))]
    fn sql(
        &self,
        py: Python<'_>,
        statement: &str,
        parameters: Option<Bound<'_, PyAny>>,
        tables: HashMap<String, AnyRecordBatch>,
        find: Bound<'_, PyAny>,
        look: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Results> {
        let parameters = parameters.map(|given| values(&given)).transpose()?;
        let frame = self.planned(py, statement, parameters, tables, &find)?;
        let frame = match frame.logical_plan() {
            LogicalPlan::Copy(_) | LogicalPlan::Dml(_) => {
                let done = rows(py, &self.ctx, frame, look.as_ref())?;
                self.ctx.read_batches(done).map_err(|error| of_query(&error))?
            }
            _ => frame,
        };
        Ok(Results::new(self.ctx.clone(), frame))
    }

    /// Makes an object with `__arrow_c_stream__` a table of the session; its batches are not copied.
    fn register(&self, name: &str, rows: AnyRecordBatch) -> PyResult<()> {
        self.put(name, table(rows)?).map(drop)
    }

    /// Takes a table away.
    fn unregister(&self, name: &str) -> PyResult<bool> {
        Ok(self.ctx.deregister_table(name).map_err(|error| of_query(&error))?.is_some())
    }
}

impl Connection {
    /// Makes a table known, and gives the one that had the name.
    fn put(&self, name: &str, table: Arc<dyn TableProvider>) -> PyResult<Option<Arc<dyn TableProvider>>> {
        let former = self.ctx.deregister_table(name).map_err(|error| of_query(&error))?;
        self.ctx.register_table(name, table).map_err(|error| of_query(&error))?;
        Ok(former)
    }

    /// A statement with tables of its own.
    fn planned(
        &self,
        py: Python<'_>,
        statement: &str,
        parameters: Option<ParamValues>,
        mut tables: HashMap<String, AnyRecordBatch>,
        find: &Bound<'_, PyAny>,
    ) -> PyResult<DataFrame> {
        // Whoever plans at the same time sees no table of another statement.
        let _alone =
            self.planning.lock_py_attached(py).map_err(|_| PyRuntimeError::new_err("a statement ended by a panic"))?;
        for name in self.unknown_tables(statement) {
            if let Entry::Vacant(place) = tables.entry(name) {
                let found = find.call1((place.key(),))?;
                if !found.is_none() {
                    place.insert(found.extract()?);
                }
            }
        }
        let tables = tables.into_iter().map(|(name, rows)| Ok((name, table(rows)?)));
        let mut former = Vec::new();
        for (name, table) in tables.collect::<PyResult<Vec<_>>>()? {
            former.push((self.put(&name, table)?, name));
        }
        let frame = wait_for(py, &self.ctx, async {
            let plan = create_logical_plan(&self.ctx.state(), statement).await?;
            let frame = self.ctx.execute_logical_plan(plan).await?;
            match parameters {
                Some(parameters) => frame.with_param_values(parameters),
                None => Ok(frame),
            }
        });
        for (table, name) in former {
            self.ctx.deregister_table(&*name).map_err(|error| of_query(&error))?;
            if let Some(table) = table {
                self.ctx.register_table(&*name, table).map_err(|error| of_query(&error))?;
            }
        }
        frame
    }

    /// Names of tables in a statement that nobody knows here; of one that cannot be read, none.
    fn unknown_tables(&self, statement: &str) -> Vec<String> {
        let state = self.ctx.state();
        let Ok(parsed) = sql_to_statement(&state, statement) else { return Vec::new() };
        let Ok(tables) = state.resolve_table_references(&parsed) else { return Vec::new() };
        let bare = tables.iter().filter(|table| table.schema().is_none());
        bare.map(|table| table.table().to_owned())
            .filter(|name| !self.ctx.table_exist(name.as_str()).unwrap_or(true))
            .collect()
    }
}

/// A cluster, with what its ports are protected by.
fn cluster_at(address: &str, token: Option<&str>, certificates: Option<&Path>) -> Result<Cluster, Error> {
    let mut protection = Protection::default();
    if let Some(token) = token {
        protection = protection.with_token(token)?;
    }
    if let Some(folder) = certificates {
        protection = protection.with_certificates(folder)?;
    }
    Ok(Cluster::new(address)?.protected_by(protection))
}

/// Rows of another library as a table; they are not copied.
fn table(rows: AnyRecordBatch) -> PyResult<Arc<dyn TableProvider>> {
    let (batches, schema) = rows.into_table()?.into_inner();
    Ok(Arc::new(MemTable::try_new(schema, vec![batches]).map_err(|error| of_query(&error))?))
}

/// Parameters: a list for `$1`, `$2`, or a dict for `$name`.
fn values(given: &Bound<'_, PyAny>) -> PyResult<ParamValues> {
    if let Ok(named) = given.extract::<HashMap<String, Bound<'_, PyAny>>>() {
        let named = named.into_iter().map(|(name, value)| Ok((name, scalar(&value)?))).collect::<PyResult<Vec<_>>>()?;
        return Ok(ParamValues::from(named));
    }
    let listed = given.try_iter()?.map(|value| scalar(&value?)).collect::<PyResult<Vec<_>>>()?;
    Ok(ParamValues::from(listed))
}

fn scalar(value: &Bound<'_, PyAny>) -> PyResult<ScalarValue> {
    if value.is_none() {
        return Ok(ScalarValue::Null);
    }
    // A bool is an int in Python.
    if value.is_instance_of::<PyBool>() {
        return Ok(ScalarValue::from(value.extract::<bool>()?));
    }
    if value.is_instance_of::<PyInt>() {
        return Ok(ScalarValue::from(value.extract::<i64>()?));
    }
    if value.is_instance_of::<PyFloat>() {
        return Ok(ScalarValue::from(value.extract::<f64>()?));
    }
    if value.is_instance_of::<PyString>() {
        return Ok(ScalarValue::from(value.extract::<String>()?));
    }
    if value.is_instance_of::<PyBytes>() {
        return Ok(ScalarValue::Binary(Some(value.extract::<Vec<u8>>()?)));
    }
    if let Ok(list) = value.extract::<Vec<f32>>() {
        let values: Vec<_> = list.into_iter().map(|x| ScalarValue::Float32(Some(x))).collect();
        let list = ScalarValue::new_list(&values, &datafusion::arrow::datatypes::DataType::Float32, true);
        return Ok(ScalarValue::List(list));
    }
    let kind = value.get_type().name()?;
    Err(PyTypeError::new_err(format!(
        "a parameter is None, bool, int, float, str, bytes or a list of floats, not {kind}"
    )))
}
