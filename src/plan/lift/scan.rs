//! Table scan: filters with a call leave it, because a source might evaluate them on every row.
//!
//! ```text
//! table scan
//!     SELECT id FROM pages WHERE embed(body) IS NOT NULL AND id < 10
//! before
//!     Projection: pages.id
//!       Filter: pages.id < Int64(10) AND embed(pages.body) IS NOT NULL
//!         TableScan: pages projection=[id, body], partial_filters=[pages.id < Int64(10), embed(pages.body) IS NOT NULL]
//! after
//!     Projection: pages.id
//!       Filter: __embed_0 IS NOT NULL
//!         Projection: pages.id, __embed_0
//!           Embed: embed(pages.body) AS __embed_0
//!             Filter: pages.id < Int64(10)
//!               TableScan: pages projection=[id, body], partial_filters=[pages.id < Int64(10)]
//! ```

use datafusion::error::Result;
use datafusion::logical_expr::{TableProviderFilterPushDown, TableScan};

use crate::plan::calls::has_call;

/// A scan without the filters that have a call. One that the source promised to apply exactly stays, because no other filter
/// does.
pub(super) fn without_calls(mut scan: TableScan) -> Result<TableScan> {
    let support = scan.source.supports_filters_pushdown(&scan.filters.iter().collect::<Vec<_>>())?;
    let filters = std::mem::take(&mut scan.filters);
    for (filter, support) in filters.into_iter().zip(support) {
        if support == TableProviderFilterPushDown::Exact || !has_call(&filter) {
            scan.filters.push(filter);
        }
    }
    Ok(scan)
}
