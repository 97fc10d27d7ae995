//! The `sarsen` command line.
fn main() {}
