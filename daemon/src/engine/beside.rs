//! What goes on in the log beside the owner: whoever does it, a thread with pauses or a test in steps.

use stated_shared::{Generation, Timestamp};

use super::rewrite::{Anew, NotRewritten};
use super::store::Store;
use crate::journal::{Part, Parts};
use crate::machine::Summed;
use crate::machine::event::What;

pub(super) trait Beside {
    /// It has to stop.
    type Stop;

    fn store(&self) -> &Store;

    fn parts(&self) -> &dyn Parts;

    /// How far old observations are summed up, and the time.
    fn summed(&mut self) -> Result<(Option<Summed>, Timestamp), Self::Stop>;

    /// The keyring that everything is to be sealed to, where it is not known to be.
    fn resealing(&mut self) -> Result<Option<Generation>, Self::Stop>;

    /// Closes the part that records are added to; `false` where that cannot be now.
    fn close(&mut self, part: Part) -> Result<bool, Self::Stop>;

    /// Makes an event of the daemon's own durable; `false` where there is no room.
    fn append(&mut self, what: What) -> Result<bool, Self::Stop>;

    /// Writes a closed part anew; whether it is worth to go on.
    fn rewrite(&mut self, part: Part, anew: Anew) -> Result<bool, Self::Stop>;

    /// Changes what is stored, at a time when no backup needs it as it is.
    fn change<T>(&mut self, change: impl FnOnce(&Store) -> T) -> Result<T, Self::Stop>;

    /// Whether a part is left as it is.
    fn is_left(&self, part: &Part) -> bool;

    /// A part cannot be read as it was written.
    fn leave(&mut self, part: &Part, why: NotRewritten);

    /// Lets others go first.
    fn pause(&mut self) -> Result<(), Self::Stop>;
}
