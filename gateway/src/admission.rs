//! Who may send, how fast and how much, whatever the protocol.
//!
//! [`authenticate`] and [`rate`] say who may, [`media`] what is understood; [`body`] reads it within bounds, and [`coding`]
//! decodes what was compressed.

pub mod authenticate;
pub mod body;
pub mod coding;
pub mod media;
pub mod rate;
