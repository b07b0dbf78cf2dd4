//! The command line, as its users meet it: what is printed where, and the exit codes.

mod doctor;
mod edit;
mod manual;
mod output;
mod prune;
mod refusals;
mod retention;
mod starting;
mod tags;
mod terminal;
mod versions;
mod watch;
