//! What apps send besides points.

/// What an app sends that is no point: stored nowhere, and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Record {
    // As of OwnTracks, by `_type`, up to `Request`.
    /// A region was entered or left.
    Transition,
    /// A place that the user has set.
    Waypoint,
    /// All such places.
    Waypoints,
    /// The last will, which says that the phone is gone.
    Lwt,
    /// What the app says of itself.
    Status,
    /// A name and a face.
    Card,
    /// A command, which only a phone should get.
    Cmd,
    /// Steps counted.
    Steps,
    /// The configuration, with its password.
    Dump,
    /// The configuration, with its password.
    Configuration,
    /// A beacon seen.
    Beacon,
    /// A wish, such as for a tour.
    Request,
    /// No message at all.
    Empty,
    /// Something the app did, such as pausing.
    Action,
    /// A stay at a place.
    Visit,
    /// A trip, over or going on.
    Trip,
    /// Where the phone is now, beside a batch that is behind; it comes again as a point.
    Current,
    /// A sign of life without a place.
    Heartbeat,
    /// Where to push messages to; a secret.
    NotificationToken,
    /// Anything else.
    Other,
}

impl Record {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Transition,
        Self::Waypoint,
        Self::Waypoints,
        Self::Lwt,
        Self::Status,
        Self::Card,
        Self::Cmd,
        Self::Steps,
        Self::Dump,
        Self::Configuration,
        Self::Beacon,
        Self::Request,
        Self::Empty,
        Self::Action,
        Self::Visit,
        Self::Trip,
        Self::Current,
        Self::Heartbeat,
        Self::NotificationToken,
        Self::Other,
    ];

    /// Its name in metrics and documents; never changed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transition => "transition",
            Self::Waypoint => "waypoint",
            Self::Waypoints => "waypoints",
            Self::Lwt => "lwt",
            Self::Status => "status",
            Self::Card => "card",
            Self::Cmd => "cmd",
            Self::Steps => "steps",
            Self::Dump => "dump",
            Self::Configuration => "configuration",
            Self::Beacon => "beacon",
            Self::Request => "request",
            Self::Empty => "empty",
            Self::Action => "action",
            Self::Visit => "visit",
            Self::Trip => "trip",
            Self::Current => "current",
            Self::Heartbeat => "heartbeat",
            Self::NotificationToken => "notification-token",
            Self::Other => "other",
        }
    }

    /// What an OwnTracks message of this `_type` is.
    #[must_use]
    pub fn of_owntracks(name: &str) -> Self {
        let sent = |record: &Self| *record <= Self::Request && record.name() == name;
        Self::ALL.into_iter().find(sent).unwrap_or(Self::Other)
    }
}
