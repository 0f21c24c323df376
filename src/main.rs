//! Driver. Arguments, configuration, logging, run, exit code. What the subcommands do is
//! `eyeline::app`'s.

use std::process::ExitCode;

use clap::Parser;
use eyeline::app::cli::{self, BAD_CONFIG, Command, CommandLine, ConfigCommand, FAILED, USAGE, WorkerPart};
use eyeline::app::config::{Given, Loaded, load, print};
use eyeline::app::models::{self, ModelsCommand, ModelsSettings};
use eyeline::app::{dial, gallery, log, serve};

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let options = line.options();
    if let Command::Worker { part } = line.command {
        return code(match part {
            WorkerPart::Pictures => eyeline::worker::child::run(std::io::stdin()),
            WorkerPart::Ears => eyeline::worker::ears::child::run(std::io::stdin()),
            WorkerPart::Stills => eyeline::worker::stills::run(std::io::stdin()),
        });
    }
    let level = if matches!(line.command, Command::Serve(_)) { "info" } else { "warn" };
    if let Err(message) = log::start(&options, level) {
        eprintln!("eyeline: {message}");
        return ExitCode::from(USAGE);
    }
    let mut given = Given::of_process(options.config, options.set);
    given.only_looking = matches!(line.command, Command::Check(_) | Command::Config(_));
    let loaded = match load(&given) {
        Ok(loaded) => loaded,
        Err(problems) => {
            eprintln!("{problems}");
            let count = problems.0.len();
            eprintln!("eyeline: {count} problem{} in the configuration", if count == 1 { "" } else { "s" });
            return ExitCode::from(BAD_CONFIG);
        }
    };
    match line.command {
        Command::Serve(arguments) => serve::run(&loaded, arguments.sip_trace),
        Command::Call(arguments) => dial::run(&arguments, &loaded.config),
        Command::Check(_) => check(&loaded),
        Command::Config(arguments) => match arguments.command {
            ConfigCommand::Print(_) => show(&print::print(&loaded.config)),
        },
        Command::Models(arguments) => {
            let settings = ModelsSettings { dir: loaded.config.models.dir.clone() };
            code(models::run(&models_command(arguments.command), &settings, &mut std::io::stdout()))
        }
        Command::Worker { .. } => ExitCode::from(USAGE),
    }
}

fn check(loaded: &Loaded) -> ExitCode {
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    let problems = gallery::problems(&loaded.config);
    if !problems.is_empty() {
        problems.iter().for_each(|problem| eprintln!("{problem}"));
        let count = problems.len();
        eprintln!("eyeline: {count} problem{} in the configuration", if count == 1 { "" } else { "s" });
        return ExitCode::from(BAD_CONFIG);
    }
    let files: Vec<String> = loaded.files.iter().map(|file| file.display().to_string()).collect();
    let what = if files.is_empty() { "built-in defaults".to_owned() } else { files.join(", ") };
    show(&format!("{what}: ok\n"))
}

/// Writes to standard output; a reader that went away is not a crash.
fn show(text: &str) -> ExitCode {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED),
    }
}

fn models_command(written: cli::ModelsCommand) -> ModelsCommand {
    match written {
        cli::ModelsCommand::List { json, .. } => ModelsCommand::List { json },
        cli::ModelsCommand::Pull { names, .. } => ModelsCommand::Pull { names },
        cli::ModelsCommand::Verify { .. } => ModelsCommand::Verify,
        cli::ModelsCommand::Import { dir, .. } => ModelsCommand::Import { dir },
    }
}

fn code(status: i32) -> ExitCode {
    ExitCode::from(u8::try_from(status).unwrap_or(FAILED))
}
