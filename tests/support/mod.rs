//! What the tests share: a daemon of their own on free ports and a directory of its own.
