//! The LogStructuredStore.

pub mod types;
