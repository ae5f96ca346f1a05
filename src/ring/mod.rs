//! LLAMA's latch-free flush ring.
#![allow(unsafe_code)]
