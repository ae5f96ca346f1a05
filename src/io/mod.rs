//! QuikIO, the `Device` trait and what stands behind it.
#![allow(unsafe_code)]

pub mod buffer;
