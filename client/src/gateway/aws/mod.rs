//! What the protocols of AWS have in common: signatures, places, locks with two faces, and the forms of refusals.

mod answer;
mod chunked;
mod door;
pub mod locks;
pub mod place;
pub mod refusal;
pub mod signature;
pub mod xml;

pub use answer::Answer;
pub use door::{Aws, Keys};
pub use place::Place;
pub use signature::Claim;
