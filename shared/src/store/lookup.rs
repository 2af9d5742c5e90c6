//! Look-ups of keys, as the gateway makes them.
