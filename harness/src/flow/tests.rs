//! Ladders of hand-made recordings.

mod kit;
mod ladders;
mod losses;
mod tables;
