//! The store alone: what is kept comes back to the bit, and nothing else ever does.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::format::{LOCK_FILE, check_format};
use super::key::{DESCRIPTION, SpaceKey};
use super::numbers::{ARITHMETIC, TOKENISING};
use super::segment::Shape;
use super::*;
use crate::access::{Access, Event};

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
        tokenising: TOKENISING,
    }
}

/// The cache of a folder as another process would see it: opened anew.
fn other_process(directory: &Path) -> Cache {
    if !directory.join(FORMAT_FILE).exists() && fs::create_dir_all(directory).is_ok() {
        access::write(directory, FORMAT_FILE, FORMAT.as_bytes()).expect("written");
    }
    Cache::new(directory.to_owned())
}

fn key(i: usize) -> Key {
    Space::key_of(&format!("text {i}"))
}

fn shape() -> Shape {
    space_key().shape()
}

fn vector(i: usize) -> Vec<f32> {
    (0..DIM).map(|j| (i * DIM + j) as f32 / 7.0 - 3.0).collect()
}

fn put(space: &Space, range: std::ops::Range<usize>) {
    put_in(space, range, &Access::local());
}

/// What a query of this session keeps.
fn put_in(space: &Space, range: std::ops::Range<usize>, session: &Access) {
    let keys: Vec<_> = range.clone().map(key).collect();
    let cut: Vec<_> = range.clone().map(is_cut).collect();
    space.put(&keys, &cut, &range.flat_map(vector).collect::<Vec<_>>(), session);
}

/// Every third text was cut.
fn is_cut(i: usize) -> bool {
    i.is_multiple_of(3)
}

/// Which of these vectors are there; each that is there is the right one.
fn which(space: &Space, wanted: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let known: Vec<usize> = wanted.into_iter().filter(|&i| space.may_have(&key(i))).collect();
    let Kept { vectors, cut } = space.read(&known.iter().map(|&i| key(i)).collect::<Vec<_>>());
    assert_eq!((vectors.len(), cut.len()), (known.len() * DIM, known.len()));
    let mut right = Vec::new();
    for ((&i, found), cut) in known.iter().zip(vectors.chunks(DIM)).zip(cut) {
        if let Some(cut) = cut {
            assert_eq!((found, cut), (&vector(i)[..], is_cut(i)));
            right.push(i);
        }
    }
    right
}

/// How many of these vectors are there.
fn found(space: &Space, range: std::ops::Range<usize>) -> usize {
    which(space, range).len()
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
    let changes: [fn(&mut SpaceKey); 10] = [
        |key| key.fingerprint = "e".repeat(64),
        |key| key.precision = "int8".to_owned(),
        |key| key.device = "cuda:0".to_owned(),
        |key| key.kernels = "avx2".to_owned(),
        |key| key.prompt = "query: ".to_owned(),
        |key| key.max_tokens = 128,
        |key| key.dimensions = DIM / 2,
        |key| key.truncate = false,
        |key| key.arithmetic += 1,
        |key| key.tokenising += 1,
    ];
    for change in changes {
        let mut changed = space_key();
        change(&mut changed);
        assert!(!cache.space(changed.clone(), 0).may_have(&key(0)), "{changed:?}");
    }
    let renamed = SpaceKey { model: "the same model in another place".to_owned(), ..space_key() };
    assert_eq!(found(&cache.space(renamed, 0), 0..1), 1);
}

/// Neighbours are read at once, the others one by one: whatever is asked for in whatever order, and whatever is damaged, each
/// is found as if it were asked for alone.
#[test]
fn many_vectors_are_read_as_each_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    for segment in 0..4 {
        put(&other_process(folder.path()).space(space_key(), 0), segment * 50..segment * 50 + 50);
    }
    for (number, path) in files(folder.path(), "vectors").into_iter().enumerate() {
        let mut bytes = fs::read(&path).expect("vectors");
        match number {
            0 => bytes[700] ^= 1,
            1 => bytes.truncate(bytes.len() / 2),
            _ => {}
        }
        fs::write(&path, bytes).expect("vectors");
    }
    let alone = other_process(folder.path()).space(space_key(), 0);
    let alone: Vec<usize> = (0..210).flat_map(|i| which(&alone, [i])).collect();
    assert!((170..200).contains(&alone.len()), "{alone:?}");
    for step in [1, 7, 89, 209] {
        let space = other_process(folder.path()).space(space_key(), 0);
        let mut together = which(&space, (0..210).map(|i| i * step % 210));
        together.sort_unstable();
        together.dedup();
        let wanted: Vec<usize> = alone.iter().copied().filter(|i| (0..210).any(|at| at * step % 210 == *i)).collect();
        assert_eq!(together, wanted, "every {step}th");
    }
}

#[test]
fn a_vector_that_is_damaged_is_a_miss_and_is_computed_again() {
    let folder = tempfile::tempdir().expect("a folder");
    put(&other_process(folder.path()).space(space_key(), 0), 0..50);
    let [vectors] = files(folder.path(), "vectors").try_into().expect("one segment");
    let mut file = OpenOptions::new().write(true).open(&vectors).expect("file");
    // A value of vector 3, the checksum of vector 7.
    let size = shape().entry() as u64;
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
    cut(&vectors[0], shape().entry() as u64 * 10 + 50);
    cut(&keys[1], 32 + 16 * 20 + 3);
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
    fs::remove_dir_all(folder.path()).expect("remove");
    put(&space, 10..20);
    let space = cache.space(space_key(), 0);
    assert_eq!(found(&space, 0..10), 0);
    assert_eq!(found(&space, 10..20), 10);
    assert_eq!(found(&other_process(folder.path()).space(space_key(), 0), 0..20), 10);
}

#[test]
fn a_folder_that_is_removed_in_the_middle_is_a_cache_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cache").display().to_string();
    let space = Cache::open(&path).expect("a new folder").space(space_key(), 0);
    put(&space, 0..10);
    fs::remove_dir_all(&path).expect("remove");
    put(&space, 10..20);
    check_format(Path::new(&path), &path).expect("a cache");
    assert_eq!(found(&other_process(Path::new(&path)).space(space_key(), 0), 0..20), 10);
    // What somebody else has put in its place stays as it is.
    fs::remove_dir_all(&path).expect("remove");
    fs::create_dir(&path).expect("a folder");
    fs::write(Path::new(&path).join("holiday.jpg"), "x").expect("write");
    put(&space, 20..30);
    assert_eq!(fs::read_dir(&path).expect("folder").count(), 1);
}

#[cfg(unix)]
#[test]
fn a_pipe_in_the_place_of_a_file_keeps_nobody_waiting() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display().to_string();
    Cache::open(&path).expect("a new folder");
    put(&other_process(folder.path()).space(space_key(), 0), 0..10);
    let space = folder.path().join(space_key().folder());
    let of_space = ["vectors", "keys"].map(|extension| files(folder.path(), extension).remove(0));
    let others = [FORMAT_FILE, LOCK_FILE].map(|name| folder.path().join(name));
    for file in of_space.iter().chain(&others).chain([&space.join(DESCRIPTION)]) {
        let saved = fs::read(file).ok();
        let _ = fs::remove_file(file);
        assert!(std::process::Command::new("mkfifo").arg(file).status().expect("mkfifo").success());
        let kept = found(&other_process(folder.path()).space(space_key(), 0), 0..10);
        assert!(kept == 0 || !of_space.contains(file), "{file:?}");
        let _ = (usage(&path), verify(&path), check_format(folder.path(), &path));
        assert!(prune(&path, u64::MAX).is_ok() || others.contains(file), "{file:?}");
        fs::remove_file(file).expect("the pipe stays");
        if let Some(saved) = saved {
            fs::write(file, saved).expect("write");
        }
    }
    assert_eq!(found(&other_process(folder.path()).space(space_key(), 0), 0..10), 10);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_once_to_the_session_that_writes_and_the_rest_goes_on_without() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let [first, second] = ["first", "second"].map(|name| {
        let told = Arc::clone(&told);
        Access::local().with_events(move |event| told.lock().push((name, event.clone())))
    });
    let folder = tempfile::tempdir().expect("a folder");
    let cache = other_process(folder.path());
    let space = cache.space(space_key(), 0);
    put(&space, 0..10);
    // The place of the space is taken by a file, so that no segment can be made there.
    let name = space_key();
    let path = folder.path().join(SpaceKey { prompt: "p".to_owned(), ..name.clone() }.folder());
    fs::write(&path, "in the way").expect("write");
    let blocked = cache.space(SpaceKey { prompt: "p".to_owned(), ..name }, 0);
    put_in(&blocked, 0..10, &first);
    put_in(&blocked, 10..20, &first);
    assert_eq!((found(&blocked, 0..20), told.lock().len()), (0, 1));
    // Another query tries again, and the session knows it already.
    blocked.refresh();
    put_in(&blocked, 0..10, &first);
    assert_eq!(told.lock().len(), 1);
    blocked.refresh();
    put_in(&blocked, 0..10, &second);
    put_in(&blocked, 10..20, &second);
    assert_eq!(told.lock().iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["first", "second"]);
    for (_, event) in told.lock().iter() {
        let Event::CacheTrouble(trouble) = event else { panic!("{event:?}") };
        assert!(trouble.contains("cannot be written") && trouble.contains("queries go on"), "{trouble}");
    }
    assert_eq!(found(&space, 0..10), 10, "others are not touched");
}

#[test]
fn the_oldest_vectors_go_first_and_what_is_being_written_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    for i in 0..10 {
        put(&other_process(folder.path()).space(space_key(), 0), i * 100..(i + 1) * 100);
    }
    let all = upkeep::bytes_below(folder.path());
    let cache = other_process(folder.path());
    let space = cache.space(space_key(), all / 2);
    let left = found(&space, 0..1000);
    assert!((400..=500).contains(&left) && found(&space, 1000 - left..1000) == left, "{left}");
    put(&space, 1000..1010);
    let pruned = evict(folder.path(), 0);
    assert_eq!(pruned.bytes, shape().bytes(10));
    assert!(pruned.stayed.len() == 1 && pruned.stayed[0].contains("a running process is writing it"), "{pruned:?}");
    assert_eq!(found(&cache.space(space_key(), 0), 0..2000), 10, "this process writes it");
    cache.end_segments();
    assert_eq!(evict(folder.path(), 0), Pruned::default());
    assert_eq!(found(&cache.space(space_key(), 0), 0..2000), 0);
}

fn evict(directory: &Path, most_bytes: u64) -> Pruned {
    Upkeep::begin(directory).expect("the lock").evict(most_bytes, 0)
}

/// One segment for each vector, as so many runs of a program leave them.
fn one_row_segments(directory: &Path, range: std::ops::Range<usize>) {
    let folder = directory.join(space_key().folder());
    for i in range {
        let mut writer = segment::Writer::create(&folder, shape(), Some(16 * i as u64)).expect("a segment");
        writer.add(&[key(i)], &[is_cut(i)], &vector(i)).expect("written");
        writer.publish().expect("shown");
    }
    fs::write(folder.join(DESCRIPTION), serde_json::to_vec(&space_key()).expect("text")).expect("written");
}

#[test]
fn many_segments_are_read_with_few_open_files_and_joined() {
    let folder = tempfile::tempdir().expect("a folder");
    one_row_segments(folder.path(), 0..10_000);
    let reader = other_process(folder.path());
    let space = Space::new(folder.path().join(space_key().folder()), space_key());
    space.refresh();
    assert_eq!(found(&space, 0..10_000), 10_000);
    #[cfg(target_os = "linux")]
    assert!(open_below(folder.path()) <= 16, "{} files are open", open_below(folder.path()));
    // Some at a time, so that no query waits for all of it.
    let mut before = 10_000;
    while before > 100 {
        let opened = reader.space(space_key(), 0);
        let left = files(folder.path(), "keys").len();
        assert!(left < before && left + 4096 > before - 1, "{left} of {before}");
        assert_eq!(found(&opened, 0..10_000), 10_000);
        before = left;
    }
    assert_eq!(files(folder.path(), "vectors").len(), before);
    // Who has the old names in its index finds the new ones, and counts no damage.
    assert_eq!(found(&space, 0..10_000), 10_000);
    assert_eq!((space.usage().entries, space.usage().damaged), (10_000, 0));
    // Eviction still begins with the oldest.
    evict(folder.path(), shape().bytes(100));
    let left = other_process(folder.path()).space(space_key(), 0);
    let count = found(&left, 0..10_000);
    assert!((95..=100).contains(&count) && found(&left, 10_000 - count..10_000) == count, "{count}");
}

/// Files of a folder that this process has open.
#[cfg(target_os = "linux")]
fn open_below(directory: &Path) -> usize {
    let directory = directory.canonicalize().expect("a folder");
    let open = fs::read_dir("/proc/self/fd").expect("a list").flatten();
    open.filter(|fd| fs::read_link(fd.path()).is_ok_and(|path| path.starts_with(&directory))).count()
}

#[test]
fn a_segment_that_somebody_writes_is_never_joined() {
    let folder = tempfile::tempdir().expect("a folder");
    let writers: Vec<_> = (0..70).map(|_| other_process(folder.path())).collect();
    let space_folder = folder.path().join(space_key().folder());
    // Other processes hold more segments than one may: the files themselves are kept open here.
    let mut live: Vec<_> = (0..writers.len())
        .map(|i| {
            let mut writer = segment::Writer::create(&space_folder, shape(), None).expect("a segment");
            writer.publish().expect("shown");
            writer.add(&[key(i)], &[is_cut(i)], &vector(i)).expect("written");
            writer
        })
        .collect();
    one_row_segments(folder.path(), 100..110);
    let space = other_process(folder.path()).space(space_key(), 0);
    assert_eq!(found(&space, 0..200), 80);
    let names: Vec<_> = segment::list(&space_folder).expect("a list").into_iter().map(|s| s.name).collect();
    assert!(live.iter().all(|writer| names.contains(&writer.name)) && names.len() == 71, "{}", names.len());
    live[3].add(&[key(300)], &[is_cut(300)], &vector(300)).expect("written");
    assert_eq!(found(&other_process(folder.path()).space(space_key(), 0), 0..400), 81);
}

#[test]
fn what_is_joined_keeps_its_age() {
    let folder = tempfile::tempdir().expect("a folder");
    let space_folder = folder.path().join(space_key().folder());
    one_row_segments(folder.path(), 0..30);
    let mut large = segment::Writer::create(&space_folder, shape(), Some(16 * 30)).expect("a segment");
    for i in 30..60 {
        large.add(&[key(i)], &[is_cut(i)], &vector(i)).expect("written");
    }
    large.publish().expect("shown");
    drop(large);
    one_row_segments(folder.path(), 60..90);
    Upkeep::begin(folder.path()).expect("the lock").join(&space_folder, shape(), shape().bytes(50)).expect("joined");
    assert_eq!(files(folder.path(), "keys").len(), 3);
    for most in [85, 70, 50, 25, 5] {
        evict(folder.path(), shape().bytes(most));
        let space = other_process(folder.path()).space(space_key(), 0);
        let left = found(&space, 0..90);
        // Less than one vector per header.
        assert!(left as u64 + 3 >= most && found(&space, 90 - left..90) == left, "{left} of {most}");
    }
}

/// What a process leaves that is killed in the middle of a join: a half of the new segment that nobody reads, or all of it
/// beside the old ones.
#[test]
fn a_join_that_was_killed_costs_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    one_row_segments(folder.path(), 0..50);
    let space_folder = folder.path().join(space_key().folder());
    let half = "0000000000000311-1-0";
    fs::write(space_folder.join(format!("{half}.new")), "dfemb").expect("written");
    fs::write(space_folder.join(format!("{half}.vectors")), [7; 100]).expect("written");
    assert_eq!(found(&other_process(folder.path()).space(space_key(), 0), 0..50), 50);
    let mut whole = segment::Writer::create(&space_folder, shape(), Some(0x311)).expect("a segment");
    for i in 0..50 {
        whole.add(&[key(i)], &[is_cut(i)], &vector(i)).expect("written");
    }
    whole.publish().expect("shown");
    drop(whole);
    let reader = other_process(folder.path()).space(space_key(), 0);
    assert_eq!((found(&reader, 0..50), reader.usage().entries), (50, 50));
    one_row_segments(folder.path(), 50..100);
    let joined = other_process(folder.path()).space(space_key(), 0);
    assert_eq!((found(&joined, 0..100), joined.usage().entries), (100, 100));
    let left = fs::read_dir(&space_folder).expect("folder").count();
    assert_eq!(left, 3, "keys, vectors and the description");
    assert_eq!(upkeep::bytes_below(folder.path()), shape().bytes(100), "none is there twice");
    assert_eq!(found(&reader, 0..50), 50);
}

/// Processes that read, write, join and remove at the same time: no wrong vector, and none is lost that nobody removed.
#[test]
fn joins_race_with_readers_and_writers_and_prunes() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let folder = tempfile::tempdir().expect("a folder");
    one_row_segments(folder.path(), 0..300);
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let write = |from: usize| {
            for i in 0..100 {
                // Each with a process of its own, so that every vector is a segment.
                put(&other_process(folder.path()).space(space_key(), 0), from + i..from + i + 1);
            }
        };
        let read = || {
            let cache = other_process(folder.path());
            while !stop.load(Ordering::Relaxed) {
                let space = cache.space(space_key(), 0);
                assert_eq!(found(&space, 0..300), 300, "these are there all the time");
                assert_eq!(space.usage().damaged, 0);
            }
        };
        let readers = [threads.spawn(read), threads.spawn(read)];
        let writers = [threads.spawn(move || write(1000)), threads.spawn(move || write(2000))];
        writers.into_iter().for_each(|writer| writer.join().expect("written"));
        stop.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().expect("read"));
    });
    let space = other_process(folder.path()).space(space_key(), 0);
    assert_eq!(found(&space, 0..3000), 500);
    let segments = files(folder.path(), "keys").len();
    assert!(segments <= 2 * 64, "{segments} segments");
    // The same with somebody who removes: what is found is right.
    stop.store(false, Ordering::Relaxed);
    std::thread::scope(|threads| {
        let pruner = threads.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                evict(folder.path(), shape().bytes(300));
            }
        });
        for i in 0..100 {
            let space = other_process(folder.path()).space(space_key(), 0);
            put(&space, 4000 + i..4001 + i);
            assert!(found(&space, 0..5000) <= 700);
            assert_eq!(space.usage().damaged, 0);
        }
        stop.store(true, Ordering::Relaxed);
        pruner.join().expect("pruned");
    });
    evict(folder.path(), shape().bytes(300));
    assert!(upkeep::bytes_below(folder.path()) <= shape().bytes(300));
}

#[test]
fn a_limit_holds_while_vectors_are_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let limit = 20_000;
    let space = other_process(folder.path()).space(space_key(), limit);
    let mut most = 0;
    // Larger than the whole folder may be, at once, and one by one.
    put(&space, 0..1000);
    for i in 1000..2000 {
        put(&space, i..i + 1);
        most = most.max(upkeep::bytes_below(folder.path()));
        assert_eq!(found(&space, i..i + 1), 1, "what was just written is there");
    }
    assert!(most <= limit + Space::part_of(limit), "{most}");
    assert!(most > limit * 3 / 4, "{most}");
    let left = space.usage().entries as usize;
    assert!(found(&space, 0..2000) == left && found(&space, 2000 - left..2000) == left, "{left}");
    assert_eq!(space.usage().damaged, 0);
    assert!(space.usage().bytes >= shape().bytes(left as u64));
}

#[test]
fn pruning_goes_as_near_as_a_vector_allows() {
    let folder = tempfile::tempdir().expect("a folder");
    let other = SpaceKey { prompt: "query: ".to_owned(), ..space_key() };
    put(&other_process(folder.path()).space(other, 0), 0..10);
    put(&other_process(folder.path()).space(space_key(), 0), 0..4137);
    let path = folder.path().display().to_string();
    fs::write(folder.path().join(FORMAT_FILE), FORMAT).expect("written");
    assert_eq!(usage(&path).expect("usage").len(), 2);
    let limit = shape().bytes(2500) + 50;
    let pruned = prune(&path, limit).expect("pruned");
    assert_eq!(pruned, Pruned { bytes: shape().bytes(2500), stayed: Vec::new() });
    let space = other_process(folder.path()).space(space_key(), 0);
    assert_eq!((found(&space, 0..4137 - 2500), found(&space, 4137 - 2500..4137)), (0, 2500), "the newest stay");
    let found = usage(&path).expect("usage");
    assert_eq!((found.len(), found[0].entries, found[0].bytes), (1, 2500, limit - 50));
    assert_eq!(clear(&path).expect("cleared"), Pruned::default());
    assert_eq!(usage(&path).expect("usage"), []);
    assert_eq!(upkeep::spaces(folder.path()).expect("a list"), [] as [PathBuf; 0], "no folder is left");
}

#[test]
fn counters_are_true_after_another_process_removed_vectors() {
    let folder = tempfile::tempdir().expect("a folder");
    put(&other_process(folder.path()).space(space_key(), 0), 0..250);
    put(&other_process(folder.path()).space(space_key(), 0), 250..500);
    let cache = other_process(folder.path());
    assert_eq!(found(&cache.space(space_key(), 0), 0..500), 500);
    evict(folder.path(), shape().bytes(100));
    assert_eq!(cache.verify(), (100, 0), "what is gone is not damaged");
    let usage = &cache.usage()[0];
    assert_eq!((usage.entries, usage.damaged, usage.bytes), (100, 0, shape().bytes(100)));
    assert_eq!(found(&cache.space(space_key(), 0), 0..500), 100);
    evict(folder.path(), 0);
    assert_eq!((cache.verify(), cache.usage()), ((0, 0), Vec::new()));
    // Memory is given back.
    let space = cache.space(space_key(), 0);
    assert!(space.capacity() < 100, "{}", space.capacity());
}

#[test]
fn only_files_of_the_format_are_removed() {
    for format in [FORMAT, "datafusion-embed vectors 1\n"] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().display().to_string();
        put(&other_process(folder.path()).space(space_key(), 0), 0..10);
        let space = folder.path().join(space_key().folder());
        fs::write(folder.path().join(FORMAT_FILE), format).expect("written");
        let own = ["thesis.keys", "0000000000000001-1-0.keys.bak", "1-1-1.vectors", "space.json.old"];
        own.iter().for_each(|name| fs::write(space.join(name), "mine").expect("written"));
        let beside = ["photos", "0123456789abcdef0123456789abcdeg"].map(|name| folder.path().join(name));
        for folder in &beside {
            fs::create_dir(folder).expect("a folder");
            fs::write(folder.join("0000000000000001-1-0.keys"), "mine").expect("written");
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink(&beside[0], folder.path().join("f".repeat(32))).expect("a link");
        assert_eq!(clear(&path).expect("cleared"), Pruned::default());
        assert_eq!(files(folder.path(), "vectors"), [space.join("1-1-1.vectors")]);
        assert!(own.iter().all(|name| space.join(name).is_file()));
        assert!(beside.iter().all(|folder| folder.join("0000000000000001-1-0.keys").is_file()));
    }
}

#[cfg(unix)]
#[test]
fn what_is_made_is_for_its_user_alone() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let mode = |path: &Path| fs::metadata(path).expect("there").mode() & 0o777;
    let folder = tempfile::tempdir().expect("a folder");
    let new = folder.path().join("above/vectors");
    let fill =
        |path: &Path| put(&Cache::open(&path.display().to_string()).expect("a cache").space(space_key(), 0), 0..9);
    fill(&new);
    let space = new.join(space_key().folder());
    assert_eq!((mode(&new), mode(&space), mode(&new.join(FORMAT_FILE))), (0o700, 0o700, 0o600));
    assert!(fs::read_dir(&space).expect("folder").all(|file| mode(&file.expect("one").path()) == 0o600));
    // A folder of the user keeps its mode, and where the group may write it is the group's.
    let own = folder.path().join("own");
    for (given, inside) in [(0o755, 0o700), (0o770, 0o770)] {
        fs::create_dir(&own).expect("a folder");
        fs::set_permissions(&own, fs::Permissions::from_mode(given)).expect("a mode");
        fill(&own);
        let made = mode(&own.join(space_key().folder()));
        // The process's own mask may take more away.
        assert!(mode(&own) == given && made & !inside == 0 && made & 0o700 == 0o700, "{given:o}: {made:o}");
        clear(&own.display().to_string()).expect("cleared");
        fs::remove_dir_all(&own).expect("removed");
    }
}

#[test]
fn what_cannot_be_removed_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display().to_string();
    let cache = Cache::open(&path).expect("a cache");
    put(&other_process(folder.path()).space(space_key(), 0), 0..10);
    let other = other_process(folder.path());
    let writing = other.space(space_key(), 0);
    put(&writing, 10..20);
    // Another process writes the second segment; a folder is in the way of the first one's removal.
    let first = files(folder.path(), "keys").remove(0);
    fs::remove_file(&first).expect("removed");
    fs::create_dir(&first).expect("a folder");
    let pruned = clear(&path).expect("told");
    assert_eq!(pruned.stayed.len(), 2, "{pruned:?}");
    assert!(pruned.stayed.iter().all(|line| line.contains(".keys: ") && !line.contains('\n')), "{pruned:?}");
    assert!(pruned.stayed[1].contains("a running process is writing it"), "{pruned:?}");
    assert_eq!(found(&cache.space(space_key(), 0), 0..20), 10);
    // Nor is anything removed while another process is at it.
    let held = Upkeep::begin(folder.path()).expect("the lock");
    assert!(Upkeep::try_begin(folder.path()).expect("a lock").is_none());
    drop(held);
    assert!(Upkeep::try_begin(folder.path()).expect("a lock").is_some());
}

#[test]
fn looking_at_a_folder_makes_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let new = folder.path().join("new").display().to_string();
    assert_eq!(usage_so_far(&new).expect("nothing"), []);
    assert_eq!(usage_so_far(&folder.path().display().to_string()).expect("nothing"), []);
    assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 0);
    fs::write(folder.path().join("holiday.jpg"), "x").expect("write");
    assert!(usage_so_far(&folder.path().display().to_string()).is_err());
}

#[test]
fn a_process_writes_few_segments_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = other_process(folder.path());
    let space = |i: usize| cache.space(SpaceKey { prompt: i.to_string(), ..space_key() }, 0);
    for i in (0..40).chain(0..40) {
        put(&space(i), i..i + 1);
    }
    #[cfg(target_os = "linux")]
    assert!(open_below(folder.path()) <= 16 + 2 * 8, "{} files are open", open_below(folder.path()));
    assert!((0..40).all(|i| found(&space(i), i..i + 1) == 1));
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
    assert_eq!(clear(&path).expect("cleared"), Pruned::default());
    assert_eq!(fs::read_dir(&path).expect("folder").count(), 0);
    Cache::open(&path).expect("a new folder");
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("holiday.jpg"), "x").expect("write");
    let message = Cache::open(&folder.path().display().to_string()).expect_err("not a cache").to_string();
    assert!(message.contains("files of something else"), "{message}");
    let message = usage("no/such/folder").expect_err("not there").to_string();
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
