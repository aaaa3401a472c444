//! The integration tests: real sockets, real clients that we did not write, real models, killed
//! processes. One binary, so that the daemon is linked once; each file names what it is about.

mod support;
