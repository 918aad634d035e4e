//! How a name becomes a table: in FROM, and in CREATE EXTERNAL TABLE.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{DynamicFileCatalog, Session, TableProvider, TableProviderFactory, UrlTableFactory};
use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::common::{ToDFSchema, plan_datafusion_err, plan_err};
use datafusion::datasource::dynamic_file::DynamicListTableFactory;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig};
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::CreateExternalTable;
use datafusion::object_store::path::Path;
use datafusion::object_store::{ObjectMeta, ObjectStore};
use datafusion::prelude::SessionContext;

use super::file_set::{FileSet, shown_file};
use super::format::Format;
use super::kind::FileKind;
use super::listing::Listing;
use super::partitions::Partitions;
use super::table::Files;
use crate::error::Error;
use crate::files::stores::{Options, Stores, masked_statement};

/// An ending that no path has: of the files that a table has already, INSERT needs none.
pub(in crate::files) const NO_FILE: &str = "/";

/// The option that gives a table a column with the name of each row's file.
const FILENAME: &str = "format.filename";

/// A session that reads files by their names: a file, a folder with all below it, or a pattern, in FROM and in CREATE EXTERNAL
/// TABLE. It has the same tables, functions and settings, and takes the place of the one that is given.
///
/// What exists is meant literally, and anything else is a pattern if it has one of `*?[{`. Files whose names begin with `.` or
/// `_` are passed over in folders and patterns. Which files there are is looked up each time a table is read.
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// use datafusion::prelude::SessionContext;
///
/// let ctx = datafusion_embed::files::reading_files(SessionContext::new());
/// let rows = ctx.sql("SELECT * FROM 'sql/*.parquet'").await?.count().await?;
/// assert!(rows > 0);
/// # datafusion::error::Result::<()>::Ok(())
/// # }).unwrap();
/// ```
pub fn reading_files(ctx: SessionContext) -> SessionContext {
    let id = ctx.session_id();
    let catalogs = Arc::clone(ctx.state_ref().read().catalog_list());
    let named = Arc::new(NamedFiles { session: DynamicListTableFactory::default() });
    let catalogs = Arc::new(DynamicFileCatalog::new(catalogs, Arc::clone(&named) as Arc<dyn UrlTableFactory>));
    let state = ctx.into_state_builder().with_session_id(id).with_catalog_list(catalogs).build();
    let ctx = SessionContext::new_with_state(state);
    named.session.session_store().with_state(ctx.state_weak_ref());
    let state = ctx.state_ref();
    for (name, factory) in state.write().table_factories_mut() {
        if ["PARQUET", "CSV", "JSON", "NDJSON", "ARROW"].contains(&name.as_str()) {
            *factory = Arc::new(StatedFiles { streams: Arc::clone(factory) });
        }
    }
    ctx
}

/// DataFusion's table of the files that a provider of this crate or of DataFusion has; `None` for any other.
pub(in crate::files) fn listing_table(provider: &dyn TableProvider) -> Option<&ListingTable> {
    let files = provider.downcast_ref::<Files>().map(|files| &files.written);
    files.or_else(|| provider.downcast_ref::<ListingTable>())
}

/// Whether a table's rows are in files.
#[cfg(feature = "cluster")]
pub(crate) fn is_of_files(provider: &dyn TableProvider) -> bool {
    listing_table(provider).is_some()
}

/// Tables by the names of files.
#[derive(Debug)]
struct NamedFiles {
    /// Knows the session.
    session: DynamicListTableFactory,
}

impl NamedFiles {
    fn state(&self) -> Option<SessionState> {
        let session = self.session.session_store().get_session().upgrade()?;
        let session = session.read();
        session.as_any().downcast_ref::<SessionState>().cloned()
    }
}

#[async_trait]
impl UrlTableFactory for NamedFiles {
    /// `None` for what is no file that could be read, which has no table either.
    async fn try_new(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(state) = self.state().filter(|_| !name.is_empty()) else { return Ok(None) };
        let set = FileSet::of(name)?;
        let store = match set.open(&state) {
            Ok(store) => store,
            // A store that is known and not allowed says so; of other names nobody knows that they are addresses.
            Err(error) if set.address.is_some() => return Err(error),
            Err(_) => return Ok(None),
        };
        let found = set.data_files(store.as_ref(), state.config_options()).await?;
        let Some(kind) = kind_of(&state, store.as_ref(), &set, &found)? else { return nothing(&set, &found) };
        let format = Format::new(&state, &kind.format, kind.options().into_iter().collect())?;
        let Some(listing) = Listing::new(vec![set], Some(kind)) else { return Ok(None) };
        let table = Table { state: &state, store, listing, format }.inferred(found, None, &[]).await?;
        Ok(Some(Arc::new(table)))
    }
}

/// What a name stands for that no table can be made of: a table's, unless it is an address.
fn nothing(set: &FileSet, found: &[ObjectMeta]) -> Result<Option<Arc<dyn TableProvider>>> {
    let (Some(_), name) = (&set.address, &set.name) else { return Ok(None) };
    let what = match found {
        [] => "not found".to_owned(),
        _ => format!("is of no known type (known: {})", FileKind::known_endings()),
    };
    Err(Error::Read(format!("{name:?} {what}")).into())
}

/// The kind of all files of a set, but for those of no known kind in a folder; `None` where no file has one.
///
/// # Errors
///
/// [`Error::Read`] where there are two kinds: nobody says which is meant.
fn kind_of<'a>(
    state: &SessionState,
    store: &dyn ObjectStore,
    set: &FileSet,
    files: impl IntoIterator<Item = &'a ObjectMeta>,
) -> std::result::Result<Option<FileKind>, Error> {
    let mut first: Option<(FileKind, &'a ObjectMeta)> = None;
    for file in files {
        let Some(kind) = file.location.filename().and_then(|name| known_kind(state, name)) else { continue };
        match &first {
            None => first = Some((kind, file)),
            Some((other, _)) if kind.fits(other) => {}
            Some((_, first)) => {
                return Err(Error::Read(format!(
                    "{:?} has files of two kinds, {:?} and {:?}: name those of one, by a pattern such as '*.parquet'",
                    set.name,
                    shown_file(store, &first.location),
                    shown_file(store, &file.location)
                )));
            }
        }
    }
    Ok(first.map(|(kind, _)| kind))
}

/// What an ending says, to us or to a format that the host has added.
fn known_kind(state: &SessionState, name: &str) -> Option<FileKind> {
    FileKind::of(name).or_else(|| {
        let ending = name.rsplit_once('.')?.1.to_ascii_lowercase();
        state.get_file_format_factory(&ending)?;
        Some(FileKind::stated(&ending, None, CompressionTypeVariant::UNCOMPRESSED))
    })
}

/// Tables that CREATE EXTERNAL TABLE makes.
#[derive(Debug)]
struct StatedFiles {
    /// What makes unbounded ones.
    streams: Arc<dyn TableProviderFactory>,
}

#[async_trait]
impl TableProviderFactory for StatedFiles {
    async fn create(&self, state: &dyn Session, command: &CreateExternalTable) -> Result<Arc<dyn TableProvider>> {
        if command.unbounded {
            return self.streams.create(state, command).await;
        }
        let Some(state) = state.as_any().downcast_ref::<SessionState>() else {
            return plan_err!("a table of files needs a session of DataFusion");
        };
        let sets = command.locations.iter().map(|name| FileSet::of(name)).collect::<Result<Vec<_>>>()?;
        let mut options = command.options.clone();
        let said = Options::take(&mut options, sets.first().and_then(|set| set.address.as_ref()))?;
        let stores = state.config().get_extension::<Stores>();
        let sets = sets.into_iter().map(|set| set.with_options(stores.as_deref(), &said));
        let sets = sets.collect::<Result<Vec<_>>>()?;
        let Some(first) = sets.first() else { return plan_err!("CREATE EXTERNAL TABLE needs a LOCATION") };
        if let Some(other) = sets.iter().find(|set| set.store != first.store) {
            return plan_err!("the LOCATIONs {:?} and {:?} are in different stores", first.name, other.name);
        }
        for other in &sets[1..] {
            other.open(state)?;
        }
        let store = first.open(state)?;
        let files = first.data_files(store.as_ref(), state.config_options()).await?;
        let (mut options, kind) = stated(state, store.as_ref(), command, options, first, &files)?;
        let has_filename = match options.remove(FILENAME).as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => return plan_err!("option {FILENAME} '{other}' is not true or false"),
        };
        let format = Format::new(state, &command.file_type, options)?;
        let Some(listing) = Listing::new(sets, Some(kind)) else {
            return plan_err!("CREATE EXTERNAL TABLE needs a LOCATION");
        };
        let table = Table { state, store, listing, format };
        let mut made = if command.schema.fields().is_empty() {
            table.inferred(files, Some(command), &command.table_partition_cols).await?
        } else {
            table.declared(command)?
        };
        made.partitions.has_filename = has_filename;
        check_orders(command, &made)?;
        Ok(Arc::new(made))
    }
}

/// The options of a statement, with what the names of files say where the statement says nothing; and the kind of file that is
/// meant.
fn stated(
    state: &SessionState,
    store: &dyn ObjectStore,
    command: &CreateExternalTable,
    mut options: HashMap<String, String>,
    set: &FileSet,
    files: &[ObjectMeta],
) -> Result<(HashMap<String, String>, FileKind)> {
    const DELIMITER: &str = "format.delimiter";
    const COMPRESSION: &str = "format.compression";
    let plain = FileKind::stated(&command.file_type, None, CompressionTypeVariant::UNCOMPRESSED);
    let is_stated = |kind: FileKind| kind.format == plain.format;
    let files = files.iter().filter(|file| file.location.filename().and_then(FileKind::of).is_some_and(is_stated));
    let is_said = options.contains_key(DELIMITER) || options.contains_key(COMPRESSION);
    let files = files.take(if is_said { 1 } else { usize::MAX });
    for (key, value) in kind_of(state, store, set, files)?.iter().flat_map(FileKind::options) {
        options.entry(key).or_insert(value);
    }
    let compression = options.get(COMPRESSION).and_then(|name| name.parse().ok()).unwrap_or(plain.compression);
    let delimiter = options.get(DELIMITER).and_then(|text| text.bytes().next());
    Ok((options, FileKind { delimiter, compression, ..plain }))
}

fn check_orders(command: &CreateExternalTable, table: &Files) -> Result<()> {
    let schema = table.schema().to_dfschema()?;
    let columns = command.order_exprs.iter().flatten().flat_map(|sort| sort.expr.column_refs());
    match columns.into_iter().find(|column| !schema.has_column(column)) {
        Some(column) => plan_err!("Column {column} is not in schema"),
        None => Ok(()),
    }
}

/// What a table is made of.
struct Table<'a> {
    state: &'a SessionState,
    store: Arc<dyn ObjectStore>,
    listing: Listing,
    format: Format,
}

impl Table<'_> {
    /// A table whose columns are those of its files, and of their folders; those of the first set were `found` already.
    async fn inferred(
        mut self,
        found: Vec<ObjectMeta>,
        command: Option<&CreateExternalTable>,
        folders: &[String],
    ) -> Result<Files> {
        let found = self.listing.files(Some(found), self.store.as_ref(), self.state.config_options()).await?;
        let (Some((root, _)), Some(set)) = (found.first(), self.listing.sets().first()) else {
            let name = self.listing.sets().first().map(|set| set.name.as_str()).unwrap_or_default();
            return Err(
                Error::Read(format!("no files found at {name:?}, which could say what columns the table has")).into()
            );
        };
        let infers = self.state.config_options().execution.listing_table_factory_infer_partitions;
        let partitions = if command.is_none() || infers || !folders.is_empty() {
            let root: Path = root.clone();
            Partitions::of(
                self.store.as_ref(),
                &root,
                found.iter().filter(|(of, _)| *of == root).map(|(_, file)| &file.location),
            )?
        } else {
            Partitions::default()
        };
        if !folders.is_empty() && !partitions.folders.iter().map(|(name, _)| name).eq(folders) {
            return Err(Error::Read(format!(
                "the folders of {:?} have the columns [{}], and PARTITIONED BY says [{}]",
                set.name,
                partitions.folders.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", "),
                folders.join(", ")
            ))
            .into());
        }
        let files: Vec<ObjectMeta> = found.into_iter().map(|(_, file)| file).collect();
        self.format = self.format.by_first_bytes(&self.store, &files).await?;
        let schema = self.format.columns(self.state, &self.store, &files, &partitions).await?;
        self.made(command, schema, partitions)
    }

    /// A table whose columns a statement names.
    fn declared(self, command: &CreateExternalTable) -> Result<Files> {
        let schema = command.schema.inner();
        let folders = command.table_partition_cols.iter().map(|name| {
            let field =
                schema.field_with_name(name).map_err(|_| plan_datafusion_err!("PARTITIONED BY {name}: no such column"));
            field.map(|field| (name.clone(), field.data_type().clone()))
        });
        let partitions = Partitions { folders: folders.collect::<Result<_>>()?, has_filename: false };
        let is_inside = |place: &usize| !command.table_partition_cols.contains(schema.field(*place).name());
        let inside: Vec<usize> = (0..schema.fields().len()).filter(is_inside).collect();
        let schema = Arc::new(schema.project(&inside)?);
        self.made(Some(command), schema, partitions)
    }

    fn made(self, command: Option<&CreateExternalTable>, schema: SchemaRef, partitions: Partitions) -> Result<Files> {
        let paths = self.listing.sets().iter().map(FileSet::url).collect::<Result<Vec<_>>>()?;
        let orders = command.map(|command| command.order_exprs.clone()).unwrap_or_default();
        let options = ListingOptions::new(Arc::clone(&self.format.inner))
            .with_file_extension(NO_FILE)
            .with_table_partition_cols(partitions.folders.clone())
            .with_file_sort_order(orders);
        let config = ListingTableConfig::new_with_multi_paths(paths)
            .with_listing_options(options)
            .with_schema(Arc::clone(&schema));
        let mut written = ListingTable::try_new(config)?;
        if let Some(command) = command {
            written = written
                .with_definition(command.definition.as_deref().map(masked_statement))
                .with_constraints(command.constraints.clone())
                .with_column_defaults(command.column_defaults.clone());
        }
        Ok(Files { listing: self.listing, format: self.format, file_schema: schema, partitions, written })
    }
}
