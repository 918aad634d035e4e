//! What a server of files has under a name, and how it answers who asks for it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use super::message::{Request, Response};

#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) bytes: Vec<u8>,
    /// With its quotes.
    pub(crate) etag: String,
    pub(crate) modified: SystemTime,
}

impl Object {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        Self { bytes, etag: format!("\"{:016x}\"", hasher.finish()), modified: SystemTime::now() }
    }

    /// The answer to `GET` and `HEAD`.
    pub(crate) fn answer(&self, request: &Request) -> Response {
        let is_this = |name| request.headers.get(name).map(|tags| tags == "*" || tags.contains(&self.etag));
        let (status, content_range, body) = if is_this("if-match") == Some(false) {
            (412, None, &[][..])
        } else if is_this("if-none-match") == Some(true) {
            (304, None, &[][..])
        } else {
            self.part(request.headers.get("range"))
        };
        let mut response = Response::new(status, body)
            .with_header("etag", &self.etag)
            .with_header("last-modified", &http_date(self.modified))
            .with_header("accept-ranges", "bytes")
            .with_header("content-type", "application/octet-stream");
        if let Some(range) = content_range {
            response = response.with_header("content-range", &range);
        }
        response
    }

    /// Status, `Content-Range` and bytes for a `Range`; for one that is no range of bytes the whole.
    fn part(&self, range: Option<&str>) -> (u16, Option<String>, &[u8]) {
        let length = self.bytes.len();
        match range.and_then(|range| byte_range(range, length)) {
            None => (200, None, &self.bytes),
            Some(range) if range.is_empty() => (416, Some(format!("bytes */{length}")), &[]),
            Some(range) => {
                let said = format!("bytes {}-{}/{length}", range.start, range.end - 1);
                (206, Some(said), &self.bytes[range])
            }
        }
    }
}

/// `bytes=a-b`, `bytes=a-` or `bytes=-n`; empty where there are no such bytes.
fn byte_range(range: &str, length: usize) -> Option<Range<usize>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| text.parse::<usize>().ok();
    let (start, end) = match (first, last) {
        ("", last) => (length.saturating_sub(number(last)?), length),
        (first, "") => (number(first)?, length),
        (first, last) => (number(first)?, number(last)?.saturating_add(1).min(length)),
    };
    Some(start.min(end)..end)
}

/// Like `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(crate) fn http_date(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let ([year, month, day], [hour, minute, second], days) = calendar(time);
    let (weekday, month) = (DAYS[days as usize % 7], MONTHS[month as usize - 1]);
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// Like `1994-11-06T08:49:37.000Z`.
pub(crate) fn iso_date(time: SystemTime) -> String {
    let ([year, month, day], [hour, minute, second], _) = calendar(time);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.000Z")
}

/// Date, time of the day, and days since 1970, in UTC.
fn calendar(time: SystemTime) -> ([u64; 3], [u64; 3], u64) {
    let seconds = time.duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March here, so that the day too many is the last one; 400 of them have 146097 days.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = [
        era * 400 + year + u64::from(month >= 10),
        if month < 10 { month + 3 } else { month - 9 },
        day - (153 * month + 2) / 5 + 1,
    ];
    (date, [second / 3600, second / 60 % 60, second % 60], days)
}

#[test]
fn dates_are_those_of_the_calendar() {
    let date = |seconds| http_date(UNIX_EPOCH + std::time::Duration::from_secs(seconds));
    assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
    assert_eq!(date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
    assert_eq!(date(1_709_251_199), "Thu, 29 Feb 2024 23:59:59 GMT");
    assert_eq!(date(4_107_542_400), "Mon, 01 Mar 2100 00:00:00 GMT");
    assert_eq!(iso_date(UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
}

#[test]
fn ranges_are_parts_of_the_file() {
    let object = Object::new(b"0123456789".to_vec());
    let part = |range| {
        let (status, said, bytes) = object.part(Some(range));
        (status, said.unwrap_or_default(), String::from_utf8_lossy(bytes).into_owned())
    };
    let answer = |status, said: &str, bytes: &str| (status, said.to_owned(), bytes.to_owned());
    assert_eq!(part("bytes=2-4"), answer(206, "bytes 2-4/10", "234"));
    assert_eq!(part("bytes=8-99"), answer(206, "bytes 8-9/10", "89"));
    assert_eq!(part("bytes=7-"), answer(206, "bytes 7-9/10", "789"));
    assert_eq!(part("bytes=-3"), answer(206, "bytes 7-9/10", "789"));
    assert_eq!(part("bytes=-99"), answer(206, "bytes 0-9/10", "0123456789"));
    assert_eq!(part("bytes=10-"), answer(416, "bytes */10", ""));
    assert_eq!(part("rows=1-2"), answer(200, "", "0123456789"));
}
