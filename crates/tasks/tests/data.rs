//! The task `data`, on real files and on bad ones.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use taskloom_dispatch::{BlockingTask, CancelReason, Ctx, TaskError, TaskErrorKind};
use taskloom_tasks::data::Format;
use taskloom_tasks::{Data, DataArgs, DataOutput};

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data").join(name)
}

fn run(args: DataArgs) -> Result<DataOutput, TaskError> {
    Data::default().run(&Ctx::detached(), args)
}

/// The rows of the result.
#[track_caller]
fn rows(args: DataArgs) -> Vec<Value> {
    run(args).unwrap().rows.expect("no output was asked for")
}

#[track_caller]
fn check_error(args: DataArgs, code: &str, message: &str) {
    let error = run(args).unwrap_err();
    assert_eq!(error.kind(), TaskErrorKind::Permanent, "{error}");
    assert_eq!(error.code_str(), Some(code), "{error}");
    assert!(error.message().contains(message), "{error}");
}

/// A folder with one file in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> DataArgs {
        fs::write(self.path(name), text).unwrap();
        DataArgs::new(self.path(name))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|it| it.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn weather_is_summed_by_place() {
    let args = DataArgs::new(sample("weather.csv"))
        .group_by(["location"])
        .aggregate("days", "count()")
        .aggregate("rain", "sum(precipitation)")
        .aggregate("hottest", "max(temp_max)");
    let expected = [
        json!({"location": "New York", "days": 1461, "rain": 4178.6, "hottest": 37.8}),
        json!({"location": "Seattle", "days": 1461, "rain": 4426.0, "hottest": 35.6}),
    ];
    assert_eq!(rows(args), expected);
}

#[test]
fn the_busiest_origins_of_flights_come_first() {
    let args = DataArgs::new(sample("flights-20k.json"))
        .group_by(["origin"])
        .aggregate("flights", "count()")
        .aggregate("mean", "mean(delay)")
        .aggregate("p95", "quantile(delay, 0.95)")
        .sort_by("flights")
        .descending()
        .limit(2);
    let output = run(args).unwrap();
    assert_eq!((output.rows_in, output.groups, output.rows_out), (20_000, 220, 2));
    let rows = output.rows.unwrap();
    assert_eq!(rows[0]["origin"], "DFW");
    assert_eq!(rows[0]["flights"], 1103);
    assert!((rows[0]["mean"].as_f64().unwrap() - 9.485_040_797_824_116).abs() < 1e-9);
    assert_eq!(rows[0]["p95"], 73.0);
    assert_eq!(rows[1]["origin"], "ORD");
}

#[test]
fn the_strongest_earthquakes_are_found_in_a_document() {
    let args = DataArgs::new(sample("earthquakes.json"))
        .path("features")
        .map(".properties | {mag, place}")
        .sort_by("mag")
        .descending()
        .limit(2);
    let output = run(args).unwrap();
    assert_eq!((output.rows_in, output.rows_out), (1707, 2));
    let expected = [
        json!({"mag": 6.4, "place": "22km NNE of Hualian, Taiwan"}),
        json!({"mag": 6.1, "place": "21km NNE of Hualian, Taiwan"}),
    ];
    assert_eq!(output.rows.unwrap(), expected);
    let strong = DataArgs::new(sample("earthquakes.json"))
        .path("features")
        .filter(".properties.mag != null and .properties.mag >= 5");
    assert_eq!(run(strong).unwrap().rows_out, 39);
}

#[test]
fn every_sample_is_read_whole() {
    let n_rows = |args: DataArgs| rows(args.aggregate("n", "count()"))[0]["n"].clone();
    assert_eq!(n_rows(DataArgs::new(sample("airports.csv"))), 3376);
    assert_eq!(n_rows(DataArgs::new(sample("seattle-weather-hourly-normals.csv"))), 8759);
    assert_eq!(n_rows(DataArgs::new(sample("us-employment.csv"))), 120);
    let cost = DataArgs::new(sample("birdstrikes.csv")).aggregate("cost", "sum(Cost Total $)");
    assert_eq!(rows(cost), [json!({"cost": 40_545_276})]);
    let late =
        DataArgs::new(sample("flights-20k.json")).filter(".delay > 60").aggregate("n", "count()");
    assert_eq!(rows(late), [json!({"n": 1089})]);
}

#[test]
fn a_csv_file_becomes_ndjson_and_csv_again() {
    let folder = Folder::new();
    let ndjson = folder.path("weather.ndjson");
    let output = run(DataArgs::new(sample("weather.csv")).output(&ndjson)).unwrap();
    assert_eq!(output.output.as_deref(), Some(ndjson.as_path()));
    assert_eq!((output.rows, output.rows_out), (None, 2922));
    run(DataArgs::new(&ndjson).output(folder.path("weather.csv"))).unwrap();
    let original = fs::read_to_string(sample("weather.csv")).unwrap().replace("\r\n", "\n");
    assert_eq!(folder.read("weather.csv"), original);
    assert_eq!(folder.names(), ["weather.csv", "weather.ndjson"]);
}

#[test]
fn a_json_output_is_one_array() {
    let folder = Folder::new();
    let args = folder.file("in.csv", "a,b\n1,x\n2,\n");
    run(args.clone().output(folder.path("out.json"))).unwrap();
    let written: Value = serde_json::from_str(&folder.read("out.json")).unwrap();
    assert_eq!(written, json!([{"a": 1, "b": "x"}, {"a": 2, "b": null}]));
    run(args.filter("false").output(folder.path("out.json"))).unwrap();
    assert_eq!(folder.read("out.json"), "[]\n");
}

#[test]
fn fields_are_typed_unless_they_are_not_to_be() {
    let folder = Folder::new();
    let args = folder.file("in.csv", "\u{feff}id,n,empty\n007,1.5,\n");
    assert_eq!(rows(args.clone()), [json!({"id": "007", "n": 1.5, "empty": null})]);
    assert_eq!(rows(args.untyped()), [json!({"id": "007", "n": "1.5", "empty": ""})]);
}

#[test]
fn a_delimiter_and_quotes_are_understood() {
    let folder = Folder::new();
    let mut args = folder.file("in.txt", "a;b\n\"x;\ny\";\"say \"\"hi\"\"\"\n").delimiter(';');
    args.format = Some(Format::Csv);
    assert_eq!(rows(args), [json!({"a": "x;\ny", "b": "say \"hi\""})]);
}

#[test]
fn columns_of_an_output_can_be_chosen() {
    let folder = Folder::new();
    let args = folder.file("in.ndjson", "{\"a\":1,\"b\":[1]}\n\n{\"a\":2,\"c\":3}\n");
    let to_csv = args.output(folder.path("out.csv"));
    check_error(to_csv.clone(), "data.columns", "the field `c`");
    run(to_csv.columns(["b", "c"])).unwrap();
    assert_eq!(folder.read("out.csv"), "b,c\n[1],\n,3\n");
}

#[test]
fn a_bad_row_fails_the_job_and_names_its_line() {
    let folder = Folder::new();
    check_error(folder.file("a.csv", "a,b\n1,2\n\"x\ny\",2\n3\n"), "data.row", "a.csv:5: it has 1");
    check_error(folder.file("b.ndjson", "{}\n\n{\"a\":\n"), "data.row", "b.ndjson:3: EOF");
    check_error(folder.file("c.csv", b"a\n1\n\xff\n"), "data.row", "c.csv:3: field `a`");
    let sum = folder.file("d.csv", "a\n1\nx\n").aggregate("s", "sum(a)");
    check_error(sum, "data.row", "d.csv:3: field `a` is a text, not a number");
    let map = folder.file("e.json", "[{\"a\":1},{\"a\":\"x\"}]").map(".a + 1");
    check_error(map, "data.row", "e.json, element 2: cannot calculate");
}

#[test]
fn bad_rows_are_put_aside_when_asked() {
    let folder = Folder::new();
    let args = folder
        .file("in.csv", "k,n\na,1\nb\na,x\nb,2\n")
        .group_by(["k"])
        .aggregate("sum", "sum(n)")
        .reject_to(folder.path("bad.ndjson"));
    let output = run(args).unwrap();
    assert_eq!((output.rows_in, output.rows_rejected, output.rows_out), (4, 2, 2));
    assert_eq!(output.rows.unwrap(), [json!({"k": "a", "sum": 1}), json!({"k": "b", "sum": 2})]);
    let bad = folder.read("bad.ndjson");
    let bad: Vec<Value> = bad.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
    let expected = [
        json!({"line": 3, "error": "it has 1 fields, and the header 2", "row": ["b"]}),
        json!({"line": 4, "error": "field `n` is a text, not a number", "row": ["a", "x"]}),
    ];
    assert_eq!(bad, expected);
    let args = folder
        .file("in.json", "{\"rows\":[{\"a\":1},[2]]}")
        .path("rows")
        .map("{b: .a}")
        .reject_to(folder.path("bad.ndjson"));
    assert_eq!(rows(args), [json!({"b": 1})]);
    let bad: Value = serde_json::from_str(&folder.read("bad.ndjson")).unwrap();
    assert_eq!((&bad["element"], &bad["row"]), (&json!(2), &json!([2])));
}

#[test]
fn a_job_that_fails_leaves_no_file_and_no_old_one_changed() {
    let folder = Folder::new();
    fs::write(folder.path("out.ndjson"), "old").unwrap();
    let args =
        folder.file("in.csv", "a\n1\nx\n").map("{b: (.a + 1)}").output(folder.path("out.ndjson"));
    check_error(args.clone(), "data.row", "in.csv:3");
    let mut bounded = args.reject_to(folder.path("bad.ndjson"));
    bounded.map = Some(".a, range(2000)".into());
    check_error(bounded, "data.bound", "in.csv:2");
    assert_eq!(folder.read("out.ndjson"), "old");
    assert_eq!(folder.names(), ["in.csv", "out.ndjson"]);
}

#[test]
fn what_can_not_be_asked_is_refused() {
    let folder = Folder::new();
    let good = || folder.file("in.csv", "a\n1\n");
    check_error(DataArgs::default(), "data.args", "names no file");
    check_error(DataArgs::new("x.parquet"), "data.args", "give `format`");
    check_error(DataArgs::new(folder.path("none.csv")), "data.input", "none.csv");
    check_error(good().filter("input"), "data.program", "`filter` is no program");
    check_error(good().map(".a |"), "data.program", "`map` is no program");
    check_error(good().aggregate("x", "median(a)"), "data.args", "no aggregate");
    check_error(good().group_by(["a"]).aggregate("a", "count()"), "data.args", "two columns");
    check_error(good().sort_by("a").limit(2_000_000), "data.args", "at most 1000000");
    check_error(good().output(folder.path("no/such/out.csv")), "data.output", "out.csv");
    check_error(good().reject_to(folder.path("in.csv")), "data.args", "a file of their own");
    check_error(good().map("range(2000)"), "data.bound", "more than 1000 results");
    check_error(folder.file("e.csv", ""), "data.format", "needs a header");
    check_error(folder.file("e.csv", "a,a\n"), "data.format", "two columns");
    check_error(folder.file("e.json", "{\"a\":1}"), "data.format", "`path` says where");
    check_error(folder.file("e.json", "{\"a\":1}").path("b"), "data.path", "no array at `b`");
    check_error(folder.file("e.json", "[1,2"), "data.format", "EOF");
    let error = serde_json::from_value::<DataArgs>(json!({"input": "x.csv", "fliter": "."}));
    assert!(error.unwrap_err().to_string().contains("unknown field `fliter`"));
}

#[test]
fn groups_and_results_are_bounded() {
    let folder = Folder::new();
    let lines: String = (0..2000).map(|n| format!("{n}\n")).collect();
    let args = folder.file("in.csv", format!("a\n{lines}"));
    check_error(args.clone(), "data.result", "give an `output`, or a `limit`");
    assert_eq!(rows(args.clone().limit(1000)).len(), 1000);
    let mut grouped = args.clone().group_by(["a"]).limit(1);
    assert_eq!(run(grouped.clone()).unwrap().groups, 2000);
    grouped.groups_max = Some(1999);
    check_error(grouped, "data.groups", "more than 1999 groups");
    let long = format!("a\n\"{}\"\n", "x".repeat(17 << 20));
    check_error(folder.file("long.csv", long), "data.row_length", "longer than 16 MiB");
}

#[test]
fn a_limit_stops_reading() {
    let args = DataArgs::new(sample("flights-20k.json")).limit(3);
    let output = run(args).unwrap();
    assert_eq!((output.rows_in, output.rows_out), (3, 3));
    assert!(output.bytes < 1_000_000, "{} bytes were read", output.bytes);
}

#[test]
fn no_rows_are_one_group_of_all_and_no_group_by_key() {
    let folder = Folder::new();
    let args = folder.file("in.csv", "a\n");
    let all = args.clone().aggregate("n", "count()").aggregate("mean", "mean(a)");
    assert_eq!(rows(all), [json!({"n": 0, "mean": null})]);
    assert!(rows(args.group_by(["a"])).is_empty());
}

#[test]
fn a_cancelled_job_ends() {
    let ctx = Ctx::detached();
    ctx.cancel(CancelReason::Requested);
    let ended = Data::default().run(&ctx, DataArgs::new(sample("weather.csv")).limit(5));
    assert_eq!(ended.unwrap_err().kind(), TaskErrorKind::Cancelled);
}

#[test]
fn the_arguments_are_one_json_object() {
    let args = json!({
        "input": sample("weather.csv"),
        "filter": ".weather == \"snow\"",
        "group_by": ["location"],
        "aggregates": {"n": "count()"},
        "sort_by": "n",
        "descending": true,
        "row_time_max": "2s",
        "on_bad_row": "fail",
    });
    let args: DataArgs = serde_json::from_value(args).unwrap();
    let output = run(args.clone()).unwrap();
    assert_eq!(output.rows.unwrap().len(), 2);
    let again: DataArgs = serde_json::from_value(serde_json::to_value(&args).unwrap()).unwrap();
    assert_eq!(args, again);
}
