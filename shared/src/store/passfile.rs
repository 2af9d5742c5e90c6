//! A file of passwords, as libpq has it: `host:port:database:user:password`, the first line that fits.
//!
//! Not sqlx's own, which logs a line that it cannot read, with the password in it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sqlx::postgres::PgConnectOptions;

/// Whether a file can be read, and by its owner alone.
///
/// # Errors
/// Why not.
pub(super) fn check(file: &Path) -> Result<(), String> {
    let metadata = std::fs::File::open(file).and_then(|file| file.metadata());
    let metadata = metadata.map_err(|error| format!("cannot be read: {}", error.kind()))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("others may read it (mode {mode:o}): it must be 600"));
    }
    Ok(())
}

/// The password for a host, if the file has one. It is read each time, so that it can be changed.
pub(super) async fn password(file: &Path, host: &str, options: &PgConnectOptions) -> Option<String> {
    check(file).ok()?;
    let text = tokio::fs::read_to_string(file).await.ok()?;
    // As libpq does.
    let host = if host == "/var/run/postgresql" { "localhost" } else { host };
    let port = options.get_port().to_string();
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    find(&text, [host, &port, database, options.get_username()])
}

fn find(text: &str, wanted: [&str; 4]) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line);
        let (password, names) = fields.split_last()?;
        let fits = names.len() == wanted.len()
            && names.iter().zip(wanted).all(|(name, wanted)| name == "*" || name == wanted);
        fits.then(|| password.clone()).filter(|password| !password.is_empty())
    })
}

/// The five fields of a line; a backslash takes the meaning of the character behind it.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match char {
            ':' if fields.len() < 5 => fields.push(String::new()),
            _ => {
                let char = if char == '\\' { chars.next().unwrap_or(char) } else { char };
                if let Some(last) = fields.last_mut() {
                    last.push(char);
                }
            }
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let text = "# h:1:d:u:comment\nh:2:d:u:other port\nbroken:line\nh:1:d:u:p\\:a\\\\:s\n*:*:*:*:any\n";
        assert_eq!(find(text, ["h", "1", "d", "u"]).as_deref(), Some("p:a\\:s"));
        assert_eq!(find(text, ["h", "2", "d", "u"]).as_deref(), Some("other port"));
        assert_eq!(find(text, ["else", "1", "d", "u"]).as_deref(), Some("any"));
        assert_eq!(find("h:1:d:u:\nh:1:d:v:p", ["h", "1", "d", "u"]), None);
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mode = |mode| std::fs::set_permissions(file.path(), PermissionsExt::from_mode(mode)).unwrap();
        mode(0o600);
        check(file.path()).unwrap();
        mode(0o640);
        assert!(check(file.path()).unwrap_err().contains("mode 640"));
        assert!(check(Path::new("/nowhere")).unwrap_err().contains("not found"));
    }
}
