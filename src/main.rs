//! Driver. Command line.

fn main() {
    let code = match std::env::args().nth(1).as_deref() {
        Some("worker") => eyeline::worker::child::run(std::io::stdin()),
        _ => 0,
    };
    std::process::exit(code);
}
