//! Ladders of hand-made recordings.

mod crafted;
mod kit;
mod ladders;
mod losses;
mod tables;
