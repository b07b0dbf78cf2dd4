//! `statectl`: the command line of the state daemon.

fn main() {}
