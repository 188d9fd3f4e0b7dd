//! Arguments → logger → run → exit code.
fn main() {}
