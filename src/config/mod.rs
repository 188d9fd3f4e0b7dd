//! The operator's configuration, validated. Once a [`model::Model`] exists, nothing in it can be wrong on its
//! own.
//!
//! Pure: text comes in, a model or all of its mistakes come out. Flags and file produce the same model.

pub mod advice;
mod by_name;
pub mod check;
pub mod descriptors;
pub mod diff;
pub mod discovered;
pub mod file;
pub mod in_kernel;
pub mod model;
pub mod runtime;
pub mod settings;
pub mod text;
pub mod words;

pub use by_name::by_name;
