//! Health decisions.
