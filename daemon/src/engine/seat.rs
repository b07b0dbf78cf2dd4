//! Who drives the owner: the thread that serves the connections while there is little to do, else the engine's own.
//!
//! A command is queued first. What needs no sync is driven where it arrives, if nobody sits in the seat. For the rest a
//! task takes its turn once all connections that had something to say were read, so that they share a record: alone, it
//! decides, syncs and answers in place, and the request passes no other thread on its way. As soon as more are queued the
//! engine's own thread drives until the queue is empty, and connections are read meanwhile; that thread also sees to
//! what time brings. See docs/adr/0003-whoever-finds-the-owner-idle-drives-it.md, and
//! docs/adr/0006-one-thread-serves-the-connections.md.
//!
//! **Invariant:** one drives at a time, and nobody else ever sees owner or machine.

use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak};
use std::thread::Thread;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot};

use super::owner::{Command, Halt, Owner, Round, Wake};

/// Commands that wait for the owner; beyond it connections wait, and with them their peers.
const QUEUE_LEN_MAX: usize = 1024;
/// Commands that are made durable where connections are read, which are not meanwhile.
const IN_PLACE_MAX: isize = 2;

/// The way to the owner.
#[derive(Clone)]
pub(super) struct Queue {
    sender: mpsc::Sender<Command>,
    seat: Arc<Seat>,
}

/// As [`Queue`], for what the owner itself holds on to.
#[derive(Clone)]
pub(super) struct WeakQueue {
    sender: mpsc::WeakSender<Command>,
    seat: Weak<Seat>,
}

/// The owner has stopped.
#[derive(Debug)]
pub(super) struct Stopped;

/// The owner's commands on their way in.
pub(super) struct Commands(mpsc::Receiver<Command>);

/// Where the owner is while nobody drives it; nowhere once it has stopped.
pub(super) struct Seat {
    driver: Mutex<Option<Box<Driver>>>,
    /// Commands that were queued and not taken. Below zero for the moment between a command and its count.
    pending: AtomicIsize,
    /// There is something for [`Seat::turns`].
    arrival: Notify,
    /// The owner has stopped.
    stopped: AtomicBool,
    /// When the engine's thread looks by itself, as `CLOCK_BOOTTIME`.
    wake_boottime_ms: AtomicU64,
    thread: OnceLock<Thread>,
}

type Place<'a> = MutexGuard<'a, Option<Box<Driver>>>;

struct Driver {
    owner: Owner,
    commands: Commands,
    done: oneshot::Sender<Result<(), Halt>>,
}

/// A queue without an owner yet.
pub(super) fn queue() -> (Queue, Commands) {
    let (sender, commands) = mpsc::channel(QUEUE_LEN_MAX);
    let seat = Seat {
        driver: Mutex::new(None),
        pending: AtomicIsize::new(0),
        arrival: Notify::new(),
        stopped: AtomicBool::new(false),
        wake_boottime_ms: AtomicU64::new(0),
        thread: OnceLock::new(),
    };
    (Queue { sender, seat: Arc::new(seat) }, Commands(commands))
}

impl Queue {
    /// Queues a command, waiting for room, and sees to it that somebody drives the owner.
    pub(super) async fn send(&self, command: Command) -> Result<(), Stopped> {
        let needs_sync = command.needs_sync();
        self.sender.send(command).await.map_err(|_| Stopped)?;
        self.seat.arrived(needs_sync);
        Ok(())
    }

    /// As [`Self::send`], where there is room at once; `false` where there is none.
    pub(super) fn try_send(&self, command: Command) -> bool {
        let needs_sync = command.needs_sync();
        let sent = match self.sender.try_send(command) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => false,
        };
        if sent {
            self.seat.arrived(needs_sync);
        }
        sent
    }

    /// Drives the owner from where connections are served; ends when it has stopped.
    pub(super) fn turns(&self) -> impl Future<Output = ()> + Send + use<> {
        let seat = Arc::clone(&self.seat);
        async move { seat.turns().await }
    }

    /// What does not keep the owner running.
    pub(super) fn downgrade(&self) -> WeakQueue {
        WeakQueue { sender: self.sender.downgrade(), seat: Arc::downgrade(&self.seat) }
    }

    /// Puts the owner in its place and drives it on this thread whenever nobody else does, until it has stopped.
    pub(super) fn keep(self, owner: Owner, commands: Commands, done: oneshot::Sender<Result<(), Halt>>) {
        let seat = Arc::clone(&self.seat);
        // Else the queue would never be without senders, and an engine that everybody left would not end.
        drop(self);
        let _ = seat.thread.set(std::thread::current());
        *seat.driver.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(Driver { owner, commands, done }));
        while let Some(pause) = seat.drive_all() {
            std::thread::park_timeout(pause);
        }
    }
}

impl WeakQueue {
    /// As [`Queue::send`]; nothing happens where the engine has stopped.
    pub(super) async fn send(&self, command: Command) {
        if let (Some(sender), Some(seat)) = (self.sender.upgrade(), self.seat.upgrade()) {
            let _ = Queue { sender, seat }.send(command).await;
        }
    }

    /// Leaves a command to whoever drives next, the engine's own thread at the latest; `false` where there is no room. Not
    /// for this thread to drive: nobody's request should wait for one that gives way to others.
    pub(super) fn leave(&self, command: Command) -> bool {
        // Where the engine has stopped nothing comes of it.
        let (Some(sender), Some(seat)) = (self.sender.upgrade(), self.seat.upgrade()) else { return true };
        let is_left = sender.try_send(command).is_ok();
        if is_left {
            seat.pending.fetch_add(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            seat.wake();
        }
        is_left
    }
}

impl Commands {
    /// The next command that is there; [`Command::Stop`] where nobody can send another.
    pub(super) fn next(&mut self) -> Option<Command> {
        match self.0.try_recv() {
            Ok(command) => Some(command),
            Err(mpsc::error::TryRecvError::Empty) => None,
            Err(mpsc::error::TryRecvError::Disconnected) => Some(Command::Stop),
        }
    }
}

impl Seat {
    /// A command was queued.
    fn arrived(&self, needs_sync: bool) {
        match self.pending.fetch_add(1, Ordering::Relaxed) {
            0 if needs_sync => self.arrival.notify_one(),
            0 => self.take_turn(isize::MAX),
            // More than a turn takes. The engine's thread begins at once with what is there, and while that becomes
            // durable the next ones are read: they make the next record.
            IN_PLACE_MAX => self.wake(),
            // Somebody was told already: who leaves the seat looks at the count once more.
            _ => {}
        }
    }

    /// Takes a turn whenever commands arrived, until the owner has stopped.
    async fn turns(&self) {
        while !self.stopped.load(Ordering::Relaxed) {
            self.arrival.notified().await;
            self.take_turn(IN_PLACE_MAX);
        }
    }

    /// One batch where nobody sits in the seat; the engine's thread is woken for what is left, and for more than
    /// `in_place_max` commands.
    fn take_turn(&self, in_place_max: isize) {
        // Either this try finds the seat left, or who leaves it finds the command: both fence in between.
        fence(Ordering::SeqCst);
        if self.pending.load(Ordering::Relaxed) > in_place_max {
            return self.wake();
        }
        let seat = match self.driver.try_lock() {
            Ok(seat) => seat,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let Some((seat, wake)) = self.drive(seat, 1) else { return self.wake() };
        drop(seat);
        fence(Ordering::SeqCst);
        let is_left_over = self.pending.load(Ordering::Relaxed) > 0;
        if is_left_over || wake.at_boottime_ms < self.wake_boottime_ms.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    /// Drives until nothing is queued; how long the engine's thread may rest then. Nothing once the owner has stopped.
    fn drive_all(&self) -> Option<Duration> {
        loop {
            let seat = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
            let (seat, wake) = self.drive(seat, usize::MAX)?;
            // While the seat is ours: who takes it next compares with this, and wakes us where it is too late.
            self.wake_boottime_ms.store(wake.at_boottime_ms, Ordering::Relaxed);
            drop(seat);
            fence(Ordering::SeqCst);
            if self.pending.load(Ordering::Relaxed) <= 0 {
                return Some(Duration::from_millis(wake.in_ms));
            }
        }
    }

    /// Drives batch by batch, at least one; gives the seat back with what time will bring. Nothing where the owner has
    /// stopped: then its commands have nowhere to go any more.
    fn drive<'a>(&self, mut seat: Place<'a>, rounds_max: usize) -> Option<(Place<'a>, Wake)> {
        // A panic drops the driver, and with it the word that the process waits for: nobody goes on with half a step.
        let mut driver = seat.take()?;
        for _ in 0..rounds_max {
            match driver.owner.round(&mut driver.commands) {
                Ok(Round::Done { taken }) => {
                    let taken = taken as isize;
                    if self.pending.fetch_sub(taken, Ordering::Relaxed) <= taken {
                        break;
                    }
                }
                Ok(Round::Stop) => {
                    self.stop();
                    let Driver { owner, done, .. } = *driver;
                    // Whoever started the engine may be gone.
                    let _ = done.send(owner.close());
                    return None;
                }
                Err(halt) => {
                    self.stop();
                    let _ = driver.done.send(Err(halt));
                    return None;
                }
            }
        }
        let wake = driver.owner.wake();
        *seat = Some(driver);
        Some((seat, wake))
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.arrival.notify_one();
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}
