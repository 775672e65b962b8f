//! The `relay` daemon.

fn main() -> std::process::ExitCode {
    relay::main()
}
