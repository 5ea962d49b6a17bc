//! The handover (PROTOCOL 3 and 4). [`messages`] has what is said, [`source`] and [`target`] the two sides of an attempt;
//! the third side, the arbiter, is [`registry`](crate::registry). [`trace`] is what people see of it.

pub mod messages;
pub mod source;
pub mod target;
pub mod trace;

pub use source::Source;
pub use target::Target;
