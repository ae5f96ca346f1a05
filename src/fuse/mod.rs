//! The fuse room.
