//! What to enter in each app so that it sends as a device: as text, and as the app's own set-up link where it has one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

/// For OwnTracks, which sends its key only if it has a user to go with it. Nothing reads it.
const USER: &str = "milepost";

/// How one app is set up.
pub struct App {
    pub name: &'static str,
    /// What to enter, by the name that the app has for it.
    pub fields: Vec<(&'static str, String)>,
    /// What sets it up when it is opened on the phone.
    pub link: Option<String>,
    /// What sets it up when it is scanned; by the app itself, or by the camera, which opens the link.
    pub code: Option<String>,
}

/// The apps, for a gateway's URL without a slash at its end, a key's secret and a device's name.
pub fn all(gateway: &str, secret: &str, device: &str) -> [App; 4] {
    [
        owntracks(&format!("{gateway}/owntracks"), secret, device),
        overland(&format!("{gateway}/overland"), secret, device),
        traccar(&format!("{gateway}/traccar/{secret}"), device),
        gpslogger(&format!("{gateway}/gpslogger/{secret}?%ALL")),
    ]
}

fn owntracks(url: &str, secret: &str, device: &str) -> App {
    let configuration = json!({
        "_type": "configuration", "mode": 3, "url": url, "auth": true, "username": USER, "password": secret,
        "deviceId": device,
    });
    let link = format!("owntracks:///config?inline={}", encoded(&STANDARD.encode(configuration.to_string())));
    App {
        name: "OwnTracks",
        fields: vec![
            ("Mode", "HTTP".to_owned()),
            ("URL", url.to_owned()),
            ("Device ID", device.to_owned()),
            ("User", USER.to_owned()),
            ("Password", secret.to_owned()),
        ],
        code: Some(link.clone()),
        link: Some(link),
    }
}

fn overland(url: &str, secret: &str, device: &str) -> App {
    let link = format!(
        "overland://setup?url={}&token={}&device_id={}",
        encoded(url),
        encoded(secret),
        encoded(device)
    );
    App {
        name: "Overland",
        fields: vec![
            ("Receiver Endpoint", url.to_owned()),
            ("Access Token", secret.to_owned()),
            ("Device ID", device.to_owned()),
        ],
        code: Some(link.clone()),
        link: Some(link),
    }
}

fn traccar(url: &str, device: &str) -> App {
    App {
        name: "Traccar Client",
        fields: vec![("Server URL", url.to_owned()), ("Device identifier", device.to_owned())],
        link: Some(format!("org.traccar.client://config?url={}&id={}", encoded(url), encoded(device))),
        // All versions that scan take the server's URL; only later ones take the link, too.
        code: Some(format!("{url}?id={}", encoded(device))),
    }
}

fn gpslogger(url: &str) -> App {
    App {
        name: "GPSLogger",
        fields: vec![
            ("Log to custom URL", "on".to_owned()),
            ("URL", url.to_owned()),
            ("HTTP Method", "POST".to_owned()),
            ("HTTP Body", "(empty)".to_owned()),
        ],
        link: None,
        code: None,
    }
}

/// Every app decodes this; some of them take `+` for itself, and some for a space.
fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use percent_encoding::percent_decode_str;
    use serde_json::Value;

    use super::*;

    const SECRET: &str = "mp_abcdefgh_-_x0123456789012345678901234567890123456789";
    const DEVICES: [&str; 3] = ["pixel8", "Zoë’s phone & tablet+1", "100%/a?b=c#d"];

    /// As the apps read it: `+` is itself.
    fn query(link: &str) -> BTreeMap<&str, String> {
        let (_, query) = link.split_once('?').unwrap();
        query
            .split('&')
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap();
                (name, percent_decode_str(value).decode_utf8().unwrap().into_owned())
            })
            .collect()
    }

    #[test]
    fn each_link_reads_back_as_what_was_asked_for() {
        for device in DEVICES {
            let [owntracks, overland, traccar, gpslogger] = all("https://h.example/m", SECRET, device);

            let link = owntracks.link.unwrap();
            assert!(link.starts_with("owntracks:///config?"), "{link}");
            let configuration = STANDARD.decode(&query(&link)["inline"]).unwrap();
            let configuration: Value = serde_json::from_slice(&configuration).unwrap();
            let wanted = json!({
                "_type": "configuration", "mode": 3, "url": "https://h.example/m/owntracks", "auth": true,
                "username": "milepost", "password": SECRET, "deviceId": device
            });
            assert_eq!(configuration, wanted);

            let link = overland.link.unwrap();
            assert!(link.starts_with("overland://setup?"), "{link}");
            let read = query(&link);
            assert_eq!((&read["url"][..], &read["token"][..]), ("https://h.example/m/overland", SECRET));
            assert_eq!(read["device_id"], device);

            let url = format!("https://h.example/m/traccar/{SECRET}");
            let link = traccar.link.unwrap();
            assert!(link.starts_with("org.traccar.client://config?"), "{link}");
            assert_eq!((&query(&link)["url"], &query(&link)["id"][..]), (&url, device));
            let code = traccar.code.unwrap();
            assert_eq!(code.split_once('?').unwrap().0, url);
            assert_eq!(query(&code)["id"], device);

            assert!(gpslogger.link.is_none() && gpslogger.code.is_none());
            let url = format!("https://h.example/m/gpslogger/{SECRET}?%ALL");
            assert!(gpslogger.fields.contains(&("URL", url)));
        }
    }

    #[test]
    fn what_is_to_be_entered_is_what_the_link_enters() {
        let [owntracks, overland, ..] = all("http://127.0.0.1:8080", SECRET, "pixel8");
        let entered = |app: &App, name| app.fields.iter().find(|(of, _)| *of == name).unwrap().1.clone();
        assert_eq!(entered(&owntracks, "URL"), "http://127.0.0.1:8080/owntracks");
        assert_eq!(entered(&owntracks, "Password"), SECRET);
        assert_eq!(entered(&overland, "Access Token"), SECRET);
        assert_eq!(entered(&overland, "Device ID"), "pixel8");
    }
}
