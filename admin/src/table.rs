//! How lists are printed: columns without lines, so that people and `awk` can read them.

use comfy_table::{Table, presets};
use time::OffsetDateTime;
use time::format_description::well_known::Iso8601;
use time::format_description::well_known::iso8601::{Config, EncodedConfig, TimePrecision};

const SECONDS: EncodedConfig =
    Config::DEFAULT.set_time_precision(TimePrecision::Second { decimal_digits: None }).encode();

/// A table with its header.
pub fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// A time to the second, such as `2026-03-14T09:26:53Z`.
pub fn moment(time: OffsetDateTime) -> String {
    time.format(&Iso8601::<SECONDS>).unwrap_or_else(|_| time.unix_timestamp().to_string())
}
