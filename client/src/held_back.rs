//! A child that has not become its program yet, and waits until its lock is tied to it.
//!
//! **Invariant:** what runs in the child before its program allocates nothing, takes no lock and calls only system calls.
#![allow(
    unsafe_code,
    reason = "`spawn` of the standard library returns after the exec, which has to wait for what this process does \
              meanwhile; and no safe wrapper tells how a signal is handled"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::ptr;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};

/// Longest value that a child can be told late, in bytes.
const LATE_LEN_MAX: usize = 63;
/// What a child that is not told anything else is let go by.
const GO: &[u8] = b"!";
/// Bytes of a child's stack.
const STACK_LEN: usize = 64 << 10;
/// The code of a child that never became its program.
const NEVER_RAN: c_int = 127;

/// A child of this process that has not become its program yet.
///
/// It goes on when it is let go. Where this process ends first, or drops this, the child ends too: nobody holds its lock.
pub(crate) struct HeldBack {
    child: Running,
    told_late: bool,
}

/// A child that is, or becomes, its program.
pub(crate) struct Running {
    pid: Pid,
    pidfd: OwnedFd,
    /// Lets the child go, and hears why it could not become its program.
    gate: UnixStream,
}

/// All that the child uses until it becomes its program.
struct Waiting {
    program: Program,
    /// The other end of the gate.
    childs: RawFd,
    /// The child's copy of this process's end.
    gate: RawFd,
    /// Whether an interrupt is not ignored, as it is in background jobs.
    handles_interrupts: bool,
}

impl HeldBack {
    /// Starts the child. The variable `late` gets its value only when the child is let go.
    ///
    /// The child shares this process's memory until then: copying it costs more than anything else that is done for a
    /// command. Only the stack is the child's own.
    pub(crate) fn start(command: &Command, late: Option<&str>) -> io::Result<Self> {
        let program = Program::new(command, late)?;
        let (gate, childs) = UnixStream::pair()?;
        let stack_len = STACK_LEN + program.argv.len() * 4 * size_of::<usize>();
        let handles_interrupts = !is_ignored(libc::SIGINT);
        let waiting = Waiting { program, childs: childs.as_raw_fd(), gate: gate.as_raw_fd(), handles_interrupts };
        // Neither is ever freed, since the child may use both as long as it lives.
        let waiting = ptr::from_mut(Box::leak(Box::new(waiting)));
        let stack = Box::leak(Box::<[u128]>::new_uninit_slice(stack_len / size_of::<u128>()));
        // SAFETY: the stack is large enough for what the child does, a handler of a signal and a C library that looks for
        // the program included; it grows down from its end, which is aligned. What the child does is sound beside this
        // process: see `main_of_child`.
        let pid = unsafe {
            let top = stack.as_mut_ptr_range().end.cast();
            libc::clone(main_of_child, top, libc::CLONE_VM | libc::SIGCHLD, waiting.cast())
        };
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        let pid = Pid::from_raw(pid).ok_or(Errno::INVAL)?;
        drop(childs);
        // Not reaped yet, so the number is this child's.
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self { child: Running { pid, pidfd, gate }, told_late: late.is_some() })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.child.pid
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    /// Lets the child become its program, with this value where one was to be told late.
    pub(crate) fn let_go(self, late: &str) -> io::Result<Running> {
        let word = if self.told_late { late.as_bytes() } else { GO };
        if word.is_empty() || word.len() > LATE_LEN_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match send(&self.child.gate, word, SendFlags::NOSIGNAL) {
            // A child that is gone already shows in how it ended.
            Ok(_) | Err(Errno::PIPE) => Ok(self.child),
            Err(error) => Err(error.into()),
        }
    }
}

impl Running {
    /// Readable when it has ended.
    pub(crate) fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Waits for its end; `Err` also where it never became its program.
    pub(crate) fn wait(mut self) -> io::Result<ExitStatus> {
        let status = loop {
            match waitpid(Some(self.pid), WaitOptions::empty()) {
                Err(Errno::INTR) => {}
                Ok(status) => break status.ok_or(Errno::CHILD)?.1,
                Err(error) => return Err(error.into()),
            }
        };
        let mut number = [0; size_of::<c_int>()];
        // Its end of the gate was closed by the exec, or else by its end.
        match self.gate.read_exact(&mut number) {
            Ok(()) => Err(io::Error::from_raw_os_error(c_int::from_ne_bytes(number))),
            Err(_) => Ok(ExitStatus::from_raw(status.as_raw())),
        }
    }
}

/// A program with its arguments and environment as exec takes them: made before the fork, since nothing allocates after.
struct Program {
    file: CString,
    /// What the lists below point to, besides this process's own environment.
    _own: Vec<CString>,
    /// The variable that comes late and room for its value.
    late: Option<Late>,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
}

struct Late {
    /// `NAME=`, and zeros.
    entry: Vec<u8>,
    value_at: usize,
    /// Where in the environment it is put.
    at: usize,
}

impl Program {
    fn new(command: &Command, late: Option<&str>) -> io::Result<Self> {
        let file = CString::new(command.get_program().as_bytes())?;
        let mut own = Vec::new();
        let mut list = |text: Vec<u8>| {
            let text = CString::new(text)?;
            let pointer = text.as_ptr();
            own.push(text);
            io::Result::Ok(pointer)
        };
        let mut argv = vec![file.as_ptr()];
        for argument in command.get_args() {
            argv.push(list(argument.as_bytes().to_vec())?);
        }
        argv.push(ptr::null());
        let set: Vec<_> = command.get_envs().collect();
        let mut envp = Vec::new();
        for (pointer, entry) in own_environment() {
            let name = entry.split(|byte| *byte == b'=').next().unwrap_or_default();
            let is_replaced = set.iter().any(|(of, _)| of.as_bytes() == name);
            if !is_replaced && late.is_none_or(|late| late.as_bytes() != name) {
                envp.push(pointer);
            }
        }
        for (name, value) in set {
            if let Some(value) = value {
                envp.push(list([name.as_bytes(), b"=", value.as_bytes()].concat())?);
            }
        }
        let late = late.map(|name| {
            let mut entry = [name.as_bytes(), b"="].concat();
            let value_at = entry.len();
            entry.resize(value_at + LATE_LEN_MAX + 1, 0);
            envp.push(ptr::null());
            Late { entry, value_at, at: envp.len() - 1 }
        });
        envp.push(ptr::null());
        Ok(Self { file, _own: own, late, argv, envp })
    }
}

/// The child's whole life until it becomes its program: it waits at the gate for leave.
///
/// It runs beside this process in the same memory, so it writes to nothing but its stack and what `waiting` points to.
/// There is one exception: the C library notes errors of an exec in the `errno` of the thread that started the child. This
/// process asks for its own right after a call of its own has failed; that it could read the child's instead must not
/// matter where it does so between letting the child go and hearing of its end.
extern "C" fn main_of_child(waiting: *mut c_void) -> c_int {
    // SAFETY: it points to a `Waiting` that lives for ever, and that only the child uses once it exists.
    let Waiting { program, childs, gate, handles_interrupts } = unsafe { &mut *waiting.cast::<Waiting>() };
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: system calls on memory of this function; how signals are handled was copied, not shared. The standard library
    // starts its children so. An interrupt is the command's own from here on.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        if *handles_interrupts {
            libc::signal(libc::SIGINT, libc::SIG_DFL);
        }
    }
    // SAFETY: the descriptors were copied, not shared, and the gate would never read end of file while the copy of its
    // other end is open here.
    unsafe { rustix::io::close(*gate) };
    // SAFETY: the child's copy is open until it becomes its program.
    let childs = unsafe { BorrowedFd::borrow_raw(*childs) };
    let mut scratch = [0; LATE_LEN_MAX];
    let word = match &mut program.late {
        Some(late) => &mut late.entry[late.value_at..late.value_at + LATE_LEN_MAX],
        None => &mut scratch[..],
    };
    loop {
        match rustix::io::read(childs, &mut *word) {
            Err(Errno::INTR) => {}
            Ok(1..) => break,
            // SAFETY: it ends the child without what a process does at its end, which is this process's to do.
            Ok(0) | Err(_) => unsafe { libc::_exit(NEVER_RAN) },
        }
    }
    if let Some(late) = &program.late {
        program.envp[late.at] = late.entry.as_ptr().cast();
    }
    // SAFETY: the pointers are of strings that end with a zero, and each list ends with a null pointer.
    unsafe { libc::execvpe(program.file.as_ptr(), program.argv.as_ptr(), program.envp.as_ptr()) };
    let error = io::Error::last_os_error().raw_os_error().unwrap_or(0);
    let _ = rustix::io::write(childs, &error.to_ne_bytes());
    // SAFETY: as above.
    unsafe { libc::_exit(NEVER_RAN) }
}

/// The entries of this process's environment, and where they are.
fn own_environment() -> impl Iterator<Item = (*const c_char, &'static [u8])> {
    // SAFETY: a list of strings that ends with a null pointer, or none at all. Nothing of this program changes its own
    // environment, which the standard library has as an unsafe function for the same reason.
    let mut next = unsafe { environ };
    std::iter::from_fn(move || {
        if next.is_null() {
            return None;
        }
        // SAFETY: as above; `next` is within the list.
        unsafe {
            let entry = *next;
            if entry.is_null() {
                return None;
            }
            next = next.add(1);
            Some((entry, CStr::from_ptr(entry).to_bytes()))
        }
    })
}

unsafe extern "C" {
    /// The environment as the C library has it.
    static environ: *const *const c_char;
}

/// Whether this process ignores a signal.
pub(crate) fn is_ignored(signal: c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: it only asks; where it succeeds, the action is filled in.
    let known = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) } == 0;
    // SAFETY: as above.
    known && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}
