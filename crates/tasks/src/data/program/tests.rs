//! Tests of programs: what they yield, what is refused, what is bounded.

use super::*;
use crate::data::values::Json;

fn program(code: &str) -> Result<Program, String> {
    Program::compile(code, Duration::from_secs(2), 1000)
}

fn value(json: &str) -> Val {
    serde_json::from_str(json).unwrap()
}

#[track_caller]
fn check_results(code: &str, row: &str, expected: &[&str]) {
    let results = program(code).unwrap().run(value(row)).unwrap();
    let results: Vec<_> =
        results.iter().map(|it| serde_json::to_string(&Json(it)).unwrap()).collect();
    assert_eq!(results, expected, "{code}");
}

#[track_caller]
fn check_refused(code: &str, expected: &str) {
    let error = program(code).err().unwrap_or_else(|| panic!("{code} is not refused"));
    assert!(error.contains(expected), "{code}: {error}");
}

#[track_caller]
fn check_bound(code: &str, expected: &str) {
    let on_a_large_stack = std::thread::Builder::new().stack_size(super::super::STACK_BYTES);
    let code = code.to_owned();
    let run = move || program(&code).unwrap().run(value("[1,2,3]")).unwrap_err();
    let error = on_a_large_stack.spawn(run).unwrap().join().unwrap();
    let RunError::Bound(error) = error else { panic!("{error:?}") };
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_program_yields_what_jq_yields() {
    check_results(".a + 1", r#"{"a":1}"#, &["2"]);
    check_results("{a, b: (.a * 2)}", r#"{"a":1.5}"#, &[r#"{"a":1.5,"b":3.0}"#]);
    check_results(".[] | select(. > 1) | . * 10", "[1,2,3]", &["20", "30"]);
    check_results("[.[] as $x | .[] as $y | $x * $y] | add", "[1,2]", &["9"]);
    check_results("reduce .[] as $x (0; . + $x)", "[1,2,3]", &["6"]);
    check_results("[foreach .[] as $x (0; . + $x)]", "[1,2,3]", &["[1,3,6]"]);
    check_results("def twice(f): f | f; twice(. + 1)", "1", &["3"]);
    check_results(r#""\(.a)-\(.b)""#, r#"{"a":1,"b":"x"}"#, &[r#""1-x""#]);
    check_results("[range(3)], [range(5; 1; -2)]", "null", &["[0,1,2]", "[5,3]"]);
    check_results("[limit(3; range(1; 1000000000))]", "null", &["[1,2,3]"]);
    check_results(r#"fromjson | .a"#, r#""{\"a\":7}""#, &["7"]);
    check_results(
        r#"test("^a+$"), sub("a"; "b"), ascii_upcase"#,
        r#""aa""#,
        &["true", r#""ba""#, r#""AA""#],
    );
    check_results(r#""ab" * 2"#, "null", &[r#""abab""#]);
    check_results("[..]|length", r#"{"a":[1,2]}"#, &["4"]);
    check_results("try error(\"x\") catch .", "null", &[r#""x""#]);
    check_results(".a // \"none\"", "{}", &[r#""none""#]);
}

#[test]
fn updates_and_paths_go_through_the_guard() {
    check_results(".[] |= . + 1", "[1,2]", &["[2,3]"]);
    check_results("(.[] | select(. > 1)) |= . * 10", "[1,2]", &["[1,20]"]);
    check_results(".a *= 3", r#"{"a":2}"#, &[r#"{"a":6}"#]);
    check_results("(.a | .b) = 1", r#"{"a":{"b":0}}"#, &[r#"{"a":{"b":1}}"#]);
    check_results("del(.a)", r#"{"a":1,"b":2}"#, &[r#"{"b":2}"#]);
    check_results("[paths]", r#"{"a":[1]}"#, &[r#"[["a"],["a",0]]"#]);
    check_results("map_values(. + 1)", r#"{"a":1}"#, &[r#"{"a":2}"#]);
    check_results("to_entries | map(.value) | add", r#"{"a":1,"b":2}"#, &["3"]);
}

#[test]
fn a_program_that_reads_or_stops_is_refused() {
    check_refused("input", "sees nothing but its row");
    check_refused("[inputs]", "sees nothing but its row");
    check_refused("env.PATH", "secrets");
    check_refused("$ENV.PATH", "secrets");
    check_refused("halt", "sees nothing but its row");
    check_refused(r#"{a: (1 | debug("x"))}"#, "sees nothing but its row");
    check_refused(r#""\(env)""#, "secrets");
    check_refused(r#"import "x" as x; x::f"#, "expected");
    check_refused(r#"include "x"; f"#, "expected");
}

#[test]
fn a_program_that_may_never_end_is_refused() {
    for code in [
        "repeat(.)",
        "until(false; .)",
        "while(true; .)",
        "recurse(. + 1)",
        "[recurse(.a; true)]",
        "walk([.])",
        ".. |= [.]",
        "(.. | .a?) |= [.]",
        "recurse |= [.]",
    ] {
        check_refused(code, "never end");
    }
    check_refused("def f: f; f", "`f` calls itself");
    check_refused("def f(g): [f(g)]; f(.)", "`f` calls itself");
    check_refused("def f: def g: f; g; f", "`f` calls itself");
    check_refused("def f: g; def g: f; f", "undefined filter `g`");
    check_refused(MAIN, "refused");
}

#[test]
fn a_program_that_is_none_is_refused() {
    check_refused("", "expected term");
    check_refused("{", "expected closing brace");
    check_refused(".a |", "expected term");
    check_refused("nonsense", "undefined filter `nonsense`");
    check_refused("$x", "undefined variable `$x`");
    check_refused(&"1+".repeat(10_000), "at most 16384 bytes");
}

#[test]
fn a_program_is_bounded_where_it_can_not_be_refused() {
    check_bound("range(infinite)", "1000 results");
    check_bound("[range(0; 1; 0)]", "1,000,000 values");
    check_bound("[range(infinite)] | length", "1,000,000 values");
    check_bound("try [range(infinite)] catch 0", "1,000,000 values");
    check_bound("[range(infinite)]? // 1", "1,000,000 values");
    check_bound("reduce range(200000) as $i (.; [.])", "20,000 times");
    check_bound("[range(3000) as $a | range(3000) as $b | range(3000)] | length", "1,000,000");
    let product = "[range(2000)] as $x | [$x[] as $a | $x[] as $b | $x[] as $c | $a] | length";
    check_bound(product, "too long");
}

#[test]
fn a_text_is_not_repeated_without_bounds() {
    let error = program(r#""abc" * 1000000000"#).unwrap().run(Val::Null).unwrap_err();
    assert_eq!(error, RunError::Row("a text can't be repeated beyond 16 MiB".into()));
    let error = program(r#".a *= 1000000000"#).unwrap().run(value(r#"{"a":"x"}"#)).unwrap_err();
    assert_eq!(error, RunError::Row("a text can't be repeated beyond 16 MiB".into()));
}

#[test]
fn a_deeply_nested_program_or_value_does_not_end_the_node() {
    let deep = "(".repeat(8_000) + "1" + &")".repeat(8_000);
    let json = format!("{:?}", "[".repeat(100_000));
    let test = move || {
        check_results(&deep, "null", &["1"]);
        let error = program("fromjson").unwrap().run(value(&json)).unwrap_err();
        assert!(matches!(error, RunError::Row(it) if it.contains("recursion limit")));
        let nested = "reduce range(19999) as $i (.; [.])";
        check_results(&format!("{nested} | tojson | length"), "null", &["40002"]);
        let nested_less = "reduce range(9999) as $i (.; [.])";
        check_results(&format!("({nested_less}) == ({nested_less})"), "null", &["true"]);
        let error = program(nested).unwrap().run(Val::Null).unwrap_err();
        assert_eq!(error, RunError::Row("a result is nested deeper than 128".into()));
    };
    let thread = std::thread::Builder::new().stack_size(super::super::STACK_BYTES);
    thread.spawn(test).unwrap().join().unwrap();
}

#[test]
fn an_error_of_a_program_is_the_fault_of_its_row() {
    let error = program(".a + 1").unwrap().run(value(r#"{"a":"x"}"#)).unwrap_err();
    assert!(matches!(error, RunError::Row(_)), "{error:?}");
}
