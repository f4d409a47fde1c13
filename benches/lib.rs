//! Benchmarks: `cargo bench -p taskloom-benches`. Here is what several of them need.

/// CPU of a process with its children, those that have ended too, in seconds.
#[must_use]
pub fn family_cpu(parent: u32) -> f64 {
    let mut seconds = cpu_seconds(&parent.to_string());
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let fields = stat(&pid);
        if fields.get(1).is_some_and(|it| *it == parent.to_string()) {
            seconds += cpu_seconds(&pid);
        }
    }
    // What ended children have used stands with the parent.
    let waited = stat(&parent.to_string());
    let ticks: f64 = waited.iter().skip(13).take(2).filter_map(|it| it.parse::<f64>().ok()).sum();
    seconds + ticks / 100.0
}

/// The fields of a process from its state on.
fn stat(pid: &str) -> Vec<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().unwrap_or("").split_whitespace().map(str::to_owned).collect()
}

/// User and system time of a process (`self`: this one), in seconds.
#[must_use]
pub fn cpu_seconds(pid: &str) -> f64 {
    let ticks = stat(pid);
    ticks.iter().skip(11).take(2).filter_map(|it| it.parse::<f64>().ok()).sum::<f64>() / 100.0
}
