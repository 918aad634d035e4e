//! Placeholder while the program is written.
fn main() {}
