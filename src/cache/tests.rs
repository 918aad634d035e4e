//! The store alone: what is kept comes back to the bit, and nothing else ever does.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};

use proptest::prelude::*;

use super::*;

const DIM: usize = 24;

fn space_key() -> SpaceKey {
    SpaceKey {
        model: "a model".to_owned(),
        fingerprint: "f".repeat(64),
        precision: "f32".to_owned(),
        device: "cpu".to_owned(),
        kernels: "portable".to_owned(),
        prompt: String::new(),
        max_tokens: 256,
        dimensions: DIM,
        truncate: true,
        arithmetic: ARITHMETIC,
    }
}

/// The cache of a folder as another process would see it: opened anew.
fn other_process(directory: &Path) -> Cache {
    Cache { directory: directory.to_owned(), spaces: Mutex::default() }
}

fn key(i: usize) -> Key {
    Space::key_of(&format!("text {i}"))
}

fn vector(i: usize) -> Vec<f32> {
    (0..DIM).map(|j| (i * DIM + j) as f32 / 7.0 - 3.0).collect()
}

fn put(space: &Space, range: std::ops::Range<usize>) {
    let keys: Vec<_> = range.clone().map(key).collect();
    space.put(&keys, &range.flat_map(vector).collect::<Vec<_>>());
}

/// How many of these vectors are there; each that is there is the right one.
fn found(space: &Space, range: std::ops::Range<usize>) -> usize {
    range
        .filter(|&i| {
            space.get(&key(i)).is_some_and(|found| {
                assert_eq!(found, vector(i));
                true
            })
        })
        .count()
}

/// The files of a folder with this extension.
fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let spaces =
        fs::read_dir(directory).expect("folder").map(|entry| entry.expect("entry").path()).filter(|p| p.is_dir());
    let files = spaces.flat_map(|space| fs::read_dir(space).expect("folder").map(|entry| entry.expect("entry").path()));
    let mut found: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    found.sort();
    found
}

#[test]
fn what_was_kept_is_found_by_this_process_and_by_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second) = (other_process(folder.path()), other_process(folder.path()));
    let (a, b) = (first.space(space_key(), 0), second.space(space_key(), 0));
    put(&a, 0..100);
    assert_eq!((found(&a, 0..200), found(&b, 0..200)), (100, 0), "b looks when a query begins");
    put(&b, 100..150);
    let (a, b) = (first.space(space_key(), 0), second.space(space_key(), 0));
    assert_eq!((found(&a, 0..200), found(&b, 0..200)), (150, 150));
    put(&a, 150..160);
    assert_eq!(found(&second.space(space_key(), 0), 0..200), 160, "a segment that is followed grows");
    // A new process that reads all of it.
    assert_eq!(found(&other_process(folder.path()).space(space_key(), 0), 0..200), 160);
    let usage = first.usage();
    assert_eq!((usage.len(), usage[0].entries, usage[0].hits, usage[0].misses), (1, 160, 250, 150));
}

/// Another model, setting or arithmetic is another space: an old vector cannot come back.
#[test]
fn a_change_of_anything_but_the_text_is_another_space() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = other_process(folder.path());
    put(&cache.space(space_key(), 0), 0..1);
    let changes: [fn(&mut SpaceKey); 8] = [
        |key| key.fingerprint = "e".repeat(64),
        |key| key.precision = "int8".to_owned(),
        |key| key.device = "cuda:0".to_owned(),
        |key| key.kernels = "avx2".to_owned(),
        |key| key.prompt = "query: ".to_owned(),
        |key| key.max_tokens = 128,
        |key| key.dimensions = DIM / 2,
        |key| key.truncate = false,
    ];
    for change in changes {
        let mut changed = space_key();
        change(&mut changed);
        assert_eq!(cache.space(changed.clone(), 0).get(&key(0)), None, "{changed:?}");
    }
    let renamed = SpaceKey { model: "the same model in another place".to_owned(), ..space_key() };
    assert!(cache.space(renamed, 0).get(&key(0)).is_some());
}

#[test]
fn a_vector_that_is_damaged_is_a_miss_and_is_computed_again() {
    let folder = tempfile::tempdir().expect("a folder");
    put(&other_process(folder.path()).space(space_key(), 0), 0..50);
    let [vectors] = files(folder.path(), "vectors").try_into().expect("one segment");
    let mut file = OpenOptions::new().write(true).open(&vectors).expect("file");
    // A value of vector 3, the checksum of vector 7.
    let size = (DIM * 4 + 8) as u64;
    for place in [3 * size + 5, 7 * size + size - 1] {
        file.seek(SeekFrom::Start(place)).expect("seek");
        file.write_all(&[0xa5]).expect("write");
    }
    let cache = other_process(folder.path());
    let space = cache.space(space_key(), 0);
    assert_eq!(found(&space, 0..50), 48);
    assert_eq!(cache.usage()[0].damaged, 2);
    put(&space, 3..4);
    put(&space, 7..8);
    assert_eq!(found(&space, 0..50), 50);
    let again = other_process(folder.path());
    assert_eq!(found(&again.space(space_key(), 0), 0..50), 50, "the newer one counts");
    assert_eq!(again.verify(), (50, 0));
}

#[test]
fn files_that_are_cut_or_gone_cost_only_what_they_held() {
    let folder = tempfile::tempdir().expect("a folder");
    put(&other_process(folder.path()).space(space_key(), 0), 0..50);
    put(&other_process(folder.path()).space(space_key(), 0), 50..100);
    let (keys, vectors) = (files(folder.path(), "keys"), files(folder.path(), "vectors"));
    let cut = |path: &Path, length: u64| {
        OpenOptions::new().write(true).open(path).expect("file").set_len(length).expect("cut");
    };
    cut(&vectors[0], (DIM * 4 + 8) as u64 * 10 + 50);
    cut(&keys[1], 16 + 16 * 20 + 3);
    let fresh = || other_process(folder.path()).space(space_key(), 0);
    assert_eq!(found(&fresh(), 0..100), 10 + 20);
    fs::remove_file(&vectors[1]).expect("remove");
    assert_eq!(found(&fresh(), 0..100), 10);
    cut(&keys[0], 5);
    assert_eq!(found(&fresh(), 0..100), 0);
    put(&fresh(), 0..100);
    assert_eq!(found(&fresh(), 0..100), 100);
}

#[test]
fn a_folder_that_goes_away_in_the_middle_is_made_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = other_process(folder.path());
    let space = cache.space(space_key(), 0);
    put(&space, 0..10);
    for entry in fs::read_dir(folder.path()).expect("folder") {
        fs::remove_dir_all(entry.expect("entry").path()).expect("remove");
    }
    put(&space, 10..20);
    let space = cache.space(space_key(), 0);
    assert_eq!(found(&space, 0..10), 0);
    assert_eq!(found(&space, 10..20), 10);
    assert_eq!(found(&other_process(folder.path()).space(space_key(), 0), 0..20), 10);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_once_and_the_rest_goes_on_without() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static TOLD: AtomicUsize = AtomicUsize::new(0);
    observe_cache_troubles(Arc::new(|trouble| {
        assert!(trouble.contains("cannot be written") && trouble.contains("queries go on"), "{trouble}");
        TOLD.fetch_add(1, Ordering::Relaxed);
    }));
    let folder = tempfile::tempdir().expect("a folder");
    let cache = other_process(folder.path());
    let space = cache.space(space_key(), 0);
    put(&space, 0..10);
    // The place of the space is taken by a file, so that no segment can be made there.
    let name = space_key();
    let path = folder.path().join(SpaceKey { prompt: "p".to_owned(), ..name.clone() }.folder());
    fs::write(&path, "in the way").expect("write");
    let blocked = cache.space(SpaceKey { prompt: "p".to_owned(), ..name }, 0);
    put(&blocked, 0..10);
    put(&blocked, 10..20);
    assert_eq!((found(&blocked, 0..20), TOLD.load(Ordering::Relaxed)), (0, 1));
    assert_eq!(found(&space, 0..10), 10, "others are not touched");
}

#[test]
fn the_oldest_vectors_go_first_and_what_is_being_written_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    for i in 0..10 {
        put(&other_process(folder.path()).space(space_key(), 0), i * 100..(i + 1) * 100);
    }
    let all: u64 = segment::all_below(folder.path()).iter().map(|segment| segment.bytes).sum();
    let cache = other_process(folder.path());
    let space = cache.space(space_key(), all / 2);
    let left = found(&space, 0..1000);
    assert!((400..=500).contains(&left) && found(&space, 500..1000) == left, "{left}");
    put(&space, 1000..1010);
    cache.evict(0);
    assert_eq!(found(&cache.space(space_key(), 0), 0..2000), 10, "this process writes it");
}

#[test]
fn another_format_and_other_files_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display().to_string();
    Cache::open(&path).expect("a new folder");
    Cache::open(&path).expect("the same");
    fs::write(folder.path().join(FORMAT_FILE), "datafusion-embed vectors 0\n").expect("write");
    let message = Cache::open(&path).expect_err("old").to_string();
    assert!(
        message.contains("has the format \"datafusion-embed vectors 0\"") && message.contains("clear"),
        "{message}"
    );
    fs::create_dir(folder.path().join("abc")).expect("folder");
    clear_cache(&path).expect("cleared");
    assert_eq!(fs::read_dir(&path).expect("folder").count(), 0);
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("holiday.jpg"), "x").expect("write");
    let message = Cache::open(&folder.path().display().to_string()).expect_err("not a cache").to_string();
    assert!(message.contains("files of something else"), "{message}");
    let message = cache_usage("no/such/folder").expect_err("not there").to_string();
    assert!(message.contains("not found"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever bytes change in whatever file: a vector that comes back is the one that was kept.
    #[test]
    fn no_damage_gives_a_wrong_vector(
        changes in prop::collection::vec((any::<bool>(), any::<u16>(), any::<u8>()), 1..40),
        cut in prop::option::of((any::<bool>(), any::<u16>())),
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        put(&other_process(folder.path()).space(space_key(), 0), 0..30);
        let path = |keys| files(folder.path(), if keys { "keys" } else { "vectors" }).remove(0);
        for (keys, place, byte) in changes {
            let mut bytes = fs::read(path(keys)).expect("file");
            let place = usize::from(place) % bytes.len();
            bytes[place] = byte;
            fs::write(path(keys), bytes).expect("write");
        }
        if let Some((keys, length)) = cut {
            let mut bytes = fs::read(path(keys)).expect("file");
            bytes.truncate(usize::from(length) % bytes.len());
            fs::write(path(keys), bytes).expect("write");
        }
        let space = other_process(folder.path()).space(space_key(), 0);
        prop_assert!(found(&space, 0..30) <= 30);
        put(&space, 0..30);
        prop_assert_eq!(found(&space, 0..30), 30);
    }
}
