//! `taskloom verify`: it says whether anything is wrong.

use crate::cli::Cli;

#[test]
fn a_store_in_order_is_said_to_be() {
    let cli = Cli::new();
    cli.ok(&["submit", "http", "--args", r#"{"url":"http://127.0.0.1:1/"}"#]);
    assert_eq!(cli.ok(&["verify"]), "nothing is wrong with 1 jobs");
    let said = cli.json(&["verify"]);
    assert_eq!(
        (said["jobs"].as_u64(), said["breaches"].as_array().map(Vec::len)),
        (Some(1), Some(0))
    );
}
