//! Tests of what only a kernel can show.

use std::process::Command;

/// Runs the test of this name in a network namespace of its own: the test's binary runs that one test again below
/// unshare(1).
pub(super) fn run(name: &str, test: impl Future<Output = ()>) {
    const INSIDE: &str = "RELAY_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(test);
    }
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", name])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
