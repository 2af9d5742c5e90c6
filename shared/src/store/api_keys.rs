//! API keys, as the gateway reads them.
