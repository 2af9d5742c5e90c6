//! Accounts and their API keys, as the administrator manages them.
