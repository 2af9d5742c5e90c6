//! How many files and connections the program may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What a program needs.
#[derive(Debug, Clone, Copy)]
pub struct OpenFiles {
    /// Files and connections at once.
    pub needed: u64,
    /// The setting that this follows from, if there is one, for the log.
    pub setting: Option<&'static str>,
}

/// Raises the soft limit to the hard one, and says in the log when that is not enough.
pub fn raise(OpenFiles { needed, setting }: OpenFiles) {
    match to_hard_limit() {
        Ok(limit) if limit < needed => tracing::warn!(
            limit,
            needed,
            setting,
            "the hard limit of open files is too low: connections will fail"
        ),
        Ok(limit) => tracing::debug!(limit, needed, "open files"),
        Err(error) => tracing::warn!(%error, needed, "cannot raise the limit of open files"),
    }
}

fn to_hard_limit() -> nix::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let limit = to_hard_limit().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (limit, limit));
    }
}
