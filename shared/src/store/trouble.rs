//! Why Postgres cannot be asked, in words for operators: no value of a row, no secret.

use std::error::Error as StdError;

use rustls::CertificateError;

/// The classes of SQLSTATE whose texts are about the connection, the server or the role: there is no row to quote.
const ABOUT_THE_SERVER: [&str; 5] = ["08", "28", "3D", "53", "57"];

/// The cause, the same for the same cause.
#[must_use]
pub fn in_words(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code();
            let code = code.as_deref().unwrap_or("without code");
            if ABOUT_THE_SERVER.iter().any(|class| code.starts_with(class)) {
                let text: String =
                    error.message().chars().filter(|char| !char.is_control()).take(300).collect();
                format!("{text} (SQLSTATE {code})")
            } else {
                format!("database error {code}")
            }
        }
        sqlx::Error::Io(error) => match error.get_ref() {
            Some(inner) => of_tls(inner).unwrap_or_else(|| inner.to_string()),
            None => format!("connection: {}", error.kind()),
        },
        sqlx::Error::Tls(error) => {
            of_tls(&**error).unwrap_or_else(|| format!("{error}; see sslmode in DATABASE_URL"))
        }
        other => other.to_string(),
    }
}

fn of_tls(error: &(dyn StdError + 'static)) -> Option<String> {
    let error = error.downcast_ref::<rustls::Error>()?;
    let rustls::Error::InvalidCertificate(wrong) = error else { return Some(format!("TLS: {error}")) };
    // Their own texts have the time in them, or leave out what to look at.
    let what = match wrong {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet: mind the clocks"
        }
        // The second if an authority has the name of the right one, and another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "is signed by no authority of sslrootcert"
        }
        CertificateError::NotValidForName => "is not for the host's name in DATABASE_URL",
        CertificateError::NotValidForNameContext { expected, presented } => {
            let (expected, presented) = (expected.to_str(), presented.join(", "));
            return Some(format!("the server's certificate is not for {expected}, but for {presented}"));
        }
        other => return Some(format!("the server's certificate is refused: {other}")),
    };
    Some(format!("the server's certificate {what}"))
}

#[cfg(test)]
mod tests {
    use sqlx::{ConnectOptions as _, Executor as _};

    use super::*;
    use crate::store::testing::{Role, database};

    #[tokio::test]
    async fn what_is_about_a_row_is_told_by_its_code_alone_and_what_is_about_the_server_in_its_words() {
        let database = database().await;
        let mut connection = database.options(Role::Gateway).connect().await.unwrap();
        for (code, wanted) in [
            ("23505", "database error 23505"),
            ("22P02", "database error 22P02"),
            ("53300", "16.3738189 (SQLSTATE 53300)"),
            ("28P01", "16.3738189 (SQLSTATE 28P01)"),
        ] {
            let raise = format!("DO $$ BEGIN RAISE EXCEPTION '16.3738189' USING ERRCODE = '{code}'; END $$");
            let error = connection.execute(&*raise).await.unwrap_err();
            assert_eq!(in_words(&error), wanted);
        }
    }
}
