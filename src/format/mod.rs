//! The bytes on the device: pure encoders and decoders.
