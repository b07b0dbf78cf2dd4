//! The command line, as its users meet it: what is printed where, and the exit codes.

mod output;
mod refusals;
mod starting;
mod tags;
mod versions;
mod watch;
