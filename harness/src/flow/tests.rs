//! Ladders of hand-made recordings.

mod crafted;
mod defects;
mod kit;
mod ladders;
mod losses;
mod tables;
