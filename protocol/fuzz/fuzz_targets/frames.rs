//! The fuzz target for cargo-fuzz; what is tried stands in the library beside it.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| sarsen_protocol_fuzz::run(input));
