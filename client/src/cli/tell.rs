//! What is said to whoever sits before the terminal, or reads a job's log.

/// As `eprintln!`; but that nobody hears it any more stops nothing, least of all what is done under a lock.
macro_rules! tell {
    ($($arguments:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($arguments)*);
    }};
}
