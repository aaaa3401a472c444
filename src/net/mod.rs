//! Listeners: they take a permit and hand a byte stream to reception, on the arbiter where its
//! session is to live. What the bytes mean is decided there.

pub mod tcp;
