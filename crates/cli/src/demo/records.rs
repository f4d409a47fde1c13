//! The recorded data of `data/`, carried in the binary so that the demo works anywhere.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::value::RawValue;

macro_rules! record_files {
    ($($name:literal: $media_type:expr),+ $(,)?) => {
        &[$(RecordFile {
            name: $name,
            media_type: $media_type,
            content: include_str!(concat!("../../../../data/", $name)),
        }),+]
    };
}

const CSV: &str = "text/csv; charset=utf-8";
const JSON: &str = "application/json";

/// Every file of recorded data; `data/README.md` says where each comes from.
pub(crate) const FILES: &[RecordFile] = record_files![
    "airports.csv": CSV,
    "birdstrikes.csv": CSV,
    "earthquakes.json": JSON,
    "flights-20k.json": JSON,
    "seattle-weather-hourly-normals.csv": CSV,
    "us-employment.csv": CSV,
    "weather.csv": CSV,
];

/// One file of recorded data.
#[derive(Debug)]
pub(crate) struct RecordFile {
    /// Its name in `data/`.
    pub(crate) name: &'static str,
    /// What to call it in `Content-Type`.
    pub(crate) media_type: &'static str,
    /// All of it.
    pub(crate) content: &'static str,
}

/// The file called `name`.
pub(crate) fn file(name: &str) -> Option<&'static RecordFile> {
    FILES.iter().find(|it| it.name == name)
}

/// What each airport's page is called, by IATA code: `name — city, state`, with single spaces.
pub(crate) fn airport_titles() -> &'static BTreeMap<String, String> {
    static TITLES: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
        let mut records = csv::Reader::from_reader(content("airports.csv").as_bytes());
        records.records().flatten().filter_map(|it| airport(&it)).collect()
    });
    &TITLES
}

/// Each earthquake as the JSON object that was recorded, by id.
pub(crate) fn quakes() -> &'static BTreeMap<&'static str, &'static str> {
    #[derive(Deserialize)]
    struct Collection<'a> {
        #[serde(borrow)]
        features: Vec<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Event<'a> {
        id: &'a str,
    }
    static QUAKES: LazyLock<BTreeMap<&'static str, &'static str>> = LazyLock::new(|| {
        let collection: Collection<'static> = serde_json::from_str(content("earthquakes.json"))
            .expect("the file is part of the program, and a test reads it");
        let events = collection.features.into_iter().map(RawValue::get);
        events.filter_map(|it| Some((serde_json::from_str::<Event>(it).ok()?.id, it))).collect()
    });
    &QUAKES
}

fn content(name: &str) -> &'static str {
    file(name).map_or("", |it| it.content)
}

fn airport(record: &csv::StringRecord) -> Option<(String, String)> {
    let [iata, name, city, state] = [0, 1, 2, 3].map(|place| record.get(place));
    let title = format!("{} — {}, {}", name?, city?, state?);
    Some((iata?.to_owned(), title.split_whitespace().collect::<Vec<_>>().join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_airport_and_every_earthquake_is_found() {
        assert_eq!(airport_titles().len(), 3376);
        assert_eq!(airport_titles()["SEA"], "Seattle-Tacoma Intl — Seattle, WA");
        assert_eq!(airport_titles()["DBN"], r#"W. H. "Bud" Barron — Dublin, GA"#);
        assert_eq!(quakes().len(), 1707);
        let quake: serde_json::Value = serde_json::from_str(quakes()["us1000chhc"]).unwrap();
        assert_eq!(quake["properties"]["mag"], 6.4);
    }
}
