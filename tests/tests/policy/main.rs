//! The policy of the system's daemon: one service, several ordinary users, and what each of them gets.

mod answers;
mod edits;
mod hidden;
mod service;
mod verbs;
