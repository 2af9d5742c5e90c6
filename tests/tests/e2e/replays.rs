//! Replays: whatever becomes of servers and programs, a retry gets the first answer.
