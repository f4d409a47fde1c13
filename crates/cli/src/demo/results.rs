//! What the demo finds out: read from the files that its `data` jobs write, compared with values
//! computed apart from this program, shown as tables, as text and as HTML.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use comfy_table::{Cell, Table, presets};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::print;

/// Of every airport.
pub(super) const DELAYS_ALL: &str = "delay_all_airports.json";
pub(super) const DELAYS: &str = "delay_by_airport.json";
/// In tenths of a millimetre, as it was recorded: whole numbers add up exactly.
pub(super) const RAIN_TENTHS: &str = "monthly_rain_tenths.json";
pub(super) const RAIN: &str = "monthly_rain.json";
pub(super) const QUAKES: &str = "strongest_quakes.json";
pub(super) const STRIKES: &str = "costliest_strikes.json";

/// Every file that a `data` job writes.
pub(super) const RESULT_FILES: [&str; 6] = [DELAYS_ALL, DELAYS, RAIN_TENTHS, RAIN, QUAKES, STRIKES];

/// Those that answer a question; the report attaches them.
pub(super) const ANSWERS: [&str; 4] = [DELAYS, RAIN, QUAKES, STRIKES];

/// How many rows a table shows.
const ROWS_SHOWN: usize = 5;

/// Everything the demo finds out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Results {
    /// The ten airports where flights start latest, of those with 50 flights or more.
    delay_by_airport: Vec<Delay>,
    /// By place and month, in their order.
    monthly_rain: Vec<Rain>,
    /// The ten strongest.
    strongest_quakes: Vec<Quake>,
    /// The ten costliest.
    costliest_strikes: Vec<Strike>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Delay {
    origin: String,
    count: u64,
    mean_delay: f64,
    max_delay: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Rain {
    location: String,
    month: String,
    rain_mm: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Quake {
    id: String,
    mag: f64,
    place: String,
    time: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Strike {
    cost: u64,
    airport: String,
    date: String,
    species: String,
    operator: String,
}

/// A part of the results, for people.
struct Section {
    title: &'static str,
    heads: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Results {
    /// Reads what the `data` jobs wrote.
    ///
    /// # Errors
    /// When a file is not there or holds something else.
    pub(super) fn read(folder: &Path) -> io::Result<Results> {
        Ok(Results {
            delay_by_airport: read(&folder.join(DELAYS))?,
            monthly_rain: read(&folder.join(RAIN))?,
            strongest_quakes: read(&folder.join(QUAKES))?,
            costliest_strikes: read(&folder.join(STRIKES))?,
        })
    }

    /// What must come out: `data/expected.py` computed it, in Python and apart from the program.
    pub(super) fn expected() -> serde_json::Result<Results> {
        #[derive(Deserialize)]
        struct Expected {
            flights: Flights,
            weather: Weather,
            earthquakes: Earthquakes,
            birdstrikes: Birdstrikes,
        }
        #[derive(Deserialize)]
        struct Flights {
            worst_10_with_50_flights: Vec<Delay>,
        }
        #[derive(Deserialize)]
        struct Weather {
            monthly_rain_mm: BTreeMap<String, BTreeMap<String, f64>>,
        }
        #[derive(Deserialize)]
        struct Earthquakes {
            strongest_10: Vec<Quake>,
        }
        #[derive(Deserialize)]
        struct Birdstrikes {
            costliest_10: Vec<Strike>,
        }
        let text = include_str!("../../../../data/expected.json");
        let expected: Expected = serde_json::from_str(text)?;
        let rain = expected.weather.monthly_rain_mm.into_iter().flat_map(|(location, months)| {
            let of_month =
                move |(month, rain_mm)| Rain { location: location.clone(), month, rain_mm };
            months.into_iter().map(of_month)
        });
        Ok(Results {
            delay_by_airport: expected.flights.worst_10_with_50_flights,
            monthly_rain: rain.collect(),
            strongest_quakes: expected.earthquakes.strongest_10,
            costliest_strikes: expected.birdstrikes.costliest_10,
        })
    }

    /// The parts that differ from `expected`, by name.
    pub(super) fn differing(&self, expected: &Results) -> Vec<&'static str> {
        let parts = [
            (DELAYS, self.delay_by_airport == expected.delay_by_airport),
            (RAIN, self.monthly_rain == expected.monthly_rain),
            (QUAKES, self.strongest_quakes == expected.strongest_quakes),
            (STRIKES, self.costliest_strikes == expected.costliest_strikes),
        ];
        parts.into_iter().filter(|(_, is_same)| !is_same).map(|(name, _)| name).collect()
    }

    /// Prints the tables on standard output.
    pub(super) fn print(&self) -> anyhow::Result<()> {
        for section in self.sections() {
            let mut table = print::table::<0>([]);
            section.fill(&mut table);
            print::line(format!("\n{}", section.title))?;
            print::line(table.to_string())?;
        }
        Ok(())
    }

    /// The report as text.
    pub(super) fn text(&self) -> String {
        let mut text = String::from("This is what the jobs of the Taskloom demo found out.\n");
        for section in self.sections() {
            let mut table = Table::new();
            table.load_style(presets::NOTHING);
            section.fill(&mut table);
            writeln!(text, "\n{}\n{}", section.title, table.trim_fmt())
                .expect("a string takes every text");
        }
        text
    }

    /// The report as HTML.
    pub(super) fn html(&self) -> String {
        let mut html =
            String::from("<p>This is what the jobs of the Taskloom demo found out.</p>\n");
        for section in self.sections() {
            let heads = cells("th", section.heads.iter().copied());
            let rows = section.rows.iter();
            let rows: String = rows
                .map(|row| format!("<tr>{}</tr>\n", cells("td", row.iter().map(String::as_str))))
                .collect();
            let title = escaped(section.title);
            write!(html, "<h2>{title}</h2>\n<table>\n<tr>{heads}</tr>\n{rows}</table>\n")
                .expect("a string takes every text");
        }
        html
    }

    fn sections(&self) -> [Section; 4] {
        let mut wettest: Vec<&Rain> = self.monthly_rain.iter().collect();
        wettest.sort_by(|one, other| other.rain_mm.total_cmp(&one.rain_mm));
        let delays = self.delay_by_airport.iter().take(ROWS_SHOWN).map(|it| {
            let mean = format!("{:.2}", it.mean_delay);
            vec![it.origin.clone(), it.count.to_string(), mean, it.max_delay.to_string()]
        });
        let rain = wettest
            .into_iter()
            .take(ROWS_SHOWN)
            .map(|it| vec![it.location.clone(), it.month.clone(), format!("{:.1}", it.rain_mm)]);
        let quakes = self.strongest_quakes.iter().take(ROWS_SHOWN).map(|it| {
            let at = print::time(taskloom::Time::from_millis(it.time));
            vec![format!("{:.1}", it.mag), it.place.clone(), at]
        });
        let strikes = self.costliest_strikes.iter().take(ROWS_SHOWN).map(|it| {
            let cost = print::grouped(it.cost);
            vec![cost, it.species.clone(), it.airport.clone(), it.date.clone(), it.operator.clone()]
        });
        let section = |title, heads, rows| Section { title, heads, rows };
        [
            section(
                "Latest starts, airports with 50 flights or more",
                &["airport", "flights", "mean delay (min)", "longest (min)"],
                delays.collect(),
            ),
            section("Wettest months", &["place", "month", "rain (mm)"], rain.collect()),
            section("Strongest earthquakes", &["magnitude", "place", "time"], quakes.collect()),
            section(
                "Costliest bird strikes",
                &["cost ($)", "species", "airport", "date", "operator"],
                strikes.collect(),
            ),
        ]
    }
}

impl Section {
    fn fill(&self, table: &mut Table) {
        table.set_header(self.heads.iter().map(Cell::new));
        table.add_rows(&self.rows);
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let name =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(name)?;
    serde_json::from_reader(BufReader::new(file)).map_err(|error| name(error.into()))
}

fn cells<'a>(tag: &str, texts: impl Iterator<Item = &'a str>) -> String {
    texts.map(|it| format!("<{tag}>{}</{tag}>", escaped(it))).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expected_values_are_part_of_the_program() {
        let expected = Results::expected().unwrap();
        assert_eq!(expected.delay_by_airport[0].origin, "JFK");
        assert_eq!(expected.monthly_rain.len(), 96);
        assert!(expected.differing(&expected).is_empty());
    }

    #[test]
    fn a_part_that_differs_is_named() {
        let expected = Results::expected().unwrap();
        let mut found = expected.clone();
        found.monthly_rain[0].rain_mm += 0.1;
        assert_eq!(found.differing(&expected), [RAIN]);
    }

    #[test]
    fn a_report_shows_the_top_of_every_table() {
        let results = Results::expected().unwrap();
        for text in [results.text(), results.html()] {
            for top in ["JFK", "16.20", "22km NNE of Hualian, Taiwan", "7,043,545"] {
                assert!(text.contains(top), "{top} is not in {text}");
            }
        }
    }
}
