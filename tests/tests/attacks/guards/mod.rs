//! The attacks of PROTOCOL 8, and some more, in memory: with the guard off each goes through. So the guards are what stops
//! them, and the tables' rejections are not there by chance.

mod machines;
mod parties;
