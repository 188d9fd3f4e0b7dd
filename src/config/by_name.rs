//! Finding listeners, pools and backends by name without a search per name.
//!
//! A file may list tens of thousands of each. A comparison of two models that searched a list for every entry of the
//! other one would take seconds.

use super::model::{Backend, Listener, Pool};
use std::collections::HashMap;

/// What has a name that is unique within its list.
pub trait Named {
    /// The name.
    fn name(&self) -> &str;
}

/// The entries of a list by their names.
pub fn by_name<T: Named>(list: &[T]) -> HashMap<&str, &T> {
    list.iter().map(|entry| (entry.name(), entry)).collect()
}

impl Named for Listener {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for Pool {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for Backend {
    fn name(&self) -> &str {
        &self.name
    }
}
