//! The promises of the schedule, over random traces in virtual time.

mod deadlines;
mod judge;
mod laws;
mod simulation;
mod starvation;
mod turns;
mod world;
