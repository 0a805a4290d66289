//! The compiler against the reference, against itself, and in golden text.

mod agreement;
mod budget;
mod departed;
mod frontends;
mod golden;
mod history;
mod touches;
