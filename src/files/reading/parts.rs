//! Parts of Parquet files by their rows: by its bytes a row group is one part, however large it is, and many programs write a million
//! rows into one.
//!
//! Of a file in a plan that goes to another machine nothing is kept but a range of bytes. So a range below zero is one of rows: it
//! is made where the plan is, and becomes a selection of rows where it runs.

use std::sync::Arc;

use datafusion::common::exec_err;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::listing::{FileRange, PartitionedFile};
use datafusion::datasource::physical_plan::parquet::ParquetRowSelection;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use datafusion::physical_plan::ExecutionPlan;

use super::text::scanned;

/// Where rows begin in the numbers of bytes.
const ROWS: i64 = i64::MIN;

/// The same plan, whose Parquet files have as many parts as before, of the same number of rows each.
pub(crate) fn dealt_by_rows(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    with_groups(plan, |scan| Ok(by_rows(scan)))
}

/// The same plan, which reads the rows that [`dealt_by_rows`] has dealt out.
pub(crate) fn read_by_rows(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    with_groups(plan, |scan| {
        let is_by_rows = |file: &PartitionedFile| file.range.as_ref().is_some_and(|range| range.start < 0);
        if !scan.file_groups.iter().flat_map(FileGroup::files).any(is_by_rows) {
            return Ok(None);
        }
        let groups = scan.file_groups.iter().map(|group| {
            let files =
                group.files().iter().map(|file| if is_by_rows(file) { selected(file) } else { Ok(file.clone()) });
            files.collect::<Result<Vec<_>>>().map(FileGroup::new)
        });
        groups.collect::<Result<_>>().map(Some)
    })
}

/// A plan whose scans of Parquet files have other groups, where there are others.
fn with_groups(
    plan: Arc<dyn ExecutionPlan>,
    groups: impl Fn(&FileScanConfig) -> Result<Option<Vec<FileGroup>>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        let parquet = scanned(&node).filter(|scan| scan.file_source().is::<ParquetSource>());
        let Some(scan) = parquet else { return Ok(Transformed::no(node)) };
        match groups(scan)? {
            Some(groups) => {
                let scan = FileScanConfigBuilder::from(scan.clone()).with_file_groups(groups).build();
                Ok(Transformed::yes(DataSourceExec::from_data_source(scan) as Arc<dyn ExecutionPlan>))
            }
            None => Ok(Transformed::no(node)),
        }
    })
    .data()
}

/// `None` where the files are no parts, or it is not known how many rows they have.
fn by_rows(scan: &FileScanConfig) -> Option<Vec<FileGroup>> {
    let pieces = || scan.file_groups.iter().flat_map(FileGroup::files);
    if scan.output_partitioning.is_some() || pieces().all(|file| file.range.is_none()) {
        return None;
    }
    let mut files: Vec<(&PartitionedFile, usize)> = Vec::new();
    for file in pieces() {
        if files.last().is_none_or(|(last, _)| last.object_meta.location != file.object_meta.location) {
            files.push((file, rows_of(file)?));
        }
    }
    let mut locations: Vec<_> = files.iter().map(|(file, _)| &file.object_meta.location).collect();
    locations.sort();
    locations.dedup();
    if locations.len() < files.len() {
        // Its pieces are dealt out in some other order.
        return None;
    }
    if !scan.preserve_order {
        return Some(cut(&files, scan.file_groups.len()));
    }
    // Rows of a group are in the order of its file: no group has rows of two.
    let groups_of = |file: &PartitionedFile| {
        let has_it = |group: &&FileGroup| group.files().iter().any(|piece| piece.object_meta == file.object_meta);
        scan.file_groups.iter().filter(has_it).count()
    };
    let is_alone = scan.file_groups.iter().all(|group| group.files().len() == 1);
    is_alone.then(|| files.iter().flat_map(|file| cut(&[*file], groups_of(file.0))).collect())
}

/// The rows of files, in their order, in so many parts of one size.
fn cut(files: &[(&PartitionedFile, usize)], parts: usize) -> Vec<FileGroup> {
    let all = files.iter().map(|(_, rows)| rows).sum::<usize>();
    let group = |part: usize| {
        let (from, to) = (all * part / parts, all * (part + 1) / parts);
        let mut before = 0;
        let pieces = files.iter().filter_map(|(file, rows)| {
            let (start, end) = (from.max(before), to.min(before + rows));
            let piece = (start < end).then(|| piece(file, start - before, end - before));
            before += rows;
            piece
        });
        FileGroup::new(pieces.collect())
    };
    (0..parts).map(group).collect()
}

fn rows_of(file: &PartitionedFile) -> Option<usize> {
    match file.statistics.as_ref()?.num_rows {
        Precision::Exact(rows) => Some(rows),
        _ => None,
    }
}

/// Some rows of a file.
fn piece(file: &PartitionedFile, from: usize, to: usize) -> PartitionedFile {
    let range = FileRange { start: ROWS + from as i64, end: ROWS + to as i64 };
    PartitionedFile { range: Some(range), ..file.clone() }
}

/// A file with a selection in the place of a range of rows.
fn selected(file: &PartitionedFile) -> Result<PartitionedFile> {
    let (Some(FileRange { start, end }), Some(rows)) = (&file.range, rows_of(file)) else {
        return exec_err!("file {:?} in the plan does not say how many rows it has", file.object_meta.location);
    };
    let (from, to) = ((start - ROWS) as usize, (end - ROWS) as usize);
    if from > to || to > rows {
        return exec_err!("file {:?} in the plan has {rows} rows, not {from} to {to}", file.object_meta.location);
    }
    let selectors = [RowSelector::skip(from), RowSelector::select(to - from), RowSelector::skip(rows - to)];
    let selection = RowSelection::from(selectors.into_iter().filter(|s| s.row_count > 0).collect::<Vec<_>>());
    let file = PartitionedFile { range: None, ..file.clone() };
    Ok(file.with_extension(ParquetRowSelection::new(selection)))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Schema;
    use datafusion::common::Statistics;
    use datafusion::datasource::object_store::ObjectStoreUrl;

    use super::*;

    fn file(name: &str, rows: usize, range: Option<(i64, i64)>) -> PartitionedFile {
        let statistics = Statistics { num_rows: Precision::Exact(rows), ..Statistics::default() };
        let mut file = PartitionedFile::new(name, 100);
        file.statistics = Some(Arc::new(statistics));
        file.range = range.map(|(start, end)| FileRange { start, end });
        file
    }

    fn scan(groups: Vec<Vec<PartitionedFile>>) -> FileScanConfig {
        let source = Arc::new(ParquetSource::new(Arc::new(Schema::empty())));
        let groups = groups.into_iter().map(FileGroup::new).collect();
        FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), source).with_file_groups(groups).build()
    }

    /// Name and rows of each piece.
    fn pieces(scan: &FileScanConfig) -> Vec<Vec<(String, i64, i64)>> {
        let piece = |file: &PartitionedFile| {
            let range = file.range.as_ref().expect("rows");
            (file.object_meta.location.to_string(), range.start - ROWS, range.end - ROWS)
        };
        by_rows(scan).expect("dealt out").iter().map(|group| group.files().iter().map(piece).collect()).collect()
    }

    #[test]
    fn every_row_is_in_one_part_and_the_parts_are_of_one_size() {
        let a = |range| file("a", 10, range);
        let groups = vec![
            vec![a(Some((0, 50)))],
            vec![a(Some((50, 100))), file("b", 5, Some((0, 20)))],
            vec![file("b", 5, Some((20, 100)))],
        ];
        let piece = |name: &str, from, to| (name.to_owned(), from, to);
        assert_eq!(pieces(&scan(groups)), [vec![piece("a", 0, 5)], vec![piece("a", 5, 10)], vec![piece("b", 0, 5)]]);
        let groups =
            vec![vec![a(Some((0, 99)))], vec![a(Some((99, 100))), file("b", 2, None)], vec![file("c", 0, None)]];
        assert_eq!(
            pieces(&scan(groups)),
            [vec![piece("a", 0, 4)], vec![piece("a", 4, 8)], vec![piece("a", 8, 10), piece("b", 0, 2)]]
        );
    }

    #[test]
    fn no_part_has_rows_of_two_files_where_they_are_in_order() {
        let a = |range| file("a", 10, Some(range));
        let groups = vec![vec![a((0, 5))], vec![a((5, 100))], vec![file("b", 2, None)]];
        let ordered = |groups| {
            let mut scan = scan(groups);
            scan.preserve_order = true;
            scan
        };
        let piece = |name: &str, from, to| (name.to_owned(), from, to);
        assert_eq!(pieces(&ordered(groups)), [vec![piece("a", 0, 5)], vec![piece("a", 5, 10)], vec![piece("b", 0, 2)]]);
        let groups = vec![vec![a((0, 5))], vec![a((5, 100)), file("b", 2, None)]];
        assert!(by_rows(&ordered(groups)).is_none());
    }

    #[test]
    fn what_is_no_part_or_has_unknown_rows_stays() {
        assert!(by_rows(&scan(vec![vec![file("a", 10, None)], vec![file("b", 10, None)]])).is_none());
        let mut unknown = file("a", 10, Some((0, 50)));
        unknown.statistics = None;
        assert!(by_rows(&scan(vec![vec![unknown]])).is_none());
        let mixed = vec![vec![file("a", 1, Some((0, 50))), file("b", 1, None), file("a", 1, Some((50, 100)))]];
        assert!(by_rows(&scan(mixed)).is_none());
    }

    #[test]
    fn rows_become_a_selection_where_they_are_in_the_file() {
        let selected = selected(&piece(&file("a", 10, None), 3, 5)).expect("rows of it");
        let selection = selected.extensions.get::<ParquetRowSelection>().expect("a selection").selection().clone();
        let expected = [RowSelector::skip(3), RowSelector::select(2), RowSelector::skip(5)];
        assert_eq!((selection, selected.range), (RowSelection::from(expected.to_vec()), None));
        super::selected(&piece(&file("a", 10, None), 3, 11)).expect_err("more rows than there are");
    }
}
